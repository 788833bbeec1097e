"""Waiting for a condition instead of for a time."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from support.lag import LagProbe

T = TypeVar("T")

_FIRST_PAUSE = 0.0005
_LONGEST_PAUSE = 0.02


def wait_until(predicate: Callable[[], T], description: str, timeout: float = 5.0) -> T:
    """Call `predicate` until it returns something true, and return that.

    :param description: what is waited for, for the failure message: "the server to drain".
    :param timeout: seconds.
    :raises AssertionError: when the time is up; the message holds the predicate's last value.
    """
    end = time.monotonic() + timeout
    pause = _FIRST_PAUSE
    while True:
        value = predicate()
        if value:
            return value
        remaining = end - time.monotonic()
        if remaining <= 0:
            raise AssertionError(f"waited {timeout:g} s for {description}; the last value was {value!r}")
        time.sleep(min(pause, remaining))
        pause = min(pause * 1.5, _LONGEST_PAUSE)


@contextlib.contextmanager
def within(deadline: float, description: str = "the call", *, slack: float = 0.25) -> Iterator[None]:
    """Assert that the block ends, by returning or by raising, within `deadline` + `slack` seconds.

    What the machine stood still meanwhile does not count. It cannot end a block that hangs: run such a block in
    :func:`support.threads.background`.
    """
    with LagProbe() as lag:
        started = time.monotonic()
        try:
            yield
        finally:
            ended = time.monotonic()
            took = ended - started - lag.stalled(started, ended)
            if took > deadline + slack:
                raise AssertionError(
                    f"{description} took {took:.3f} s, and was to end within {deadline:g} + {slack:g} s"
                )
