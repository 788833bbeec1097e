"""The connections of a batch of puts: which it has, which it opens, and for which it queues."""

from __future__ import annotations

import collections
import math
from collections.abc import Callable, Iterator
from typing import Generic

from beanpool.cluster import Topology
from beanpool.errors import BeanpoolError, CommandFailed
from beanpool.put.lane import Lane, Stage, Token
from beanpool.server import Member, PooledConnection, Ticket

# How many connections it uses at most at a time, and for how many more tubes of servers puts may be collected.
_MOST_LANES = 64
_MOST_COLLECTING = 1024


class Lanes(Generic[Token]):
    """The lanes of a batch: one for each server and tube that there are puts for.

    :param topology: returns the current topology.
    """

    def __init__(self, topology: Callable[[], Topology]) -> None:
        self._topology = topology
        self.by_key: dict[tuple[Member, str], Lane[Token]] = {}
        """All of them, by server and tube."""
        self.connect_soon: collections.deque[Lane[Token]] = collections.deque()
        """Those of them that have no connection yet, in the order in which they came."""
        # Servers for whose connections one of them queues.
        self._queueing: set[Member] = set()

    @property
    def busy(self) -> bool:
        """Whether anything is under way."""
        return any(lane.pending or lane.unsent for lane in self.by_key.values())

    @property
    def silent_since(self) -> float:
        """Since when the server has not answered that is waited for longest (monotonic seconds); infinite for none."""
        return min((lane.silent_since for lane in self.by_key.values() if lane.pending), default=math.inf)

    @property
    def too_many(self) -> bool:
        """Whether no puts should be collected for further ones."""
        return len(self.by_key) > _MOST_COLLECTING

    @property
    def unsent_bytes(self) -> int:
        """How much was collected and not sent (bytes)."""
        return sum(lane.unsent_bytes for lane in self.by_key.values())

    def pending(self) -> list[Lane[Token]]:
        """Those that wait for something."""
        return [lane for lane in self.by_key.values() if lane.pending]

    def unconnected(self, member: Member) -> list[Lane[Token]]:
        """Those to this server that have no connection yet."""
        lanes = [lane for lane in self.by_key.values() if lane.member is member]
        return [lane for lane in lanes if lane.stage is Stage.UNCONNECTED]

    # Get connections.

    def to_connect(self) -> Iterator[Lane[Token]]:
        """Those without a connection that can have one, as far as there are any."""
        waiting, self.connect_soon = self.connect_soon, collections.deque()
        # Those that were given up meanwhile are forgotten here.
        waiting = collections.deque(lane for lane in waiting if self.by_key.get((lane.member, lane.tube)) is lane)
        while waiting:
            lane = waiting.popleft()
            if lane.ticket is not None and lane.ticket.settled:
                yield lane
            elif lane.ticket is not None:
                self.connect_soon.append(lane)
            elif self.may_connect(lane, len(waiting)):
                yield lane

    def may_connect(self, lane: Lane[Token], others: int = 0) -> bool:
        """Whether it can have a connection now; if not, its turn comes later.

        :param others: how many more have no connection yet.
        """
        if lane.member in self._queueing or len(self.by_key) - len(self.connect_soon) - others > _MOST_LANES:
            # One place in the queue for all tubes: else others would wait for as many turns of this batch.
            self.connect_soon.append(lane)
            return False
        return True

    def acquire(self, lane: Lane[Token]) -> PooledConnection | None:
        """Take a connection for it, without waiting; None if there is none free.

        :raises BeanpoolError: if there can be none.
        """
        pool = lane.member.pool
        ticket, lane.ticket = lane.ticket, None
        if ticket is not None:
            self._queueing.discard(lane.member)
        connection = None if ticket is None else pool.collect(ticket)
        return connection or pool.try_acquire_for_command(lane.tube)

    def queue_up(self, lane: Lane[Token], ring: Callable[[], bool], until: float) -> None:
        """Let it wait for a connection.

        :param ring: is called when there is one.
        :param until: when that is enough (monotonic seconds).
        """
        lane.ticket = Ticket(ring)
        lane.ticket.for_jobs = False
        lane.until = until
        self.connect_soon.append(lane)
        self._queueing.add(lane.member)
        lane.member.pool.queue_up(lane.ticket)

    # Give them back.

    def give_back_idle(self) -> None:
        """Give back what has nothing to do."""
        for key, lane in list(self.by_key.items()):
            if lane.idle:
                self._give_back(key, lane)

    def _give_back(self, key: tuple[Member, str], lane: Lane[Token]) -> None:
        # First out of the batch: an interrupt in between must not close what another caller has by then.
        del self.by_key[key]
        lane.member.pool.checkin(lane.connection)

    def spare_others(self) -> None:
        """Give back what is idle where somebody waits for connections: other callers, or lanes of this batch."""
        idle = [(key, lane) for key, lane in self.by_key.items() if lane.idle]
        if not idle:
            return
        everything = len(self.by_key) > len(self._topology().members) and not self.connect_soon
        wanted: set[Member] = set()
        for waiting in self.connect_soon:
            everything = everything or waiting.member not in self._queueing
            wanted.add(waiting.member)
        for key, lane in idle:
            if everything or lane.member in wanted or lane.member.pool.queue.contended:
                self._give_back(key, lane)

    def remove(self, lane: Lane[Token]) -> None:
        """Its connection is gone, or was not to be had."""
        self.by_key = {key: known for key, known in self.by_key.items() if known is not lane}

    def let_go(self, lane: Lane[Token], error: BeanpoolError) -> None:
        """Give back the connection of one that was removed, or its place in the queue.

        :param error: what has happened to it.
        """
        pool = lane.member.pool
        if lane.stage is not Stage.UNCONNECTED:
            pool.checkin(lane.connection, broken=None if isinstance(error, CommandFailed) else error)
        elif lane.ticket is not None:
            ticket, lane.ticket = lane.ticket, None
            self._queueing.discard(lane.member)
            pool.queue.leave(ticket)

    def drop_all(self, reason: str) -> list[Lane[Token]]:
        """Close all connections that are left, and leave the queues; returns the lanes, with their puts."""
        lanes, self.by_key = list(self.by_key.values()), {}
        for lane in lanes:
            if lane.stage is not Stage.UNCONNECTED:
                lane.member.pool.discard(lane.connection, reason)
            elif lane.ticket is not None:
                lane.member.pool.queue.leave(lane.ticket)
        return lanes
