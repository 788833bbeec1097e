"""Ending a handler that runs for too long, by an exception in its thread."""

from __future__ import annotations

import contextlib
import ctypes
import math
import threading
import time

from beanpool.worker.outcome import TimeLimitExceeded

_raise_in_thread = ctypes.pythonapi.PyThreadState_SetAsyncExc
_raise_in_thread.argtypes = (ctypes.c_ulong, ctypes.py_object)
_raise_in_thread.restype = ctypes.c_int


class _Instead(BaseException):
    """Takes the place of an exception that is on its way."""


class TimeLimit:
    """The time limit of what one thread does; made in that thread.

    The exception comes between two steps of Python: a handler that waits in C for long gets it when that returns.
    """

    __slots__ = ("_deadline", "_lock", "_raised", "_running", "_thread")

    def __init__(self) -> None:
        self._thread = threading.get_ident()
        self._lock = threading.Lock()
        self._deadline = -math.inf
        self._running = False
        self._raised = False

    def begin(self, seconds: float) -> float:
        """Let the exception come after so many seconds, unless :meth:`end` is called before; returns when that is."""
        with self._lock:
            self._raised = False
            self._running = True
            self._deadline = time.monotonic() + seconds
            return self._deadline

    def end(self) -> None:
        """Let no exception come any more, also not one that is on its way. Idempotent; called in the thread itself."""
        with self._lock:
            self._running = False
            raised, self._raised = self._raised, False
        if raised:
            # To take it back is not enough: until one comes, CPython 3.11 and 3.12 look for it at each step, and a
            # trace function that is set then (a debugger's) never ends.
            with contextlib.suppress(_Instead):
                _raise_in_thread(self._thread, ctypes.py_object(_Instead))
                for _ in range(1000):
                    pass

    def enforce(self, now: float) -> float:
        """Raise the exception if it is due; called by another thread.

        Returns the last deadline that was set. It is worth a look even if the handler has ended: the next one is later.
        """
        with self._lock:
            if self._running and not self._raised and now >= self._deadline:
                self._raised = True
                _raise_in_thread(self._thread, ctypes.py_object(TimeLimitExceeded))
            return self._deadline

    @property
    def overrun(self) -> bool:
        """Whether the exception was raised and the handler has not ended since."""
        return self._raised
