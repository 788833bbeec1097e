"""The connections of a pool that are given up although nothing is wrong with them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable

from beanpool.server.places import Places
from beanpool.server.pooled_connection import PooledConnection


class PoolPruning:
    """Closes idle connections that are no longer wanted; those in use follow when they come back.

    :param lock: the pool's.
    :param discard: closes a connection for good, and is told why; called without the lock.
    """

    def __init__(self, lock: threading.RLock, places: Places, discard: Callable[[PooledConnection, str], None]) -> None:
        self._lock = lock
        self._places = places
        self._discard = discard

    def start_generation(self, generation: int) -> None:
        """Keep only what is of this generation, if it is a newer one."""
        with self._lock:
            idle = self._places.start_generation(generation)
        self._close(idle, "the server was down, or restarted, since it was made")

    @property
    def keeps_nothing(self) -> bool:
        """Whether every check-out gets a new connection."""
        return self._places.kept_generation < 0

    def keep_nothing(self) -> None:
        """From now on give every check-out a new connection: each may lead to another server process."""
        with self._lock:
            self._places.kept_generation = -1
            idle = self._places.empty()
        self._close(idle, "its address leads to several server processes")

    def trim(self, idle_for: float) -> None:
        """Close what has been idle for longer than this (seconds), but for the newest; spare ones much sooner."""
        with self._lock:
            old = self._places.trim(idle_for)
        self._close(old, "it was idle for long")

    def resize(self, limit: int) -> None:
        """Change how many there may be: who waits gets what there is more at once; what is too many goes when idle."""
        with self._lock:
            idle = self._places.resize(limit)
        self._close(idle, "max_connections was lowered")

    def _close(self, connections: Iterable[PooledConnection], because: str) -> None:
        for connection in connections:
            self._discard(connection, because)
