"""The hold that unfinished jobs have on their connection."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import TYPE_CHECKING

from beanpool.in_hand import forget
from beanpool.job import Job

if TYPE_CHECKING:  # server_pool.py and pooled_connection.py know leases by what they leave behind.
    from beanpool.pooled_connection import PooledConnection
    from beanpool.server_pool import ConnectionPool


class JobRef(weakref.ref[Job]):
    """An unfinished job, as its connection knows it: weakly, so that one that its caller drops is noticed.

    What it calls then is the ``append`` of a deque: a finalizer may run at any line of any thread, so it only leaves
    a note, without lock or I/O, and no interrupt comes in between.
    """

    __slots__ = ("lease",)

    lease: Lease


class Lease:
    """Keeps a connection out of circulation while jobs are reserved on it: one, or those of a batch.

    The last of them that ends gives it back. One that is dropped unfinished is given back too: if it was the last one,
    its connection is closed soon after; else the job alone is released, for closing would take the others away.
    """

    __slots__ = ("__weakref__", "_ended", "_lock", "_pins", "connection", "pool")

    def __init__(self, pool: ConnectionPool, connection: PooledConnection) -> None:
        self.pool = pool
        self.connection = connection
        self._lock = connection.lease_lock
        self._ended = False
        self._pins = 0

    def hold(self, job: Job) -> None:
        """Keep the connection for this job."""
        jid, connection = job.number, self.connection
        ref = JobRef(job, self.pool.abandoned.append)
        ref.lease = self
        in_hand = connection.in_hand
        if jid in in_hand:
            self._supersede(in_hand[jid], job)
        connection.jobs[jid] = in_hand[jid] = ref

    def hold_all(self, jobs: Iterable[Job]) -> None:
        """Keep the connection for all of these."""
        for job in jobs:
            self.hold(job)

    def _supersede(self, ref: JobRef, job: Job) -> None:
        before = ref()
        if before is not None and before is not job:
            before.superseded(self.connection)

    def end(self, jid: int) -> None:
        """This job is no longer reserved: with the last one, let others use the connection. Idempotent."""
        if not self._ended:
            # As forget() does it, which every job would have to call.
            connection = self.connection
            other = connection.in_hand.pop(jid, None)
            ref = connection.jobs.pop(jid, None)
            if other is not ref and other is not None:
                connection.in_hand.setdefault(jid, other)
            self._settle()

    def forget(self, jids: Iterable[int]) -> None:
        """These are no longer reserved, to who has pinned the lease."""
        forget(self.connection.in_hand, self.connection.jobs, jids)

    def _settle(self) -> None:
        connection = self.connection
        # All jobs of a broken connection are lost at once: who wants one of them back needs its place.
        if connection.jobs and not connection.closed:
            return
        with self._lock:
            # The last jobs may end at the same time, in several threads: one of them gives the connection back.
            if self._ended or self._pins:
                return
            self._ended = True
        self.pool.checkin(connection)

    # For who carries out commands for several jobs.

    def pin(self) -> bool:
        """Keep the connection, whatever becomes of its jobs, until :meth:`unpin`; false if it was given back before.

        Nobody may touch the connection's guard without: it may be somebody else's by now.
        """
        with self._lock:
            if not self._ended:
                self._pins += 1
            return not self._ended

    def unpin(self) -> None:
        """Let the connection go if its last job has ended meanwhile."""
        with self._lock:
            self._pins -= 1
        self._settle()

    # For who sees to jobs that were dropped.

    def discard(self, because: str) -> None:
        """Close the connection: the server gives its jobs to others."""
        with self._lock:
            self._ended = True
        self.pool.discard(self.connection, because)

    def abandoned(self) -> list[int]:
        """The ids of its jobs that were dropped unfinished. While there are any, nobody else has the connection."""
        return [jid for jid, ref in self._refs() if ref() is None]

    @property
    def orphaned(self) -> bool:
        """Whether nobody works on any of its jobs."""
        return all(ref() is None for _, ref in self._refs())

    def _refs(self) -> list[tuple[int, JobRef]]:
        return [(jid, ref) for jid, ref in self.connection.jobs.copy().items() if ref.lease is self]
