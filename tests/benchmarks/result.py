"""What a case found: goals, tables and plots."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from benchmarks.measuring import Ratio, Timings
from benchmarks.plots import Plot


@dataclass(frozen=True)
class Table:
    """A table with a head, and what is to be said before it."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""


@dataclass(frozen=True)
class Goal:
    """One line of what beanpool must reach.

    :param measured: None if it cannot be measured here; then `remark` says why.
    :param at_most: whether less is better.
    :param remark: what belongs to it.
    """

    what: str
    of: str
    target: float
    measured: Ratio | None
    at_most: bool = False
    remark: str = ""

    @property
    def reached(self) -> bool:
        """Whether the median is there, rounded as it is printed."""
        if self.measured is None:
            return False
        median = round(self.measured.median, 2)
        return median <= self.target if self.at_most else median >= self.target


@dataclass
class Result:
    """All of one case."""

    title: str
    tables: list[Table] = field(default_factory=list)
    goals: list[Goal] = field(default_factory=list)
    plots: list[Plot] = field(default_factory=list)


def speed_table(
    timings: Timings, of: str, missing: dict[str, str], caption: str = "", unit: str = "per second"
) -> Table:
    """Ratios first: how fast each contender is in terms of `of`; then those that there is nothing of, and why."""
    names = sorted((name for name in timings.seconds if name != of), key=timings.median)
    rows = [[name, str(timings.speed(name, of)), f"{timings.rate(name):,.0f}"] for name in names]
    rows.insert(0, [of, "1", f"{timings.rate(of):,.0f}"])
    rows += [[name, why, ""] for name, why in missing.items()]
    return Table(["client", f"speed, {of} = 1 (quartiles)", unit], rows, caption)
