"""The time that a server goes by: it passes by itself, and can be moved on."""

from __future__ import annotations

import time

SECOND = 10**9
"""A second in the clock's unit, nanoseconds."""


class Clock:
    """The monotonic clock, plus whatever it was moved on by."""

    def __init__(self) -> None:
        self._ahead = 0

    def now(self) -> int:
        """Nanoseconds since some moment in the past."""
        return time.monotonic_ns() + self._ahead

    def move_to(self, moment: int) -> None:
        """Make it `moment` now; a moment that has passed changes nothing."""
        self._ahead += max(0, moment - self.now())
