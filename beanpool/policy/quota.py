"""How many jobs one call may still take, and from which server. Pure: no I/O, no clock, no lock.

Each job of the limit is in hand, asked for or to spare. The first two are counted for each server; the spare ones are
the rest of the limit. So the counts of a server that is given up go with it, and nothing has to be given back.

Who cannot wait for servers to be asked in turn asks each for one beyond the limit. Nothing is to spare then until as
many were asked in vain, and what comes beyond the limit is the surplus.
"""

from __future__ import annotations

from collections.abc import Sequence


def divide(number: int, parts: int) -> list[int]:
    """Divide `number` into `parts` whole numbers that add up to it and differ by one at most, the larger ones first."""
    if parts <= 0:
        return []
    least, more = divmod(number, parts)
    return [least + 1] * more + [least] * (parts - more)


class Lot:
    """One server's part in a :class:`Quota`."""

    __slots__ = ("allotted", "asked", "exhausted", "in_hand")

    def __init__(self, in_hand: int = 0) -> None:
        self.allotted = 0
        """How many more may be asked for."""
        self.asked = 0
        """How many were asked for and have not been answered."""
        self.in_hand = in_hand
        """How many have come."""
        self.exhausted = False
        """Whether it is not asked again."""

    def __repr__(self) -> str:
        exhausted = ", exhausted" if self.exhausted else ""
        return f"<Lot: {self.in_hand} in hand, {self.asked} asked for, {self.allotted} allotted{exhausted}>"

    @property
    def used_up(self) -> bool:
        """Whether everything that it was allotted has come, so that it may be allotted more."""
        return not (self.exhausted or self.allotted or self.asked)

    def ask(self, count: int) -> None:
        """`count` of the allotted jobs were asked for."""
        self.allotted = _less(self.allotted, count)
        self.asked += count

    def take(self, count: int) -> None:
        """`count` of the jobs that were asked for have come."""
        self.asked = _less(self.asked, count)
        self.in_hand += count

    def miss(self) -> None:
        """The server has no job for one request; stop asking it."""
        self.asked = _less(self.asked, 1)
        self.stop()

    def lose(self, count: int) -> None:
        """`count` of the jobs in hand are lost."""
        self.in_hand = _less(self.in_hand, count)

    def stop(self) -> None:
        """Do not ask it again: what it was allotted is free for others."""
        self.allotted = 0
        self.exhausted = True


class Quota:
    """What one call takes from several servers. In hand, asked for and spare add up to the limit, or to more if some
    were allotted beyond it.
    """

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
        return max(0, self.limit - sum([lot.in_hand + lot.asked for lot in self._lots]))

    @property
    def free(self) -> int:
        """How many of the spare ones are allotted to no server."""
        return max(0, self.limit - sum([lot.in_hand + lot.asked + lot.allotted for lot in self._lots]))

    @property
    def surplus(self) -> int:
        """How many have come beyond the limit."""
        return max(0, self.in_hand - self.limit)

    def open(self, in_hand: int = 0) -> Lot:
        """Add a server from which `in_hand` jobs have come already.

        :raises ValueError: if these are more than are free.
        """
        _less(self.free, in_hand)
        lot = Lot(in_hand)
        self._lots.append(lot)
        return lot

    def close(self, lot: Lot) -> None:
        """Remove a server: what it had in hand, and what it was asked for, is spare again."""
        self._lots.remove(lot)
        lot.asked = 0

    def allot(self, lots: Sequence[Lot]) -> None:
        """Divide what is free evenly among `lots`; the first ones get one more where it does not divide."""
        for lot, share in zip(lots, divide(self.free, len(lots)), strict=True):
            lot.allotted += share

    def allot_beyond(self, lots: Sequence[Lot]) -> None:
        """Let each of these be asked for one, whatever is free."""
        for lot in lots:
            lot.allotted += 1


def _less(number: int, count: int) -> int:
    if not 0 <= count <= number:
        raise ValueError(f"{count} of {number}")
    return number - count
