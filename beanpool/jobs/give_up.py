"""Many jobs given up at once: released, or buried, with the priority that each of them has unless told otherwise."""

from __future__ import annotations

import abc

from beanpool.connection import Job, results
from beanpool.errors import CommandFailed
from beanpool.jobs.batch import Get, ReservedBatch
from beanpool.jobs.lane import JobLane
from beanpool.protocol import BURY, RELEASE, STATS_JOB, Reply, encode_bury, encode_release
from beanpool.server import Lease, PooledConnection
from beanpool.telemetry import Observers


class _Lane(JobLane):
    """A connection whose jobs are asked for their priorities, before they are given up."""

    __slots__ = ("priorities",)

    def __init__(self, lease: Lease[PooledConnection]) -> None:
        super().__init__(lease)
        self.priorities: dict[int, int] = {}
        """Those that are known, by position."""

    def take(self, position: int, reply: Reply) -> None:
        """Note an answer that is not one of a run of the usual ones."""
        if self.command is not STATS_JOB:
            super().take(position, reply)
            return
        channel = self.connection.channel
        try:
            priority = results.priority(channel, reply, job=self.ids[position])
        except CommandFailed as error:
            self.refusals[position] = error
            return
        if priority is None:
            self.refusals[position] = channel.refuse(STATS_JOB, reply, job=self.ids[position])
        else:
            self.priorities[position] = priority


class _GiveUpMany(ReservedBatch):
    """One call that gives up many jobs.

    :param priority: what they all get; None to keep what they have, which is asked for all of them in one round trip.
    """

    lane = _Lane

    def __init__(self, get: Get, timeout: float, observers: Observers, priority: int | None) -> None:
        super().__init__(get, timeout, observers)
        self._priority = priority

    @abc.abstractmethod
    def _encode(self, jid: int, priority: int) -> bytes:
        """The request for one job."""

    def _begin(self, lane: JobLane) -> None:
        positions = range(len(lane.ids))
        if self._priority is None:
            lane.begin(STATS_JOB, positions, [b"stats-job %d\r\n" % jid for jid in lane.ids], self._timeout)
        else:
            self._send(lane, dict.fromkeys(positions, self._priority))

    def _collect(self, lane: JobLane) -> None:
        super()._collect(lane)
        if isinstance(lane, _Lane) and lane.command is STATS_JOB and not lane.due and lane.error is None:
            # All that was asked is known.
            self._send(lane, lane.priorities)

    def _send(self, lane: JobLane, priorities: dict[int, int]) -> None:
        if not priorities:
            return
        requests = [self._encode(lane.ids[position], priority) for position, priority in priorities.items()]
        lane.begin(self.command, list(priorities), requests, self._timeout)


class ReleaseMany(_GiveUpMany):
    """One call of ``release_many``.

    :param delay: how long before they become ready again (seconds).
    """

    command = RELEASE
    how = "released"

    def __init__(self, get: Get, timeout: float, observers: Observers, priority: int | None, delay: float) -> None:
        super().__init__(get, timeout, observers, priority)
        self._delay = delay

    def _encode(self, jid: int, priority: int) -> bytes:
        return encode_release(jid, priority, self._delay)

    def _do_alone(self, job: Job, seconds: float) -> None:
        job.release(self._priority, self._delay, timeout=seconds)


class BuryMany(_GiveUpMany):
    """One call of ``bury_many``."""

    command = BURY
    how = "buried"

    def _encode(self, jid: int, priority: int) -> bytes:
        return encode_bury(jid, priority)

    def _do_alone(self, job: Job, seconds: float) -> None:
        job.bury(self._priority, timeout=seconds)
