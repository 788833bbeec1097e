"""Repeated attempts, through tenacity; the first attempt of a call is made without it, so most calls pay nothing."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeVar

from beanpool.loading import load

if TYPE_CHECKING:
    from tenacity import RetryCallState

Result = TypeVar("Result")

_FIRST_WAIT = 0.05
_LONGEST_WAIT = 2.0


class RetryPolicy:
    """When a call that found no server tries again: never past its own deadline, and not once the pool closes.

    :param parts: tenacity ``stop`` and ``wait`` objects in any number and order, or None for the default: full-jitter
        exponential waits from 0.05 to 2 seconds, until the deadline.
    :raises TypeError: for anything else.
    """

    def __init__(self, parts: Any = None) -> None:
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
