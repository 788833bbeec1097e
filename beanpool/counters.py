"""What a pool has done so far, in numbers that are always all there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from beanpool.locks import Lock

NAMES = (
    "puts_rerouted",
    "puts_ambiguous",
    "retries_num",
    "retries_refused",
    "jobs_lost",
    "outages_num",
)


class Counters:
    """Counters of rare events, changed by any thread."""

    __slots__ = ("_counts", "_lock")

    def __init__(self) -> None:
        self._counts = dict.fromkeys(NAMES, 0)
        self._lock = Lock()

    def add(self, name: str) -> None:
        """Count one more."""
        with self._lock:
            self._counts[name] += 1

    def snapshot(self) -> dict[str, int]:
        """All counts."""
        with self._lock:
            return dict(self._counts)


def total(parts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """Add up several sets of counts, name by name."""
    sums: dict[str, int] = {}
    for part in parts:
        for name, count in part.items():
            sums[name] = sums.get(name, 0) + count
    return sums
