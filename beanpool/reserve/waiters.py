"""The connections of a pool that wait for a job, one per server, and the poller that watches them."""

from __future__ import annotations

import collections
import functools
import math
import time
from collections.abc import Callable, Iterable, Set

from beanpool.errors import BeanpoolError, CommandFailed
from beanpool.net import Channel, ChannelState, WakeUpPipe, new_poller
from beanpool.protocol import RESERVE_WITH_TIMEOUT
from beanpool.reserve.station import Begun, Catch, Station, taken
from beanpool.reserve.tickets import Tickets
from beanpool.server import Member, PooledConnection

# A server's TIMED_OUT may come this much after our own deadline, and spares a cancelled connection (seconds).
LAST_MOMENT = 0.05
# How long a server is asked to wait at most (seconds, whole). What is between may forget a connection on which nothing
# moves, and neither side is told: so long, and a little longer, a job may then be kept from those who wait.
RESERVE_SLICE = 4
# How soon to look again whether they were answered (seconds).
_LOOK_AGAIN = 0.2
# How soon to try again to wait on a server that could not be joined (seconds).
_REJOIN_AFTER = 0.2
# Where connections are short: how long a reserve may wait before another one has its turn, and how long it then leaves
# alone a server that has just said that it has no job, at most (seconds).
_LEAST_TURN = 0.25
_LONGEST_PAUSE = 1.0
# How long a connection waits whose server's address leads to several processes (seconds).
_SHARED_SLICE = 1


class Watch:
    """The connections that wait, and the poller over them. Used by the leader alone, but for what says otherwise.

    A connection that is ready is not watched any more until it is armed again. So nothing needs to be done about one
    that has brought a job before its caller has it, and what is done with it afterwards never wakes anybody here.

    It is known by weak references, so it has no finalizer of its own: another thread could get hold of it while that
    runs. In a forked child nobody ends the wait of a thread that is the parent's; then its parts let go by themselves.
    """

    def __init__(self, tubes: tuple[str, ...], evict: Callable[[Member], None]) -> None:
        self._tubes = tubes
        self._evict = evict
        self.heard: dict[Member, float] = {}
        """When the servers have last said that they have no job (monotonic seconds)."""
        self.stations: dict[Member, Station] = {}
        self._beside: list[Station] = []
        self.tickets = Tickets(self)
        self.empty: dict[Member, float] = {}
        """The servers that said that they have no job, and nothing else since; how long each is left alone, if need be.
        """
        # Those on which a reserve was cancelled before it was known to be answered.
        self._cut_off: set[Member] = set()
        self.caught: collections.deque[Catch] = collections.deque()
        """Jobs that came in and that no thread has yet."""
        # Lists that their first owners still hold: who pops an entry has it, whoever else was interrupted.
        self.adopted: collections.deque[Begun] = collections.deque()
        """Connections that wait, or can, beside those of the stations."""
        self.evictions: collections.deque[Member] = collections.deque()
        """The servers where somebody needs the connection that waits more."""
        self.missed: collections.deque[Member] = collections.deque()
        """The servers that somebody who has come to wait could not ask."""
        self._not_before: dict[Member, float] = {}
        self._wake_up = WakeUpPipe()
        self._poller = new_poller()
        self._poller.arm(self._wake_up.descriptor, write=False)
        self._by_descriptor: dict[int, Station] = {}
        # Whether there is more to do than to ask those servers again whose time is up.
        self._changed = True
        self.answered: list[Station] = []
        """Those whose servers have said that they have no job, and that were not asked again yet."""
        self._wake_at = 0.0
        self.kept_until = 0.0
        """When the grace ends in which nobody waits (monotonic seconds); 0 if there was none since somebody did."""
        self.end_is_due = False
        """Whether somebody was told to end it then."""
        self.left = False
        """Whether the last one who waited has left, since that was looked at."""

    # From any thread.

    def poke(self) -> None:
        """Wake the leader."""
        self._wake_up.wake()

    def adopt(self, begun: Begun) -> None:
        """Take over connections with a reserve under way."""
        self.adopted.append(begun)

    @property
    def holds_something(self) -> bool:
        """Whether something waits, or has brought a job that nobody has yet."""
        return bool(self.stations or self.caught or self.adopted or self.tickets or self._beside)

    # The leader's.

    def ends_by(self, moment: float) -> bool:
        """Whether a server's own wait ends until then."""
        return any(station.ends_at <= moment and station.connection.waiting for station in self.stations.values())

    def attend(self, members: Iterable[Member], now: float, longest_wait: float, waiting: int) -> None:
        """See to it that a connection waits on every server that can be asked.

        :param waiting: how many threads wait; where connections are short, they queue for as many as they would alone.
        """
        answered, self.answered = self.answered, []
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
            for member, connection in taken(self.adopted[0]):
                self._settle_in(member, connection)
            self.adopted.popleft()
        while self.missed:
            self.empty.pop(self.missed[0], None)
            self._not_before.pop(self.missed.popleft(), None)
        self._give_way(now)
        if longest_wait <= 0:
            return
        self._collect(now, longest_wait)
        present = set()
        for member in members:
            present.add(member)
            if member in self.stations or member.down:
                continue
            not_before = self._not_before.get(member, 0.0)
            if not_before > now:
                self._wake_at = min(self._wake_at, not_before)
            else:
                self._join(member, now, longest_wait, waiting)
        for member in [member for member in self.stations if member not in present or member.down]:
            self._vacate(member, now)
        for member in [member for member in self.tickets.members() if member not in present or member.down]:
            self.tickets.leave(member)
        for station in list(self.stations.values()):
            self._go_on(station, now, longest_wait)

    def _go_on(self, station: Station, now: float, longest_wait: float) -> None:
        connection, pool = station.connection, station.member.pool
        # What was closed by somebody else is asked, too, and lost: the poller may say nothing of it.
        if not connection.waiting or connection.channel_state is ChannelState.CLOSED:
            if pool.pruning.keeps_nothing and not connection.closed:
                # The process that it leads to has no job; another connection may lead to another process.
                self._renew(station.member, now, longest_wait)
                return
            self.tickets.leave(station.member)
            if connection.closed or station.member.reservations.may_wait():
                self._ask(station, now, longest_wait)
            else:
                self._pause(station, now)
        elif connection.instance and connection.generation < station.member.health.generation:
            # It should be dead, for another process answers there. If it is not, there are two.
            self._renew(station.member, now, longest_wait)

    def _renew(self, member: Member, now: float, longest_wait: float) -> None:
        self._vacate(member, now)
        self._join(member, now, longest_wait, 1)

    # Where connections are short.

    def _give_way(self, now: float) -> None:
        """End the reserves whose connections are needed more. A reserve that only asks ends soon, and is left alone."""
        while self.evictions:
            member = self.evictions.popleft()
            station = self.stations.get(member)
            if not member.pool.queue.contended:
                if station is not None and station.connection.waiting and station.ends_at > now:
                    station.connection.evict = functools.partial(self._evict, member)
            elif station is None or not station.connection.waiting:
                # It has brought a job meanwhile: then another one is ended.
                member.reservations.evict()
            else:
                self._cut_off.add(member)
                self._vacate(member, now)

    def _pause(self, station: Station, now: float) -> None:
        """Leave the connection to others, and the server alone for a while: it has said that it has no job."""
        member = station.member
        del self.stations[member]
        self._disarm(station)
        pause = self.empty[member] = min(_LONGEST_PAUSE, 2 * self.empty.get(member, 0.0) or _REJOIN_AFTER)
        self._not_before[member] = now + pause
        self._wake_at = min(self._wake_at, now + pause)
        member.pool.checkin(station.connection)

    def _queue_up(self, member: Member, now: float, waiting: int) -> None:
        """Queue for a connection, behind all others who want one.

        For a server that may have jobs, each thread that waits has its place, and reserves that wait for others give
        way at once. One that is known to have none is asked again in its turn.
        """
        empty = member in self.empty
        if self.tickets.queue_up(member, 1 if empty else waiting):
            self._changed = True
            self._wake_at = now
            return
        if not empty:
            member.starved()
        # Who was to give way may have got a job instead, and the next turn comes in any case.
        retry = member.reservations.evict(_LEAST_TURN if empty else 0.0, for_jobs=True)
        self._wake_at = min(self._wake_at, now + min(retry, _LONGEST_PAUSE if empty else _LEAST_TURN))

    def _collect(self, now: float, longest_wait: float) -> None:
        """Ask with the connections that have come."""
        for member, connection in self.tickets.collect():
            if isinstance(connection, BeanpoolError):
                self._not_before[member] = now + _REJOIN_AFTER
            else:
                self._begin(member, connection, now, longest_wait, asks=member.pool.queue.contended)

    def _settle_in(self, member: Member, connection: PooledConnection) -> None:
        if member in self.stations:
            # Somebody else waits there already: one is enough.
            self._cancel(member, connection)
            return
        station = self.stations[member] = Station(member, connection)
        if not connection.waiting:
            # It was asked, and has answered.
            self.empty.setdefault(member, 0.0)
            self.answered.append(station)
        else:
            station.asked(time.monotonic())
            station.ends_at = connection.give_up_at
            try:
                self._arm(station)
            except BeanpoolError as error:
                self._lose(station, error)

    def _join(self, member: Member, now: float, longest_wait: float, waiting: int) -> None:
        try:
            connection = member.pool.try_acquire(self._tubes) if member not in self.tickets else None
            if connection is None:
                self._queue_up(member, now, waiting)
        except BeanpoolError:
            self._not_before[member] = now + _REJOIN_AFTER
            self._wake_at = min(self._wake_at, now + _REJOIN_AFTER)
            return
        if connection is not None:
            self._begin(member, connection, now, longest_wait, asks=member in self._cut_off)

    def _begin(
        self, member: Member, connection: PooledConnection, now: float, longest_wait: float, *, asks: bool
    ) -> None:
        """Ask with a connection that was checked out; with one that is there already, it is one beside it.

        :param asks: whether only to ask, and not to wait: nobody may cut that short.
        """
        station = Station(member, connection, beside=member in self.stations)
        if station.beside:
            self._beside.append(station)
        else:
            self.stations[member] = station
        try:
            if connection.channel_state is None:
                connection.begin_connecting()
        except BeanpoolError as error:
            self._lose(station, error)
            return
        self._ask(station, now, 0.0 if asks or station.beside else longest_wait)

    def _ask(self, station: Station, now: float, longest_wait: float) -> None:
        """Have the server asked for a job, and wait for one; with a `longest_wait` of 0 it does not wait."""
        longest = _SHARED_SLICE if station.member.pool.pruning.keeps_nothing else RESERVE_SLICE
        seconds = max(1, min(longest, math.ceil(min(longest_wait, longest)))) if longest_wait > 0 else 0
        station.asked(now + seconds)
        connection = station.connection
        try:
            connection.begin_reserve(self._tubes, seconds)
            if seconds:
                connection.waits_since = now
                connection.evict = functools.partial(self._evict, station.member)
            if station.connection.connecting:
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
        for station in (*self.stations.values(), *self._beside):
            until = min(until, station.connection.give_up_at)
            if not station.connection.connecting:
                until = min(until, station.doubted_at if station.returns < 0 else now + _LOOK_AGAIN)
        self._turn(None if until == math.inf else max(0.0, until - now))
        if self.caught:
            return
        now = time.monotonic()
        for station in (*self.stations.values(), *self._beside):
            if station.connection.waiting and station.connection.give_up_at <= now:
                if station.connection.connecting:
                    self._step(station)
                else:
                    self._lose(station, station.connection.late())
            elif station.connection.waiting and station.doubted_at <= now and not station.connection.connecting:
                self._doubt(station)

    def _doubt(self, station: Station) -> None:
        """Look for evidence on other connections: where a reply is late, the server is slow, or this one forgotten."""
        member = station.member
        if station.returns < 0:
            station.returns = member.pool.returns
            member.doubt()
        elif member.pool.returns != station.returns:
            # What it has reserved by now, it gives to others when it learns of the end.
            self._remove(station)
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
            elif descriptor == self._wake_up.descriptor:
                self._changed = True
                self._wake_up.drain()
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
        station.connection.evict = None
        if brought_job:
            self.caught.append((member, station.connection, reply))
            del self._by_descriptor[station.descriptor]
            if station.beside:
                self._beside.remove(station)
            else:
                del self.stations[member]
            self.empty.pop(member, None)
            self._changed = True
        else:
            self.heard[member] = time.monotonic()
            self._cut_off.discard(member)
            self.empty.setdefault(member, 0.0)
            if station.beside:
                self._remove(station)
                member.pool.checkin(station.connection)
            else:
                self.answered.append(station)

    def _lose(self, station: Station, error: BeanpoolError) -> None:
        self._remove(station)
        self._not_before[station.member] = time.monotonic() + _REJOIN_AFTER
        if isinstance(error, CommandFailed):
            station.member.pool.discard(station.connection, str(error))
        else:
            station.member.pool.checkin(station.connection, broken=error)

    def _remove(self, station: Station) -> None:
        self._disarm(station)
        if station.beside:
            self._beside.remove(station)
        else:
            self.stations.pop(station.member, None)
        self._changed = True

    def _vacate(self, member: Member, now: float) -> None:
        station = self.stations.pop(member, None)
        if station is not None:
            self._not_before[member] = now + _REJOIN_AFTER
            self._disarm(station)
            self._cancel(member, station.connection)

    def _cancel(self, member: Member, connection: PooledConnection) -> None:
        channel = member.pool.cancel_reserve(connection)
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
        connections = [(station.member, station.connection) for station in (*self.stations.values(), *self._beside)]
        connections += [(member, connection) for member, connection, _ in self.caught]
        for member, connection in connections:
            if connection not in spared:
                member.pool.discard(connection, "the thread that watched it was interrupted")
        self.stations.clear()
        self._beside.clear()
        self.caught.clear()
        for member, connection in self._let_go():
            member.pool.discard(connection, "the thread that watched it was interrupted")

    def rest(self) -> None:
        """Nobody waits for the moment: keep nothing from others but the connections that wait."""
        for member in self.tickets.members():
            self.tickets.leave(member)
        while self.adopted:
            for member, connection in taken(self.adopted[0]):
                self._settle_in(member, connection)
            self.adopted.popleft()
        answered, self.answered = self.answered, []
        for station in answered:
            if self.stations.get(station.member) is station and not station.connection.waiting:
                self._remove(station)
                station.member.pool.checkin(station.connection)

    def end(self) -> list[tuple[Member, Channel | None]]:
        """Nobody waits any more: cancel what still waits, and give back what came in.

        :returns: the servers where something waited, each with the channel to be read to its end, if there is one.
        """
        while self.caught:
            member, connection, _ = self.caught.popleft()
            member.pool.discard(connection, "nobody came for its job")
        cancelled: list[tuple[Member, Channel | None]] = []
        for member, connection in self._let_go():
            waited = connection.waiting
            channel = member.pool.cancel_reserve(connection)
            if waited:
                cancelled.append((member, channel))
        return cancelled

    def _let_go(self) -> list[tuple[Member, PooledConnection]]:
        """Close the poller, and hand over the connections that wait."""
        self._wake_up.close()
        self._poller.close()
        for member in self.tickets.members():
            self.tickets.leave(member)
        connections = [(station.member, station.connection) for station in (*self.stations.values(), *self._beside)]
        self.stations.clear()
        self._beside.clear()
        while self.adopted:
            connections += taken(self.adopted[0])
            self.adopted.popleft()
        return connections
