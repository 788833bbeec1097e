"""Many deletes at once: pipelined on each connection, and to all servers at the same time.

A reserved job is deleted on the connection that holds it, and other threads may work on its siblings there. So a
batch has each of its connections for itself while it deletes: it waits for their guards, always in the same order,
and holds nothing else that anybody waits for. A job without a reservation here is deleted on any connection.
"""

from __future__ import annotations

import functools
import itertools
import time
from collections.abc import Callable, Iterable, Sequence

from beanpool.errors import (
    BeanpoolError,
    CommandTimeout,
    ConnectionFailed,
    JobLost,
    NotFound,
    Phase,
    UnexpectedResponse,
)
from beanpool.job import Job, JobState
from beanpool.lease import Lease
from beanpool.member import Member
from beanpool.pooled_connection import PooledConnection
from beanpool.protocol.arguments import check_id
from beanpool.protocol.commands import DELETE
from beanpool.protocol.replies import Reply
from beanpool.readiness import wait_for_any
from beanpool.recovery import why_another

Locate = Callable[[int], tuple[Member, str | None]]
"""Tells of a job's id on which member it is, and the server process that gave the id, if that is known."""

# How many items are looked at, and have their outcome, before the next are.
_CHUNK = 1000
# Each is a level of calls, because that is how a lock is held whatever happens.
_MOST_LANES = 64


class _Lane:
    """One connection and what is to be deleted on it."""

    __slots__ = ("collected", "connection", "error", "ids", "places", "progress_at", "refusals", "sent")

    def __init__(self, connection: PooledConnection) -> None:
        self.connection = connection
        self.places: list[int] = []
        self.ids: list[int] = []
        self.sent = 0
        """How many requests there are; once there is an error, how many of them may have been carried out."""
        self.collected = 0
        """How many of them have been answered."""
        self.refusals: dict[int, BeanpoolError] = {}
        """By their position in the lane."""
        self.error: ConnectionFailed | UnexpectedResponse | None = None
        """Why the rest has no answer."""
        self.progress_at = 0.0

    @property
    def due(self) -> bool:
        """Whether answers are due."""
        return self.error is None and self.collected < self.sent

    def send(self) -> None:
        """Send all requests, as far as they go at once; :meth:`receive` sends on."""
        parts = self._requests()
        self.progress_at = time.monotonic()
        self.sent = len(parts)
        channel = self.connection.channel
        try:
            channel.post(DELETE, b"".join(parts), len(parts))
        except (ConnectionFailed, UnexpectedResponse) as error:
            self._fail(error)

    def _requests(self) -> list[bytes]:
        return [b"delete %d\r\n" % jid for jid in self.ids]

    def _fail(self, error: ConnectionFailed | UnexpectedResponse) -> None:
        self.error = error
        accepted = sum(map(len, self._requests())) - self.connection.channel.unsent
        self.sent = sum(end <= accepted for end in itertools.accumulate(map(len, self._requests())))

    def receive(self) -> None:
        """Take in the answers that are there."""
        before = self.collected
        try:
            for run in self.connection.channel.collect_deleted():
                if isinstance(run, Reply):
                    if run.status != "DELETED":
                        self.refusals[self.collected] = self.connection.refuse(DELETE, run)
                    self.collected += 1
                else:
                    self.collected += len(run)
        except (ConnectionFailed, UnexpectedResponse) as error:
            self._fail(error)
        # A part of an answer is no progress: a trickle must not go on for ever.
        if self.collected != before:
            self.progress_at = time.monotonic()

    def fail_late(self) -> None:
        """The server was silent for too long."""
        error = CommandTimeout(
            f"{self.connection.server}: no reply to a delete in the time allowed",
            server=self.connection.server,
            phase=Phase.WAITING,
            may_have_taken_effect=True,
        )
        self._fail(error)
        self.connection.drop(str(error))

    def failure(self, position: int) -> ConnectionFailed | UnexpectedResponse:
        """Why this one has no answer, and whether it may have been carried out all the same."""
        error = self.error
        if isinstance(error, UnexpectedResponse):
            return error
        kind = CommandTimeout if isinstance(error, CommandTimeout) else ConnectionFailed
        return kind(
            str(error),
            server=self.connection.server,
            phase=Phase.WAITING if error is None else error.phase,
            may_have_taken_effect=position < self.sent,
        )


class _JobLane(_Lane):
    """A connection on which jobs are reserved that are to be deleted."""

    __slots__ = ("granted", "jobs", "lease", "lost", "pinned")

    def __init__(self, lease: Lease) -> None:
        super().__init__(lease.connection)
        self.lease = lease
        self.jobs: dict[int, Job] = {}
        self.pinned = False
        self.granted = False
        """Whether its turn on the connection came in time."""
        self.lost: set[int] = set()
        """The positions of those that were not found where they should be reserved."""


class DeleteMany:
    """One call of ``delete_many``.

    A server that is silent costs it one timeout, once, however many jobs and connections there are, and what was left
    over at first costs it one more.

    :param timeout: the longest that a server may let a reply wait, and other threads a connection, and the longest that
        is spent in vain on what was left over at first (seconds).
    """

    def __init__(self, locate: Locate, timeout: float) -> None:
        self._locate = locate
        self._timeout = timeout
        self._outcomes: list[Exception | None] = []
        # What is done one by one in the end, by the rules of a single delete.
        self._left_over: list[tuple[int, Callable[[float], None]]] = []
        self._time_left = timeout
        # Servers that have been silent for all of their time, by address: nothing else is sent to them.
        self._silent: dict[str, BeanpoolError] = {}
        # Servers that no connection was to be had to: why, and for how much longer that is tried (seconds).
        self._unreachable: dict[Member, tuple[BeanpoolError, float]] = {}

    def run(self, items: Iterable[Job | int]) -> list[Exception | None]:
        """Delete all; returns one outcome per item, in order."""
        source = iter(items)
        while chunk := list(itertools.islice(source, _CHUNK)):
            self._delete(chunk)
        return self._outcomes

    def _delete(self, chunk: Sequence[Job | int]) -> None:
        lanes: dict[Lease, _JobLane] = {}
        strangers: list[tuple[int, int, Member, str | None]] = []
        first = len(self._outcomes)
        self._outcomes.extend([None] * len(chunk))
        for place, item in enumerate(chunk, first):
            job: Job | None
            if isinstance(item, Job):
                job = item
            else:
                try:
                    member, instance = self._locate(item)
                    job = member.pool.in_hand.find(check_id(item), instance)
                except (ValueError, TypeError) as error:
                    self._outcomes[place] = error.with_traceback(None)
                    continue
                if job is None:
                    strangers.append((place, check_id(item), member, instance))
                    continue
            lease = job.lease
            if not isinstance(lease, Lease):
                # Not reserved, or lost, or of a plain connection.
                self._leave_over(place, functools.partial(_alone, job))
                continue
            lane = lanes.get(lease)
            if lane is None:
                lane = lanes[lease] = _JobLane(lease)
            if job.number in lane.jobs:
                self._leave_over(place, functools.partial(_alone, job))
                continue
            lane.jobs[job.number] = job
            lane.places.append(place)
            lane.ids.append(job.number)
        # In one order for all threads: else two of them could wait for each other.
        ordered = sorted(lanes.values(), key=lambda lane: id(lane.connection))
        for start in range(0, len(ordered), _MOST_LANES):
            self._delete_reserved(ordered[start : start + _MOST_LANES])
        self._delete_strangers(strangers)
        self._go_on()

    def _leave_over(self, place: int, delete: Callable[[float], None]) -> None:
        self._left_over.append((place, delete))

    # Jobs that are reserved here.

    def _delete_reserved(self, lanes: list[_JobLane]) -> None:
        for lane in lanes:
            lane.error = self._not_again(lane.connection.server)
        try:
            for lane in lanes:
                lane.pinned = lane.error is None and lane.lease.pin()
            self._with_guards([lane for lane in lanes if lane.pinned], 0, time.monotonic() + self._timeout)
        finally:
            for lane in lanes:
                if lane.pinned:
                    lane.lease.unpin()
        for lane in lanes:
            self._settle(lane)

    def _with_guards(self, lanes: list[_JobLane], number: int, deadline: float) -> None:
        if number < len(lanes):
            lane = lanes[number]
            connection = lane.connection
            try:
                with connection.turn(deadline):
                    lane.granted = True
                    self._with_guards(lanes, number + 1, deadline)
            except CommandTimeout as error:
                if lane.granted:
                    raise
                lane.error = self._silent[connection.server] = error.with_traceback(None)
            else:
                return
            self._with_guards(lanes, number + 1, deadline)
            return
        granted = [lane for lane in lanes if lane.granted]
        # All of it before anybody else may use the connections.
        try:
            self._exchange(granted)
        except BaseException:
            for lane in granted:
                if lane.due:
                    lane.connection.drop("a batch was interrupted")
            raise
        finally:
            for lane in granted:
                self._note(lane)

    def _not_again(self, server: str) -> CommandTimeout | None:
        """Why nothing is sent to a server; None if it has not been silent before."""
        error = self._silent.get(server)
        if error is None:
            return None
        return CommandTimeout(
            f"{server}: the delete was not sent, the server did not answer others of the batch in time ({error})",
            server=server,
            phase=Phase.SENDING,
        )

    def _note(self, lane: _JobLane) -> None:
        """Tell the jobs what has become of them."""
        for position, job in enumerate(itertools.islice(lane.jobs.values(), lane.collected)):
            refusal = lane.refusals.get(position)
            if refusal is None:
                job.ended(JobState.NOT_RESERVED)
            elif isinstance(refusal, NotFound) and job.ended(JobState.LOST):
                lane.lost.add(position)
        lane.lease.forget(
            jid
            for position, jid in enumerate(lane.ids[: lane.collected])
            if position not in lane.refusals or isinstance(lane.refusals[position], NotFound)
        )

    def _settle(self, lane: _JobLane) -> None:
        """See to those that were not deleted."""
        if lane.granted and not lane.refusals and lane.collected == len(lane.ids):
            return
        jobs = list(lane.jobs.values())
        if not lane.granted and (lane.error is None or lane.connection.closed):
            # The last of them was finished meanwhile, or another thread's command has lost the connection.
            for place, job in zip(lane.places, jobs, strict=True):
                self._leave_over(place, functools.partial(_alone, job))
            return
        for position, refusal in lane.refusals.items():
            self._outcomes[lane.places[position]] = jobs[position].ran_out() if position in lane.lost else refusal
        for position in range(lane.collected, len(jobs)):
            if lane.granted:
                go_on = functools.partial(jobs[position].go_on_deleting, lane.failure(position))
                self._leave_over(lane.places[position], go_on)
            else:
                # Nothing was sent: it is reserved as before.
                self._outcomes[lane.places[position]] = lane.failure(position)

    # Jobs that are known by their ids alone.

    def _delete_strangers(self, strangers: list[tuple[int, int, Member, str | None]]) -> None:
        lanes: dict[Member, _Lane] = {}
        try:
            for place, jid, member, instance in strangers:
                lane = lanes.get(member)
                if lane is None:
                    found = self._stranger_lane(member)
                    if isinstance(found, BeanpoolError):
                        self._outcomes[place] = found
                        continue
                    lane = lanes[member] = found
                reason = why_another(lane.connection, instance) if instance is not None else None
                if reason is not None:
                    self._outcomes[place] = JobLost(f"job {jid} of {member.address} is lost: {reason}", reason=reason)
                    continue
                lane.places.append(place)
                lane.ids.append(jid)
            self._exchange([lane for lane in lanes.values() if lane.ids])
        except BaseException:
            for member, lane in lanes.items():
                member.pool.discard(lane.connection, "a batch was interrupted")
            raise
        for member, lane in lanes.items():
            if lane.error is None:
                member.works()
                member.pool.release(lane.connection)
            else:
                member.pool.broke(lane.connection, lane.error)
            for position, refusal in lane.refusals.items():
                self._outcomes[lane.places[position]] = refusal
            for position in range(lane.collected, len(lane.ids)):
                self._outcomes[lane.places[position]] = lane.failure(position)

    def _stranger_lane(self, member: Member) -> _Lane | BeanpoolError:
        failed = self._not_again(member.address)
        if failed is not None:
            return failed
        last, left = self._unreachable.get(member, (None, self._timeout))
        if last is not None and left <= 0:
            return last
        started = time.monotonic()
        try:
            return _Lane(member.pool.acquire(started + left))
        except BeanpoolError as error:
            last = error.with_traceback(None)
            self._unreachable[member] = last, left - (time.monotonic() - started)
            return last

    # Sending and receiving.

    def _exchange(self, lanes: Sequence[_Lane]) -> None:
        for lane in lanes:
            lane.send()
        while due := [lane for lane in lanes if lane.due]:
            give_up_at = min(lane.progress_at for lane in due) + self._timeout
            waiters = [(lane.connection, lane) for lane in due]
            for lane in wait_for_any(waiters, max(0.0, give_up_at - time.monotonic())):
                lane.receive()
            now = time.monotonic()
            for lane in due:
                if lane.due and now - lane.progress_at >= self._timeout:
                    lane.fail_late()
                    if lane.error is not None:
                        self._silent[lane.connection.server] = lane.error

    # One by one.

    def _go_on(self) -> None:
        left_over, self._left_over = self._left_over, []
        for place, delete in left_over:
            started = time.monotonic()
            try:
                delete(started + self._time_left)
            except BeanpoolError as error:
                self._outcomes[place] = error.with_traceback(None)
                # What fails may take all of its time, and a long batch must end all the same.
                self._time_left = max(0.0, self._time_left - (time.monotonic() - started))


# No methods: what is left over must not hold who left it over, or a circle would keep jobs that an interrupt drops.


def _alone(job: Job, deadline: float) -> None:
    if deadline <= time.monotonic():
        raise CommandTimeout(
            f"{job.server}: the time for all that could not be deleted at first ran out; the delete was not sent",
            server=job.server,
            phase=Phase.SENDING,
        )
    job.delete_by(deadline)
