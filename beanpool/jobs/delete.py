"""Many deletes at once: pipelined on each connection, and to all servers at the same time.

A reserved job is deleted on the connection that holds it, and other threads may work on its siblings there. So a
batch has each of its connections for itself while it deletes: it waits for their guards, always in the same order,
and holds nothing else that anybody waits for. A job without a reservation here is deleted on any connection.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Sequence

from beanpool.connection import (
    Job,
    JobState,
    broke,
    end,
    gone,
    is_broken,
    lease_of,
    ran_out,
    recovered,
    recovery_of,
    reserved_at,
    state_of,
    turn,
)
from beanpool.errors import (
    BeanpoolError,
    CommandTimeout,
    ConnectionFailed,
    NotFound,
    Phase,
    UnexpectedResponse,
    job_lost,
)
from beanpool.net import Exchange, Failure, drive
from beanpool.protocol import DELETE, Reply, check_id
from beanpool.server import Lease, Member, PooledConnection, Recovery, why_another
from beanpool.telemetry import FinishedBatch, Observers

Locate = Callable[[int], tuple[Member, str | None]]
"""Tells of a job's id on which member it is, and the server process that gave the id, if that is known."""

# How many items are looked at, and have their outcome, before the next are.
_CHUNK = 1000
# Each is a level of calls, because that is how a lock is held whatever happens.
_MOST_LANES = 64


class _Lane(Exchange[int]):
    """One connection and what is to be deleted on it; the tokens are positions in the lane."""

    __slots__ = ("error", "failures", "ids", "places", "refusals")

    connection: PooledConnection

    def __init__(self, connection: PooledConnection) -> None:
        super().__init__(connection)
        self.places: list[int] = []
        self.ids: list[int] = []
        self.refusals: dict[int, BeanpoolError] = {}
        self.failures: dict[int, Failure] = {}
        """Why some have no answer, and whether they may have been carried out all the same."""
        self.error: BeanpoolError | None = None
        """Why the lane has ended before its time."""

    def delete(self, patience: float) -> None:
        """Send all requests, as far as they go at once; :meth:`collect` sends on."""
        self.patience = patience
        try:
            self.send(DELETE, range(len(self.ids)), [b"delete %d\r\n" % jid for jid in self.ids])
        except (ConnectionFailed, UnexpectedResponse) as error:
            self.end(error)

    def collect(self) -> None:
        """Take in the answers that are there."""
        try:
            for requests, reply in self.receive(self.connection.channel.collect_done(DELETE)):
                if isinstance(reply, Reply) and reply.status != "DELETED":
                    position = requests[0][0]
                    self.refusals[position] = self.connection.refuse(DELETE, reply, job=self.ids[position])
        except (ConnectionFailed, UnexpectedResponse) as error:
            self.end(error)

    def end(self, error: BeanpoolError) -> None:
        """The connection is gone."""
        # A traceback would hold the frame that has the lane, and with it the jobs, in a circle.
        self.error = error.with_traceback(None)
        self.failures = dict(self.fail(error))


class _JobLane(_Lane):
    """A connection on which jobs are reserved that are to be deleted."""

    __slots__ = ("granted", "jobs", "lease", "lost", "pinned")

    def __init__(self, lease: Lease[PooledConnection]) -> None:
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

    :param held: finds the job in hand that an id names by itself.
    :param timeout: the longest that a server may let a reply wait, and other threads a connection, and the longest that
        is spent in vain on what was left over at first (seconds).
    :param observers: are told of the jobs in hand that were deleted.
    """

    def __init__(self, locate: Locate, held: Callable[[int], Job | None], timeout: float, observers: Observers) -> None:
        self._finished = FinishedBatch(observers, "deleted") if observers.active else None
        self._locate = locate
        self._held = held
        self._timeout = timeout
        self._outcomes: list[Exception | None] = []
        # What is looked at again when the rest of its chunk is done.
        self._left_over: list[tuple[int, Job]] = []
        # Jobs whose connection broke, and whether their delete may have been carried out.
        self._broken: list[tuple[int, Job, bool]] = []
        self._time_left = timeout
        # Servers that have been silent for all of their time, by address: nothing else is sent to them.
        self._silent: dict[str, BeanpoolError] = {}
        # Servers that no connection was to be had to: why, and for how much longer that is tried (seconds).
        self._unreachable: dict[Member, tuple[BeanpoolError, float]] = {}

    def run(self, items: Iterable[Job | int]) -> list[Exception | None]:
        """Delete all; returns one outcome per item, in order."""
        source = iter(items)
        try:
            while chunk := list(itertools.islice(source, _CHUNK)):
                self._delete(chunk)
        finally:
            if self._finished is not None:
                self._finished.tell()
        return self._outcomes

    def _delete(self, chunk: Sequence[Job | int]) -> None:
        lanes: dict[Lease[PooledConnection], _JobLane] = {}
        strangers: list[tuple[int, int, Member, str | None]] = []
        first = len(self._outcomes)
        self._outcomes.extend([None] * len(chunk))
        for place, item in enumerate(chunk, first):
            job: Job | None
            if isinstance(item, Job):
                job = item
            else:
                job = self._held(item)
                if job is None:
                    try:
                        member, instance = self._locate(item)
                        job = member.reservations.find(check_id(item), instance)
                    except (ValueError, TypeError) as error:
                        self._outcomes[place] = error.with_traceback(None)
                        continue
                    if job is None:
                        strangers.append((place, check_id(item), member, instance))
                        continue
            lease = lease_of(job)
            if not isinstance(lease, Lease):
                # Not reserved, or lost, or of a plain connection.
                if not self._is_broken(place, job):
                    self._left_over.append((place, job))
                continue
            lane = lanes.get(lease)
            if lane is None:
                lane = lanes[lease] = _JobLane(lease)
            if job.number in lane.jobs:
                self._left_over.append((place, job))
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

    def _is_broken(self, place: int, job: Job) -> bool:
        """Whether its connection broke before anything was sent; it is noted then."""
        if not is_broken(job) or not isinstance(recovery_of(job), Recovery):
            return False
        connection = job.connection
        broke(
            job,
            ConnectionFailed(
                f"{connection.server}: the delete was not sent, the connection is closed: {connection.closed_because}",
                server=connection.server,
            ),
        )
        self._broken.append((place, job, False))
        return True

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
                with turn(connection, deadline):
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
        for position, job in enumerate(itertools.islice(lane.jobs.values(), lane.answered)):
            refusal = lane.refusals.get(position)
            if refusal is None:
                end(job, JobState.NOT_RESERVED)
            elif isinstance(refusal, NotFound) and end(job, JobState.LOST):
                lane.lost.add(position)
        if self._finished is not None:
            answered = enumerate(itertools.islice(lane.jobs.values(), lane.answered))
            self._count(job for position, job in answered if position not in lane.refusals)
        lane.lease.forget(
            jid
            for position, jid in enumerate(lane.ids[: lane.answered])
            if position not in lane.refusals or isinstance(lane.refusals[position], NotFound)
        )

    def _count(self, deleted: Iterable[Job]) -> None:
        if self._finished is not None:
            for server, jobs in itertools.groupby(deleted, lambda job: job.server):
                self._finished.add(server, [(job.tube, reserved_at(job)) for job in jobs])

    def _settle(self, lane: _JobLane) -> None:
        """See to those that were not deleted."""
        if lane.granted and not lane.refusals and lane.answered == len(lane.ids):
            return
        jobs = list(lane.jobs.values())
        if not lane.granted and (lane.error is None or lane.connection.closed):
            # The last of them was finished meanwhile, or another thread's command has lost the connection.
            self._left_over += zip(lane.places, jobs, strict=True)
            return
        for position, refusal in lane.refusals.items():
            self._outcomes[lane.places[position]] = ran_out(jobs[position]) if position in lane.lost else refusal
        if not lane.granted and lane.error is not None:
            # Nothing was sent: they are reserved as before.
            for place in lane.places:
                self._outcomes[place] = lane.failure(lane.error, sent=False)
        for position, failure in lane.failures.items():
            place, job = lane.places[position], jobs[position]
            if state_of(job) is JobState.NOT_RESERVED:
                # Another thread was faster.
                self._left_over.append((place, job))
            else:
                broke(job, failure)
                self._broken.append((place, job, failure.may_have_taken_effect))

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
                    self._outcomes[place] = job_lost(jid, member.address, reason)
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
                member.pool.checkin(lane.connection)
            else:
                member.pool.checkin(lane.connection, broken=lane.error)
            for position, error in (lane.refusals | lane.failures).items():
                self._outcomes[lane.places[position]] = error

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
            lane.delete(self._timeout)
        while due := [lane for lane in lanes if lane.due]:
            drive(due, _Lane.collect, self._give_up)

    def _give_up(self, lane: _Lane) -> None:
        error = self._silent[lane.connection.server] = lane.late(DELETE)
        lane.end(error)
        lane.connection.drop(str(error))

    # What is left.

    def _go_on(self) -> None:
        left_over = [(place, job) for place, job in self._left_over if not self._is_broken(place, job)]
        self._left_over = []
        self._recover()
        strangers, alone = [], []
        for place, job in left_over:
            known = self._as_stranger(job)
            if known is None:
                alone.append((place, job))
            else:
                strangers.append((place, job.number, *known))
        self._delete_strangers(strangers)
        for place, job in alone:
            self._delete_alone(place, job)

    def _as_stranger(self, job: Job) -> tuple[Member, str | None] | None:
        """Where to delete a pool's job that is not reserved here; None for any other."""
        if state_of(job) is not JobState.NOT_RESERVED or not isinstance(recovery_of(job), Recovery):
            return None
        try:
            return self._locate(job.id)
        except ValueError:
            # Its server was removed, or is another pool's.
            return None

    def _recover(self) -> None:
        """Finish the deletes of those that lost their connection, all of a server process together."""
        broken, self._broken = self._broken, []
        groups: dict[tuple[Recovery, tuple[str, str] | None], list[tuple[int, Job, bool]]] = {}
        for entry in broken:
            home = recovery_of(entry[1])
            if isinstance(home, Recovery):
                groups.setdefault((home, entry[1].connection.origin), []).append(entry)
        for (home, _), group in groups.items():
            started = time.monotonic()
            outcomes = home.delete_all_again([(job, sent) for _, job, sent in group], started + self._time_left)
            for (place, job, _), outcome in zip(group, outcomes, strict=True):
                if outcome is None:
                    recovered(job)
                    self._count([job])
                else:
                    gone(job, outcome)
                    self._outcomes[place] = outcome.with_traceback(None)
            if any(outcomes):
                # What fails may take all of its time, and a long batch must end all the same.
                self._spend(started)

    def _delete_alone(self, place: int, job: Job) -> None:
        """Delete a job by the rules of a single delete."""
        started = time.monotonic()
        try:
            if self._time_left <= 0 and state_of(job) is not JobState.LOST:
                raise CommandTimeout(
                    f"{job.server}: the time for all that could not be deleted at first ran out; the delete was not "
                    "sent",
                    server=job.server,
                    phase=Phase.SENDING,
                )
            job._delete_by(started + self._time_left)
        except BeanpoolError as error:
            self._outcomes[place] = error.with_traceback(None)
        self._spend(started)

    def _spend(self, since: float) -> None:
        self._time_left = max(0.0, self._time_left - (time.monotonic() - since))
