"""Repeated attempts: when a call makes another one, and how many a pool makes in all.

They go through tenacity. The first attempt of a call is made without it, so most calls pay nothing.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from beanpool.runtime import Lock, load

if TYPE_CHECKING:
    from tenacity import RetryCallState
    from tenacity.stop import stop_base
    from tenacity.wait import wait_base

Retry: TypeAlias = "stop_base | wait_base | Iterable[stop_base | wait_base] | None"
"""What users say of when a call tries again: see :class:`RetryPolicy`."""

Result = TypeVar("Result")

# Without a policy of the user's: the first and the longest wait between two attempts (seconds).
_FIRST_WAIT = 0.05
_LONGEST_WAIT = 2.0
# Tokens that a successful command, a second, and a successful repeated attempt add; and the most that there can be.
_PER_SUCCESS = 0.1
_PER_SECOND = 1.0
_PER_REPAYMENT = 2.0
_CAPACITY = 10.0


class RetryPolicy:
    """When a call that found no server tries again: never past its own deadline, and not once the pool closes.

    :param parts: tenacity ``stop`` and ``wait`` objects in any number and order, or None for the default: full-jitter
        exponential waits from 0.05 to 2 seconds, until the deadline.
    :raises TypeError: for anything else.
    """

    def __init__(self, parts: Retry = None) -> None:
        self._stops: list[Any] = []
        self._wait: Any = None
        if parts is None:
            return
        # Here, not at the top: loading tenacity costs 30 ms, and a healthy cluster never needs it.
        tenacity = load("tenacity")
        for part in parts if isinstance(parts, Iterable) else (parts,):
            if isinstance(part, tenacity.stop.stop_base):
                self._stops.append(part)
            elif isinstance(part, tenacity.wait.wait_base):
                self._wait = part if self._wait is None else self._wait + part
            else:
                raise TypeError(
                    f"retry must be tenacity stop and wait objects, or an iterable of them, not {type(part).__name__}"
                )

    def run(
        self,
        attempt: Callable[[], Result],
        retryable: type[Exception],
        deadline: float,
        closing: threading.Event,
        before_sleep: Callable[[float, BaseException | None], None],
        sleep: Callable[[float], None] | None = None,
    ) -> Result:
        """Call `attempt` until it returns, raises something that is not `retryable`, or the policy stops.

        :param deadline: monotonic seconds; no sleep goes beyond it, and no attempt begins after it. A wait that would
            be longer is cut: a sleep may end early, so a call that has time is not given up.
        :param closing: ends every sleep, and the attempts, when it is set.
        :param before_sleep: is called before each sleep with its length (seconds) and the error before.
        :param sleep: sleeps so long (seconds), or less if there is a reason to try again earlier.
        """
        tenacity = load("tenacity")

        def note(state: RetryCallState) -> None:
            error = state.outcome.exception() if state.outcome is not None else None
            before_sleep(state.upcoming_sleep, error)

        wait = self._wait or tenacity.wait_random_exponential(multiplier=_FIRST_WAIT, max=_LONGEST_WAIT)
        failure: Exception | None = None

        def attempt_in_time() -> Result:
            nonlocal failure
            if failure is not None and time.monotonic() >= deadline:
                # The last wait took what was left.
                raise failure
            try:
                return attempt()
            except retryable as error:
                failure = error
                raise

        # One object per failing call: a shared one mixes the statistics of threads.
        retrying = tenacity.Retrying(
            stop=tenacity.stop_any(
                tenacity.stop_after_delay(max(0.0, deadline - time.monotonic())),
                tenacity.stop_when_event_set(closing),
                *self._stops,
            ),
            wait=lambda state: min(wait(state), max(0.0, deadline - time.monotonic())),
            retry=tenacity.retry_if_exception_type(retryable),
            sleep=sleep or tenacity.sleep_using_event(closing),
            before_sleep=note,
            reraise=True,
        )
        result: Result = retrying(attempt_in_time)
        return result


class RetryBudget:
    """A token bucket of repeated attempts, so that an outage does not multiply a pool's load. It holds ten at most.

    Only an attempt that repeats what the same call has tried on the same server takes a token. Moving to another
    server is free: each call does that at most once for each server. Every command that succeeds adds a tenth of a
    token, and every second a whole one. A repeated attempt that succeeds adds two: the calls that waited for a server
    go to it ever faster, as long as it takes their jobs. When a server comes back that was down, there is at least
    one token.

    An empty bucket delays a call. It ends none.

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
        self._tokens = _CAPACITY
        self._ended = False
        self._changed = threading.Condition(Lock())

    def take(self, until: float = 0.0) -> bool:
        """Take a token; false if there is none.

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
        """The attempt that a token was taken for has succeeded."""
        with self._changed:
            self._tokens = min(_CAPACITY, self._tokens + _PER_REPAYMENT)
            self._changed.notify(int(self._tokens))

    def end(self) -> None:
        """Make every waiting caller return."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def _fill(self) -> bool:
        """Add what has come since the last call; returns whether there is a token."""
        successes, comebacks, now = self._successes(), self._comebacks(), self._clock()
        added = _PER_SUCCESS * max(0, successes - self._seen) + _PER_SECOND * max(0.0, now - self._filled_at)
        least = 1.0 if comebacks != self._comebacks_seen else 0.0
        self._tokens = max(least, min(_CAPACITY, self._tokens + added))
        self._seen, self._comebacks_seen, self._filled_at = successes, comebacks, now
        return self._tokens >= 1
