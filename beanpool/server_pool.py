"""The connections of one server: exclusive check-out, bounded, fair, newest idle one first."""

from __future__ import annotations

import collections
import contextlib
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Protocol

from beanpool.address import Address
from beanpool.channel import Channel, ChannelState
from beanpool.errors import BeanpoolError, CommandTimeout, ConnectionFailed, PoolClosed, PoolTimeout, UnexpectedResponse
from beanpool.in_hand import InHand
from beanpool.lease import JobRef, Lease
from beanpool.locks import Lock, refuse_within
from beanpool.pooled_connection import PooledConnection
from beanpool.protocol.identity import Identity

_TRUSTED_IDLE_SECONDS = 0.01
_LEAST_TIMEOUT = 0.001
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


class _Ticket:
    """A thread's place in the queue for a connection."""

    __slots__ = ("connection", "error", "signal")

    def __init__(self) -> None:
        self.signal = threading.Lock()
        self.signal.acquire()
        self.connection: PooledConnection | None = None
        self.error: BeanpoolError | None = None


class ServerPool:
    """The connections of one server.

    A connection counts against `max_connections` for as long as its object exists and is not given up, so one that
    is lost to an interrupt at whatever line frees its place when it is collected.

    :param owner: is told of what the pool sees of the server.
    :param in_hand: the jobs in hand of this address, where others know of them too.
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
        in_hand: InHand | None = None,
    ) -> None:
        self.address = address
        self.server = str(address)
        self.max_connections = max_connections
        self.abandoned: collections.deque[JobRef] = collections.deque()
        """Jobs that were dropped unfinished; appended to by finalizers, without the lock."""
        self.bereaved: collections.deque[Lease] = collections.deque()
        """Leases of which some jobs were dropped unfinished, and others were not."""
        self.in_hand = in_hand if in_hand is not None else InHand()
        """Its jobs in hand, by id."""
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
        self._closed = False
        self._wanted: Callable[[], None] | None = None
        self._idle: list[PooledConnection] = []
        self._connections: weakref.WeakSet[PooledConnection] = weakref.WeakSet()
        self._queue: collections.deque[_Ticket] = collections.deque()
        self._lock = Lock()
        # Of those who wait until others have given back what they use.
        self._closers: collections.deque[threading.Lock] = collections.deque()

    def __repr__(self) -> str:
        opened, idle = self.counts()
        closed = ", closed" if self._closed else ""
        return f"<ServerPool of {self.server}: {opened} of {self.max_connections} open, {idle} idle{closed}>"

    def counts(self) -> tuple[int, int]:
        """How many connections are open (or being opened), and how many of them are idle."""
        with self._lock:
            return len(self._connections), len(self._idle)

    def full_of_jobs(self) -> bool:
        """Whether all connections that there may be are held by unfinished jobs."""
        with self._lock:
            connections = list(self._connections)
        # Outside of the lock: a job that goes away here leaves a note.
        return sum(connection.holds_jobs for connection in connections) >= self.max_connections

    @property
    def contended(self) -> bool:
        """Whether callers wait for a connection."""
        return bool(self._queue)

    def stats(self) -> dict[str, int]:
        """The pool's counters, and how it is filled now."""
        with self._lock:
            return {
                "pool_max": self.max_connections,
                "pool_size": len(self._connections),
                "pool_available": len(self._idle),
                "requests_waiting": len(self._queue),
                **self._counts,
                "requests_num": self._requests,
            }

    def opened(self, connection: PooledConnection) -> None:
        """A connection stands."""
        connection.in_hand = self.in_hand.of(connection.instance)
        with self._lock:
            self._counts["connections_num"] += 1
        self._owner.opened(connection)

    # Check-out.

    def acquire(self, deadline: float, tube: str | None = None) -> PooledConnection:
        """Check out an open connection, preferably one that uses `tube`. Give it to :meth:`release` or :meth:`broke`.

        :raises PoolTimeout: if none became free before `deadline` (monotonic seconds).
        :raises PoolClosed: if the pool is closed.
        :raises ConnectionFailed: if a new one was needed and could not be made.
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
                connection = self._check_out(tube, None)
            if connection is None:
                connection = self._await_turn(deadline)
            try:
                if self._is_alive(connection) or self._make_ready(connection, deadline):
                    return connection
            except BaseException as error:
                if isinstance(error, UnexpectedResponse):
                    # It was the handshake that failed: what the caller wants to send was not sent.
                    error.may_have_taken_effect = False
                self.broke(connection, error)
                raise
            connection = None

    def acquire_now(self, tubes: tuple[str, ...]) -> PooledConnection | None:
        """Check out a connection for a reserve of `tubes`, if that takes no waiting.

        :returns: an idle one, or a new one that is still closed; None if all are in use.
        """
        with self._lock:
            self._requests += 1
            idle = self._idle
            connection = idle.pop() if idle and idle[-1].watched == tubes else None
        while True:
            if connection is None:
                connection = self._check_out(None, tubes)
            if connection is None or connection.opened_channel is None or self._is_alive(connection):
                return connection
            self.discard(connection)
            connection = None

    def _check_out(self, tube: str | None, tubes: tuple[str, ...] | None) -> PooledConnection | None:
        # What is idle and fits goes out without this: no interrupt comes between the look and the pop.
        refuse_within(self._lock, f"a command to {self.server}")
        with self._lock:
            if self._closed:
                raise self._closed_error()
            if self._queue:
                return None
            idle = self._idle
            if not idle:
                return self._add()
            if tube is not None and idle[-1].used != tube:
                return _newest(idle, lambda connection: connection.used == tube)
            if tubes is not None:
                return _newest(idle, lambda connection: connection.watches_only(tubes))
            return idle.pop()

    def _add(self) -> PooledConnection | None:
        if len(self._connections) >= self.max_connections:
            return None
        connection = self.extra()
        self._connections.add(connection)
        connection.counted = True
        return connection

    def extra(self) -> PooledConnection:
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
        ticket = _Ticket()
        self.collect_abandoned()
        started = time.monotonic()
        # From before the ticket is in the queue: an interrupt must not leave one there that nobody holds.
        try:
            with self._lock:
                if self._closed:
                    raise self._closed_error()
                # What came free between the first look and now.
                connection = None
                if not self._queue:
                    connection = self._idle.pop() if self._idle else self._add()
                if connection is not None:
                    return connection
                self._queue.append(ticket)
                self._counts["requests_queued"] += 1
            self._owner.starved()
            ticket.signal.acquire(timeout=max(0.0, deadline - started))
        except BaseException:
            connection = self._leave_queue(ticket, started)
            if connection is not None:
                self.release(connection)
            raise
        connection = self._leave_queue(ticket, started)
        if connection is not None:
            return connection
        if ticket.error is not None:
            raise ticket.error
        raise self.exhausted()

    def _leave_queue(self, ticket: _Ticket, since: float) -> PooledConnection | None:
        with self._lock:
            with contextlib.suppress(ValueError):
                self._queue.remove(ticket)
            self._counts["requests_wait_ms"] += round((time.monotonic() - since) * 1000)
            self._counts["requests_errors"] += ticket.connection is None
            return ticket.connection

    def exhausted(self) -> PoolTimeout:
        """The error of a caller for whom no connection became free."""
        opened, _ = self.counts()
        return PoolTimeout(
            f"{self.server}: no connection became free in time; {opened} of {self.max_connections} are in use by calls "
            "or by unfinished jobs. Finish jobs, or raise max_connections"
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

    def release(self, connection: PooledConnection) -> None:
        """Take a connection back: into the hands of whoever waits longest, else to the idle ones."""
        channel = connection.opened_channel
        if channel is None or channel.state is not _IN_STEP:
            self.discard(connection)
            return
        with self._lock:
            self.returns += 1
            keep = connection.counted and connection.generation == self._kept_generation and not self._closed
            if keep:
                if self._queue:
                    self._serve(connection)
                else:
                    self._idle.append(connection)
                if self._wanted is None:
                    return
                wanted, self._wanted = self._wanted, None
        if keep:
            wanted()
        else:
            self.discard(connection)

    def discard(self, connection: PooledConnection, because: str = "the pool gave it up") -> None:
        """Close a connection for good; its place is free for another."""
        connection.drop(because)
        self.forget(connection, because)

    def forget(self, connection: PooledConnection, because: str = "its reserve was cancelled") -> None:
        """Free the place of a connection that somebody else closes. Idempotent."""
        with self._lock:
            known, connection.counted = connection.counted, False
            self._connections.discard(connection)
            if self._queue and not self._closed:
                replacement = self._add()
                if replacement is not None:
                    self._serve(replacement)
            wanted, self._wanted = self._wanted, None
        if wanted is not None:
            wanted()
        for closer in list(self._closers):
            with contextlib.suppress(RuntimeError):
                closer.release()
        if known and connection.instance:
            self._owner.closed(connection, because)

    def cancel(self, connection: PooledConnection) -> Channel | None:
        """Take back a connection whose reserve nobody waits for any more.

        :returns: if its reserve was still under way, the half-closed channel, to be read to its end: the server takes
            back by itself what raced in.
        """
        if not connection.waiting:
            self.release(connection)
            return None
        channel = connection.half_close()
        self.forget(connection)
        return channel

    def broke(self, connection: PooledConnection, error: BaseException) -> None:
        """Give up a connection that failed, and report the error if it says something of the server."""
        if isinstance(error, CommandTimeout) and connection.channel_state is ChannelState.IN_STEP:
            # Nothing was sent: the caller's time was up, after waiting for its turn. The server has done nothing.
            self.release(connection)
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

    def _serve(self, connection: PooledConnection) -> None:
        ticket = self._queue.popleft()
        ticket.connection = connection
        ticket.signal.release()

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
            self.broke(connection, error)
            raise
        except Exception:
            self.release(connection)
            raise
        except BaseException:
            # Between two commands it may hold what nobody will ever finish.
            self.discard(connection, "the caller was interrupted")
            raise
        self.release(connection)

    def want(self, notify: Callable[[], None]) -> None:
        """Call `notify`, once, as soon as a connection may be free."""
        with self._lock:
            self._wanted = notify

    # Upkeep.

    def collect_abandoned(self) -> None:
        """Give back the jobs that were dropped unfinished: close their connection, if it has no others in hand.

        If it has, closing would take those away: such a lease is left in :attr:`bereaved`.
        """
        notes = list(self.abandoned)
        for lease in dict.fromkeys(note.lease for note in notes):
            if not lease.dropped():
                # Given back already, together with others.
                continue
            if not lease.deserted:
                self.bereaved.append(lease)
            elif lease.connection.guard.locked():
                # Some of its jobs are just being given back, and who does that closes it: see giving_back.py.
                self.bereaved.append(lease)
                lease.connection.interrupt()
            else:
                lease.scrap("its job was dropped unfinished")
        # Last: an interrupt must leave no job of which nobody knows any more.
        for note in notes:
            with contextlib.suppress(ValueError):
                self.abandoned.remove(note)

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

    def turn_away(self, build_error: Callable[[], BeanpoolError]) -> None:
        """Let those who wait for a connection fail now: the server is not worth waiting for."""
        with self._lock:
            queue = list(self._queue)
            self._queue.clear()
        for ticket in queue:
            ticket.error = build_error()
            ticket.signal.release()

    def trim(self, idle_for: float) -> None:
        """Close what has been idle for longer than this (seconds), but for the newest."""
        now = time.monotonic()
        with self._lock:
            old = []
            for connection in [c for c in self._idle[:-1] if now - c.channel.used_at > idle_for]:
                # A signal handler in this thread may have taken it meanwhile.
                with contextlib.suppress(ValueError):
                    self._idle.remove(connection)
                    old.append(connection)
        for connection in old:
            self.discard(connection, "it was idle for long")

    def retire(self) -> None:
        """Hand out no connection any more; unfinished jobs keep theirs."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for connection in idle:
            self.discard(connection, "the pool was closed")
        self.turn_away(self._closed_error)

    def close(self, grace: float, deadline: float) -> None:
        """Close everything. Idempotent.

        :param grace: until when commands on their way may finish (monotonic seconds).
        :param deadline: until when jobs may be finished (monotonic seconds); then the server gives them to others.
        """
        self.retire()
        self.collect_abandoned()
        busy = self._await_return(self._in_command, grace)
        for connection in busy:
            connection.interrupt()
        # Their users are done in a moment, but for one that a signal handler has interrupted to come here.
        stuck = self._await_return(
            lambda: [c for c in busy if c.channel_state is ChannelState.IN_COMMAND],
            min(deadline, time.monotonic() + _INTERRUPTED_FOR),
        )
        self._await_return(lambda: [c for c in self._standing() if c not in stuck], deadline)
        with self._lock:
            left = list(self._connections)
        for connection in left:
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
        return [c for c in self._connections if c.channel_state is not ChannelState.CLOSED]

    def _in_command(self) -> list[PooledConnection]:
        return [c for c in self._standing() if c.channel_state is not ChannelState.IN_STEP]

    def _closed_error(self) -> PoolClosed:
        return PoolClosed(f"{self.server}: the pool is closed")


def _newest(idle: list[PooledConnection], fits: Callable[[PooledConnection], bool]) -> PooledConnection | None:
    """Take out the newest one that fits, else the newest one; None if a signal handler has taken the last one."""
    connection = next((connection for connection in reversed(idle) if fits(connection)), None)
    if connection is not None:
        with contextlib.suppress(ValueError):
            idle.remove(connection)
            return connection
    return idle.pop() if idle else None
