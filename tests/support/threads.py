"""Threads whose results and exceptions reach the test, and whose hanging fails it instead of blocking it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Background(Generic[T]):
    """A call running in a daemon thread; made by :func:`background`."""

    def __init__(self, function: Callable[[], T], name: str) -> None:
        self._function = function
        self._value: list[T] = []
        self._error: BaseException | None = None
        self.thread = threading.Thread(target=self._run, name=name, daemon=True)

    def _run(self) -> None:
        try:
            self._value.append(self._function())
        except BaseException as error:  # The test thread gets it, whatever it is.
            self._error = error

    @property
    def done(self) -> bool:
        """Whether the call has returned or raised."""
        return not self.thread.is_alive()

    def result(self, timeout: float = 10.0) -> T:
        """Wait at most `timeout` seconds for the call; return its value or raise its exception."""
        self.thread.join(timeout)
        if self.thread.is_alive():
            raise AssertionError(f"{self.thread.name} had not ended after {timeout:g} s")
        if self._error is not None:
            raise self._error
        return self._value[0]

    def error(self, timeout: float = 10.0) -> BaseException | None:
        """Wait at most `timeout` seconds for the call; return what it raised, or None if it returned."""
        self.thread.join(timeout)
        if self.thread.is_alive():
            raise AssertionError(f"{self.thread.name} had not ended after {timeout:g} s")
        return self._error


def background(function: Callable[[], T], name: str = "background call") -> Background[T]:
    """Start `function` in a daemon thread; ask the returned object for its ``result(timeout)``."""
    call = Background(function, name)
    call.thread.start()
    return call


def run_together(*functions: Callable[[], T], timeout: float = 10.0) -> list[T]:
    """Run all functions at once, each in its own thread, and return their results in order.

    :param timeout: seconds for all of them together.
    :raises: the exception of the first function, in order, that raised one.
    """
    gate = threading.Barrier(len(functions))

    def start_together(function: Callable[[], T]) -> Callable[[], T]:
        def run() -> T:
            gate.wait(timeout)
            return function()

        return run

    calls = [background(start_together(function), f"call {number}") for number, function in enumerate(functions)]
    end = time.monotonic() + timeout
    return [call.result(max(0.0, end - time.monotonic())) for call in calls]
