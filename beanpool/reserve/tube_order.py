"""In which order a reserve asks its tubes: pure, no I/O."""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

Order = Literal["any", "fair", "strict"]
"""``any``: all at once, and the server decides. ``fair``: in turns. ``strict``: in the order in which they were named.
"""


def check_order(order: str) -> None:
    """Check the argument of a call.

    :raises ValueError: if there is no such order.
    """
    if order not in get_args(Order):
        raise ValueError(f"order must be one of {', '.join(map(repr, get_args(Order)))}, not {order!r}")


class Demand(NamedTuple):
    """What a reserve asks for, if that is more than some tubes of all servers."""

    tubes: tuple[str, ...]
    order: Order
    server: str
    """The address of the only server that is asked; empty for all."""


def demand(tubes: tuple[str, ...], order: Order, server: str) -> tuple[str, ...] | Demand:
    """What a reserve asks for: the tubes alone, if nothing else matters, for others may wait for the same."""
    if len(tubes) == 1:
        order = "any"
    return tubes if order == "any" and not server else Demand(tubes, order, server)


def all_at_once(wanted: Demand) -> tuple[str, ...] | Demand:
    """The same tubes in no order; as others wait for them, too, who name them in another one."""
    return demand(tuple(sorted(set(wanted.tubes))), "any", wanted.server)


class TubeOrder:
    """The groups of tubes that are asked one after the other: all tubes in one group, or each in one of its own.

    A connection watches the tubes of one group.
    """

    __slots__ = ("_first", "_numbers", "groups", "is_fair", "is_strict")

    def __init__(self, tubes: tuple[str, ...], order: Order) -> None:
        self.groups: tuple[tuple[str, ...], ...] = (
            (tubes,) if order == "any" else tuple((tube,) for tube in dict.fromkeys(tubes))
        )
        self.is_fair = order == "fair"
        self.is_strict = order == "strict"
        self._numbers = {group: number for number, group in enumerate(self.groups)}
        self._first = 0

    def ranking(self) -> list[int]:
        """The numbers of the groups, in the order in which they are to be asked now."""
        numbers = range(len(self.groups))
        return [*numbers[self._first :], *numbers[: self._first]]

    def number(self, watched: tuple[str, ...]) -> int:
        """Which group a connection watches."""
        return self._numbers.get(watched, 0)

    def served(self, number: int) -> None:
        """A job of this group was given out: where they take turns, the next one begins."""
        if self.is_fair:
            self._first = (number + 1) % len(self.groups)
