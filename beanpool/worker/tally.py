"""How many jobs came to what."""

from __future__ import annotations

import threading

NAMES = ("taken", "done", "failed", "retried", "buried", "lost", "given_back")


class _Mine(threading.local):
    """The counts of the calling thread: nobody else adds to them, so nobody waits."""

    counts: dict[str, int] | None = None


class Tally:
    """A worker's counters: by the names of :meth:`beanpool.worker.Worker.get_stats`."""

    __slots__ = ("_all", "_mine")

    def __init__(self) -> None:
        self._mine = _Mine()
        self._all: list[dict[str, int]] = []

    def add(self, what: str, count: int = 1) -> None:
        """Count so many more."""
        counts = self._mine.counts
        if counts is None:
            counts = self._mine.counts = dict.fromkeys(NAMES, 0)
            self._all.append(counts)
        counts[what] += count

    def __getitem__(self, what: str) -> int:
        return sum(counts[what] for counts in list(self._all))

    def snapshot(self) -> dict[str, int]:
        """All of them at this moment."""
        return {what: self[what] for what in NAMES}
