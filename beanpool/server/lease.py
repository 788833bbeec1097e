"""The hold that unfinished jobs have on their connection."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from typing import Any, Generic, Protocol, TypeVar

from beanpool.connection import Job, supersede
from beanpool.runtime import Lock


class JobRef(weakref.ref[Job]):
    """A weak reference to an unfinished job: its connection notices when the caller drops the job.

    It then calls the ``append`` of a deque. A finalizer may run at any line of any thread, so it only leaves a note: no
    lock, no I/O, and no line of Python in which an interrupt could come.
    """

    __slots__ = ("lease",)

    lease: Lease[Any]


Refs = dict[int, JobRef]
"""Unfinished jobs by their ids."""


class LeasedConnection(Protocol):
    """What a lease knows of its connection."""

    jobs: Refs
    """The unfinished jobs that were reserved on it."""
    in_hand: Refs
    """Those of all connections to the same server process."""
    lease_lock: Lock

    @property
    def closed(self) -> bool:
        """Whether it is closed."""


ConnectionT = TypeVar("ConnectionT", bound=LeasedConnection)


class Lease(Generic[ConnectionT]):
    """Keeps a connection out of circulation while jobs are reserved on it: one, or those of a batch.

    The last job that ends checks the connection in. A job that is dropped unfinished goes back to its tube: if it
    was the last one, by closing the connection; else by a release, for closing would take the others away.

    :param checkin: takes the connection back when its last job has ended.
    :param discard: closes the connection for good, and is told why.
    :param on_abandoned: is told by a finalizer that a job was dropped unfinished: the ``append`` of a deque.
    """

    __slots__ = ("__weakref__", "_checkin", "_discard", "_ended", "_lock", "_on_abandoned", "_pins", "connection")

    def __init__(
        self,
        checkin: Callable[[ConnectionT], None],
        discard: Callable[[ConnectionT, str], None],
        on_abandoned: Callable[[JobRef], None],
        connection: ConnectionT,
    ) -> None:
        self._checkin = checkin
        self._discard = discard
        self._on_abandoned = on_abandoned
        self.connection = connection
        self._lock = connection.lease_lock
        self._ended = False
        self._pins = 0

    def hold(self, job: Job) -> None:
        """Keep the connection for this job."""
        jid, connection = job.number, self.connection
        ref = JobRef(job, self._on_abandoned)
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
            supersede(before, self.connection)

    def end(self, jid: int) -> None:
        """This job is no longer reserved: with the last one, let others use the connection. Idempotent."""
        if not self._ended:
            # The same as forget(), inlined: every job comes here.
            connection = self.connection
            other = connection.in_hand.pop(jid, None)
            ref = connection.jobs.pop(jid, None)
            if other is not ref and other is not None:
                connection.in_hand.setdefault(jid, other)
            self._settle()

    def forget(self, jids: Iterable[int]) -> None:
        """These are no longer reserved. Only for a caller that has pinned the lease."""
        forget(self.connection.in_hand, self.connection.jobs, jids)

    def _settle(self) -> None:
        connection = self.connection
        # All jobs of a broken connection are lost at once. Its place is free now: to recover a job takes a connection.
        if connection.jobs and not connection.closed:
            return
        with self._lock:
            # The last jobs may end at the same time, in several threads: one of them gives the connection back.
            if self._ended or self._pins:
                return
            self._ended = True
        self._checkin(connection)

    # For commands on several jobs.

    def pin(self) -> bool:
        """Keep the connection, whatever becomes of its jobs, until :meth:`unpin`; false if it was given back before.

        Without this, nobody may touch the connection's guard: it may be another caller's connection by now.
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

    # For jobs that were dropped.

    def discard(self, because: str) -> None:
        """Close the connection: the server gives its jobs to others."""
        with self._lock:
            self._ended = True
        self._discard(self.connection, because)

    def abandoned(self) -> list[int]:
        """The ids of its jobs that were dropped unfinished. While there are any, nobody else has the connection."""
        return [jid for jid, ref in self._refs() if ref() is None]

    @property
    def orphaned(self) -> bool:
        """Whether nobody works on any of its jobs."""
        return all(ref() is None for _, ref in self._refs())

    def _refs(self) -> list[tuple[int, JobRef]]:
        return [(jid, ref) for jid, ref in self.connection.jobs.copy().items() if ref.lease is self]


def forget(refs: Refs, mine: Refs, jids: Iterable[int]) -> None:
    """Take what a connection held (`mine`) out of what the pool has in hand (`refs`), and out of `mine`."""
    for jid in jids:
        other = refs.pop(jid, None)
        # Only now: what an interrupt leaves here is found when the job is dropped.
        ref = mine.pop(jid, None)
        if other is not None and other is not ref:
            # It was reserved again meanwhile, over another connection.
            refs.setdefault(jid, other)
