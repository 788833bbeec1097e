"""Waiting for a condition instead of for a time, and for a time that is not to pass."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from beanpool.testing import waiting
from support.lag import LagProbe, longest_wait, waited_for_a_core

T = TypeVar("T")


def wait_until(predicate: Callable[[], T], description: str, timeout: float = 15.0) -> T:
    """As :func:`beanpool.testing.waiting.wait_until`; what this process waited for a core meanwhile does not count."""
    started, before = time.monotonic(), waited_for_a_core()
    remaining = timeout
    while True:
        try:
            return waiting.wait_until(predicate, description, remaining)
        except AssertionError as error:
            now = time.monotonic()
            remaining = started + timeout + longest_wait(before, waited_for_a_core()) - now
            if remaining <= 0:
                error.add_note(f"{now - started:.2f} s in all, where {timeout:g} s were allowed")
                raise


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
