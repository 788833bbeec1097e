"""Jobs that were dropped while others on the same connection are being worked on: when they are given back."""

from __future__ import annotations

import collections
import functools
import time
from collections.abc import Callable

from beanpool.cluster.activities import Activities
from beanpool.connection import Wish, leave_line
from beanpool.errors import BeanpoolError
from beanpool.policy import Schedule
from beanpool.server import Lease, PartialRelease, PooledConnection
from beanpool.telemetry import ErrorLog

# How long siblings of dropped jobs have the connection for themselves before more is given back, and when to ask again
# for it if they use it, and it was not offered (seconds).
_BREATH = 0.002
_LOOK_AGAIN = 0.2


class GivingBack:
    """A partial release that is under way, as an :class:`~beanpool.cluster.activities.Activity`."""

    def __init__(self, dropped_jobs: DroppedJobs, release: PartialRelease) -> None:
        self.lease = release.lease
        self.doing = f"giving back jobs to {release.connection.server}"
        """See :class:`Activity`."""
        self._dropped_jobs = dropped_jobs
        self._release = release

    @property
    def late_at(self) -> float:
        """See :class:`Activity`."""
        return self._release.give_up_at

    @property
    def wants_write(self) -> bool:
        """See :class:`Activity`."""
        return self._release.connection.wants_write

    def descriptor(self) -> int:
        """See :class:`Activity`."""
        return self._release.live_descriptor()

    def begin(self) -> bool:
        """See :class:`Activity`."""
        return self._release.begin()

    def ready(self) -> bool:
        """See :class:`Activity`."""
        return self._release.step()

    def late(self) -> bool:
        """See :class:`Activity`."""
        raise self._release.connection.late()

    def end(self, error: BeanpoolError | None) -> None:
        """See :class:`Activity`."""
        try:
            self._release.end(str(error) if error is not None else None)
        finally:
            self._dropped_jobs.ended(self.lease, broken=error is not None)

    def abort(self, because: str) -> None:
        """See :class:`Activity`."""
        try:
            self._release.end(because)
        finally:
            self._dropped_jobs.ended(self.lease, broken=True)


class DroppedJobs:
    """Gives such jobs back, some at a time. Used by one thread at a time.

    :param wake: has :meth:`go_on` called soon; any thread calls it.
    """

    def __init__(self, activities: Activities, error_log: ErrorLog, wake: Callable[[], None]) -> None:
        self._activities = activities
        self._error_log = error_log
        self._wake = wake
        # Those whose connection is waited for, and those who can have it.
        self._wishes: dict[Lease[PooledConnection], Wish] = {}
        self._offered: collections.deque[Lease[PooledConnection]] = collections.deque()
        self._under_way: set[Lease[PooledConnection]] = set()
        self._again: Schedule[Lease[PooledConnection]] = Schedule()

    @property
    def next_moment(self) -> float:
        """When there may be more to do (monotonic seconds)."""
        return self._again.next_moment

    def go_on(self, now: float) -> None:
        """Give back what had to wait until now."""
        while self._offered:
            lease = self._offered.popleft()
            if lease in self._wishes:
                self._again.plan(lease, now)
        for lease in self._again.take(now):
            self.give_back(lease)

    def give_back(self, lease: Lease[PooledConnection]) -> None:
        """Give back what was dropped of a lease, as soon as its connection is not in use."""
        seen_to = False
        with self._error_log.catching(f"giving back jobs to {lease.connection.server}"):
            seen_to = self._begin(lease)
        if not seen_to:
            self._again.plan(lease, time.monotonic() + _LOOK_AGAIN)
        elif wish := self._wishes.pop(lease, None):
            leave_line(lease.connection, wish)

    def _offer(self, lease: Lease[PooledConnection]) -> None:
        """Nobody has its connection. Called in any thread."""
        self._offered.append(lease)
        self._wake()

    def _begin(self, lease: Lease[PooledConnection]) -> bool:
        """False if it has to be tried again later."""
        if lease in self._under_way:
            # Its end looks for more.
            return True
        if not lease.abandoned():
            return True
        if lease.orphaned and not lease.connection.guard.locked():
            lease.discard("its jobs were dropped unfinished")
            return True
        release = PartialRelease(lease)
        wish = self._wishes.setdefault(lease, Wish(functools.partial(self._offer, lease)))
        if not release.take_connection(wish):
            # A sibling's command is under way.
            return False
        self._under_way.add(lease)
        self._activities.begin(GivingBack(self, release))
        return True

    def ended(self, lease: Lease[PooledConnection], *, broken: bool) -> None:
        """A partial release has ended."""
        self._under_way.discard(lease)
        if not broken:
            # What was dropped meanwhile, or was more than could be done at once.
            self._again.plan(lease, time.monotonic() + _BREATH)
