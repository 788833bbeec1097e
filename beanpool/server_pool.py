"""The connections of one server: exclusive check-out, bounded, fair, newest idle one first."""

from __future__ import annotations

import collections
import contextlib
import enum
import math
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Protocol

from beanpool.address import Address
from beanpool.channel import Channel, ChannelState
from beanpool.errors import (
    BeanpoolError,
    CommandTimeout,
    ConnectionFailed,
    Phase,
    PoolClosed,
    PoolTimeout,
    UnexpectedResponse,
)
from beanpool.locks import Lock, refuse_within
from beanpool.pooled_connection import PooledConnection
from beanpool.protocol.identity import Identity

_TRUSTED_IDLE_SECONDS = 0.01
_LEAST_TIMEOUT = 0.001
# One connection in so many may be made beyond the limit while jobs hold others, at least one: see ConnectionPool.
_JOBS_PER_SPARE = 4
_SPARE_IDLE_FOR = 2.0
_REMEMBERED_FOR = 5.0
# How long the users of connections that were shut down under them may take to see it (seconds).
_INTERRUPTED_FOR = 0.25

# As psycopg_pool calls them: users have dashboards for these.
COUNTS = (
    "requests_num",
    "requests_queued",
    "requests_wait_ms",
    "requests_errors",
    "returns_bad",
    "connections_num",
    "connections_ms",
    "connections_errors",
    "connections_lost",
)


# Without a look into the class for every call.
_IN_STEP = ChannelState.IN_STEP
_monotonic = time.monotonic


class _Stage(enum.Enum):
    """The life of a pool."""

    OPEN = "open"
    REMOVED = "its server was removed"
    """The other servers go on; jobs in hand can be finished."""
    CLOSED = "closed"


_OPEN = _Stage.OPEN


class PoolOwner(Protocol):
    """Who a pool tells of what it sees. Called outside of the pool's lock."""

    def learn(self, identity: Identity, round_trip: float) -> int:
        """A handshake told who the server is; returns the generation that the connection belongs to."""

    def report(self, error: BeanpoolError, generation: int) -> None:
        """A connection of this generation failed."""

    def starved(self) -> None:
        """A caller waits for a connection and none is free: free one, if you can."""

    def opened(self, connection: PooledConnection) -> None:
        """A connection stands."""

    def closed(self, connection: PooledConnection, because: str) -> None:
        """A connection that stood was given up."""


class Ticket:
    """A place in the queue for a connection: a command's, whose thread sleeps, or a reserve's, whose wait is told.

    :param on_available: tells the wait, under the pool's lock: it waits for nothing, and returns false if nobody is
        there any more; None for a command.
    """

    __slots__ = ("_on_available", "connection", "error", "for_jobs", "signal")

    def __init__(self, on_available: Callable[[], bool] | None = None) -> None:
        self._on_available = on_available
        self.for_jobs = on_available is not None
        """Whether jobs may be reserved on the connection."""
        self.signal = threading.Lock()
        self.signal.acquire()
        self.connection: PooledConnection | None = None
        self.error: BeanpoolError | None = None

    @property
    def settled(self) -> bool:
        """Whether it has its connection, or never will."""
        return self.connection is not None or self.error is not None

    def wake(self) -> bool:
        """Let its owner look at what was done to it; false if there is none any more. Once more does no harm."""
        if self._on_available is not None:
            return self._on_available()
        with contextlib.suppress(RuntimeError):
            self.signal.release()
        return True


class ConnectionPool:
    """The connections of one server.

    A connection has a place for as long as its object exists and is not given up, so one that is lost to an interrupt
    at whatever line frees its place when it is collected. The places are known by weak references that call nothing:
    an exception in a callback of theirs would be swallowed, and the place with it.

    Jobs hold their connection until they are finished, and what finishes them may need another one: a follow-up put, a
    question to the server. If they could hold all places, workers would wait for themselves. So while jobs hold
    connections, there may be some more than `max_connections`: a quarter, at least one, and no more than the jobs hold.
    These are for commands, which give them back at once. A reserve never gets one, so connections that hold jobs, or
    may soon, are never more than `max_connections`.

    :param max_connections: how many there may be; while jobs hold some of them, a quarter more.
    :param owner: is told of what the pool sees of the server.
    """

    def __init__(
        self,
        address: Address,
        *,
        max_connections: int,
        connect_timeout: float,
        timeout: float,
        encoding: str | None,
        owner: PoolOwner,
    ) -> None:
        self.address = address
        self.server = str(address)
        self.max_connections = max_connections
        self.reclaim: Callable[[], None] = _nothing_to_reclaim
        """Gives back what was dropped while it held connections: called before a caller is let wait for one."""
        self.returns = 0
        """How often a connection came back in good order."""
        self._connect_timeout = connect_timeout
        self._timeout = timeout
        self._encoding = encoding
        self._owner = owner
        self._counts = dict.fromkeys(COUNTS, 0)
        # Of _counts, but counted with every call.
        self._requests = 0
        self._generation = 0
        # Which of them are kept when they come back.
        self._kept_generation = 0
        self._stage = _OPEN
        # When a reserve that could not wait was last told that jobs have all connections.
        self._refused_at = -math.inf
        self._idle: list[PooledConnection] = []
        # By their ids: that of an object that is gone is free for the next one.
        self._places: dict[int, weakref.ref[PooledConnection]] = {}
        self._queue: collections.deque[Ticket] = collections.deque()
        self._lock = Lock()
        # Of those who wait until others have given back what they use.
        self._closers: collections.deque[threading.Lock] = collections.deque()

    def __repr__(self) -> str:
        opened, idle = self.counts()
        stage = "" if self._stage is _OPEN else f", {self._stage.value}"
        return f"<ConnectionPool of {self.server}: {opened} of {self.max_connections} open, {idle} idle{stage}>"

    def counts(self) -> tuple[int, int]:
        """How many connections are open (or being opened), and how many of them are idle."""
        return len(self.connections()), len(self._idle)

    def connections(self) -> list[PooledConnection]:
        """Those that have a place. It needs no lock: it is one look at what is there at the moment."""
        found = [place() for place in self._places.copy().values()]
        return [connection for connection in found if connection is not None]

    def full_of_jobs(self) -> bool:
        """Whether all connections that a reserve may have are held by unfinished jobs."""
        return self._held_by_jobs() >= self.max_connections

    def _held_by_jobs(self) -> int:
        return sum(connection.holds_jobs for connection in self.connections())

    @property
    def is_full(self) -> bool:
        """Whether a command would have to wait for a connection."""
        return not self._idle and not self._has_room(self.connections())

    @property
    def contended(self) -> bool:
        """Whether somebody waits for a connection."""
        return bool(self._queue)

    @property
    def starving(self) -> bool:
        """Whether somebody wants a connection, waiting for it or not, or went without one a moment ago."""
        return bool(self._queue) or _monotonic() - self._refused_at < _REMEMBERED_FOR

    def stats(self) -> dict[str, int]:
        """The pool's counters, and how it is filled now."""
        opened, idle = self.counts()
        return {
            "pool_max": self.max_connections,
            "pool_size": opened,
            "pool_available": idle,
            "requests_waiting": len(self._queue),
            **self._counts,
            "requests_num": self._requests,
        }

    def opened(self, connection: PooledConnection) -> None:
        """A connection stands."""
        with self._lock:
            self._counts["connections_num"] += 1
        self._owner.opened(connection)

    # Check-out.

    def acquire(self, deadline: float, tube: str | None = None) -> PooledConnection:
        """Check out an open connection, preferably one that uses `tube`. Give it to :meth:`checkin`.

        It is for commands: who reserves a job on it and keeps that takes what others need to finish theirs.

        :raises PoolTimeout: if none became free before `deadline` (monotonic seconds).
        :raises PoolClosed: if the pool is closed.
        :raises ConnectionFailed: if a new one was needed and could not be made, or the server was removed.
        """
        with self._lock:
            self._requests += 1
            idle = self._idle
            # What nearly every call finds. While something is idle nobody waits, and the pool is open.
            connection = idle.pop() if idle and (tube is None or idle[-1].used == tube) else None
        if connection is not None:
            channel = connection.opened_channel
            if (
                channel is not None
                and connection.generation == self._generation
                and _monotonic() - channel.used_at <= _TRUSTED_IDLE_SECONDS
            ):
                return connection
        return self._find(connection, deadline, tube)

    def _find(self, connection: PooledConnection | None, deadline: float, tube: str | None) -> PooledConnection:
        while True:
            if connection is None:
                connection = self._check_out(tube)
            if connection is None:
                connection = self._await_turn(deadline)
            try:
                if self._is_alive(connection) or self._make_ready(connection, deadline):
                    return connection
            except BaseException as error:
                if isinstance(error, UnexpectedResponse):
                    # It was the handshake that failed: what the caller wants to send was not sent.
                    error.may_have_taken_effect = False
                self.checkin(connection, broken=error)
                raise
            connection = None

    def try_acquire(self, tubes: tuple[str, ...]) -> PooledConnection | None:
        """Check out a connection for a reserve of `tubes`, if that takes no waiting.

        :returns: an idle one, or a new one that is still closed; None if all are in use, or the server was removed.
        :raises PoolClosed: if the pool is closed.
        """
        with self._lock:
            self._requests += 1
            idle = self._idle
            connection = None
            if idle and idle[-1].watched == tubes and len(self._places) <= self.max_connections:
                connection = idle.pop()
                connection.may_hold_jobs = True
        while True:
            if connection is None:
                connection = self._check_out_for_jobs(tubes)
            if connection is None or connection.opened_channel is None or self._is_alive(connection):
                return connection
            self.discard(connection)
            connection = None

    def _check_out(self, tube: str | None) -> PooledConnection | None:
        # What is idle and fits goes out without this: no interrupt comes between the look and the pop.
        refuse_within(self._lock, f"a command to {self.server}")
        self._make_room()
        with self._lock:
            if self._stage is not _OPEN:
                raise self._ended()
            return None if self._others_come_first() else self._take(tube)

    def _take(self, tube: str | None = None) -> PooledConnection | None:
        """An idle connection, or a new one, for a command; None if all are in use."""
        idle = self._idle
        if not idle:
            return self._add()
        if tube is not None and idle[-1].used != tube:
            return _newest(idle, lambda connection: connection.used == tube)
        return idle.pop()

    def _check_out_for_jobs(self, tubes: tuple[str, ...]) -> PooledConnection | None:
        refuse_within(self._lock, f"a command to {self.server}")
        self._make_room()
        with self._lock:
            if self._stage is _Stage.CLOSED:
                raise self._ended()
            if self._queue or self._stage is not _OPEN:
                return None
            if not self._may_hold_more_jobs():
                self._refused_at = _monotonic()
                return None
            return self._take_for_jobs(lambda connection: connection.watches_only(tubes))

    def _take_for_jobs(self, fits: Callable[[PooledConnection], bool]) -> PooledConnection | None:
        """An idle connection, or a new one, for a reserve; None if all that there may be are in use."""
        if not self._may_hold_more_jobs():
            return None
        connection = _newest(self._idle, fits)
        if connection is None:
            if len(self.connections()) >= self.max_connections:
                return None
                return None
            connection = self._new_place()
        connection.may_hold_jobs = True
        return connection

    def _may_hold_more_jobs(self) -> bool:
        return sum(bool(c.may_hold_jobs or c.jobs) for c in self.connections()) < self.max_connections

    def _others_come_first(self) -> bool:
        """Whether somebody waits who could be served."""
        queue = self._queue
        return bool(queue) and (any(not ticket.for_jobs for ticket in list(queue)) or self._may_hold_more_jobs())

    def _make_room(self) -> None:
        """Before somebody has to wait, or has one connection too many."""
        if len(self._places) >= self.max_connections:
            self.reclaim()

    def _add(self) -> PooledConnection | None:
        """A new connection for a command; None if there may be no more."""
        return self._new_place() if self._has_room(self.connections()) else None

    def _has_room(self, connections: list[PooledConnection]) -> bool:
        """Whether there may be another connection for a command beside these."""
        limit = self.max_connections
        if len(connections) >= limit:
            spare = max(1, limit // _JOBS_PER_SPARE)
            limit += min(spare, sum(bool(connection.jobs) for connection in connections))
        return len(connections) < limit

    def _new_place(self) -> PooledConnection:
        # Those that were collected took their places along; here they are forgotten.
        for key in [key for key, place in self._places.copy().items() if place() is None]:
            self._places.pop(key, None)
        connection = self.probe_connection()
        self._places[id(connection)] = weakref.ref(connection)
        connection.counted = True
        return connection

    def probe_connection(self) -> PooledConnection:
        """A connection that does not count and is not kept: for probes while all others are in use."""
        return PooledConnection(
            self.address,
            connect_timeout=self._connect_timeout,
            timeout=self._timeout,
            encoding=self._encoding,
            generation=self._generation,
            learn=self._owner.learn,
            opened=self.opened,
        )

    def _await_turn(self, deadline: float) -> PooledConnection:
        ticket = Ticket()
        started = time.monotonic()
        # From before the ticket is in the queue: an interrupt must not leave one there that nobody holds.
        try:
            with self._lock:
                if self._stage is not _OPEN:
                    raise self._ended()
                # What came free between the first look and now.
                connection = None if self._others_come_first() else self._take()
                if connection is not None:
                    return connection
                self._queue.append(ticket)
                self._counts["requests_queued"] += 1
            self._owner.starved()
            ticket.signal.acquire(timeout=max(0.0, deadline - started))
        except BaseException:
            connection = self._leave_queue(ticket, started)
            if connection is not None:
                self.checkin(connection)
            raise
        connection = self._leave_queue(ticket, started)
        if connection is not None:
            return connection
        if ticket.error is not None:
            raise ticket.error
        raise self.exhausted()

    def _leave_queue(self, ticket: Ticket, since: float) -> PooledConnection | None:
        with self._lock:
            with contextlib.suppress(ValueError):
                self._queue.remove(ticket)
            self._counts["requests_wait_ms"] += round((time.monotonic() - since) * 1000)
            self._counts["requests_errors"] += ticket.connection is None
            return ticket.connection

    # For reserves, which wait for more than one server.

    def queue_up(self, ticket: Ticket) -> None:
        """Queue for a connection for a reserve, behind all who wait, without waiting for it: see :meth:`collect`.

        :raises PoolClosed: if the pool is closed.
        :raises ConnectionFailed: if the server was removed.
        """
        refuse_within(self._lock, f"a command to {self.server}")
        with self._lock:
            if self._stage is not _OPEN:
                raise self._ended()
            self._counts["requests_queued"] += 1
            self._queue.append(ticket)
            self._fill_places()

    def collect(self, ticket: Ticket) -> PooledConnection | None:
        """The connection that a ticket has got, as :meth:`try_acquire` gives it; None if it has none that is of use.

        :raises BeanpoolError: if those who wait were turned away.
        """
        if ticket.error is not None:
            raise ticket.error
        connection = ticket.connection
        if connection is None or connection.opened_channel is None or self._is_alive(connection):
            return connection
        self.discard(connection)
        return None

    def leave(self, ticket: Ticket) -> None:
        """Queue no longer."""
        with self._lock, contextlib.suppress(ValueError):
            self._queue.remove(ticket)
        if ticket.connection is not None:
            self.checkin(ticket.connection)

    def may_wait(self) -> bool:
        """Whether a reserve that has found no job may keep its connection waiting for one.

        Not if somebody wants a connection, and calls would have fewer than reserves that wait.
        """
        if not self._queue:
            return True
        waiting, calls = self._waiting_and_calls()
        return len(waiting) + 1 < calls

    def evict(self, spared: float = 0.0, *, for_jobs: bool = False) -> float:
        """Have the reserve cancelled that has waited longest, for a caller that found no connection free.

        Nothing happens while calls have as many connections as reserves that wait: theirs come back by themselves.

        :param spared: how long a reserve may wait in any case (seconds).
        :param for_jobs: whether the caller is a reserve, too, and so cannot have any connection.
        :returns: when it is worth another try (seconds from now); infinite if it is not.
        """
        waiting, calls = self._waiting_and_calls()
        if not waiting or (calls >= len(waiting) and not (for_jobs and not self._may_hold_more_jobs())):
            return math.inf
        longest = min(waiting, key=lambda connection: connection.waits_since)
        rest = longest.waits_since + spared - time.monotonic()
        if rest > 0:
            return rest
        evict, longest.evict = longest.evict, None
        if evict is not None:
            evict()
        return math.inf

    def _waiting_and_calls(self) -> tuple[list[PooledConnection], int]:
        """The connections on which reserves wait, and how many there are for calls: that no unfinished job holds."""
        connections = self.connections()
        waiting = [connection for connection in connections if connection.evict is not None]
        return waiting, sum(not connection.jobs for connection in connections) - len(waiting)

    def exhausted(self) -> PoolTimeout:
        """The error of a caller for whom no connection became free."""
        limit = self.max_connections
        in_use = min(limit, len(self.connections()))
        return PoolTimeout(
            f"{self.server}: no connection became free in time: {in_use} of {limit} are in use, "
            f"{self._held_by_jobs()} of them by unfinished jobs. Finish or release jobs (one that failed is kept by "
            f"its traceback, too), or raise max_connections, which is {limit}"
        )

    def _make_ready(self, connection: PooledConnection, deadline: float) -> bool:
        if connection.channel_state is None:
            started = time.monotonic()
            try:
                connection.open(deadline)
            except CommandTimeout as error:
                error.waited = time.monotonic() - started
                raise
            finally:
                with self._lock:
                    self._counts["connections_ms"] += round((time.monotonic() - started) * 1000)
            return True
        self.discard(connection)
        return False

    def _is_alive(self, connection: PooledConnection) -> bool:
        # The server may have gone, or sent something unasked, while nobody looked.
        channel = connection.opened_channel
        return (
            channel is not None
            and connection.generation == self._generation
            and (_monotonic() - channel.used_at <= _TRUSTED_IDLE_SECONDS or channel.check_quiet())
        )

    # Check-in.

    def checkin(self, connection: PooledConnection, broken: BaseException | None = None) -> None:
        """Take a connection back: into the hands of whoever waits longest, else to the idle ones.

        :param broken: the error that it failed with: then it is closed, and what the error says of the server reported.
        """
        if broken is not None:
            self._checkin_broken(connection, broken)
            return
        channel = connection.opened_channel
        if channel is None or channel.state is not _IN_STEP:
            self.discard(connection)
            return
        with self._lock:
            self.returns += 1
            keep = connection.counted and connection.generation == self._kept_generation and self._stage is _OPEN
            if keep:
                connection.may_hold_jobs = False
                if not self._queue or not self._serve(connection):
                    self._idle.append(connection)
                return
        self.discard(connection)

    def discard(self, connection: PooledConnection, because: str = "the pool gave it up") -> None:
        """Close a connection for good; its place is free for another."""
        connection.drop(because)
        self._free_place(connection, because)

    def _free_place(self, connection: PooledConnection, because: str = "its reserve was cancelled") -> None:
        """Free the place of a connection that somebody else closes. Idempotent."""
        with self._lock:
            known, connection.counted = connection.counted, False
            self._places.pop(id(connection), None)
            self._fill_places()
        for closer in list(self._closers):
            with contextlib.suppress(RuntimeError):
                closer.release()
        if known and connection.instance:
            self._owner.closed(connection, because)

    def cancel_reserve(self, connection: PooledConnection) -> Channel | None:
        """Take back a connection whose reserve nobody waits for any more.

        :returns: if its reserve was still under way, the half-closed channel, to be read to its end: the server takes
            back by itself what raced in.
        """
        if not connection.waiting:
            self.checkin(connection)
            return None
        channel = connection.half_close()
        self._free_place(connection)
        return channel

    def _checkin_broken(self, connection: PooledConnection, error: BaseException) -> None:
        if isinstance(error, CommandTimeout) and connection.channel_state is ChannelState.IN_STEP:
            # Nothing was sent: the caller's time was up, after waiting for its turn. The server has done nothing.
            self.checkin(connection)
            return
        channel = connection.opened_channel
        if channel is not None and channel.interrupted:
            # The pool's own doing: it gives back what was dropped, or is closed.
            self.discard(connection)
            return
        with self._lock:
            stood = bool(connection.instance)
            self._counts["returns_bad"] += stood
            self._counts["connections_lost" if stood else "connections_errors"] += 1
        self.discard(connection, str(error) if isinstance(error, BeanpoolError) else type(error).__name__)
        if isinstance(error, CommandTimeout) and error.waited is None and connection.opened_channel is not None:
            error.waited = time.monotonic() - connection.opened_channel.used_at
        if isinstance(error, ConnectionFailed | UnexpectedResponse):
            self._owner.report(error, connection.generation)

    def _serve(self, connection: PooledConnection) -> bool:
        """Hand it to who has waited longest, and may have it; false if nobody does."""
        for ticket in list(self._queue):
            if ticket.connection is None and ticket.for_jobs and not self._may_hold_more_jobs():
                continue
            if self._hand(ticket, connection):
                return True
        return False

    def _hand(self, ticket: Ticket, connection: PooledConnection) -> bool:
        """An interrupt at any line leaves what is to be done to the next one who serves."""
        served_before = ticket.connection is not None
        if not served_before:
            connection.may_hold_jobs = ticket.for_jobs
            ticket.connection = connection
        taken = ticket.wake()
        with contextlib.suppress(ValueError):
            self._queue.remove(ticket)
        if not taken and not served_before:
            ticket.connection = None
            connection.may_hold_jobs = False
        return taken and not served_before

    def _fill_places(self) -> None:
        """Find connections for those who wait, where there is a place."""
        for ticket in list(self._queue):
            if self._stage is not _OPEN:
                return
            connection = ticket.connection
            if connection is None:
                connection = self._take_for_jobs(lambda _: True) if ticket.for_jobs else self._take()
            if connection is not None:
                self._hand(ticket, connection)
                if ticket.connection is None and connection.opened_channel is not None:
                    # Its owner is gone.
                    self._idle.append(connection)
                elif ticket.connection is None:
                    self._places.pop(id(connection), None)
            elif not ticket.for_jobs:
                return

    @contextlib.contextmanager
    def lend(self, deadline: float, tube: str | None = None) -> Iterator[PooledConnection]:
        """Check out a connection for a block; it comes back at its end, whatever happens.

        In the block its own verbs have what is left of the caller's time, too.
        """
        connection = self.acquire(deadline, tube)
        try:
            connection.timeout = max(_LEAST_TIMEOUT, deadline - time.monotonic())
            try:
                yield connection
            finally:
                connection.timeout = self._timeout
        except (ConnectionFailed, UnexpectedResponse) as error:
            self.checkin(connection, broken=error)
            raise
        except Exception:
            self.checkin(connection)
            raise
        except BaseException:
            # Between two commands it may hold what nobody will ever finish.
            self.discard(connection, "the caller was interrupted")
            raise
        self.checkin(connection)

    # Upkeep.

    def fill_places(self) -> None:
        """Give those who wait the places of connections that were collected without a word."""
        with self._lock:
            self._fill_places()

    def start_generation(self, generation: int) -> None:
        """Give up idle connections from before `generation`; those in use follow when they come back."""
        with self._lock:
            if generation <= self._generation:
                return
            self._generation = generation
            if self._kept_generation >= 0:
                self._kept_generation = generation
            idle, self._idle = self._idle, []
        for connection in idle:
            self.discard(connection, "the server was down, or restarted, since it was made")

    @property
    def keeps_nothing(self) -> bool:
        """Whether every check-out gets a new connection."""
        return self._kept_generation < 0

    def keep_nothing(self) -> None:
        """From now on give every check-out a new connection: each may lead to another server process."""
        with self._lock:
            self._kept_generation = -1
            idle, self._idle = self._idle, []
        for connection in idle:
            self.discard(connection, "its address leads to several server processes")

    def fail_waiters(self, build_error: Callable[[], BeanpoolError]) -> None:
        """Let those who wait for a connection fail now: the server is not worth waiting for."""
        with self._lock:
            queue = list(self._queue)
            self._queue.clear()
        for ticket in queue:
            ticket.error = build_error()
            ticket.wake()

    def trim(self, idle_for: float) -> None:
        """Close what has been idle for longer than this (seconds), but for the newest; spare ones much sooner."""
        now = time.monotonic()
        with self._lock:
            surplus = max(0, len(self.connections()) - self.max_connections)
            # The oldest ones are the first.
            candidates = [(c, min(idle_for, _SPARE_IDLE_FOR)) for c in self._idle[:-1][:surplus]]
            candidates += [(c, idle_for) for c in self._idle[:-1][surplus:]]
            old = []
            for connection in [c for c, longest in candidates if now - c.channel.used_at > longest]:
                # A signal handler in this thread may have taken it meanwhile.
                with contextlib.suppress(ValueError):
                    self._idle.remove(connection)
                    old.append(connection)
        for connection in old:
            self.discard(connection, "it was idle for long")

    def remove(self) -> None:
        """The server left the cluster: as :meth:`close_to_new`, but other servers can do what was wanted of it."""
        self._end(_Stage.REMOVED)

    def close_to_new(self) -> None:
        """Hand out no connection any more; unfinished jobs keep theirs."""
        self._end(_Stage.CLOSED)

    def _end(self, stage: _Stage) -> None:
        with self._lock:
            if self._stage is not _Stage.CLOSED:
                self._stage = stage
            idle, self._idle = self._idle, []
        for connection in idle:
            self.discard(connection, "the pool was closed" if stage is _Stage.CLOSED else stage.value)
        self.fail_waiters(self._ended)

    def close(self, grace: float, deadline: float) -> None:
        """Close everything. Idempotent.

        :param grace: until when commands on their way may finish (monotonic seconds).
        :param deadline: until when jobs may be finished (monotonic seconds); then the server gives them to others.
        """
        self.close_to_new()
        self.reclaim()
        busy = self._await_return(self._in_command, grace)
        for connection in busy:
            connection.interrupt()
        # Their users are done in a moment, but for one that a signal handler has interrupted to come here.
        stuck = self._await_return(
            lambda: [c for c in busy if c.channel_state is ChannelState.IN_COMMAND],
            min(deadline, time.monotonic() + _INTERRUPTED_FOR),
        )
        self._await_return(lambda: [c for c in self._standing() if c not in stuck], deadline)
        for connection in self.connections():
            if connection.channel_state is ChannelState.IN_COMMAND:
                # Its user closes it: a descriptor that is closed under a reader may be somebody else's by then.
                connection.interrupt()
            else:
                self.discard(connection, "the pool was closed")

    def _await_return(self, of: Callable[[], list[PooledConnection]], until: float) -> list[PooledConnection]:
        """Wait until there is none of these, but not past `until` (monotonic seconds); returns those that there are."""
        # Not a condition upon the lock, which would let go of it for the frame that a signal handler has interrupted.
        closer = threading.Lock()
        self._closers.append(closer)
        try:
            while True:
                closer.acquire(blocking=False)
                with self._lock:
                    found = of()
                remaining = until - time.monotonic()
                if not found or remaining <= 0:
                    return found
                closer.acquire(timeout=remaining)
        finally:
            self._closers.remove(closer)

    def _standing(self) -> list[PooledConnection]:
        # An unfinished job whose connection broke is lost already, and nobody has to finish it.
        return [c for c in self.connections() if c.channel_state is not ChannelState.CLOSED]

    def _in_command(self) -> list[PooledConnection]:
        return [c for c in self._standing() if c.channel_state is not ChannelState.IN_STEP]

    def _ended(self) -> BeanpoolError:
        if self._stage is _Stage.CLOSED:
            return PoolClosed(f"{self.server}: the pool is closed")
        return ConnectionFailed(
            f"{self.server}: not tried, the server was removed from the pool", server=self.server, phase=Phase.CLOSED
        )


def _nothing_to_reclaim() -> None:
    """For a pool on which nobody reserves jobs."""


def _newest(idle: list[PooledConnection], fits: Callable[[PooledConnection], bool]) -> PooledConnection | None:
    """Take out the newest one that fits, else the newest one; None if a signal handler has taken the last one."""
    connection = next((connection for connection in reversed(idle) if fits(connection)), None)
    if connection is not None:
        with contextlib.suppress(ValueError):
            idle.remove(connection)
            return connection
    return idle.pop() if idle else None
