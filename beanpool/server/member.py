"""One server of a cluster: its connections, and what is believed about it."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable
from typing import Protocol

from beanpool.config import Server, Settings
from beanpool.errors import BeanpoolError, CommandFailed, CommandTimeout, ConnectionFailed, Draining, Phase, describe
from beanpool.policy import (
    Failure,
    Health,
    ServerState,
    answered,
    failed,
    patience,
    refused_to_store,
    rested,
    worked,
)
from beanpool.protocol import Identity
from beanpool.runtime import Lock, is_own_limit
from beanpool.server.connection_pool import ConnectionPool
from beanpool.server.pooled_connection import PooledConnection
from beanpool.server.recovery import Recovery
from beanpool.server.reservations import InHand, Reservations
from beanpool.telemetry import Observers, Reporter, ServerStatus

_REST_AFTER_OUT_OF_MEMORY = 1.0
# How many times as long as usual a round trip may take.
_MORE_THAN_USUAL = 1.5
GONE_AFTER = 600.0
"""How long a server that was leaving is down before it is not waited for any more (seconds)."""


def classify(error: BaseException) -> Failure | None:
    """What an error says of the server; None if it says nothing (our own limits, a full pool)."""
    if isinstance(error, CommandTimeout):
        return Failure.SILENT
    if isinstance(error, ConnectionFailed):
        if is_own_limit(error) or is_own_limit(error.__cause__):
            return None
        return Failure.REFUSED if error.phase in (Phase.RESOLVING, Phase.CONNECTING) else Failure.BROKEN
    return Failure.VIOLATED


def _is_unresolved(error: BeanpoolError) -> bool:
    return isinstance(error, ConnectionFailed) and error.phase is Phase.RESOLVING


class MemberOwner(Protocol):
    """Who a member belongs to."""

    def member_changed(self, member: Member, before: Health, after: Health) -> None:
        """What is believed about a member has changed."""

    def member_doubted(self, member: Member) -> None:
        """A caller had no answer from a member, in a time that says nothing."""

    def member_starved(self, member: Member) -> None:
        """A caller waits for a connection to it."""

    def member_emptied(self, member: Member) -> None:
        """A member that was leaving can go."""


class Member:
    """A server of a cluster.

    :param owner: is told, outside of all locks, of what changes.
    :param reporter: is told of its connections and lost jobs.
    :param in_hand: the jobs of its address that the cluster has in hand.
    """

    def __init__(
        self,
        server: Server,
        settings: Settings,
        owner: MemberOwner,
        reporter: Reporter,
        in_hand: InHand | None = None,
    ) -> None:
        self.server = server
        self.name: str = server.key
        self.address: str = str(server.address)
        self.weight: float = server.weight
        self.health: Health = Health(since=time.monotonic())
        self.accepting: bool = self.weight > 0
        """Whether it gets puts."""
        self.up: bool = True
        """Whether it is up; a suspect one is not."""
        self.reply_time: float = 0.0
        """How long a reply may take, as far away as it is known to be (seconds); 0 as long as that is not known."""
        self.leaving: bool = False
        """Whether it gets no puts any more, and is only reserved from until it is empty."""
        self.duplicate_of: Member | None = None
        """Another member that is the same server process, by another name, and is used instead of this one."""
        self._settings = settings
        self._owner = owner
        self._reporter = reporter
        self.observers: Observers = reporter.observers
        """Who is told of what is done with it."""
        self._lock = Lock()
        self._left_at = self._may_go_at = math.inf
        self.pool: ConnectionPool = ConnectionPool(
            server.address,
            max_connections=settings.max_connections,
            connect_timeout=settings.connect_timeout,
            timeout=settings.timeout,
            encoding=settings.encoding,
            owner=self,
        )
        self.reservations: Reservations = Reservations(self.pool, in_hand)
        self.recovery: Recovery = Recovery(self.pool, self.reservations, reporter)
        """What its jobs can have done beyond their own connection."""

    def __repr__(self) -> str:
        return f"<Member {self.name}: {self.health.state.value}{', draining' * self.health.draining}, {self.pool!r}>"

    @property
    def down(self) -> bool:
        """Whether nothing but probes is sent to it."""
        return self.health.state is ServerState.DOWN

    @property
    def answers(self) -> bool:
        """Whether it has answered, is not down, and is used by this name."""
        health = self.health
        return health.identity is not None and health.state is not ServerState.DOWN and self.duplicate_of is None

    # What was seen of it.

    def learn(self, identity: Identity, round_trip: float) -> int:
        """A handshake or probe was answered; returns the generation that its connection is of."""
        after = self._update(lambda health, now: answered(health, identity, round_trip, now))
        # It was asked before the server went down: the connection is one from before.
        return after.generation - (after.state is ServerState.DOWN)

    def works(self, asked_at: float) -> None:
        """A command was answered that was sent then (monotonic seconds)."""
        if not self.up:
            self._update(lambda health, now: worked(health, now, asked_at))

    def report(self, error: BeanpoolError, generation: int, began: float) -> None:
        """A connection of this generation failed, in what began then (monotonic seconds)."""
        failure = classify(error)
        if failure is None or (self.up and _is_unresolved(error) and self.pool.stands()):
            # That its name is not found now says nothing of a server that is in use.
            return
        if isinstance(error, CommandTimeout) and error.waited is not None and error.waited < self.patience:
            # Its caller had no time for a round trip. Whether there is more to it is found out by who has.
            self.doubt()
            return
        after = self._update(
            lambda health, now: failed(
                health,
                failure,
                describe(error),
                generation,
                began,
                now,
                longest=2 * self._settings.health_interval,
                jitter=random.random(),
            )
        )
        if after.state is ServerState.UP and generation == after.generation:
            # It began before the server came back. Whether there is more to it is found out now.
            self.doubt()

    def doubt(self) -> None:
        """Have it checked soon."""
        self._owner.member_doubted(self)

    @property
    def patience(self) -> float:
        """How long it must be silent for that to say something of it (seconds)."""
        return patience(self.health, self._settings.timeout)

    def fair_time(self, round_trips: int) -> float:
        """How long it may take to answer so often, being as far away as it is known to be (seconds)."""
        return round_trips * self.reply_time

    def starved(self) -> None:
        """A caller waits for a connection."""
        self._owner.member_starved(self)

    def connected(self, seconds: float, error: Exception | None) -> None:
        """An attempt to connect has ended."""
        if self.observers.active:
            self.observers.connected(self.address, seconds, error)

    def tell_of_shortage(self, now: float) -> None:
        """Have it said once if callers go short of connections; called now and then (monotonic seconds)."""
        demand = self.pool.queue.shortage(now, self.pool.returns)
        if demand is not None:
            self._reporter.connections_short(
                self.address, self.name, demand.limit, demand.held_by_jobs, demand.wanted, demand.advised
            )

    def opened(self, connection: PooledConnection) -> None:
        """A connection stands."""
        self.reservations.opened(connection)
        self._reporter.connection_opened(self.address, connection.instance)

    def closed(self, connection: PooledConnection, because: str) -> None:
        """A connection that stood was given up."""
        self._reporter.connection_closed(self.address, because)

    def refused(self, error: CommandFailed) -> None:
        """It refused a put with ``DRAINING`` or ``OUT_OF_MEMORY``."""
        self._update(
            lambda health, now: refused_to_store(
                health,
                draining=isinstance(error, Draining),
                until=now + _REST_AFTER_OUT_OF_MEMORY * (1 + random.random()),
                error=describe(error),
            )
        )

    def wake_up(self, now: float) -> None:
        """Give it puts again when its rest is over."""
        rests_until = self.health.rests_until
        if rests_until and now >= rests_until:
            self._update(rested)

    # Its end, where it is not removed at once.

    def leave(self, drain_for: float) -> None:
        """Take no puts any more, and leave once it is empty.

        :param drain_for: how long it is reserved from in any case (seconds).
        """
        now = time.monotonic()
        # A put that had chosen it, and has not begun yet, has begun by then, or was given up.
        self._leave(now, now + max(drain_for, self._settings.timeout))

    def leave_as(self, other: Member) -> None:
        """Be called as another member of the same server, which is leaving, and leave when it does."""
        self.name = other.name
        self._leave(other._left_at, other._may_go_at)

    def _leave(self, left_at: float, may_go_at: float) -> None:
        self.leaving, self.weight = True, 0
        self._left_at, self._may_go_at = left_at, may_go_at
        self._update(lambda health, _: health)

    def stay(self, server: Server) -> None:
        """Be an ordinary member, or one again, with the name and the weight that `server` has now."""
        self.server, self.name = server, server.key
        self.leaving, self.weight = False, server.weight
        self._update(lambda health, _: health)

    def may_be_empty(self, now: float) -> bool:
        """Whether a check that begins now tells whether it can go: no command of this pool may store a job there."""
        return self.leaving and now >= self._may_go_at and not self.pool.in_commands()

    def is_gone(self, now: float) -> bool:
        """Whether it is leaving, and there is nothing to wait for: it is down for long, or used by another name."""
        if not self.leaving or now < self._may_go_at:
            return False
        return self.duplicate_of is not None or (
            self.down and now - max(self.health.since, self._left_at) >= GONE_AFTER
        )

    def emptied(self) -> None:
        """It can go."""
        self._owner.member_emptied(self)

    @property
    def instance(self) -> str:
        """The id of the server process; empty while it is not known."""
        identity = self.health.identity
        return identity.instance if identity is not None else ""

    def set_duplicate_of(self, other: Member | None) -> None:
        """Use another member instead of this one, or no longer."""
        self.duplicate_of = other
        self._update(lambda health, _: health)

    def _update(self, change: Callable[[Health, float], Health]) -> Health:
        with self._lock:
            while True:
                before = self.health
                after = change(before, time.monotonic())
                # A signal handler in this thread may have changed it meanwhile.
                if self.health is before:
                    self.health = after
                    break
            self.up = self.health.state is ServerState.UP
            self.reply_time = _MORE_THAN_USUAL * self.health.usual
            self.accepting = self._accepts()
        if after.alternates and not before.alternates:
            self.pool.pruning.keep_nothing()
        if after.generation != before.generation:
            self.pool.pruning.start_generation(after.generation)
        if after.state is not ServerState.UP and before.state is ServerState.UP:
            self.pool.queue.fail(self._not_worth_waiting)
        if after is not before:
            self._owner.member_changed(self, before, after)
        return after

    def _accepts(self) -> bool:
        health = self.health
        return (
            health.state is not ServerState.DOWN
            and not health.draining
            and not health.rests_until
            and self.weight > 0
            and not self.leaving
            and self.duplicate_of is None
        )

    def _not_worth_waiting(self) -> ConnectionFailed:
        return self.unusable("given up while waiting for a connection")

    def unusable(self, what: str = "not tried") -> ConnectionFailed:
        """The error of a command that was not sent because of the state that the server is in."""
        health, used = self.health, self.duplicate_of
        if used is not None:
            return ConnectionFailed(
                f"{self.address}: {what}, it is the same server process as {used.address}, which is used instead",
                server=self.address,
                phase=Phase.CLOSED,
            )
        traits = ", draining" * health.draining
        if self.leaving:
            traits += ", leaving the pool"
        elif not self.weight:
            traits += ", with weight 0"
        return ConnectionFailed(
            f"{self.address}: {what}, the server is {health.state.value}{traits} "
            f"({health.last_error or 'no error yet'})",
            server=self.address,
            phase=Phase.CLOSED,
        )

    def stats(self) -> dict[str, int]:
        """What was counted of it, how its pool is filled, and how many jobs of it are in hand."""
        return {**self.pool.stats(), "in_hand": self.reservations.in_hand.count}

    def status(self) -> ServerStatus:
        """A snapshot for users."""
        health = self.health
        opened, idle = self.pool.counts()
        identity = health.identity
        return ServerStatus(
            address=self.address,
            name=self.name,
            weight=self.weight,
            state=health.state.value,
            draining=health.draining,
            leaving=self.leaving,
            instance=identity.instance if identity else None,
            version=identity.version if identity else None,
            round_trip=health.round_trip,
            last_error=health.last_error,
            since=time.monotonic() - health.since,
            open=opened,
            idle=idle,
            leased=opened - idle,
        )
