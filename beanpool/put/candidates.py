"""Which servers the puts of a batch may go to, by what the batch has seen of them, and how long each may take."""

from __future__ import annotations

import time
from collections.abc import Callable, Container
from typing import Generic

from beanpool.cluster import Topology
from beanpool.policy import StallBudget
from beanpool.put.failover import Putter, has_tried, refused_for_size
from beanpool.put.lane import Item, Lane, Retry, Token
from beanpool.server import Member


class Candidates(Generic[Token]):
    """The servers that may be asked to take a put.

    :param topology: returns the current topology.
    :param stall: how long the batch may wait in vain.
    :param resend: whether an item that may or may not be stored is put again.
    """

    def __init__(self, topology: Callable[[], Topology], putter: Putter, stall: StallBudget, resend: bool) -> None:
        self._topology = topology
        self._putter = putter
        self._stall = stall
        self._resend = resend
        # Servers that have failed since a put was last stored, and how many comebacks there had been by then.
        self._failed: dict[Member, int] = {}
        # Servers that had no connection free when it was waited for.
        self._full: set[Member] = set()
        # Servers that may be asked once more by those whom they have failed, in this round.
        self._permitted: dict[Member, bool] = {}

    # Which server.

    def with_room(self, item: Item[Token], connected: Container[tuple[Member, str]]) -> Member | None:
        """One that takes puts, need not be passed over, and has a connection to spare.

        :param connected: the servers and tubes that the batch has connections for.
        """
        for member in self._topology().order(None):
            if (
                member.accepting
                and member.up
                and (not isinstance(item, Retry) or self._may_ask(item, member))
                and ((member, item[1].tube) in connected or not member.pool.is_full)
            ):
                return member
        return None

    def next(self, item: Item[Token]) -> Member | None:
        """The first of its order that takes puts and need not be passed over."""
        for member in self._topology().order(item[1].key):
            if member.accepting and (not isinstance(item, Retry) or self._may_ask(item, member)):
                return member
        return None

    def _may_ask(self, item: Retry[Token], member: Member) -> bool:
        if member in item.asked:
            return False
        if not has_tried(item.attempts, member):
            return True
        if member in refused_for_size(item.attempts):
            return False
        if member not in self._permitted:
            self._permitted[member] = self._putter.may_repeat(time.monotonic() + self._stall.left)
        return self._permitted[member]

    def is_exhausted(self, member: Member) -> bool:
        """Whether the batch has waited in vain for its connections before, and there is still none free."""
        if member not in self._full:
            return False
        if member.pool.is_full:
            return True
        self._full.discard(member)
        self._failed.pop(member, None)
        return False

    def patience(self, member: Member, round_trips: int = 1) -> float:
        """How long it may be silent (seconds); 0 if there is no time left for it."""
        # A server that is silent must leave time for another one; but where nothing may be put twice, one that has been
        # sent a put has all of it.
        alone = self._topology().single is not None or (round_trips == 1 and not self._resend)
        share = 1.0 if alone else 1 / 2 if member.up else 1 / 3
        fresh = self._failed.get(member) != self._putter.comebacks
        return self._stall.patience(share, fresh, member.fair_time(round_trips) if member.up else 0.0)

    # What was seen of them.

    def proved(self, lane: Lane[Token]) -> None:
        """The server has stored a put."""
        self._stall.renew()
        self._failed.clear()
        if lane.unproven:
            lane.unproven = False
            lane.member.works(lane.progress_at)
            if self._permitted.get(lane.member):
                self._putter.budget.repay()

    def failed(self, member: Member) -> None:
        """A connection to it was lost, or was not to be had."""
        self._failed[member] = self._putter.comebacks

    def was_full(self, member: Member) -> None:
        """It had no connection free as long as it was waited for."""
        self._full.add(member)

    def begin_round(self) -> None:
        """Those may be asked again that have failed in this round."""
        self._permitted.clear()
