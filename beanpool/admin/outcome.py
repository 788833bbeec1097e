"""What came of an operation, server by server."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Literal, get_args

from beanpool.errors import without_frames
from beanpool.reserve import Waker

State = Literal["ready", "delayed", "buried"]
"""A state in which nobody has a job in hand."""
AnyState = Literal["ready", "delayed", "buried", "reserved"]
"""A state in which a job may be looked at."""
STATES: tuple[State, ...] = get_args(State)

Stop = Waker | Callable[[], bool] | None
"""What ends an operation early: a :class:`Waker` that is set, or a function that returns True."""


@dataclasses.dataclass(frozen=True, slots=True)
class Outcome:
    """What an operation has done on one server.

    Each job that it took up is in one of `done`, `skipped` and `unsure`. None is ever lost: after a move a job is there
    once, or, as far as `duplicates` and `unsure` count it, perhaps twice.

    :param done: the jobs that were cleared, moved, kicked, listed, exported or imported.
    :param duplicates: the jobs that are there twice now, or may be: a put was sent again, or a copy could not be taken
        back. A job that is counted here is counted as done or skipped, too.
    :param skipped: the jobs that are as they were: somebody else has taken them meanwhile, or they were refused.
    :param unsure: the jobs whose delete was sent and not answered: it may have been carried out or not.
    :param error: why it did not go on, or what was wrong with jobs that were skipped; None if all went well.
    :param seconds: how long it took.
    """

    done: int = 0
    duplicates: int = 0
    skipped: int = 0
    unsure: int = 0
    error: Exception | None = None
    seconds: float = 0.0


@dataclasses.dataclass(frozen=True, slots=True)
class Progress:
    """How far an operation is on one server, for bars.

    :param server: the server's address; empty for jobs that no server has yet.
    :param total: how many jobs there were when it began; None where that is not known.
    :param outcome: what is done so far.
    """

    server: str
    total: int | None
    outcome: Outcome

    @property
    def handled(self) -> int:
        """How many jobs it has taken up so far."""
        return self.outcome.done + self.outcome.skipped + self.outcome.unsure


OnProgress = Callable[[Progress], object] | None


class Tally:
    """An :class:`Outcome` in the making, of one thread."""

    def __init__(self) -> None:
        self.done = self.duplicates = self.skipped = self.unsure = 0
        self.error: Exception | None = None
        self._began = time.monotonic()

    def fail(self, error: Exception) -> None:
        """Note what went wrong, unless something did before: that is the cause."""
        if self.error is None:
            # Its traceback holds frames, and these hold bodies.
            self.error = without_frames(error)

    def outcome(self) -> Outcome:
        """What came of it so far."""
        seconds = time.monotonic() - self._began
        return Outcome(self.done, self.duplicates, self.skipped, self.unsure, self.error, seconds)


def total(outcomes: Mapping[str, Outcome]) -> Outcome:
    """The sum over all servers; `error` is one of theirs, `seconds` the longest."""
    found = list(outcomes.values())
    return Outcome(
        sum(outcome.done for outcome in found),
        sum(outcome.duplicates for outcome in found),
        sum(outcome.skipped for outcome in found),
        sum(outcome.unsure for outcome in found),
        next((outcome.error for outcome in found if outcome.error is not None), None),
        max((outcome.seconds for outcome in found), default=0.0),
    )


def check_states(states: str | Iterable[str], *, reserved: bool = False) -> tuple[str, ...]:
    """The states that a caller named, in a fixed order.

    :param reserved: whether ``"reserved"`` can be one.
    :raises ValueError: for none, or an unknown one.
    """
    named = {states} if isinstance(states, str) else set(states)
    known = get_args(AnyState) if reserved else STATES
    if not named or not named <= set(known):
        wrong = ", ".join(repr(state) for state in sorted(named - set(known), key=repr)) or "none"
        raise ValueError(f"states must be some of {', '.join(known)}, not {wrong}")
    return tuple(state for state in known if state in named)


def check_limit(limit: int | None) -> int | None:
    """Check how many jobs a caller wants at most; None for all.

    :raises ValueError: if it is negative; :raises TypeError: if it is no ``int``.
    """
    if limit is None:
        return None
    if isinstance(limit, bool) or not isinstance(limit, int):
        raise TypeError(f"limit must be an int or None, not {type(limit).__name__}")
    if limit < 0:
        raise ValueError(f"limit must be at least 0, not {limit}")
    return limit


def stop_test(stop: Stop) -> Callable[[], bool]:
    """What tells whether to stop.

    :raises TypeError: if `stop` is neither a waker nor a function.
    """
    if stop is None:
        return bool
    if isinstance(stop, Waker):
        return stop.is_set
    if not callable(stop):
        raise TypeError(f"stop must be a beanpool.Waker or a function, not {type(stop).__name__}")
    return stop
