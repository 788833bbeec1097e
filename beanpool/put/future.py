"""A future that costs little as long as nobody waits for it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures._base import CANCELLED, CANCELLED_AND_NOTIFIED, FINISHED, PENDING, RUNNING
from typing import Any, TypeVar

T = TypeVar("T")
_new_lock = threading.Lock
_DONE = (CANCELLED, CANCELLED_AND_NOTIFIED, FINISHED)


class _Waiters(list[Any]):
    """Who waits for a future by :func:`concurrent.futures.wait`, or the like."""

    def __init__(self, hurry: Callable[[], object]) -> None:
        super().__init__()
        self.hurry = hurry

    def append(self, waiter: Any) -> None:
        """As a list does it."""
        super().append(waiter)
        self.hurry()


def _nobody_hurries() -> None: ...


class LazyFuture(Future[T]):
    """A :class:`concurrent.futures.Future` that makes its condition when it is first needed.

    A condition is most of what a future costs, and futures of a batch are mostly looked at when they are done. All
    that ``Future`` does is done under its condition; so as long as there is none, nobody waits and no callback is
    there, and the state can change under the bare lock that a condition would have. Whoever makes one finds the state
    as it is by then. Who waits for the result alone needs none: a lock of its own, which the end lets go, will do.

    :param hurry: is called when somebody begins to wait for it before it was started. A callback is no wait.
    """

    _own_condition: threading.Condition | None = None
    sleepers: tuple[threading.Lock, ...] = ()
    """The locks of those who wait for its result alone."""
    _asked = False

    def __init__(self, hurry: Callable[[], object] = _nobody_hurries) -> None:
        # Instead of what Future does here.
        self._hurry = hurry
        self._lock = threading.RLock()
        self._state = PENDING
        self._result: Any = None
        self._exception = None
        self._waiters: Any = ()
        self._done_callbacks: list[Callable[[Future[T]], object]] = []

    @property
    def _condition(self) -> threading.Condition:  # type: ignore[override]  # Future has it as an attribute.
        with self._lock:
            if self._own_condition is None:
                self._waiters = _Waiters(self._hurry)
                self._own_condition = threading.Condition(self._lock)
            return self._own_condition

    def cancel(self) -> bool:
        """As in ``Future``."""
        cancelled = super().cancel()
        if cancelled:
            self._forget_who_hurries()
            self._wake()
        return cancelled

    def done(self) -> bool:
        """As in ``Future``."""
        return self._state in _DONE

    def set_running_or_notify_cancel(self) -> bool:
        """As in ``Future``."""
        with self._lock:
            if self._own_condition is None and self._state == PENDING:
                self._state = RUNNING
                self._hurry = _nobody_hurries
                return True
        started = super().set_running_or_notify_cancel()
        self._forget_who_hurries()
        return started

    def _forget_who_hurries(self) -> None:
        # A future that is kept must keep neither the producer nor its pool.
        self._hurry = _nobody_hurries
        if isinstance(self._waiters, _Waiters):
            self._waiters.hurry = _nobody_hurries

    def set_result(self, result: T) -> None:
        """As in ``Future``."""
        with self._lock:
            if self._own_condition is None and self._state == RUNNING:
                self._result = result
                self._state = FINISHED
                if self.sleepers:
                    self._wake()
                return
        super().set_result(result)
        self._wake()

    def set_exception(self, exception: BaseException | None) -> None:
        """As in ``Future``."""
        super().set_exception(exception)
        self._wake()

    def _wake(self) -> None:
        """Wake who sleeps, if it is done."""
        with self._lock:
            if self._state in _DONE:
                sleepers, self.sleepers = self.sleepers, ()
                for sleeper in sleepers:
                    sleeper.release()

    def _sleep(self, timeout: float | None) -> None:
        """Wait until it is done, or for so long (seconds)."""
        sleeper = _new_lock()
        sleeper.acquire()
        with self._lock:
            if self._state in _DONE:
                return
            pending = self._state == PENDING
            self.sleepers = (*self.sleepers, sleeper)
        if pending:
            self._hurry()
        if not sleeper.acquire(timeout=-1 if timeout is None else max(0.0, timeout)):
            with self._lock:
                self.sleepers = tuple(other for other in self.sleepers if other is not sleeper)

    def result(self, timeout: float | None = None) -> T:
        """As in ``Future``."""
        # It never changes again, and the result was there before it.
        if self._state == FINISHED and self._exception is None:
            value: T = self._result
            return value
        # From now on: who waits for it will be told.
        self._asked = True
        self._sleep(timeout)
        if self._state == FINISHED and self._exception is None:
            value = self._result
            return value
        try:
            return super().result(0)
        except TimeoutError:
            self._asked = self._state in _DONE
            raise

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """As in ``Future``."""
        self._asked = True
        self._sleep(timeout)
        try:
            return super().exception(0)
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
        self.sleepers = ()
        self._waiters = ()
        self._done_callbacks = []
        if self._state not in _DONE:
            self._exception = error
            self._state = FINISHED
