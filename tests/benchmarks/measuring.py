"""Interleaved rounds, and the ratios between what was measured in the same round."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field


def _nothing(count: int) -> None:
    pass


@dataclass(frozen=True)
class Contender:
    """What takes part in a comparison: a client, doing the same work as the others.

    :param name: as the tables call it.
    :param run: does so many operations; this is what is timed.
    :param prepare: is called before it, with the same number.
    :param clean_up: is called after it: the servers must be as they were.
    :param share: of the operations in a slice that it does: less than 1 for one that is slow by far.
    """

    name: str
    run: Callable[[int], object]
    prepare: Callable[[int], object] = _nothing
    clean_up: Callable[[int], object] = _nothing
    share: float = 1.0


@dataclass(frozen=True)
class Ratio:
    """The median of one ratio per round, and the quartiles: half of all rounds lay between them."""

    median: float
    low: float
    high: float
    rounds: int

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f} to {self.high:.2f})"


def ratio_of(ratios: Sequence[float]) -> Ratio:
    """The summary of one ratio per round."""
    if len(ratios) < 2:
        return Ratio(ratios[0], ratios[0], ratios[0], 1)
    low, median, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return Ratio(median, low, high, len(ratios))


@dataclass
class Timings:
    """Seconds per operation, of every contender in every round."""

    seconds: dict[str, list[float]] = field(default_factory=dict)

    def add(self, name: str, seconds: float) -> None:
        """Note one round of one contender."""
        self.seconds.setdefault(name, []).append(seconds)

    def __contains__(self, name: str) -> bool:
        return name in self.seconds

    def cost(self, name: str, of: str) -> Ratio:
        """How much longer than `of` it takes: 2 is half as fast."""
        return ratio_of([mine / other for mine, other in zip(self.seconds[name], self.seconds[of], strict=True)])

    def speed(self, name: str, of: str) -> Ratio:
        """How fast it is, in terms of `of`: 2 is twice as fast."""
        return ratio_of([other / mine for mine, other in zip(self.seconds[name], self.seconds[of], strict=True)])

    def median(self, name: str) -> float:
        """Seconds per operation."""
        return statistics.median(self.seconds[name])

    def rate(self, name: str) -> float:
        """Operations per second."""
        return 1 / self.median(name)


def time_slice(contender: Contender, operations: int) -> float:
    """Seconds per operation of one slice; its garbage is its own, and counts."""
    operations = max(1, round(operations * contender.share))
    contender.prepare(operations)
    gc.collect()
    started = time.perf_counter()
    contender.run(operations)
    seconds = time.perf_counter() - started
    contender.clean_up(operations)
    return seconds / operations


def interleaved(contenders: Sequence[Contender], rounds: int, operations: int) -> Timings:
    """Time all contenders in turn, round after round; each round starts with another one.

    A slice that is not counted comes first: connections are opened, and code is warm.
    """
    timings = Timings()
    gc.collect()
    # What exists by now is not looked at again by the collections between the slices.
    gc.freeze()
    try:
        for contender in contenders:
            time_slice(contender, operations)
        for turn in range(rounds):
            first = turn % len(contenders)
            for contender in (*contenders[first:], *contenders[:first]):
                timings.add(contender.name, time_slice(contender, operations))
    finally:
        gc.unfreeze()
    return timings
