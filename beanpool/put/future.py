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
    _asked = False

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
        # From now on: who waits for it will be told.
        self._asked = True
        try:
            return super().result(timeout)
        except TimeoutError:
            self._asked = self._state in _DONE
            raise

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """As in ``Future``."""
        self._asked = True
        try:
            return super().exception(timeout)
        except TimeoutError:
            self._asked = self._state in _DONE
            raise

    def add_done_callback(self, fn: Callable[[Future[T]], object]) -> None:
        """As in ``Future``."""
        # It is given the future, and with it the error.
        self._asked = True
        super().add_done_callback(fn)

    def unasked_error(self) -> BaseException | None:
        """Its error, if it has failed, and nobody has asked for that."""
        return None if self._asked else self._exception

    def leave_to_parent(self, error: BaseException) -> None:
        """In a forked child, where nobody else has it: end it with an error, whatever thread had its lock."""
        self._lock = threading.RLock()
        self._own_condition = None
        self._waiters = []
        self._done_callbacks = []
        if self._state not in _DONE:
            self._exception = error
            self._state = FINISHED
