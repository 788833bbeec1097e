"""The connections of a pool that wait for a job, one per server, and the poller that watches them."""

from __future__ import annotations

import collections
import contextlib
import math
import time
from collections.abc import Iterable, Set

from beanpool.channel import Channel, ChannelState
from beanpool.errors import BeanpoolError, CommandFailed
from beanpool.member import Member
from beanpool.poller import Bell, new_poller
from beanpool.pooled_connection import PooledConnection
from beanpool.protocol.commands import RESERVE_WITH_TIMEOUT
from beanpool.protocol.replies import Reply

# A server's TIMED_OUT may come this much after our own deadline, and spares a cancelled connection (seconds).
LAST_MOMENT = 0.05
# How long a server is asked to wait at most (seconds, whole). What is between may forget a connection on which nothing
# moves, and neither side is told: so long, and a little longer, a job may then be kept from those who wait.
RESERVE_SLICE = 4
# How long after its end a reply may be missing before others are asked about the server, at least (seconds).
_DOUBTED_AFTER = 1.0
_USUAL_ROUND_TRIPS = 4
# How soon to look again whether they were answered (seconds).
_LOOK_AGAIN = 0.2
# How soon to try again to wait on a server that could not be joined (seconds).
_REJOIN_AFTER = 0.2
# How long a connection waits whose server's address leads to several processes (seconds).
_SHARED_SLICE = 1

Catch = tuple[Member, PooledConnection, Reply]
"""A job that has come in: from whom, on which connection, and the reply that holds it."""

Begun = list[tuple[Member, PooledConnection]]
"""Connections with a reserve under way."""


class Station:
    """A connection that waits on one server."""

    __slots__ = ("connection", "descriptor", "doubted_at", "ends_at", "member", "returns", "step")

    def __init__(self, member: Member, connection: PooledConnection) -> None:
        self.member = member
        self.connection = connection
        self.step = connection.step
        """What to call when it is ready."""
        self.descriptor = -1
        self.ends_at = 0.0
        """When the server's own wait ends (monotonic seconds)."""
        self.doubted_at = 0.0
        """When a reply is so late that others are asked about the server (monotonic seconds)."""
        self.returns = -1
        """How many connections to its server had come back in good order when that was done; -1 before."""

    def asked(self, ends_at: float) -> None:
        """The server was asked to wait until then."""
        self.ends_at = ends_at
        self.doubted_at = ends_at + max(_DOUBTED_AFTER, _USUAL_ROUND_TRIPS * (self.member.health.round_trip or 0.0))
        self.returns = -1


class Watch:
    """The connections that wait, and the poller over them. Used by the leader alone, but for what says otherwise.

    A connection that is ready is not watched any more until it is armed again. So nothing needs to be done about one
    that has brought a job before its caller has it, and what is done with it afterwards never wakes anybody here.

    It is known by weak references, so it has no finalizer of its own: another thread could get hold of it while that
    runs. In a forked child nobody ends the wait of a thread that is the parent's; then its parts let go by themselves.
    """

    def __init__(self, tubes: tuple[str, ...]) -> None:
        self._tubes = tubes
        self.stations: dict[Member, Station] = {}
        self.caught: collections.deque[Catch] = collections.deque()
        """Jobs that came in and that no thread has yet."""
        # Lists that their first owners still hold: who pops an entry has it, whoever else was interrupted.
        self.adopted: collections.deque[Begun] = collections.deque()
        """Connections that wait, or can, beside those of the stations."""
        self._not_before: dict[Member, float] = {}
        self._bell = Bell()
        self._poller = new_poller()
        self._poller.arm(self._bell.descriptor, write=False)
        self._by_descriptor: dict[int, Station] = {}
        # Whether there is more to do than to ask those servers again whose time is up.
        self._changed = True
        self._answered: list[Station] = []
        self._wake_at = 0.0

    # From any thread.

    def poke(self) -> None:
        """Wake the leader."""
        self._bell.ring()

    def adopt(self, begun: Begun) -> None:
        """Take over connections with a reserve under way."""
        self.adopted.append(begun)

    # The leader's.

    def ends_by(self, moment: float) -> bool:
        """Whether a server's own wait ends until then."""
        return any(station.ends_at <= moment and station.connection.waiting for station in self.stations.values())

    def attend(self, members: Iterable[Member], now: float, longest_wait: float) -> None:
        """See to it that a connection waits on every server that can be asked."""
        answered, self._answered = self._answered, []
        if not self._changed and now < self._wake_at and not self.adopted:
            # What there is to do goes with what has come, not with how many servers there are.
            for station in answered:
                if longest_wait > 0 and self.stations.get(station.member) is station:
                    self._go_on(station, now, longest_wait)
            return
        self._changed = longest_wait <= 0
        self._wake_at = math.inf
        # Others append to it at any moment, and take what is in the lists.
        while self.adopted:
            for member, connection in _taken(self.adopted[0]):
                self._settle_in(member, connection)
            self.adopted.popleft()
        for member in [member for member in self.stations if member.pool.contended]:
            self._vacate(member, now)
        if longest_wait <= 0:
            return
        present = set()
        for member in members:
            present.add(member)
            if member in self.stations or member.down:
                continue
            not_before = self._not_before.get(member, 0.0)
            if not_before > now:
                self._wake_at = min(self._wake_at, not_before)
            else:
                self._join(member, now, longest_wait)
        for member in [member for member in self.stations if member not in present or member.down]:
            self._vacate(member, now)
        for station in list(self.stations.values()):
            self._go_on(station, now, longest_wait)

    def _go_on(self, station: Station, now: float, longest_wait: float) -> None:
        connection = station.connection
        # What was closed by somebody else is asked, too, and lost: the poller may say nothing of it.
        if not connection.waiting or connection.channel_state is ChannelState.CLOSED:
            if station.member.pool.keeps_nothing and not connection.closed:
                # The process that it leads to has no job; another connection may lead to another process.
                self._renew(station.member, now, longest_wait)
            else:
                self._ask(station, now, longest_wait)
        elif connection.instance and connection.generation < station.member.health.generation:
            # It should be dead, for another process answers there. If it is not, there are two.
            self._renew(station.member, now, longest_wait)

    def _renew(self, member: Member, now: float, longest_wait: float) -> None:
        self._vacate(member, now)
        self._join(member, now, longest_wait)

    def _settle_in(self, member: Member, connection: PooledConnection) -> None:
        if member in self.stations:
            # Somebody else waits there already: one is enough.
            self._cancel(member, connection)
            return
        station = self.stations[member] = Station(member, connection)
        if connection.waiting:
            station.asked(time.monotonic())
            station.ends_at = connection.give_up_at
            try:
                self._arm(station)
            except BeanpoolError as error:
                self._lose(station, error)

    def _join(self, member: Member, now: float, longest_wait: float) -> None:
        connection = None
        try:
            connection = member.pool.acquire_now(self._tubes)
            if connection is None:
                member.pool.want(self.poke)
                self._not_before[member] = now + _REJOIN_AFTER
                return
            if connection.channel_state is None:
                connection.begin_dialing()
            station = self.stations[member] = Station(member, connection)
            self._ask(station, now, longest_wait)
        except BeanpoolError as error:
            self.stations.pop(member, None)
            self._not_before[member] = now + _REJOIN_AFTER
            if connection is not None:
                member.pool.broke(connection, error)

    def _ask(self, station: Station, now: float, longest_wait: float) -> None:
        longest = _SHARED_SLICE if station.member.pool.keeps_nothing else RESERVE_SLICE
        seconds = max(1, min(longest, math.ceil(min(longest_wait, longest))))
        station.asked(now + seconds)
        try:
            station.connection.begin_reserve(self._tubes, seconds)
            if station.connection.dialing:
                station.connection.step()
            self._arm(station)
        except BeanpoolError as error:
            self._lose(station, error)

    def look(self, deadline: float) -> None:
        """Wait until something happens, or until `deadline`; the jobs that came in are in :attr:`caught`."""
        now = time.monotonic()
        until = min(deadline, self._wake_at)
        if self.ends_by(deadline + LAST_MOMENT):
            until += LAST_MOMENT
        for station in self.stations.values():
            until = min(until, station.connection.give_up_at)
            if not station.connection.dialing:
                until = min(until, station.doubted_at if station.returns < 0 else now + _LOOK_AGAIN)
        self._turn(None if until == math.inf else max(0.0, until - now))
        if self.caught:
            return
        now = time.monotonic()
        for station in list(self.stations.values()):
            if station.connection.waiting and station.connection.give_up_at <= now:
                if station.connection.dialing:
                    self._step(station)
                else:
                    self._lose(station, station.connection.late())
            elif station.connection.waiting and station.doubted_at <= now and not station.connection.dialing:
                self._doubt(station)

    def _doubt(self, station: Station) -> None:
        """Look for evidence on other connections: where a reply is late, the server is slow, or this one forgotten."""
        member = station.member
        if station.returns < 0:
            station.returns = member.pool.returns
            member.doubt()
        elif member.pool.returns != station.returns:
            # What it has reserved by now, it gives to others when it learns of the end.
            self._disarm(station)
            del self.stations[member]
            self._changed = True
            member.pool.discard(station.connection, "it went silent, while the server answers on others")

    def glance(self) -> None:
        """As :meth:`look`, without waiting."""
        self._turn(0.0)

    def _turn(self, timeout: float | None) -> None:
        by_descriptor = self._by_descriptor
        for descriptor, _ in self._poller.wait(timeout):
            station = by_descriptor.get(descriptor)
            if station is not None:
                self._step(station)
            elif descriptor == self._bell.descriptor:
                self._changed = True
                self._bell.hush()
                self._poller.arm(descriptor, write=False)

    def _step(self, station: Station) -> None:
        # From here until the job is with its caller every line is waited for, and is read from cold caches.
        try:
            reply = station.step()
            if reply is None:
                self._arm(station)
                return
            brought_job = reply.status == "RESERVED"
            if not brought_job and reply.status not in ("TIMED_OUT", "DEADLINE_SOON"):
                raise station.connection.refuse(RESERVE_WITH_TIMEOUT, reply)
        except BeanpoolError as error:
            self._lose(station, error)
            return
        member = station.member
        if not member.up:
            member.works()
        if brought_job:
            self.caught.append((member, station.connection, reply))
            del self.stations[member], self._by_descriptor[station.descriptor]
            self._changed = True
        else:
            self._answered.append(station)

    def _lose(self, station: Station, error: BeanpoolError) -> None:
        self._disarm(station)
        self.stations.pop(station.member, None)
        self._not_before[station.member] = time.monotonic() + _REJOIN_AFTER
        self._changed = True
        if isinstance(error, CommandFailed):
            station.member.pool.discard(station.connection, str(error))
        else:
            station.member.pool.broke(station.connection, error)

    def _vacate(self, member: Member, now: float) -> None:
        station = self.stations.pop(member, None)
        if station is not None:
            self._not_before[member] = now + _REJOIN_AFTER
            self._disarm(station)
            self._cancel(member, station.connection)

    def _cancel(self, member: Member, connection: PooledConnection) -> None:
        channel = member.pool.cancel(connection)
        if channel is not None:
            channel.close("its reserve was cancelled")

    def _arm(self, station: Station) -> None:
        """Watch a connection until it is ready once."""
        descriptor = station.connection.live_descriptor()
        if descriptor != station.descriptor:
            self._disarm(station)
            station.descriptor = descriptor
        station.step = station.connection.next_step
        self._by_descriptor[descriptor] = station
        try:
            self._poller.arm(descriptor, write=station.connection.wants_write)
        except OSError as error:
            raise station.connection.closed_meanwhile() from error

    def _disarm(self, station: Station) -> None:
        if self._by_descriptor.get(station.descriptor) is station:
            del self._by_descriptor[station.descriptor]
            self._poller.disarm(station.descriptor)
        station.descriptor = -1

    def scrap(self, spared: Set[PooledConnection]) -> None:
        """Close everything: after an interrupt nobody knows what a connection waits for, or whether it holds a job.

        :param spared: connections that have brought a job to somebody who has it.
        """
        connections = [(station.member, station.connection) for station in list(self.stations.values())]
        connections += [(member, connection) for member, connection, _ in self.caught]
        for member, connection in connections:
            if connection not in spared:
                member.pool.discard(connection, "the thread that watched it was interrupted")
        self.stations.clear()
        self.caught.clear()
        for member, connection in self._let_go():
            member.pool.discard(connection, "the thread that watched it was interrupted")

    def end(self) -> list[Channel]:
        """Nobody waits any more: cancel what still waits; returns the channels to be read to their end."""
        cancelled: list[Channel] = []
        for member, connection in self._let_go():
            channel = member.pool.cancel(connection)
            if channel is not None:
                cancelled.append(channel)
        return cancelled

    def _let_go(self) -> list[tuple[Member, PooledConnection]]:
        """Close the poller, and hand over the connections that wait."""
        self._bell.close()
        self._poller.close()
        connections = [(station.member, station.connection) for station in list(self.stations.values())]
        self.stations.clear()
        while self.adopted:
            connections += _taken(self.adopted[0])
            self.adopted.popleft()
        return connections


def _taken(begun: Begun) -> Begun:
    """Take everything out of a list from which another thread may be taking, too."""
    taken: Begun = []
    with contextlib.suppress(IndexError):
        while True:
            taken.append(begun.pop())
    return taken
