"""The care for the servers of a pool: checks, jobs that are given back, connections that are closed.

Everything is driven by readiness and by due times. A turn touches what is ready or due, and no more: what an idle pool
costs grows with its checks, whatever the number of its servers. Only twice a second all servers are looked through for
notes that finalizers have left, which know no way to wake anybody.
"""

from __future__ import annotations

import contextlib
import selectors
import time
from collections.abc import Callable, Sequence

from beanpool.cluster.activities import Activities, Activity
from beanpool.cluster.checks import Checks
from beanpool.cluster.dropped_jobs import DroppedJobs
from beanpool.cluster.half_closed import HalfClosed
from beanpool.net import Channel
from beanpool.server import Member
from beanpool.telemetry import ErrorLog

TICK = 0.5


class Upkeep:
    """What a pool's monitor does. Used by one thread at a time.

    :param interval: how often an idle server is probed (seconds); every interval is jittered by a fifth.
    :param wake: has :meth:`tend` called soon; any thread calls it.
    """

    def __init__(
        self, selector: selectors.BaseSelector, interval: float, error_log: ErrorLog, wake: Callable[[], None]
    ) -> None:
        self._error_log = error_log
        self._activities = Activities(selector, error_log)
        self._dropped_jobs = DroppedJobs(self._activities, error_log, wake)
        self.checks = Checks(interval, self._activities, error_log)
        self._tick_at = 0.0

    def tend(self, members: Sequence[Member]) -> float:
        """Start what is due; return until when to wait at most (monotonic seconds)."""
        now = time.monotonic()
        self._activities.give_up_late(now)
        if now >= self._tick_at:
            self._tick_at = now + TICK
            self._look_through(members, now)
        self._dropped_jobs.go_on(now)
        self.checks.start_due(now)
        return min(self._tick_at, self.checks.next_moment, self._activities.next_moment, self._dropped_jobs.next_moment)

    def ready(self, activity: Activity) -> None:
        """The selector has found an activity ready."""
        self._activities.ready(activity)

    def close_half_closed(self, channel: Channel) -> None:
        """Read a half-closed channel to its end, then close it."""
        self._activities.begin(HalfClosed(channel))

    def end(self) -> None:
        """Let go of everything."""
        self._activities.abort_all("the pool was closed")

    def _look_through(self, members: Sequence[Member], now: float) -> None:
        self.checks.keep_up_with(members, now)
        starved = []
        for member in members:
            if member.leaving and member.is_gone(now):
                with self._tidying_up(member):
                    member.emptied()
            member.tell_of_shortage(now)
            if member.pool.queue.starving:
                with self._tidying_up(member):
                    member.pool.queue.fill_places()
                    if member.up and member.reservations.review_due(now):
                        starved.append(member)
            reservations = member.reservations
            if reservations.abandoned or reservations.partly_abandoned or member.health.rests_until:
                with self._tidying_up(member):
                    reservations.reclaim()
                    while reservations.partly_abandoned:
                        self._dropped_jobs.give_back(reservations.partly_abandoned.popleft())
                    member.wake_up(now)
        if starved:
            # Jobs in hand may be reserved no longer: the check asks about them, too.
            self.checks.want(starved)

    def _tidying_up(self, member: Member) -> contextlib.AbstractContextManager[None]:
        return self._error_log.catching(f"tidying up after {member.name}")
