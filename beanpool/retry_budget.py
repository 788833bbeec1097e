"""How many repeated attempts a pool may make, so that an outage does not multiply its load."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from beanpool.locks import Lock

_SHARE = 0.1
_BURST = 10.0
_PER_SECOND = 1.0
_AFTER_SUCCESS = 2.0


class RetryBudget:
    """A bucket of attempts that pays for those that fail: ten are there at most.

    Only an attempt that repeats what the same call has tried on the same server takes one out. Moving to another
    server is free: each call does that at most once for each server. A tenth of one comes in with every command that
    succeeds, one with every second. A repeated attempt that succeeds brings in its own and another one: the calls that
    waited for a server go to it ever faster, as long as it takes what they bring. When a server comes back that was
    down, there is one at least.

    An empty bucket slows a call down. It ends none.

    :param successes: returns how many commands have succeeded so far; it is asked only when an attempt is wanted, so
        the budget costs a successful call nothing.
    :param comebacks: returns how often a server has come back.
    :param clock: returns the time (seconds).
    """

    def __init__(
        self,
        successes: Callable[[], int],
        comebacks: Callable[[], int] = lambda: 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._successes = successes
        self._comebacks = comebacks
        self._clock = clock
        self._seen = 0
        self._comebacks_seen = comebacks()
        self._filled_at = clock()
        self._tokens = _BURST
        self._ended = False
        self._changed = threading.Condition(Lock())

    def take(self, until: float = 0.0) -> bool:
        """Take an attempt out of the bucket; false if there is none.

        :param until: how long to wait for one (on the clock), in the order in which the callers came.
        """
        with self._changed:
            while not self._fill():
                missing = (1 - self._tokens) / _PER_SECOND
                remaining = until - self._clock()
                if remaining <= 0 or self._ended:
                    return False
                self._changed.wait(min(missing, remaining))
            self._tokens -= 1
            return True

    def repay(self) -> None:
        """An attempt that was taken has succeeded."""
        with self._changed:
            self._tokens = min(_BURST, self._tokens + _AFTER_SUCCESS)
            self._changed.notify(int(self._tokens))

    def end(self) -> None:
        """Let nobody wait any more."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def _fill(self) -> bool:
        """Let in what has come since the last look; returns whether there is an attempt."""
        successes, comebacks, now = self._successes(), self._comebacks(), self._clock()
        come = _SHARE * max(0, successes - self._seen) + _PER_SECOND * max(0.0, now - self._filled_at)
        least = 1.0 if comebacks != self._comebacks_seen else 0.0
        self._tokens = max(least, min(_BURST, self._tokens + come))
        self._seen, self._comebacks_seen, self._filled_at = successes, comebacks, now
        return self._tokens >= 1
