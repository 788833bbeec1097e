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
from beanpool.errors import BeanpoolError, ConnectionFailed, job_lost, without_frames
from beanpool.jobs.batch import JobBatch
from beanpool.jobs.lane import JobLane, Lane
from beanpool.net import Failure, drive
from beanpool.protocol import DELETE, check_id
from beanpool.server import Member, Recovery, why_another
from beanpool.telemetry import Observers

Locate = Callable[[int], tuple[Member, str | None]]
"""Tells of a job's id on which member it is, and the server process that gave the id, if that is known."""

JobById = tuple[int, int, Member, str | None]
"""The place and the id of a job that is not in hand, its member, and the server process that gave the id, if known."""


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
        _delete_all(lane, self._timeout)

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
        lanes: dict[Member, Lane] = {}
        try:
            for place, jid, member, instance in by_id:
                lane = lanes.get(member)
                if lane is None:
                    found = self._lane_by_id(member)
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
            asked = [lane for lane in lanes.values() if lane.ids]
            for lane in asked:
                _delete_all(lane, self._timeout)
            while due := [lane for lane in asked if lane.due]:
                drive(due, Lane.collect, self._give_up)
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

    def _lane_by_id(self, member: Member) -> Lane | BeanpoolError:
        failed = self._not_again(member.address)
        if failed is not None:
            return failed
        last, left = self._unreachable.get(member, (None, self._timeout))
        if last is not None and left <= 0:
            return last
        started = time.monotonic()
        try:
            return Lane(member.pool.acquire(started + left))
        except BeanpoolError as error:
            last = without_frames(error)
            self._unreachable[member] = last, left - (time.monotonic() - started)
            return last

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
        for (recovery, _), group in groups.items():
            started = time.monotonic()
            outcomes = recovery.delete_all_again([(job, sent) for _, job, sent in group], started + self._time_left)
            for (place, job, _), outcome in zip(group, outcomes, strict=True):
                if outcome is None:
                    mark_deleted(job)
                    self._tell(job.server, [job])
                else:
                    report_lost(job, outcome)
                    self._outcomes[place] = without_frames(outcome)
            if any(outcomes):
                # What fails may take all of its time, and a long batch must end all the same.
                self._spend(started)


def _delete_all(lane: Lane, patience: float) -> None:
    lane.begin(DELETE, range(len(lane.ids)), [b"delete %d\r\n" % jid for jid in lane.ids], patience)
