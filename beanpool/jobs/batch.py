"""One command on many jobs at once: pipelined on each connection, and on all of them at the same time.

A command on a reserved job goes over the connection that holds it, and other threads may work on its siblings there.
So a batch has each of its connections for itself while it is at work. It takes the guards that are free, all at once,
and each of the others when its turn comes, while it is at work on these: a server that is silent holds up nobody but
itself.
"""

from __future__ import annotations

import abc
import contextlib
import functools
import itertools
import math
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from beanpool.config import AnyServer
from beanpool.connection import (
    Job,
    JobState,
    Turns,
    Wish,
    lease_of,
    leave_line,
    lose,
    lose_to_ttr,
    reserved_at,
    set_state,
    state_of,
    take_turns,
)
from beanpool.errors import BeanpoolError, Buried, CommandTimeout, NotFound, Phase, without_frames
from beanpool.jobs.lane import JobLane, Lane
from beanpool.net import Failure, drive
from beanpool.protocol import Command
from beanpool.server import Lease, PooledConnection
from beanpool.telemetry import FinishedBatch, JobEnd, Observers

# When to look at connections that others use while there is something to do on some, and while there is not, if it
# was not said that one is free (seconds).
_LOOK_AGAIN = 0.02
_LOOK_AGAIN_AT_LAST = 0.5
# A command that began before, and whose time ends with the batch's, says how it ended (seconds).
_GRACE = 0.1
_LARGEST_CHUNK = 16_000
# The least that a command can be given (seconds).
_NO_TIME = 1e-6

Outcome = Exception | None
"""None for a job of which it was done, else why not."""
Get = Callable[[Job[Any] | int, AnyServer | None, str], Job[Any]]
"""Returns a job in hand, by itself or by its id, its server and the command that is for it: see `JobsById.get`."""


class JobBatch(abc.ABC):
    """One call that carries out a command on many jobs.

    A server that is silent costs it one timeout, once, however many jobs and connections there are, and what was left
    over at first costs it one more.

    :cvar command: what is carried out.
    :cvar lane: what is known of each connection.
    :cvar chunk: how many items are looked at, and have their outcome, before more are, twice as many each time; None
        for all of them.
    :cvar how: what becomes of a job by it; None if it is reserved as before.
    :param timeout: the longest that a server may let a reply wait, and other threads a connection, and the longest that
        is spent in vain on what was deferred at first (seconds).
    :param observers: are told of the jobs that are finished.
    """

    command: Command
    lane: type[JobLane] = JobLane
    chunk: int | None = None
    how: JobEnd | None

    def __init__(self, timeout: float, observers: Observers) -> None:
        self._timeout = timeout
        self._finished = FinishedBatch(observers, self.how) if self.how is not None and observers.active else None
        self._outcomes: list[Outcome] = []
        # What is looked at again when the rest of its chunk is done.
        self._deferred: list[tuple[int, Job]] = []
        self._time_left = timeout
        # Servers that have been silent for all of their time, by address: nothing else is sent to them.
        self._silent: dict[str, BeanpoolError] = {}

    def run(self, items: Iterable[Job[Any] | int]) -> list[Outcome]:
        """Carry it out on all; returns one outcome per item, in order."""
        source = iter(items)
        try:
            size = self.chunk
            while chunk := list(itertools.islice(source, size)):
                self._carry_out(chunk)
                # Each takes a round trip, which may be long.
                size = size and min(2 * size, _LARGEST_CHUNK)
        finally:
            if self._finished is not None:
                self._finished.tell()
        return self._outcomes

    # What the commands differ in.

    @abc.abstractmethod
    def _find(self, place: int, item: Job[Any] | int) -> Job[Any] | None:
        """The job that an item stands for; None if it is known by its id alone, and is noted.

        :raises ValueError: or TypeError, if it stands for none.
        """

    @abc.abstractmethod
    def _begin(self, lane: JobLane) -> None:
        """Send what is first to be sent for its jobs."""

    @abc.abstractmethod
    def _broke(self, place: int, job: Job[Any], failure: Failure) -> None:
        """The connection of a reserved job broke before it was done."""

    @abc.abstractmethod
    def _do_alone(self, job: Job[Any], seconds: float) -> None:
        """Carry it out on one job, by its own command, in so many seconds."""

    def _needs_time(self, job: Job[Any]) -> bool:
        """Whether the server has to be asked, to carry it out on one job."""
        return job.reserved

    # The jobs of one chunk.

    def _carry_out(self, chunk: Sequence[Job[Any] | int]) -> None:
        first = len(self._outcomes)
        self._outcomes.extend([None] * len(chunk))
        lanes: dict[Lease[PooledConnection], JobLane] = {}
        for place, item in enumerate(chunk, first):
            try:
                job = self._find(place, item)
            except (ValueError, TypeError, BeanpoolError) as error:
                self._outcomes[place] = without_frames(error)
                continue
            if job is None:
                continue
            lease = lease_of(job)
            if not isinstance(lease, Lease):
                # Not reserved, or lost, or of a plain connection.
                self._deferred.append((place, job))
                continue
            lane = lanes.get(lease)
            if lane is None:
                lane = lanes[lease] = self.lane(lease)
            if not lane.add(place, job):
                self._deferred.append((place, job))
        self._do_reserved(list(lanes.values()))
        self._do_deferred()

    def _do_reserved(self, lanes: list[JobLane]) -> None:
        until = time.monotonic() + self._timeout
        try:
            for lane in lanes:
                lane.error = self._not_again(lane.connection.server)
                lane.pinned = lane.error is None and lane.lease.pin()
            pinned = [lane for lane in lanes if lane.pinned]
            with take_turns([lane.connection for lane in pinned]) as some:
                self._do_together(pinned, some, until)
        finally:
            for lane in lanes:
                self._unpin(lane)
        for lane in lanes:
            self._settle(lane)

    def _unpin(self, lane: JobLane) -> None:
        if lane.pinned:
            lane.pinned = False
            lane.lease.unpin()

    def _do_together(self, lanes: list[JobLane], turns: Turns, until: float) -> None:
        """Do it on all of these, each for as long as it takes: at once, or when others have done with its connection.

        :param until: how long those of others are waited for (monotonic seconds).
        """
        numbers = {lane: number for number, lane in enumerate(lanes)}
        under_way = [lane for lane in lanes if turns.had[numbers[lane]]]
        bell = threading.Lock()
        wishes = {lane: Wish(functools.partial(_ring, bell)) for lane in lanes if not turns.had[numbers[lane]]}
        # A command of a signal handler that interrupts this looks for that name.
        connections_in_turn = [lane.connection for lane in under_way]
        try:
            for lane in under_way:
                lane.granted = True
                self._begin(lane)
            while under_way or wishes:
                for lane in under_way:
                    if not lane.due:
                        self._note(lane)
                        turns.let_go(numbers[lane])
                        self._unpin(lane)
                under_way = [lane for lane in under_way if lane.due]
                bell.acquire(blocking=False)
                for lane, wish in list(wishes.items()):
                    lane.error = self._not_again(lane.connection.server) or self._too_late(lane, until)
                    if lane.error is None and not turns.try_again(numbers[lane], wish):
                        continue
                    leave_line(lane.connection, wish)
                    del wishes[lane]
                    if lane.error is None:
                        under_way.append(lane)
                        connections_in_turn.append(lane.connection)
                        lane.granted = True
                        self._begin(lane)
                now = time.monotonic()
                if any(not lane.due for lane in under_way):
                    continue
                if under_way:
                    drive(under_way, self._collect, self._give_up, now + _LOOK_AGAIN if wishes else math.inf)
                elif wishes:
                    bell.acquire(timeout=min(max(0.0, until + _GRACE - now), _LOOK_AGAIN_AT_LAST))
        except BaseException:
            for lane in under_way:
                if lane.due:
                    lane.connection.drop("a batch was interrupted")
                self._note(lane)
            raise
        finally:
            for lane, wish in wishes.items():
                leave_line(lane.connection, wish)

    def _too_late(self, lane: JobLane, until: float) -> CommandTimeout | None:
        """Why the turn of a lane is not waited for any longer; None if it is."""
        if time.monotonic() < until + _GRACE:
            return None
        server = lane.connection.server
        error = self._silent[server] = CommandTimeout(
            f"{server}: the time ran out while commands of other threads on the same connection were under way; "
            "nothing was sent",
            server=server,
            phase=Phase.SENDING,
        )
        return error

    def _collect(self, lane: JobLane) -> None:
        lane.collect()

    def _give_up(self, lane: Lane) -> None:
        error = self._silent[lane.connection.server] = lane.late(lane.command)
        lane.end(error)
        lane.connection.drop(str(error))

    def _not_again(self, server: str) -> CommandTimeout | None:
        """Why nothing is sent to a server; None if it has not been silent before."""
        error = self._silent.get(server)
        if error is None:
            return None
        return CommandTimeout(
            f"{server}: the {self.command.name} was not sent, the server did not answer others of the batch in time "
            f"({error})",
            server=server,
            phase=Phase.SENDING,
        )

    def _note(self, lane: JobLane) -> None:
        """Tell the jobs what has become of them."""
        jobs, ended = lane.jobs, []
        for position, refusal in lane.refusals.items():
            job = jobs[position]
            if isinstance(refusal, NotFound):
                if set_state(job, JobState.LOST):
                    lane.lost.add(position)
                ended.append(job.number)
            elif isinstance(refusal, Buried):
                # The server had no memory to queue it.
                set_state(job, JobState.NOT_RESERVED)
                ended.append(job.number)
        if self.how is not None and lane.sent and lane.command is self.command:
            done = [jobs[position] for position in lane.done()]
            for job in done:
                set_state(job, JobState.NOT_RESERVED)
                ended.append(job.number)
            self._tell(lane.connection.server, done)
        lane.lease.forget(ended)

    def _tell(self, server: str, done: list[Job[Any]]) -> None:
        if self._finished is not None:
            self._finished.add(server, [(job.tube, reserved_at(job)) for job in done])

    def _settle(self, lane: JobLane) -> None:
        """See to those that it was not done for."""
        if lane.granted and not lane.refusals and lane.error is None:
            return
        if not lane.granted and (lane.error is None or lane.connection.closed):
            # The last of them was finished meanwhile, or another thread's command has lost the connection.
            self._deferred += zip(lane.places, lane.jobs, strict=True)
            return
        for position, refusal in lane.refusals.items():
            place, job = lane.places[position], lane.jobs[position]
            self._outcomes[place] = lose_to_ttr(job) if position in lane.lost else refusal
        if lane.error is None:
            return
        if not lane.granted:
            # Nothing was sent: they are reserved as before.
            for place in lane.places:
                self._outcomes[place] = lane.failure(lane.error, sent=False)
            return
        over = set(lane.done()) if self.how is not None and lane.command is self.command else set[int]()
        for position, failure in lane.undone(over):
            place, job = lane.places[position], lane.jobs[position]
            if state_of(job) is JobState.RESERVED:
                self._broke(place, job, failure)
            else:
                # Another thread was faster.
                self._deferred.append((place, job))

    # What is left.

    def _do_deferred(self) -> None:
        deferred, self._deferred = self._deferred, []
        for place, job in deferred:
            self._do_by_itself(place, job)

    def _do_by_itself(self, place: int, job: Job[Any]) -> None:
        """Carry it out by the rules of a single command."""
        started = time.monotonic()
        try:
            if self._time_left <= 0 and self._needs_time(job):
                raise CommandTimeout(
                    f"{job.server}: the time for all that could not be done at first ran out; the {self.command.name} "
                    "was not sent",
                    server=job.server,
                    phase=Phase.SENDING,
                )
            # What needs none finds out in no time.
            self._do_alone(job, max(self._time_left, _NO_TIME))
        except BeanpoolError as error:
            self._outcomes[place] = without_frames(error)
        self._spend(started)

    def _spend(self, since: float) -> None:
        self._time_left = max(0.0, self._time_left - (time.monotonic() - since))


def _ring(bell: threading.Lock) -> None:
    with contextlib.suppress(RuntimeError):
        bell.release()


class ReservedBatch(JobBatch):
    """A command for reserved jobs only: nothing happens to others, and those whose connection broke are lost.

    :param get: finds the job that is in hand. The others are those of :class:`JobBatch`.
    """

    def __init__(self, get: Get, timeout: float, observers: Observers) -> None:
        super().__init__(timeout, observers)
        self._get = get

    def _find(self, place: int, item: Job[Any] | int) -> Job[Any]:
        return self._get(item, None, self.command.name)

    def _broke(self, place: int, job: Job[Any], failure: Failure) -> None:
        self._outcomes[place] = lose(job, failure)
