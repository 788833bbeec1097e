"""How often a job is tried, and how long it waits between two tries."""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Callable

from beanpool.protocol import MAX_UINT32, check_int
from beanpool.validation import check_pause

# Beyond this many doublings any base has reached any cap.
_MOST_DOUBLINGS = 64


@dataclasses.dataclass(frozen=True)
class Backoff:
    """The retries of jobs whose handler raises: they wait on their server, so no worker holds a job that waits.

    The first wait is `base` seconds, each further one twice the one before, up to `cap`.

    :param tries: how often a job is tried before it is buried (from 1 on: buried after its first failure).
    :param base: the first wait (seconds; 0 for none at all).
    :param cap: the longest wait (seconds).
    :param jitter: whether a wait is a random part of that, at least the half of it: jobs that failed together must not
        come back together.
    :raises ValueError: for a number that cannot be; :raises TypeError: for one of a wrong type.
    """

    tries: int = 5
    base: float = 1
    cap: float = 600
    jitter: bool = True

    def __post_init__(self) -> None:
        check_int("tries", self.tries, 1, MAX_UINT32)
        check_pause("base", self.base)
        check_pause("cap", self.cap)
        if self.base > self.cap:
            raise ValueError(f"base must not be longer than cap, {self.cap:g} s, not {self.base:g}")

    def delay(self, tries: int, rng: Callable[[], float] = random.random) -> int:
        """How long a job waits that was tried so often (whole seconds, as the server counts them; rounded up).

        :param rng: gives random numbers from 0 to 1.
        """
        wait = min(self.cap, self.base * 2.0 ** min(tries - 1, _MOST_DOUBLINGS))
        if self.jitter:
            wait *= (1 + rng()) / 2
        return math.ceil(wait)
