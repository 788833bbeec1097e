"""How many jobs one call may still take, and from which server. No I/O, no clock.

Each job of the limit is in hand, or asked for, or to spare. Two of these are counted, once for each server; what is to
spare is what is left. So a server that is given up, or left to somebody else, takes its numbers with it, and there
is nothing to give back.
"""

from __future__ import annotations

from collections.abc import Sequence


def divide(number: int, parts: int) -> list[int]:
    """Divide `number` into so many whole numbers that add up to it: the larger ones first, by one at most.

    None for no parts.
    """
    if parts <= 0:
        return []
    least, more = divmod(number, parts)
    return [least + 1] * more + [least] * (parts - more)


class Lot:
    """One server's part in a :class:`Quota`."""

    __slots__ = ("allotted", "asked", "dry", "in_hand")

    def __init__(self, in_hand: int = 0) -> None:
        self.allotted = 0
        """How many more may be asked for."""
        self.asked = 0
        """How many were asked for and are not answered."""
        self.in_hand = in_hand
        """How many have come."""
        self.dry = False
        """Whether it is to be asked no more."""

    def __repr__(self) -> str:
        dry = ", dry" if self.dry else ""
        return f"<Lot: {self.in_hand} in hand, {self.asked} asked for, {self.allotted} allotted{dry}>"

    @property
    def used_up(self) -> bool:
        """Whether all that it was allotted has come, so that it may have more."""
        return not (self.dry or self.allotted or self.asked)

    def ask(self, count: int) -> None:
        """So many of those that are allotted were asked for."""
        self.allotted = _less(self.allotted, count)
        self.asked += count

    def take(self, count: int) -> None:
        """So many of those that were asked for have come."""
        self.asked = _less(self.asked, count)
        self.in_hand += count

    def miss(self) -> None:
        """One was asked for in vain."""
        self.asked = _less(self.asked, 1)
        self.stop()

    def lose(self, count: int) -> None:
        """So many of those in hand are worth nothing any more."""
        self.in_hand = _less(self.in_hand, count)

    def stop(self) -> None:
        """Ask for no more: what is allotted is for others."""
        self.allotted = 0
        self.dry = True


class Quota:
    """What one call takes from several servers: in hand, asked for and to spare add up to the limit."""

    __slots__ = ("_lots", "limit")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._lots: list[Lot] = []

    def __repr__(self) -> str:
        return f"<Quota: {self.in_hand} in hand, {self.asked} asked for, {self.spare} of {self.limit} to spare>"

    @property
    def in_hand(self) -> int:
        """How many jobs have come."""
        return sum([lot.in_hand for lot in self._lots])

    @property
    def asked(self) -> int:
        """How many were asked for and are not answered."""
        return sum([lot.asked for lot in self._lots])

    @property
    def spare(self) -> int:
        """How many may still be asked for."""
        return self.limit - sum([lot.in_hand + lot.asked for lot in self._lots])

    @property
    def free(self) -> int:
        """How many of those to spare are allotted to nobody."""
        return self.limit - sum([lot.in_hand + lot.asked + lot.allotted for lot in self._lots])

    def open(self, in_hand: int = 0) -> Lot:
        """Add a server, of which so many jobs are in hand already.

        :raises ValueError: if these are more than are free.
        """
        _less(self.free, in_hand)
        lot = Lot(in_hand)
        self._lots.append(lot)
        return lot

    def close(self, lot: Lot) -> None:
        """Forget a server: what it had, and was asked for, is to spare again."""
        self._lots.remove(lot)

    def allot(self, lots: Sequence[Lot]) -> None:
        """Divide what is free among these, evenly. The first ones get one more, the last ones maybe nothing."""
        for lot, share in zip(lots, divide(self.free, len(lots)), strict=True):
            lot.allotted += share


def _less(number: int, count: int) -> int:
    if not 0 <= count <= number:
        raise ValueError(f"{count} of {number}")
    return number - count
