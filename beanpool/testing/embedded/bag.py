"""A collection in the order that beanstalkd keeps: what is removed is replaced by what came last."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class Bag(Generic[T]):
    """Tubes, watched tubes, or waiting connections; the order shows in the lists and in who gets the next job."""

    def __init__(self) -> None:
        self._items: list[T] = []
        self._last = 0

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[T]:
        return iter(self._items)

    def __contains__(self, item: T) -> bool:
        return item in self._items

    def add(self, item: T) -> None:
        """Put `item` at the end, whether it is there already or not."""
        self._items.append(item)

    def remove(self, item: T) -> None:
        """Take `item` out, if it is there."""
        if item in self._items:
            self._remove_at(self._items.index(item))

    def take(self) -> T:
        """Take out the next in turn: as a rule the one that has been there longest."""
        self._last %= len(self._items)
        item = self._items[self._last]
        self._remove_at(self._last)
        self._last += 1
        return item

    def _remove_at(self, place: int) -> None:
        last = self._items.pop()
        if place < len(self._items):
            self._items[place] = last
