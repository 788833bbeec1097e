"""Many deletes at once.

A reserved job is deleted on the connection that holds it; one without a reservation here on any connection. What lost
its connection is recovered, as by a single delete.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from beanpool.connection import (
    Job,
    JobState,
    disconnect,
    is_broken,
    mark_deleted,
    recovery_of,
    report_lost,
    state_of,
)
from beanpool.errors import BeanpoolError, ConnectionFailed, without_frames
from beanpool.jobs.batch import JobBatch
from beanpool.jobs.lane import JobById, JobLane, LaneById, OpeningLane, RecoveryLane, delete_all
from beanpool.net import Failure, drive
from beanpool.protocol import DELETE, check_id
from beanpool.server import Member, RecoveredDeletes, Recovery
from beanpool.telemetry import Observers

Locate = Callable[[int], tuple[Member, str | None]]
"""Tells of a job's id on which member it is, and the server process that gave the id, if that is known."""


class DeleteMany(JobBatch):
    """One call of ``delete_many``.

    :param held: finds the job in hand that an id names by itself.
    The others are those of :class:`JobBatch`.
    """

    command = DELETE
    how = "deleted"
    # It may be given millions of ids.
    chunk = 1000

    def __init__(
        self, locate: Locate, held: Callable[[int], Job[Any] | None], timeout: float, observers: Observers
    ) -> None:
        super().__init__(timeout, observers)
        self._locate = locate
        self._held = held
        self._by_id: list[JobById] = []
        # Jobs whose connection broke, and whether their delete may have been carried out.
        self._broken: list[tuple[int, Job, bool]] = []
        # Servers that no connection was to be had to: why, and for how much longer that is tried (seconds).
        self._unreachable: dict[Member, tuple[BeanpoolError, float]] = {}

    def _find(self, place: int, item: Job[Any] | int) -> Job[Any] | None:
        if isinstance(item, Job):
            return item
        job = self._held(item)
        if job is None:
            member, instance = self._locate(item)
            job = member.reservations.find(check_id(item), instance)
            if job is None:
                self._by_id.append((place, check_id(item), member, instance))
        return job

    def _begin(self, lane: JobLane) -> None:
        delete_all(lane, self._timeout)

    def _broke(self, place: int, job: Job[Any], failure: Failure) -> None:
        disconnect(job, failure)
        self._broken.append((place, job, failure.may_have_taken_effect))

    def _needs_time(self, job: Job[Any]) -> bool:
        return state_of(job) is not JobState.LOST

    def _do_alone(self, job: Job[Any], seconds: float) -> None:
        job.delete(timeout=seconds)

    def _is_broken(self, place: int, job: Job[Any]) -> bool:
        """Whether its connection broke before anything was sent; it is noted then."""
        if not is_broken(job) or not isinstance(recovery_of(job), Recovery):
            return False
        connection = job.connection
        disconnect(
            job,
            ConnectionFailed(
                f"{connection.server}: the delete was not sent, the connection is closed: {connection.closed_because}",
                server=connection.server,
            ),
        )
        self._broken.append((place, job, False))
        return True

    # Jobs that are known by their ids alone.

    def _delete_by_id(self, by_id: list[JobById]) -> None:
        entries: dict[Member, list[JobById]] = {}
        for entry in by_id:
            entries.setdefault(entry[2], []).append(entry)
        # While any is waited for, none is held: else two callers could wait for each other.
        waits_until = None
        while entries:
            lanes = self._lanes_by_id(entries, waits_until)
            self._do_by_id(lanes)
            waits_until = waits_until or time.monotonic() + self._timeout

    def _lanes_by_id(self, entries: dict[Member, list[JobById]], waits_until: float | None) -> list[LaneById]:
        """The connections to be had, of which the entries are taken out, and so are those of servers that give none.

        :param waits_until: how long to wait for one if there is none (monotonic seconds); None for not at all.
        """
        lanes: list[LaneById] = []
        for member in list(entries):
            failed: BeanpoolError | None = self._not_again(member.address)
            last, left = self._unreachable.get(member, (None, self._timeout))
            started = time.monotonic()
            connection = None
            if failed is None and last is not None and left <= 0:
                failed = last
            elif failed is None:
                try:
                    connection = member.pool.try_acquire_for_command()
                    if connection is None and waits_until is not None and not lanes:
                        connection = member.pool.acquire(min(started + left, waits_until))
                except BeanpoolError as error:
                    failed = self._note_unreachable(member, error, started)
            if failed is None and connection is None:
                continue
            waiting = entries.pop(member)
            if connection is not None:
                lanes.append(LaneById(member, connection, waiting, self._timeout))
            for place, *_ in waiting if failed is not None else ():
                self._outcomes[place] = failed
        return lanes

    def _note_unreachable(self, member: Member, error: BeanpoolError, since: float) -> BeanpoolError:
        left = self._unreachable.get(member, (None, self._timeout))[1]
        last = without_frames(error)
        self._unreachable[member] = last, left - (time.monotonic() - since)
        return last

    def _do_by_id(self, lanes: list[LaneById]) -> None:
        """Do it on all of these, each as soon as it is open, and give each back as soon as it has done."""
        under_way = list(lanes)
        try:
            asked_at = time.monotonic()
            for lane in lanes:
                lane.start()
            while under_way:
                for lane in [lane for lane in under_way if not lane.pending]:
                    under_way.remove(lane)
                    self._end_by_id(lane, asked_at)
                if under_way:
                    drive(under_way, LaneById.collect, self._give_up_by_id)
        except BaseException:
            for lane in under_way:
                lane.member.pool.discard(lane.connection, "a batch was interrupted")
            raise

    def _give_up_by_id(self, lane: LaneById) -> None:
        if lane.opening:
            _late(lane)
        else:
            self._give_up(lane)

    def _end_by_id(self, lane: LaneById, asked_at: float) -> None:
        member = lane.member
        if lane.error is None:
            member.works(asked_at)
            member.pool.checkin(lane.connection)
        else:
            member.pool.checkin(lane.connection, broken=lane.error)
        if lane.opening and lane.error is not None:
            self._note_unreachable(member, lane.error, lane.began_at)
        for position, error in (lane.refusals | lane.failures).items():
            self._outcomes[lane.places[position]] = error
        for place, error in lane.refused.items():
            self._outcomes[place] = error

    # What is left.

    def _do_deferred(self) -> None:
        by_id, self._by_id = self._by_id, []
        self._delete_by_id(by_id)
        deferred = [(place, job) for place, job in self._deferred if not self._is_broken(place, job)]
        self._deferred, by_id = [], []
        self._recover()
        for place, job in deferred:
            known = self._as_id(job)
            if known is None:
                self._deferred.append((place, job))
            else:
                by_id.append((place, job.number, *known))
        self._delete_by_id(by_id)
        super()._do_deferred()

    def _as_id(self, job: Job[Any]) -> tuple[Member, str | None] | None:
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
            recovery = recovery_of(entry[1])
            if isinstance(recovery, Recovery):
                groups.setdefault((recovery, entry[1].connection.origin), []).append(entry)
        started = time.monotonic()
        deletes = {
            recovery.deletes_of([(job, sent) for _, job, sent in group]): group
            for (recovery, _), group in groups.items()
        }
        self._carry_out_again(list(deletes), started + self._time_left)
        for recovered, group in deletes.items():
            for (place, job, _), outcome in zip(group, recovered.outcomes, strict=True):
                if outcome is None:
                    mark_deleted(job)
                    self._tell(job.server, [job])
                else:
                    report_lost(job, outcome)
                    self._outcomes[place] = without_frames(outcome)
        if any(any(recovered.outcomes) for recovered in deletes):
            # What fails may take all of its time, and a long batch must end all the same.
            self._spend(started)

    def _carry_out_again(self, left: list[RecoveredDeletes], deadline: float) -> None:
        """Do it on all servers at the same time, until then (monotonic seconds)."""
        waits = False
        while left:
            lanes: list[RecoveryLane] = []
            for recovered in list(left):
                try:
                    connection = recovered.pool.try_acquire_for_command()
                    if connection is None and waits and not lanes:
                        connection = recovered.pool.acquire(deadline)
                except BeanpoolError as error:
                    left.remove(recovered)
                    recovered.cannot_begin(error)
                    continue
                if connection is not None:
                    left.remove(recovered)
                    lanes.append(RecoveryLane(recovered, connection, deadline))
            self._drive_again(lanes)
            waits = True

    def _drive_again(self, lanes: list[RecoveryLane]) -> None:
        under_way = list(lanes)
        try:
            for lane in lanes:
                lane.start()
            while under_way:
                for lane in [lane for lane in under_way if not lane.pending]:
                    under_way.remove(lane)
                    lane.recovered.end(lane.connection, lane.error, lane.replies)
                if under_way:
                    drive(under_way, RecoveryLane.collect, _late)
        except BaseException:
            for lane in under_way:
                lane.recovered.pool.discard(lane.connection, "a batch was interrupted")
            raise


def _late(lane: OpeningLane) -> None:
    """Give up a lane whose server is late."""
    if not lane.opening:
        lane.end(lane.late(lane.command))
    elif not lane.connection.connecting:
        lane.end(lane.connection.late())
