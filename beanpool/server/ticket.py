"""A place in the queue for a connection."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable

from beanpool.errors import BeanpoolError
from beanpool.server.pooled_connection import PooledConnection


class Ticket:
    """A place in the queue for a connection: of a caller whose thread sleeps, or of one who waits for more and is told.

    :param on_available: tells the caller, under the pool's lock: it waits for nothing, and returns false if nobody is
        there any more; None for one whose thread sleeps.
    """

    __slots__ = ("_on_available", "connection", "error", "for_jobs", "signal")

    def __init__(self, on_available: Callable[[], bool] | None = None) -> None:
        self._on_available = on_available
        self.for_jobs = on_available is not None
        """Whether jobs may be reserved on the connection; who is told, but wants none for that, says so."""
        self.signal = threading.Lock()
        self.signal.acquire()
        self.connection: PooledConnection | None = None
        self.error: BeanpoolError | None = None

    @property
    def settled(self) -> bool:
        """Whether it has its connection, or never will."""
        return self.connection is not None or self.error is not None

    def wake(self) -> bool:
        """Wake its owner; false if there is none any more. To call it again does no harm."""
        if self._on_available is not None:
            return self._on_available()
        with contextlib.suppress(RuntimeError):
            self.signal.release()
        return True
