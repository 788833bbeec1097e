"""How many repeated attempts a pool may make, so that an outage does not multiply its load."""

from __future__ import annotations

from collections.abc import Callable

from beanpool.locks import Lock

_SHARE = 0.1
_BURST = 10.0


class RetryBudget:
    """A bucket of attempts: a tenth of one comes in with every success, ten are there at most.

    Only an attempt that repeats what the same call has tried on the same server takes one. Moving to another server
    is free: each call does that at most once for each server.

    :param successes: returns how many commands have succeeded so far; it is asked only when an attempt is wanted, so
        the budget costs a successful call nothing.
    """

    __slots__ = ("_lock", "_seen", "_successes", "_tokens")

    def __init__(self, successes: Callable[[], int]) -> None:
        self._successes = successes
        self._seen = 0
        self._tokens = _BURST
        self._lock = Lock()

    def take(self) -> bool:
        """Take an attempt out of the bucket; false if there is none."""
        successes = self._successes()
        with self._lock:
            self._tokens = min(_BURST, self._tokens + _SHARE * max(0, successes - self._seen))
            self._seen = successes
            if self._tokens < 1:
                return False
            self._tokens -= 1
            return True
