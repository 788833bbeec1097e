"""A tube whose jobs fail one after another is left alone for a while."""

from __future__ import annotations

import dataclasses
import math

from beanpool.protocol import MAX_UINT32, check_int
from beanpool.validation import check_seconds

_MOST_DOUBLINGS = 64


@dataclasses.dataclass(frozen=True)
class Breaker:
    """Leaves a tube alone when its handlers fail in a row: an outage of what they need must not bury a queue.

    After so many failures in a row, of all threads together, no job of the tube is taken for `base` seconds. Then one
    job tries: if it fails too, the time is doubled, up to `cap`; if not, the tube is worked on as before. Until then no
    job of the tube is buried because its tries are used up.

    :param after: how many failures in a row (from 1 on).
    :param base: the first time in which the tube is left alone (seconds).
    :param cap: the longest one (seconds).
    :raises ValueError: for a number that cannot be; :raises TypeError: for one of a wrong type.
    """

    after: int = 10
    base: float = 1
    cap: float = 60

    def __post_init__(self) -> None:
        check_int("after", self.after, 1, MAX_UINT32)
        check_seconds("base", self.base)
        check_seconds("cap", self.cap)
        if self.base > self.cap:
            raise ValueError(f"base must not be longer than cap, {self.cap:g} s, not {self.base:g}")

    def wait(self, openings: int) -> float:
        """How long the tube is left alone when that happens for so many times in a row (seconds)."""
        return min(self.cap, self.base * 2.0 ** min(openings - 1, _MOST_DOUBLINGS))


@dataclasses.dataclass(frozen=True, slots=True)
class Circuit:
    """What a breaker knows of its tube at one moment. Open is the circuit of a tube that is left alone."""

    failures: int = 0
    """In a row, while it is closed."""
    openings: int = 0
    """How often in a row the tube was left alone; 0 while the circuit is closed."""
    until: float = 0.0
    """When one job may try (monotonic seconds)."""

    @property
    def is_open(self) -> bool:
        """Whether the tube is left alone, or one job tries."""
        return self.openings > 0

    def room(self, breaker: Breaker) -> float:
        """How many jobs may be in hand at once while it is closed: no more than may fail before it opens."""
        return breaker.after - self.failures if self.failures else math.inf

    def failed(self, breaker: Breaker, now: float) -> Circuit:
        """After a job failed. One that was taken before the circuit opened tells nothing new."""
        if not self.is_open and self.failures + 1 < breaker.after:
            return Circuit(self.failures + 1)
        if self.is_open and now < self.until:
            return self
        return Circuit(0, self.openings + 1, now + breaker.wait(self.openings + 1))


CLOSED = Circuit()
"""The circuit of a tube whose last job did not fail."""
