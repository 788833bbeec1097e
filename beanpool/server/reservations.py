"""The jobs of a server that a pool has in hand, and the connections that they hold."""

from __future__ import annotations

import contextlib
import functools
import math
import time
from collections import deque
from collections.abc import Callable

from beanpool.connection import Job
from beanpool.server.connection_pool import ConnectionPool
from beanpool.server.driven_connection import Step
from beanpool.server.lease import JobRef, Lease, Refs
from beanpool.server.lease_review import LeaseReview
from beanpool.server.pooled_connection import PooledConnection


class InHand:
    """The unfinished jobs of one address, by the server process that gave them out, and by id.

    It outlives the server's membership: jobs stay in hand while a server is removed and added again.
    """

    def __init__(self) -> None:
        self._by_instance: dict[str, Refs] = {}

    def of(self, instance: str) -> Refs:
        """Those of one server process, for its connections to keep up to date."""
        for other, refs in self._by_instance.copy().items():
            if not refs and other != instance:
                # A process that is gone. Should a connection to it still be there, only its jobs are not found by id.
                self._by_instance.pop(other, None)
        return self._by_instance.setdefault(instance, {})

    @property
    def count(self) -> int:
        """How many jobs there are."""
        return sum(map(len, self._by_instance.copy().values()))

    def find(self, jid: int, instance: str | None) -> Job | None:
        """The job that is reserved under this id, in the process `instance` (None: whichever)."""
        for name, refs in self._by_instance.copy().items():
            ref = refs.get(jid) if instance in (None, name) else None
            job = ref() if ref is not None else None
            if job is not None and job.reserved:
                return job
        return None


class Reservations:
    """Who holds connections of a pool for jobs, and what becomes of those that were dropped unfinished.

    :param in_hand: the jobs in hand of this address, where others know of them too.
    """

    def __init__(self, pool: ConnectionPool, in_hand: InHand | None = None) -> None:
        self._pool = pool
        self.in_hand: InHand = in_hand if in_hand is not None else InHand()
        self._review = LeaseReview(pool.places.connections)
        self.abandoned: deque[JobRef] = deque()
        """Jobs that were dropped unfinished; appended to by finalizers, without a lock."""
        self.partly_abandoned: deque[Lease[PooledConnection]] = deque()
        """Leases of which some jobs were dropped unfinished, and others were not."""
        self.lease: Callable[[PooledConnection], Lease[PooledConnection]] = functools.partial(
            Lease, pool.checkin, pool.discard, self.abandoned.append
        )
        """Makes the lease of a connection on which jobs are reserved."""
        pool.reclaim = self.reclaim

    def opened(self, connection: PooledConnection) -> None:
        """A connection is open: from now on its jobs are found by id."""
        connection.in_hand = self.in_hand.of(connection.instance)

    def find(self, jid: int, instance: str | None) -> Job | None:
        """The job that is reserved under this id, in the process `instance` (None: whichever)."""
        return self.in_hand.find(jid, instance)

    def reclaim(self) -> None:
        """Give back the jobs that were dropped unfinished: close their connection, if it has no others in hand.

        If it has, closing would take those away: such a lease is left in :attr:`partly_abandoned`.
        """
        if not self.abandoned:
            return
        notes = _snapshot(self.abandoned)
        for lease in dict.fromkeys(note.lease for note in notes):
            if not lease.abandoned():
                # Given back already, together with others.
                continue
            if not lease.orphaned:
                self.partly_abandoned.append(lease)
            elif lease.connection.guard.locked():
                # Some of its jobs are being released, and the end of that closes it: see partial_release.py.
                self.partly_abandoned.append(lease)
                lease.connection.interrupt()
            else:
                lease.discard("its job was dropped unfinished")
        # Last: after an interrupt before this line, the jobs are still known.
        for note in notes:
            with contextlib.suppress(ValueError):
                self.abandoned.remove(note)

    # Reserves that wait for a job.

    def may_wait(self) -> bool:
        """Whether a reserve that has found no job may keep its connection waiting for one.

        Not if somebody wants a connection, and calls would have fewer than reserves that wait, nor if the limit was
        lowered and there are too many.
        """
        if self._pool.places.shrinking and self._pool.places.has_too_many():
            return False
        if not self._pool.queue.contended:
            return True
        waiting, calls = self._pool.places.waiting_and_calls()
        return len(waiting) + 1 < calls

    def evict(self, spared: float = 0.0, *, for_jobs: bool = False) -> float:
        """Have the reserve cancelled that has waited longest, for a caller that found no connection free.

        Nothing happens while calls have as many connections as reserves that wait: theirs come back by themselves.

        :param spared: how long a reserve may wait in any case (seconds).
        :param for_jobs: whether the caller is a reserve, too, and so cannot have any connection.
        :returns: when it is worth another try (seconds from now); infinite if it is not.
        """
        waiting, calls = self._pool.places.waiting_and_calls()
        if not waiting or (calls >= len(waiting) and not (for_jobs and not self._pool.places.may_hold_more_jobs())):
            return math.inf
        longest = min(waiting, key=lambda connection: connection.waits_since)
        rest = longest.waits_since + spared - time.monotonic()
        if rest > 0:
            return rest
        evict, longest.evict = longest.evict, None
        if evict is not None:
            evict()
        return math.inf

    # Questions about leases that may hold their connection in vain, while callers want one.

    def review_due(self, now: float) -> bool:
        """Whether somebody wants a connection, and one may be held by jobs that are reserved no longer."""
        return self._pool.queue.starving and self._review.due(now)

    def questions(self, now: float) -> list[Step]:
        """See :meth:`LeaseReview.questions`."""
        return self._review.questions(now)


def _snapshot(notes: deque[JobRef]) -> list[JobRef]:
    while True:
        try:
            return list(notes)
        except RuntimeError:
            # Another thread has left a note meanwhile: on a Python without a global lock it may come at any moment.
            continue
