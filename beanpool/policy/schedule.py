"""A heap of items and their due times. Pure: no I/O, no clock, no lock."""

from __future__ import annotations

import heapq
import itertools
import math
import weakref
from typing import Generic, TypeVar

Item = TypeVar("Item")

# An entry whose item was planned anew stays in the heap until such entries outnumber the valid ones by this many.
_MOST_STALE = 64


class Schedule(Generic[Item]):
    """Moments at which items are due, one for each. It holds its items weakly."""

    def __init__(self) -> None:
        self._moments: weakref.WeakKeyDictionary[Item, float] = weakref.WeakKeyDictionary()
        # The number keeps items from being compared, and lets the first one that was planned for a moment come first.
        self._heap: list[tuple[float, int, weakref.ref[Item]]] = []
        self._numbers = itertools.count()

    def __contains__(self, item: Item) -> bool:
        return item in self._moments

    def __len__(self) -> int:
        return len(self._moments)

    def plan(self, item: Item, moment: float) -> None:
        """Set the due time of `item`, in place of an earlier one."""
        self._moments[item] = moment
        heapq.heappush(self._heap, (moment, next(self._numbers), weakref.ref(item)))
        if len(self._heap) > 2 * len(self._moments) + _MOST_STALE:
            self._heap = [entry for entry in self._heap if self._holds(entry)]
            heapq.heapify(self._heap)

    def hasten(self, item: Item, moment: float) -> None:
        """Let `item` be due at `moment` at the latest."""
        if moment < self._moments.get(item, math.inf):
            self.plan(item, moment)

    def drop(self, item: Item) -> None:
        """Remove `item`."""
        self._moments.pop(item, None)

    def take(self, now: float) -> list[Item]:
        """Remove and return the items that are due by `now`, the earliest first."""
        found = []
        while self._heap and self._heap[0][0] <= now:
            entry = heapq.heappop(self._heap)
            item = entry[2]()
            if item is not None and self._holds(entry):
                del self._moments[item]
                found.append(item)
        return found

    @property
    def next_moment(self) -> float:
        """The earliest due time; infinity if there is none."""
        while self._heap and not self._holds(self._heap[0]):
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else math.inf

    def _holds(self, entry: tuple[float, int, weakref.ref[Item]]) -> bool:
        item = entry[2]()
        return item is not None and self._moments.get(item) == entry[0]
