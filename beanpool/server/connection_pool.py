"""The connections of one server: exclusive check-out, bounded, fair, newest idle one first."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence

from beanpool.errors import (
    BeanpoolError,
    CommandTimeout,
    ConnectionFailed,
    Phase,
    PoolClosed,
    UnexpectedResponse,
)
from beanpool.net import Address, Channel, ChannelState
from beanpool.runtime import Lock, refuse_within
from beanpool.server.places import Places, Stage
from beanpool.server.pool_closing import INTERRUPTED_FOR, PoolClosing
from beanpool.server.pool_counters import PoolCounters
from beanpool.server.pool_owner import PoolOwner
from beanpool.server.pool_pruning import PoolPruning
from beanpool.server.pool_queue import PoolQueue
from beanpool.server.pooled_connection import PooledConnection
from beanpool.server.ticket import Ticket

_TRUSTED_IDLE_SECONDS = 0.01
_SHORTEST_TURN = 0.0001
# How many round trips a new connection takes: to connect, and to learn who the server is.
_TO_OPEN = 2

# Without a look into the class for every call.
_IN_STEP = ChannelState.IN_STEP
_OPEN = Stage.OPEN
_monotonic = time.monotonic


class ConnectionPool:
    """The connections of one server.

    :param max_connections: see :class:`Places`.
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
        self.reclaim: Callable[[], None] = _nothing_to_reclaim
        """Gives back what was dropped while it held connections: called before a caller is let wait for one."""
        self.returns = 0
        """How often a connection came back in good order."""
        self.connect_timeout = connect_timeout
        self.encoding = encoding
        self._timeout = timeout
        self._owner = owner
        self.counters: PoolCounters = PoolCounters()
        # With every call: without a call.
        self._requests = 0
        self._lock = Lock()
        # Changed under the lock only.
        self.places = Places(max_connections, self.probe_connection)
        self.queue: PoolQueue = PoolQueue(
            self.server,
            self._lock,
            self.places,
            self.counters.rare,
            starved=owner.starved,
            checkin=self.checkin,
            ended=self._ended,
        )
        self.pruning: PoolPruning = PoolPruning(self._lock, self.places, self.discard)
        self.closing: PoolClosing = PoolClosing(self.places.connections, self.discard)

    def __repr__(self) -> str:
        opened, idle = self.counts()
        stage = "" if self.places.stage is _OPEN else f", {self.places.stage.value}"
        return f"<ConnectionPool of {self.server}: {opened} of {self.places.limit} open, {idle} idle{stage}>"

    def counts(self) -> tuple[int, int]:
        """How many connections are open (or being opened), and how many of them are idle."""
        return len(self.places.connections()), len(self.places.idle)

    @property
    def is_open(self) -> bool:
        """Whether it hands out connections: neither closed, nor its server removed."""
        return self.places.stage is _OPEN

    def in_commands(self) -> bool:
        """Whether a command is under way, or may be: a connection is in use that was not checked out for a reserve."""
        with self._lock:
            idle = self.places.idle
            connections = self.places.connections()
            return any(c.lent or not (c.may_hold_jobs or c.jobs or c in idle) for c in connections)

    def full_of_jobs(self) -> bool:
        """Whether all connections that a reserve may have are held by unfinished jobs."""
        return self.places.held_by_jobs() >= self.places.limit

    def stands(self) -> bool:
        """Whether there is a connection to the server, as far as is known."""
        generation = self.places.generation
        return any(c.instance and not c.closed and c.generation == generation for c in self.places.connections())

    @property
    def max_connections(self) -> int:
        """How many there may be; while jobs hold some of them, a few more."""
        return self.places.limit

    @property
    def is_full(self) -> bool:
        """Whether a command would have to wait for others: a reserve that only waits for jobs gives way to it."""
        places = self.places
        return not (places.idle or places.has_room() or places.would_give_way())

    def wait_ahead(self, turn: float) -> float:
        """How long a command may have to wait for a connection, where each use takes so long (seconds)."""
        return (len(self.places.queue) + 1) * max(turn, _SHORTEST_TURN) / self.places.limit if self.is_full else 0.0

    def stats(self) -> dict[str, int]:
        """The pool's counters, and how it is filled now."""
        opened, idle = self.counts()
        return {
            "pool_max": self.places.limit,
            "pool_size": opened,
            "pool_available": idle,
            "requests_waiting": len(self.places.queue),
            **self.counted(),
        }

    def counted(self) -> dict[str, int]:
        """The pool's counters."""
        return {"requests_num": self._requests, **self.counters.snapshot()}

    def opened(self, connection: PooledConnection) -> None:
        """A connection stands."""
        made_at, connection.made_at = connection.made_at, None
        # A server that does not say who it is shakes hands anew with every check.
        if made_at is not None:
            self.counters.rare.add("connections_num")
            self._note_connect(made_at, None)
        self._owner.opened(connection)

    def _note_connect(self, since: float, error: Exception | None) -> None:
        seconds = _monotonic() - since
        self.counters.rare.add("connections_ms", round(seconds * 1000))
        self._owner.connected(seconds, error)

    # Check-out.

    def acquire(
        self, deadline: float, tube: str | None = None, longest: float = 0.0, wait: bool = True
    ) -> PooledConnection:
        """Check out an open connection, preferably one that uses `tube`. Give it to :meth:`checkin`.

        It is for commands: who reserves a job on it and keeps that takes what others need to finish theirs.

        :param longest: a later deadline, for a new connection to a server that is known to be far away.
        :param wait: whether to wait where all are in use, and not only for a reserve to give way.
        :raises PoolTimeout: if none became free before `deadline` (monotonic seconds).
        :raises PoolClosed: if the pool is closed.
        :raises ConnectionFailed: if a new one was needed and could not be made, or the server was removed.
        """
        with self._lock:
            self._requests += 1
            idle = self.places.idle
            # What nearly every call finds. While something is idle nobody waits, and the pool is open.
            connection = idle.pop() if idle and (tube is None or idle[-1].used == tube) else None
        if connection is not None:
            channel = connection.opened_channel
            if (
                channel is not None
                and connection.generation == self.places.generation
                and _monotonic() - channel.used_at <= _TRUSTED_IDLE_SECONDS
            ):
                return connection
        return self._find(connection, deadline, tube, longest, wait)

    def _find(
        self, connection: PooledConnection | None, deadline: float, tube: str | None, longest: float, wait: bool
    ) -> PooledConnection:
        while True:
            if connection is None:
                connection = self._check_out(tube)
            if connection is None and (wait or not self.is_full):
                connection = self.queue.wait(deadline)
            if connection is None:
                raise self.queue.exhausted()
            if self._is_usable(connection, deadline, longest):
                return connection
            connection = None

    def _is_usable(self, connection: PooledConnection, deadline: float, longest: float = 0.0) -> bool:
        try:
            return self._is_alive(connection) or self._make_ready(connection, deadline, longest)
        except BaseException as error:
            if isinstance(error, UnexpectedResponse):
                # It was the handshake that failed: what the caller wants to send was not sent.
                error.may_have_taken_effect = False
            self.checkin(connection, broken=error)
            raise

    def acquire_for_long(self, deadline: float, tubes: tuple[str, ...]) -> PooledConnection:
        """As :meth:`acquire`, for who keeps the connection and may need another one meanwhile, or reserve jobs on it.

        Until it is given to :meth:`checkin`, it counts as one that is held by a job: commands may have one more.

        :param tubes: those that it is to watch, if that can be chosen.
        """
        while True:
            connection = self.try_acquire(tubes) or self.queue.wait(deadline, for_jobs=True)
            if connection is None:
                raise self.queue.exhausted()
            connection.lent = True
            if self._is_usable(connection, deadline):
                return connection

    def try_acquire(self, tubes: tuple[str, ...]) -> PooledConnection | None:
        """Check out a connection for a reserve of `tubes`, if that takes no waiting.

        :returns: an idle one, or a new one that is still closed; None if all are in use, or the server was removed.
        :raises PoolClosed: if the pool is closed.
        """
        with self._lock:
            self._requests += 1
            idle = self.places.idle
            connection = None
            if idle and idle[-1].watched == tubes and len(self.places.taken) <= self.places.limit:
                connection = idle.pop()
                connection.may_hold_jobs = True
        if connection is not None and self._is_alive(connection):
            return connection
        if connection is not None:
            self.discard(connection)
        return self._take(lambda: self._check_out_for_jobs(tubes))

    def try_acquire_for_command(self, tube: str | None = None) -> PooledConnection | None:
        """As :meth:`try_acquire`, for commands of who waits for other servers as well: one that uses `tube`, if any.

        :raises ConnectionFailed: if the server was removed.
        """
        with self._lock:
            self._requests += 1
        return self._take(lambda: self._check_out(tube))

    def _take(self, check_out: Callable[[], PooledConnection | None]) -> PooledConnection | None:
        """One that is alive, or still closed; None if none is to be had."""
        while True:
            connection = check_out()
            if connection is None or connection.opened_channel is None or self._is_alive(connection):
                return connection
            self.discard(connection)

    def _check_out(self, tube: str | None) -> PooledConnection | None:
        # What is idle and fits goes out without this: no interrupt comes between the look and the pop.
        refuse_within(self._lock, f"a command to {self.server}")
        self._make_room()
        with self._lock:
            if self.places.stage is not _OPEN:
                raise self._ended()
            return None if self.places.others_come_first() else self.places.take(tube)

    def _check_out_for_jobs(self, tubes: tuple[str, ...]) -> PooledConnection | None:
        refuse_within(self._lock, f"a command to {self.server}")
        self._make_room()
        with self._lock:
            places = self.places
            if places.stage is Stage.CLOSED:
                raise self._ended()
            if places.queue or places.stage is not _OPEN:
                return None
            if not places.may_hold_more_jobs():
                self.queue.refuse()
                return None
            return places.take_for_jobs(tubes)

    def _make_room(self) -> None:
        """Before somebody has to wait, or has one connection too many."""
        if len(self.places.taken) >= self.places.limit:
            self.reclaim()

    def probe_connection(self) -> PooledConnection:
        """A connection that does not count and is not kept: for probes while all others are in use."""
        connection = PooledConnection(
            self.address,
            connect_timeout=self.connect_timeout,
            timeout=self._timeout,
            encoding=self.encoding,
            generation=self.places.generation,
            learn=self._owner.learn,
            opened=self.opened,
        )
        self.counters.watch(connection)
        return connection

    # For who waits for more than one server.

    def queue_up(self, ticket: Ticket) -> None:
        """Queue for a connection, behind all who wait, without waiting for it: see :meth:`collect`.

        :raises PoolClosed: if the pool is closed.
        :raises ConnectionFailed: if the server was removed.
        """
        refuse_within(self._lock, f"a command to {self.server}")
        self.queue.join(ticket)

    def collect(self, ticket: Ticket) -> PooledConnection | None:
        """The connection that a ticket has got, as :meth:`try_acquire` gives it; None if it has none that is of use.

        :raises BeanpoolError: if those who wait were told to fail.
        """
        if ticket.error is not None:
            raise ticket.error
        connection = ticket.connection
        if connection is None or connection.opened_channel is None or self._is_alive(connection):
            return connection
        self.discard(connection)
        return None

    def _make_ready(self, connection: PooledConnection, deadline: float, longest: float) -> bool:
        if connection.channel_state is None:
            started = time.monotonic()
            until = max(deadline, min(longest, started + self._owner.fair_time(_TO_OPEN)))
            try:
                connection.open(until)
            except CommandTimeout as error:
                error.waited = max(0.0, min(until, time.monotonic()) - started)
                raise
            return True
        self.discard(connection)
        return False

    def _is_alive(self, connection: PooledConnection) -> bool:
        # The server may have gone, or sent something unasked, while nobody looked.
        channel = connection.opened_channel
        return (
            channel is not None
            and connection.generation == self.places.generation
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
            places = self.places
            if (
                connection.counted
                and connection.generation == places.kept_generation
                and places.stage is _OPEN
                and not (places.shrinking and places.has_too_many())
            ):
                connection.may_hold_jobs = False
                if not places.queue or not places.serve(connection):
                    places.idle.append(connection)
                return
        self.discard(connection)

    def discard(self, connection: PooledConnection, because: str = "the pool gave it up") -> None:
        """Close a connection for good; its place is free for another."""
        connection.drop(because)
        self._free_place(connection, because)

    def _free_place(self, connection: PooledConnection, because: str = "its reserve was cancelled") -> None:
        """Free the place of a connection that somebody else closes. Idempotent."""
        with self._lock:
            known = self.places.free(connection)
        self.closing.given_up()
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
        stood = bool(connection.instance)
        self.counters.rare.add("returns_bad", stood)
        self.counters.rare.add("connections_lost" if stood else "connections_errors")
        self.discard(connection, str(error) if isinstance(error, BeanpoolError) else type(error).__name__)
        if connection.made_at is not None and isinstance(error, Exception):
            self._note_connect(connection.made_at, error)
        if isinstance(error, CommandTimeout) and error.waited is None and connection.opened_channel is not None:
            error.waited = time.monotonic() - connection.opened_channel.used_at
        if isinstance(error, ConnectionFailed | UnexpectedResponse):
            made_at = connection.made_at
            began = channel.used_at if made_at is None and channel is not None else made_at or 0.0
            self._owner.report(error, connection.generation, began)

    @contextlib.contextmanager
    def lend(self, deadline: float, tube: str | None = None) -> Iterator[PooledConnection]:
        """Check out a connection for a block; it comes back at its end, whatever happens."""
        connection = self.acquire(deadline, tube)
        try:
            yield connection
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

    # The end.

    def remove(self) -> None:
        """The server left the cluster: as :meth:`close_to_new`, but other servers can do what was wanted of it."""
        self._end(Stage.REMOVED)

    def close_to_new(self) -> None:
        """Hand out no connection any more; unfinished jobs keep theirs."""
        self._end(Stage.CLOSED)

    def _end(self, stage: Stage) -> None:
        with self._lock:
            if self.places.stage is not Stage.CLOSED:
                self.places.stage = stage
            idle = self.places.empty()
        for connection in idle:
            self.discard(connection, "the pool was closed" if stage is Stage.CLOSED else stage.value)
        self.queue.fail(self._ended)

    def close(self, grace: float, deadline: float) -> None:
        """Close everything. Idempotent.

        :param grace: until when commands on their way may finish (monotonic seconds).
        :param deadline: until when jobs may be finished (monotonic seconds); then the server gives them to others.
        """
        close_all([(self, grace)], deadline)

    def _ended(self) -> BeanpoolError:
        if self.places.stage is Stage.CLOSED:
            return PoolClosed(f"{self.server}: the pool is closed")
        return ConnectionFailed(
            f"{self.server}: not tried, the server was removed from the pool", server=self.server, phase=Phase.CLOSED
        )


def _nothing_to_reclaim() -> None:
    """For a pool on which nobody reserves jobs."""


def close_all(pools: Sequence[tuple[ConnectionPool, float]], deadline: float) -> None:
    """Close several pools: what one has to be waited for is no reason to begin later with another.

    :param pools: each with the time until which commands on their way may finish (monotonic seconds).
    :param deadline: until when jobs may be finished (monotonic seconds); then the servers give them to others.
    """
    for pool, _ in pools:
        pool.close_to_new()
    for pool, _ in pools:
        pool.reclaim()
    for pool, grace in sorted(pools, key=lambda entry: entry[1]):
        pool.closing.end_commands(min(grace, deadline))
    soon = min(deadline, _monotonic() + INTERRUPTED_FOR)
    for pool, _ in pools:
        pool.closing.await_interrupted(soon)
    for pool, _ in pools:
        pool.closing.close(deadline)
