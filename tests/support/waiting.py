"""Waiting for a condition instead of for a time, and for a time that is not to pass."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from beanpool.testing.waiting import wait_until
from support.lag import LagProbe

__all__ = ["wait_until", "within"]


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
