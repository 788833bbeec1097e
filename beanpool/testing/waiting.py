"""Waiting for a condition instead of for a time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

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
