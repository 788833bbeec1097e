"""What becomes of a job whose handler raised."""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Callable, Mapping
from typing import Any

from beanpool.validation import check_pause
from beanpool.worker.backoff import Backoff


class Retry(Exception):
    """A handler raises it to have its job tried again; it is never buried for that, however often it was tried.

    :param delay: how long the job waits on its server (whole seconds, rounded up); None for the back-off's time.
    """

    def __init__(self, delay: float | None = None) -> None:
        self.delay = None if delay is None else check_pause("delay", delay)
        super().__init__("the handler asks for another try" if delay is None else f"again in {delay:g} s")


class Bury(Exception):
    """A handler raises it to have its job buried: another try would not help.

    :param reason: why, for the log.
    """

    def __init__(self, reason: str = "the handler has given the job up") -> None:
        super().__init__(reason)


class TimeLimitExceeded(BaseException):
    """Raised in a handler's thread when its `time_limit` is over; the job is tried again.

    It is no :class:`Exception`, so that a handler which catches all of them ends too.
    """


@dataclasses.dataclass(frozen=True, slots=True)
class Again:
    """The job is released."""

    delay: int
    """Seconds."""
    priority: int
    tries: int


@dataclasses.dataclass(frozen=True, slots=True)
class Aside:
    """The job is buried."""

    priority: int
    tries: int
    why: str


def tries_of(stats: Mapping[str, Any]) -> int:
    """How often a job was tried, the present try included.

    :param stats: its ``stats-job``. Reservations that ended with a lost connection, as those of a wait that was
        cancelled, of a worker that was killed, or of a shutdown, are in neither of its two numbers.
    """
    return int(stats["releases"]) + int(stats["timeouts"]) + 1


def decide(
    error: BaseException,
    stats: Mapping[str, Any],
    backoff: Backoff,
    outage: float | None = None,
    rng: Callable[[], float] = random.random,
) -> Again | Aside:
    """Decide from what the handler raised and what the server says of the job.

    :param outage: how long its tube will be left alone (seconds), if that is why: then it is not the job's fault.
    """
    priority, tries = int(stats["pri"]), tries_of(stats)
    if isinstance(error, Bury):
        return Aside(priority, tries, _text_of(error))
    if isinstance(error, Retry):
        delay = backoff.delay(tries, rng) if error.delay is None else math.ceil(error.delay)
        return Again(delay, priority, tries)
    if tries >= backoff.tries and outage is None:
        return Aside(priority, tries, "its tries are used up")
    delay = backoff.delay(tries, rng)
    # It comes back after the job that tries next: that should be another one.
    return Again(delay if outage is None else max(delay, int(outage) + 1), priority, tries)


def _text_of(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:
        # A class of the program's own may say it in a way that fails.
        return type(error).__name__
