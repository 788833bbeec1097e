"""The hold that an unfinished job has on its connection."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # server_pool.py grants leases.
    from beanpool.pooled_connection import PooledConnection
    from beanpool.server_pool import ServerPool


class Lease:
    """Keeps a connection out of circulation while a job is reserved on it.

    A lease that is dropped without :meth:`end` gives the job back: its connection is closed soon after, and the
    server makes the job ready again.
    """

    __slots__ = ("_connection", "_pool")

    def __init__(self, pool: ServerPool, connection: PooledConnection) -> None:
        self._pool = pool
        self._connection: PooledConnection | None = connection

    def end(self) -> None:
        """The job is no longer reserved: let others use its connection. Idempotent."""
        connection, self._connection = self._connection, None
        if connection is not None:
            self._pool.release(connection)

    def __del__(self) -> None:
        # A finalizer may run at any line of any thread: it only leaves a note, without lock or I/O.
        # It may also be interrupted before it holds anything.
        connection = getattr(self, "_connection", None)
        if connection is not None:
            self._pool.abandoned.append(connection)
