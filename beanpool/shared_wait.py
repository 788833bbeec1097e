"""Waiting for a job on all servers at once, shared by all threads that wait for the same tubes.

On each server one connection waits in a reserve, however many threads do here. One of the waiting threads,
the leader, watches all of these connections; the others sleep on a lock of their own. A job goes to the
thread that has waited longest. A leader that has its job makes the next thread the leader. A single waiting
thread is its own leader, so it pays for no thread switch.

When nobody waits any longer, what still waits on the servers is cancelled at once, but in the monitor's thread:
each cancellation costs as much as a delivery, and the caller has its job. A thread that comes back before that
finds everything in place.
"""

from __future__ import annotations

import collections
import contextlib
import math
import os
import selectors
import threading
import time
from collections.abc import Callable, Iterable
from typing import Protocol

from beanpool.channel import Channel
from beanpool.connection import RESERVE_SLICE
from beanpool.errors import BeanpoolError, CommandFailed, PoolClosed
from beanpool.member import Member
from beanpool.pooled_connection import PooledConnection
from beanpool.protocol.commands import RESERVE_WITH_TIMEOUT
from beanpool.protocol.replies import Reply

# poll() needs no system call to register a descriptor; these sets are small and short-lived.
_Selector = getattr(selectors, "PollSelector", selectors.DefaultSelector)
# A server's TIMED_OUT may come this much after our own deadline, and spares a cancelled connection (seconds).
_LAST_MOMENT = 0.05
# How soon to try again to wait on a server that could not be joined (seconds).
_REJOIN_AFTER = 0.2

Catch = tuple[Member, PooledConnection, Reply]
"""A job that has come in: from whom, on which connection, and the reply that holds it."""

Begun = list[tuple[Member, PooledConnection]]
"""Connections with a reserve under way."""


class _Seat:
    """A thread that waits."""

    __slots__ = ("catch", "deadline", "error", "leads", "signal")

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline
        self.signal = threading.Lock()
        self.signal.acquire()
        self.catch: Catch | None = None
        self.error: BeanpoolError | None = None
        self.leads = False

    @property
    def open(self) -> bool:
        """Whether it still waits for its job."""
        return self.catch is None and self.error is None

    def wake(self) -> None:
        """Let its thread look at what was done to it. Once more does no harm."""
        with contextlib.suppress(RuntimeError):
            self.signal.release()

    def sleep(self) -> None:
        """Wait, at most until the deadline, until it has its job, or an error, or leads."""
        while self.open and not self.leads:
            if not self.signal.acquire(timeout=_lock_timeout(self.deadline)):
                return


class _Station:
    """A connection that waits on one server."""

    __slots__ = ("connection", "descriptor", "ends_at", "member")

    def __init__(self, member: Member, connection: PooledConnection) -> None:
        self.member = member
        self.connection = connection
        self.descriptor = -1
        self.ends_at = 0.0
        """When the server's own wait ends (monotonic seconds)."""


class Janitor(Protocol):
    """Who does what callers should not wait for."""

    def soon(self, call: Callable[[], None]) -> None:
        """Have this done in another thread, at once."""

    def linger(self, channels: Iterable[Channel]) -> None:
        """Read channels whose reserve was cancelled to their end, then close them."""


class SharedWait:
    """The threads of one pool that wait for one set of tubes.

    :param members: returns the servers to wait on.
    :param janitor: does what callers should not wait for.
    """

    def __init__(
        self,
        tubes: tuple[str, ...],
        *,
        members: Callable[[], Iterable[Member]],
        janitor: Janitor,
    ) -> None:
        self.tubes = tubes
        self._members = members
        self._janitor = janitor
        self._lock = threading.Lock()
        self._seats: collections.deque[_Seat] = collections.deque()
        self._leader: _Seat | None = None
        self._closed = False
        self._watch: _Watch | None = None

    def waits_on(self, member: Member) -> bool:
        """Whether a connection waits on this server already: then it is known to have no job."""
        watch = self._watch
        return watch is not None and member in watch.stations

    @property
    def waiting(self) -> int:
        """How many threads wait."""
        return len(self._seats)

    def wait(self, deadline: float, begun: Begun) -> Catch | None:
        """Wait for a job until `deadline` (monotonic seconds, may be infinite); None if none came.

        :param begun: connections on which this caller has a reserve under way; they are taken over: who
            takes an entry out of the list has it.
        :raises PoolClosed: if the pool is closed meanwhile.
        """
        seat = _Seat(deadline)
        try:
            with self._lock:
                if self._closed:
                    raise PoolClosed("the pool is closed")
                self._seats.append(seat)
                if self._leader is None:
                    self._leader = seat
                    seat.leads = True
                watch = self._watch_now()
                watch.adopt(begun)
            if not seat.leads:
                watch.poke()
                seat.sleep()
            if seat.leads and seat.open:
                self._lead(seat, watch)
            self._leave(seat)
        except BaseException:
            self._abort(seat)
            raise
        if seat.catch is None and seat.error is not None:
            raise seat.error
        return seat.catch

    def _watch_now(self) -> _Watch:
        if self._watch is None:
            self._watch = _Watch(self.tubes)
        return self._watch

    # The leader.

    def _lead(self, seat: _Seat, watch: _Watch) -> None:
        while seat.open:
            now = time.monotonic()
            if now >= seat.deadline + (_LAST_MOMENT if watch.ends_by(seat.deadline + _LAST_MOMENT) else 0):
                return
            longest = self._longest_wait(now)
            watch.attend(self._members(), now, longest)
            watch.look(seat.deadline)
            while watch.caught:
                self._deliver(watch.caught)

    def _longest_wait(self, now: float) -> float:
        with self._lock:
            return max((seat.deadline for seat in self._seats), default=now) - now

    def _deliver(self, caught: collections.deque[Catch]) -> None:
        member, connection, _ = caught[0]
        with self._lock:
            taker = self._first_open()
            if taker is not None:
                # One step, as far as interrupts go: the job is either the taker's or still among the caught.
                taker.catch = caught[0]
                caught.popleft()
        if taker is not None:
            taker.wake()
        else:
            caught.popleft()
            member.pool.discard(connection, "nobody waits any more")

    def _first_open(self) -> _Seat | None:
        return next((seat for seat in self._seats if seat.open), None)

    def _leave(self, seat: _Seat) -> None:
        heir = None
        lapsed = False
        with self._lock:
            with contextlib.suppress(ValueError):
                self._seats.remove(seat)
            if self._leader is seat:
                heir = self._first_open()
                lapsed = heir is None
                if heir is not None:
                    heir.leads = True
                # Last: until then an interrupt finds this thread responsible for what waits.
                self._leader = heir
        if heir is not None:
            heir.wake()
        elif lapsed:
            self._janitor.soon(self.end)

    def _abort(self, seat: _Seat) -> None:
        """An exception ends this thread's wait, maybe an interrupt at whatever line; it must not end that of others."""
        watch = self._watch
        if watch is not None and self._leader is seat:
            watch.scrap()
        self._leave(seat)
        self.end()
        with self._lock:
            settled = [other for other in self._seats if other.leads or not other.open]
        for other in settled:
            other.wake()
        if seat.catch is not None:
            # Nobody will ever see this job: the server takes it back.
            member, connection, _ = seat.catch
            member.pool.discard(connection, "the caller was interrupted")

    # From other threads.

    def poke(self) -> None:
        """Let the leader look at the servers anew: one came up, was added, or has a connection free."""
        watch = self._watch
        if watch is not None:
            watch.poke()

    def give_up(self, member: Member) -> None:
        """Free the connection that waits on this server: a caller needs it more."""
        if self.waits_on(member):
            self.end()
            self.poke()

    def end(self) -> None:
        """Cancel what waits on the servers, if nobody waits here any more."""
        if self._leader is not None or self._watch is None:
            return
        with self._lock:
            if self._leader is not None:
                return
            ended, self._watch = self._watch, None
        cancelled = ended.end() if ended is not None else None
        if cancelled:
            self._janitor.linger(cancelled)

    def close(self) -> None:
        """Wake every waiting thread with :class:`PoolClosed`."""
        with self._lock:
            self._closed = True
            seats = [seat for seat in self._seats if seat.open]
            for seat in seats:
                seat.error = PoolClosed("the pool was closed while this thread waited for a job")
        for seat in seats:
            seat.wake()
        self.end()
        self.poke()


def _lock_timeout(deadline: float) -> float:
    if deadline == math.inf:
        return -1
    return min(max(0.0, deadline - time.monotonic()), threading.TIMEOUT_MAX)


class _Watch:
    """The connections that wait, and the selector over them. Used by the leader alone, but for what says otherwise."""

    # Until there are others: an interrupt may come before.
    _reader = _writer = -1

    def __init__(self, tubes: tuple[str, ...]) -> None:
        self._tubes = tubes
        self.stations: dict[Member, _Station] = {}
        self.caught: collections.deque[Catch] = collections.deque()
        """Jobs that came in and that no thread has yet."""
        # Lists that their first owners still hold: who pops an entry has it, whoever else was interrupted.
        self._adopted: collections.deque[Begun] = collections.deque()
        self._not_before: dict[Member, float] = {}
        self._pipe_lock = threading.Lock()
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._reader, False)
        os.set_blocking(self._writer, False)
        self._selector: selectors.BaseSelector = _Selector()
        self._selector.register(self._reader, selectors.EVENT_READ)
        self._wake_at = 0.0

    def __del__(self) -> None:
        # In a forked child nobody ends the wait of a thread that is the parent's.
        for descriptor in (self._reader, self._writer):
            if descriptor >= 0:
                os.close(descriptor)
        selector = getattr(self, "_selector", None)
        if selector is not None:
            # It is a circle of its own, and what it watches would be alive until somebody collects circles.
            selector.close()

    # From any thread.

    def poke(self) -> None:
        """Wake the leader."""
        with self._pipe_lock:
            if self._writer >= 0:
                with contextlib.suppress(BlockingIOError):
                    os.write(self._writer, b"p")

    def adopt(self, begun: Begun) -> None:
        """Take over connections with a reserve under way."""
        self._adopted.append(begun)

    # The leader's.

    def ends_by(self, moment: float) -> bool:
        """Whether a server's own wait ends until then."""
        return any(station.ends_at <= moment and station.connection.waiting for station in self.stations.values())

    def attend(self, members: Iterable[Member], now: float, longest_wait: float) -> None:
        """See to it that a connection waits on every server that can be asked."""
        self._wake_at = math.inf
        for begun in list(self._adopted):
            while begun:
                self._settle_in(*begun.pop())
            self._adopted.remove(begun)
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
            if station.connection.channel_state is not None and not station.connection.waiting:
                self._ask(station, now, longest_wait)

    def _settle_in(self, member: Member, connection: PooledConnection) -> None:
        if member in self.stations:
            # Somebody else waits there already: one is enough.
            self._cancel(member, connection)
            return
        station = self.stations[member] = _Station(member, connection)
        station.ends_at = connection.give_up_at
        if connection.waiting:
            self._register(station)

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
            station = self.stations[member] = _Station(member, connection)
            self._ask(station, now, longest_wait)
        except BeanpoolError as error:
            self.stations.pop(member, None)
            self._not_before[member] = now + _REJOIN_AFTER
            if connection is not None:
                member.pool.broke(connection, error)

    def _ask(self, station: _Station, now: float, longest_wait: float) -> None:
        seconds = max(1, min(RESERVE_SLICE, math.ceil(min(longest_wait, RESERVE_SLICE))))
        station.ends_at = now + seconds
        try:
            station.connection.begin_reserve(self._tubes, seconds)
            if station.connection.dialing:
                station.connection.step()
            self._register(station)
        except BeanpoolError as error:
            self._lose(station, error)

    def look(self, deadline: float) -> None:
        """Wait until something happens, or until `deadline`; the jobs that came in are in :attr:`caught`."""
        now = time.monotonic()
        until = min(deadline, self._wake_at)
        if self.ends_by(deadline + _LAST_MOMENT):
            until += _LAST_MOMENT
        for station in self.stations.values():
            until = min(until, station.connection.give_up_at)
        timeout = None if until == math.inf else max(0.0, until - now)
        for key, _ in self._selector.select(timeout):
            if key.fd == self._reader:
                with contextlib.suppress(BlockingIOError):
                    os.read(self._reader, 4096)
                continue
            self._step(key.data)
        if self.caught:
            return
        now = time.monotonic()
        for station in list(self.stations.values()):
            if station.connection.waiting and station.connection.give_up_at <= now:
                self._lose(station, station.connection.late())

    def _step(self, station: _Station) -> None:
        try:
            reply = station.connection.step()
            if reply is None:
                self._register(station)
                return
            if reply.status not in ("RESERVED", "TIMED_OUT", "DEADLINE_SOON"):
                raise station.connection.refuse(RESERVE_WITH_TIMEOUT, reply)
        except BeanpoolError as error:
            self._lose(station, error)
            return
        station.member.works()
        self._unregister(station)
        if reply.status == "RESERVED":
            self.caught.append((station.member, station.connection, reply))
            del self.stations[station.member]

    def _lose(self, station: _Station, error: BeanpoolError) -> None:
        self._unregister(station)
        self.stations.pop(station.member, None)
        self._not_before[station.member] = time.monotonic() + _REJOIN_AFTER
        if isinstance(error, CommandFailed):
            station.member.pool.discard(station.connection, str(error))
        else:
            station.member.pool.broke(station.connection, error)

    def _vacate(self, member: Member, now: float) -> None:
        station = self.stations.pop(member, None)
        if station is not None:
            self._not_before[member] = now + _REJOIN_AFTER
            self._unregister(station)
            self._cancel(member, station.connection)

    def _cancel(self, member: Member, connection: PooledConnection) -> None:
        if connection.waiting:
            channel = connection.half_close()
            member.pool.forget(connection)
            if channel is not None:
                channel.close("its reserve was cancelled")
        else:
            member.pool.release(connection)

    def _register(self, station: _Station) -> None:
        descriptor = station.connection.fileno()
        events = selectors.EVENT_WRITE if station.connection.wants_write else selectors.EVENT_READ
        if station.descriptor == descriptor and self._selector.get_key(descriptor).events == events:
            return
        self._unregister(station)
        self._selector.register(descriptor, events, station)
        station.descriptor = descriptor

    def _unregister(self, station: _Station) -> None:
        if station.descriptor >= 0:
            with contextlib.suppress(KeyError, ValueError):
                self._selector.unregister(station.descriptor)
            station.descriptor = -1

    def scrap(self) -> None:
        """Close everything: after an interrupt nobody knows what a connection waits for, or whether it holds a job."""
        connections = [(station.member, station.connection) for station in self.stations.values()]
        connections += [(member, connection) for member, connection, _ in self.caught]
        for station in self.stations.values():
            self._unregister(station)
        self.stations.clear()
        self.caught.clear()
        for member, connection in connections:
            member.pool.discard(connection, "the thread that watched it was interrupted")

    def end(self) -> list[Channel]:
        """Nobody waits any more: cancel what still waits; returns the channels to be read to their end."""
        cancelled: list[Channel] = []
        with self._pipe_lock:
            # Forgotten before they are closed: closed twice, after an interrupt, they might be somebody else's.
            descriptors, self._reader, self._writer = (self._reader, self._writer), -1, -1
            for descriptor in descriptors:
                os.close(descriptor)
        self._selector.close()
        connections = [(station.member, station.connection) for station in self.stations.values()]
        for begun in self._adopted:
            while begun:
                connections.append(begun.pop())
        for member, connection in connections:
            if not connection.waiting:
                member.pool.release(connection)
                continue
            channel = connection.half_close()
            member.pool.forget(connection)
            if channel is not None:
                cancelled.append(channel)
        self.stations.clear()
        return cancelled
