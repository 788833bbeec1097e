"""A future that costs little as long as nobody waits for it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures._base import CANCELLED, CANCELLED_AND_NOTIFIED, FINISHED, PENDING, RUNNING
from typing import Any, TypeVar

T = TypeVar("T")
_DONE = (CANCELLED, CANCELLED_AND_NOTIFIED, FINISHED)


class Promise(Future[T]):
    """A :class:`concurrent.futures.Future` that makes its condition when it is first needed.

    A condition is most of what a future costs, and futures of a batch are mostly looked at when they are done. All
    that ``Future`` does is done under its condition; so as long as there is none, nobody waits and no callback is
    there, and the state can change under the bare lock that a condition would have. Whoever makes one finds the state
    as it is by then.
    """

    _own_condition: threading.Condition | None = None

    def __init__(self) -> None:
        # Instead of what Future does here.
        self._lock = threading.RLock()
        self._state = PENDING
        self._result: Any = None
        self._exception = None
        self._waiters = []
        self._done_callbacks: list[Callable[[Future[T]], object]] = []

    @property
    def _condition(self) -> threading.Condition:  # type: ignore[override]  # Future has it as an attribute.
        with self._lock:
            if self._own_condition is None:
                self._own_condition = threading.Condition(self._lock)
            return self._own_condition

    def done(self) -> bool:
        """As in ``Future``."""
        return self._state in _DONE

    def set_running_or_notify_cancel(self) -> bool:
        """As in ``Future``."""
        with self._lock:
            if self._own_condition is None and self._state == PENDING:
                self._state = RUNNING
                return True
        return super().set_running_or_notify_cancel()

    def set_result(self, result: T) -> None:
        """As in ``Future``."""
        with self._lock:
            if self._own_condition is None and self._state == RUNNING:
                self._result = result
                self._state = FINISHED
                return
        super().set_result(result)

    def result(self, timeout: float | None = None) -> T:
        """As in ``Future``."""
        # It never changes again, and the result was there before it.
        if self._state == FINISHED and self._exception is None:
            value: T = self._result
            return value
        return super().result(timeout)
