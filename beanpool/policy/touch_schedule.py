"""When the jobs that are kept alive are touched. Pure: no I/O, no clock, no lock.

Each is touched when a third of its TTR has passed. Those of a group go together when the first of them is due, if not
much more than half of their third is missing: a connection is used once for all of its jobs.

What it costs goes with what is touched, and not with what is kept: the items of a group are a heap.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Iterable, Mapping
from typing import Generic, TypeVar

Item = TypeVar("Item")
Group = TypeVar("Group")

YOUNG = 0.4
"""How old a job is before it is touched for the first time (seconds): most are finished before. No TTR is below 1."""
# How long before its time one may be touched of which the TTR is not known (seconds).
_EARLY = 0.1


class _Plan:
    """When an item is due, and how often (seconds); 0 if its TTR is not known."""

    __slots__ = ("due_at", "interval", "number")

    def __init__(self) -> None:
        self.due_at = math.inf
        self.interval = 0.0
        self.number = -1
        """That of its entry in the heap; each entry has its own."""

    @property
    def early_at(self) -> float:
        """When it may be touched together with others."""
        return self.due_at - (self.interval / 2 or _EARLY)


class _Plans(Generic[Item]):
    """The items of one group."""

    __slots__ = ("_heap", "_numbers", "_taken", "busy", "not_before", "of")

    def __init__(self) -> None:
        self.of: dict[Item, _Plan] = {}
        self.not_before = -math.inf
        """When the group can be used again."""
        self.busy = False
        # By when they are due. What was planned anew, or dropped, leaves its entry behind until that is the first.
        self._heap: list[tuple[float, int, Item]] = []
        self._numbers = itertools.count()
        self._taken: list[Item] = []

    def plan(self, item: Item, due_at: float) -> None:
        """Let an item that it has be due at this time."""
        plan = self.of[item]
        plan.due_at, plan.number = due_at, next(self._numbers)
        heapq.heappush(self._heap, (due_at, plan.number, item))

    def first(self) -> tuple[Item, _Plan] | None:
        """The one that is due first of those that are not taken."""
        while self._heap:
            _, number, item = self._heap[0]
            plan = self.of.get(item)
            if plan is not None and plan.number == number:
                return item, plan
            heapq.heappop(self._heap)
        return None

    @property
    def due_at(self) -> float:
        """When the first of them is due."""
        first = self.first()
        return math.inf if first is None else first[1].due_at

    def take(self, now: float, most: int) -> list[tuple[Item, _Plan]]:
        """Those that are to be touched now, up to `most`, in the order in which they are due."""
        found: list[tuple[Item, _Plan]] = []
        while len(found) < most and (first := self.first()) is not None and first[1].early_at <= now:
            heapq.heappop(self._heap)
            first[1].number = -1
            found.append(first)
        self._taken.extend(item for item, _ in found)
        return found

    def put_back(self) -> None:
        """Let those that were taken, and not planned since, be due when they were."""
        for item in self._taken:
            plan = self.of.get(item)
            if plan is not None and plan.number == -1:
                self.plan(item, plan.due_at)
        self._taken.clear()


class TouchSchedule(Generic[Item, Group]):
    """The items that are kept, by their groups. All times are monotonic seconds."""

    def __init__(self) -> None:
        self._groups: dict[Group, _Plans[Item]] = {}
        self._group_of: dict[Item, Group] = {}

    def __contains__(self, item: Item) -> bool:
        return item in self._group_of

    def __len__(self) -> int:
        return len(self._group_of)

    def add(self, item: Item, group: Group, due_at: float) -> None:
        """Keep an item, of which the TTR is not known."""
        self.drop(item)
        self._group_of[item] = group
        plans = self._groups.setdefault(group, _Plans())
        plans.of[item] = _Plan()
        plans.plan(item, due_at)

    def drop(self, item: Item) -> None:
        """Keep it no longer."""
        group = self._group_of.pop(item, None)
        plans = self._groups.get(group) if group is not None else None
        if group is None or plans is None:
            return
        del plans.of[item]
        if not plans.of and not plans.busy:
            del self._groups[group]

    def has(self, group: Group) -> bool:
        """Whether an item of this group is kept."""
        plans = self._groups.get(group)
        return plans is not None and bool(plans.of)

    def items(self, group: Group) -> list[Item]:
        """All of a group."""
        plans = self._groups.get(group)
        return list(plans.of) if plans is not None else []

    @property
    def next_at(self) -> float:
        """When a group is due next; infinite if none is."""
        moments = (max(plans.due_at, plans.not_before) for plans in self._groups.values() if not plans.busy)
        return min(moments, default=math.inf)

    def due(self, now: float) -> list[Group]:
        """The groups of which an item is due."""
        return [
            group
            for group, plans in self._groups.items()
            if not plans.busy and plans.due_at <= now and plans.not_before <= now
        ]

    def begin(self, group: Group, now: float, most: int) -> list[tuple[Item, bool]]:
        """Those of a group that are to be touched now, up to `most`, and whether the TTR of each is to be asked for.

        They come in the order in which they are due, up to the first that is not nearly due.
        The group is not due again until :meth:`end` or :meth:`postpone`.
        """
        plans = self._groups.get(group)
        if plans is None:
            return []
        plans.busy = True
        return [(item, not plan.interval) for item, plan in plans.take(now, most)]

    def end(
        self,
        group: Group,
        touched: Mapping[Item, float | None],
        untouched: Iterable[Item],
        at: float,
        not_before: float,
    ) -> None:
        """A group has been used.

        :param touched: those that were touched, each with its TTR (seconds) if it was asked for.
        :param untouched: those that were to be, and are to be tried again.
        :param at: when: a time before the server did it.
        :param not_before: when the group can be used again.
        """
        plans = self._groups.get(group)
        if plans is None:
            return
        for item, ttr in touched.items():
            plan = plans.of.get(item)
            if plan is not None:
                if ttr is not None:
                    plan.interval = ttr / 3
                plans.plan(item, at + (plan.interval or YOUNG))
        for item in untouched:
            if item in plans.of:
                plans.plan(item, at + YOUNG)
        self.postpone(group, not_before)

    def postpone(self, group: Group, not_before: float) -> None:
        """A group cannot be used just now."""
        plans = self._groups.get(group)
        if plans is None:
            return
        plans.busy = False
        plans.not_before = not_before
        plans.put_back()
        if not plans.of:
            del self._groups[group]
