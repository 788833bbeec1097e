"""The servers of a pool: who they are, what becomes of them, and the life of the threads that watch them."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import operator
import os
import time
import warnings
import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from beanpool.cluster.availability import Availability
from beanpool.cluster.background import BackgroundExecutor
from beanpool.cluster.keeper import Keeper, Keeping
from beanpool.cluster.membership import plan_change
from beanpool.cluster.monitor import Monitor
from beanpool.cluster.topology import Topology, duplicates
from beanpool.config import AnyServer, Server, Settings, check_distinct, parse_servers
from beanpool.connection import Job
from beanpool.errors import PoolClosed
from beanpool.policy import Health, ServerState
from beanpool.runtime import Lock, ReentrantEvent, refuse_within
from beanpool.server import InHand, Member, PoolCounters, close_all
from beanpool.telemetry import Reporter, total
from beanpool.validation import check_seconds

if TYPE_CHECKING:
    from beanpool.cluster.discovery import DiscoveryThread
    from beanpool.discovery import Discovery

# How long commands that are on their way may take at least when the pool closes (seconds).
CLOSE_GRACE = 0.25

# Every count is there from the start, whether there is a server or not.
_FILLING = ("pool_max", "pool_size", "pool_available", "requests_waiting", "requests_num")
_NOTHING_COUNTED = {**dict.fromkeys(_FILLING, 0), **PoolCounters().snapshot()}

_numbers = itertools.count(1)
_clusters: weakref.WeakSet[Cluster] = weakref.WeakSet()


class Cluster:
    """The servers of a pool, and who watches them.

    :attr:`on_change` is called when other servers are to be used than before, :attr:`on_starved` when a caller waits
    for a connection to one of them; both outside of all locks.

    :param servers: those that there are at first.
    :param discovery: finds out which there are; None if somebody else says so.
    """

    def __init__(self, servers: tuple[Server, ...], settings: Settings, discovery: Discovery | None = None) -> None:
        self._settings = settings
        self._discovery = discovery
        # Those that were set by hand since the servers were last named by hand, by the servers' keys.
        self._weights_set: dict[str, float] = {}
        self.timeout: float = settings.timeout
        self.name: str = settings.name or f"pool-{next(_numbers)}"
        self.reporter: Reporter = Reporter(self.name)
        # Not a lambda: every reserve asks for it.
        self.current: Callable[[], Topology] = functools.partial(operator.attrgetter("topology"), self)
        """Returns the current topology."""
        self._begin(servers)
        _clusters.add(self)

    def _begin(self, servers: tuple[Server, ...]) -> None:
        self._lock = Lock()
        self.closing: ReentrantEvent = ReentrantEvent()
        """Is set when the pool closes."""
        self.started: bool = False
        """Whether calls find everything that they need, the monitor's thread too."""
        self._used_at_all = False
        self.on_change: Callable[[], None] = _nobody_waits
        self.on_starved: Callable[[Member], None] = _nobody_waits
        self.jobs_in_hand: weakref.WeakValueDictionary[str, InHand] = weakref.WeakValueDictionary()
        """By address: whatever is removed and added again, a job in hand is found by its id."""
        self.topology: Topology = Topology(tuple(map(self._member, servers)))
        # The monitor's thread must not keep an unused pool alive: it looks at it through a weak reference.
        myself = weakref.ref(self)

        def members() -> tuple[Member, ...] | None:
            cluster = myself()
            return (*cluster.topology.members, *cluster._removed) if cluster is not None else None

        # Whether an interrupt came in the middle of a change: then the next one begins from scratch.
        self._half_changed = False
        # As long as jobs of theirs are in hand.
        self._removed: tuple[Member, ...] = ()
        # What was counted of those that have left.
        self._former_counts: dict[str, int] = _NOTHING_COUNTED
        self.monitor: Monitor = Monitor(members, self._settings.health_interval, self.name)
        self.background: BackgroundExecutor = BackgroundExecutor(self.name)
        self.keeper: Keeper = Keeper(self.name, self.reporter.observers)
        self.availability: Availability = Availability(self.monitor.check_down_servers)
        self._discovery_thread: DiscoveryThread | None = None
        if self._discovery is not None:
            # Here: most pools have none.
            from beanpool.cluster.discovery import DiscoveryThread

            settings = self._settings
            self._discovery_thread = DiscoveryThread(
                myself, self._discovery, settings.discovery_interval, settings.drain_for, self.reporter
            )

    def __del__(self) -> None:
        # Only flags: a finalizer may run at any line of any thread. The monitor's thread sees them at its next tick.
        if getattr(self, "_used_at_all", False) and not self.closing.is_set():
            self.monitor.abandon()
            self.background.abandon()
            self.keeper.abandon()
            if self._discovery_thread is not None:
                self._discovery_thread.abandon()
            warnings.warn(
                f"{self.name} was never closed; use it in a with block", ResourceWarning, stacklevel=2, source=self
            )

    def __str__(self) -> str:
        servers = ", ".join(f"{member.name} {member.health.state.value}" for member in self.topology.members)
        closed = " (closed)" if self.closing.is_set() else ""
        return f"{self.name}{closed}: {servers}"

    # Life cycle.

    def start(self, deadline: float = 0.0) -> None:
        """Start the threads that run as long as the pool, unless they do.

        :param deadline: until when to wait for servers (monotonic seconds), where a discovery has not yet been asked.
        :raises PoolClosed: if the pool is closed.
        """
        if self.closing.is_set():
            raise PoolClosed(f"{self.name} is closed")
        self._used_at_all = True
        monitored = self.monitor.start()
        # Until then calls come by here, and wait if they can.
        self.started = self._await_discovery(deadline) and monitored

    def _await_discovery(self, deadline: float) -> bool:
        discovery = self._discovery_thread
        if discovery is None:
            return True
        runs = discovery.start()
        if runs and not self.topology.members:
            discovery.wait(deadline)
            if self.closing.is_set():
                raise PoolClosed(f"{self.name} is closed")
        return runs and discovery.settled

    def members(self, deadline: float = 0.0) -> tuple[Member, ...]:
        """All servers; starts the monitor.

        :param deadline: as for :meth:`start`.
        :raises PoolClosed: if the pool is closed.
        """
        if not self.started or self.closing.is_set():
            self.start(deadline)
        return self.topology.members

    def server_count(self) -> int:
        """How many servers there are, without those that are leaving."""
        return sum(not member.leaving for member in self.topology.members)

    @property
    def is_discovered(self) -> bool:
        """Whether a discovery says which servers there are."""
        return self._discovery is not None

    def deadline(self, timeout: float | None) -> float:
        """When a call that begins now must end (monotonic seconds).

        :param timeout: how long it may take (seconds); None for the pool's.
        """
        return time.monotonic() + (self.timeout if timeout is None else check_seconds("timeout", timeout))

    def keep(self, keeping: Keeping, jobs: Iterable[Job[Any]]) -> None:
        """Touch these jobs for as long as `keeping` keeps them.

        :raises BeanpoolError: if the pool is closed, or the thread that touches jobs cannot be started.
        """
        self.start()
        self.keeper.keep(keeping, jobs)

    def begin_to_close(self) -> None:
        """Let no call begin, and none wait for a server."""
        self.closing.set()
        self.availability.end()
        if self._discovery_thread is not None:
            self._discovery_thread.end_waits()

    def close(self, deadline: float) -> None:
        """Close the connections, those with jobs in hand at the deadline (monotonic seconds). Idempotent."""
        self.begin_to_close()
        now = time.monotonic()
        # Those that were removed too: they may still have jobs in hand.
        members = (*self.topology.members, *self._removed)
        # A server that is far takes its time to answer, and is not silent.
        close_all([(member.pool, now + max(CLOSE_GRACE, member.patience)) for member in members], deadline)
        if self._discovery_thread is not None:
            self._discovery_thread.stop(1.0)
        self.keeper.stop(1.0)
        self.background.stop(1.0)
        self.monitor.stop(1.0)

    def _after_fork(self) -> None:
        # In a forked child everything starts anew; the sockets are the parent's.
        closed = self.closing.is_set()
        self.monitor.leave_to_parent()
        self.background.leave_to_parent()
        self.keeper.leave_to_parent()
        self.reporter.reset_after_fork()
        members = self.topology.members
        self._begin(tuple(member.server for member in members if not member.leaving))
        leaving = [(self._member(member.server), member) for member in members if member.leaving]
        for child, member in leaving:
            child.leave_as(member)
        self.topology = Topology((*self.topology.members, *(child for child, _ in leaving)))
        if closed:
            self.begin_to_close()

    # What members tell (see MemberOwner in member.py).

    def member_changed(self, member: Member, before: Health, after: Health) -> None:
        """What is believed about a server has changed."""
        if after.alternates and not before.alternates:
            self.reporter.several_processes_found(member.name, after)
        restarted = after.generation > before.generation and after.state is not ServerState.DOWN
        identified = before.identity is None or restarted
        if not identified and (before.state, before.draining, before.rests_until) == (
            after.state,
            after.draining,
            after.rests_until,
        ):
            return
        found, freed = [], False
        with self._lock:
            while True:
                topology = self.topology
                new, one_freed = self._note_duplicates(topology.members)
                found += new
                freed |= one_freed
                refreshed = topology.refreshed()
                # A signal handler in this thread may have changed it meanwhile.
                if self.topology is topology:
                    self.topology = refreshed
                    break
        for duplicate, used in found:
            self.reporter.duplicate_found(duplicate.name, used.name)
        self.on_change()
        self.monitor.state_changed(member)
        if self._discovery_thread is not None and after.state is ServerState.DOWN is not before.state:
            # There may be another one in its place.
            self._discovery_thread.hurry()
        was_away = before.state is ServerState.DOWN or before.draining or before.rests_until > 0
        self.availability.changed(came_back=freed or (member.accepting and was_away))
        if before.state is not after.state or before.draining != after.draining or restarted:
            self.reporter.server_changed(member.address, member.name, before, after, restarted)

    def _note_duplicates(self, members: tuple[Member, ...]) -> tuple[list[tuple[Member, Member]], bool]:
        """Let every server process be used by one of its names.

        :returns: the members that are new as another name, and whether one is used now that was not before.
        """
        known = duplicates(members)
        changed = [member for member in members if member.duplicate_of is not known.get(member)]
        for member in changed:
            member.set_duplicate_of(known.get(member))
        found = [(member, member.duplicate_of) for member in changed if member.duplicate_of is not None]
        return found, len(found) < len(changed)

    def member_doubted(self, member: Member) -> None:
        """A caller had no answer from a member, in a time that says nothing."""
        self.monitor.doubt(member)

    def member_starved(self, member: Member) -> None:
        """A caller waits for a connection: one that only waits for jobs can be spared."""
        self.on_starved(member)

    # Membership.

    def add_server(self, server: AnyServer) -> None:
        """Let a server join; see :meth:`beanpool.PoolManager.add_server`."""
        (known,), _ = parse_servers([server])
        self._change(lambda named: (*named, known), "adding a server")

    def remove_server(self, server: AnyServer) -> None:
        """Let a server go; see :meth:`beanpool.PoolManager.remove_server`."""
        refuse_within(self._lock, "removing a server")
        with self._lock:
            topology = self.topology
            member = topology.get(server)
            rest = tuple(other for other in topology.members if other is not member)
            if not member.leaving and all(other.leaving for other in rest):
                raise ValueError(f"server {member.name} is the last one of the pool: close the pool instead")
            self._note_duplicates(rest)
            self.topology = Topology(rest)
            self._part_with(member)
        self._tell_of_change([], [], [member])

    def set_servers(self, servers: AnyServer | Iterable[AnyServer], drain: bool, drain_for: float) -> None:
        """Let exactly these be the servers; see :meth:`beanpool.PoolManager.set_servers`."""
        named, options = parse_servers(servers, at_least_one=False)
        if options:
            raise ValueError(f"set_servers takes servers, not the option {next(iter(options))}")

        def exactly_these(_: tuple[Server, ...]) -> tuple[Server, ...]:
            self._weights_set = {}
            return named

        self._change(exactly_these, "changing the servers", drain, drain_for)

    def discovered(self, servers: tuple[Server, ...], drain_for: float) -> None:
        """Let exactly these be the servers, as a discovery has found out.

        A weight that was set by hand holds for as long as its server is found.

        :param drain_for: how long those that were not found are reserved from in any case (seconds).
        """

        def with_weights(_: tuple[Server, ...]) -> tuple[Server, ...]:
            keys = {server.key for server in servers}
            self._weights_set = {key: weight for key, weight in self._weights_set.items() if key in keys}
            return tuple(
                dataclasses.replace(server, weight=self._weights_set.get(server.key, server.weight))
                for server in servers
            )

        self._change(with_weights, "changing the servers", True, drain_for)

    def _change(
        self,
        named: Callable[[tuple[Server, ...]], tuple[Server, ...]],
        doing: str,
        drain: bool = True,
        drain_for: float = 0.0,
    ) -> None:
        """Change the servers in one step, as far as puts go.

        :param named: returns those that there are to be, given those that there are.
        """
        refuse_within(self._lock, doing)
        with self._lock:
            if self.closing.is_set():
                raise PoolClosed(f"{self.name} is closed")
            before = self.topology.members
            wanted = named(tuple(member.server for member in before if not member.leaving))
            check_distinct(wanted)
            change = plan_change(before, wanted, drain=drain)
            if not self._half_changed and change.is_none(before):
                # Whoever looks again and again which servers there are disturbs nobody.
                return
            self._half_changed = True
            staying = [(known or self._member(server), server) for known, server in change.staying]
            # Those that leave are the last: where one of them is the same process as another member, that one is used.
            members = (*(member for member, _ in staying), *change.leaving)
            weights = {member: float(server.weight) for member, server in staying} | dict.fromkeys(change.leaving, 0.0)
            # Who takes puts from now on does so before the hash says so, and who takes none any more takes them until
            # then: no put is sent on to a third server.
            for member, server in staying:
                member.name = server.key
                if server.weight > 0:
                    member.stay(server)
            names = {member.name for member, _ in staying}
            for member in change.leaving:
                # Its own name may be another member's now.
                if member.name in names:
                    member.name = f"{member.name} at {member.address}"
            self.topology = Topology(members, weights=weights)
            for member, server in staying:
                if not server.weight:
                    member.stay(server)
            new_leavers = [member for member in change.leaving if not member.leaving]
            for member in new_leavers:
                member.leave(drain_for)
            self._note_duplicates(members)
            self.topology = self.topology.refreshed()
            for member in change.removed:
                self._part_with(member)
            self._half_changed = False
        joined = [member for (member, _), (known, _) in zip(staying, change.staying, strict=True) if known is None]
        self._tell_of_change(joined, new_leavers, change.removed)

    def member_emptied(self, member: Member) -> None:
        """A member that was leaving can go."""
        with self._lock:
            if not member.leaving or member not in self.topology.members:
                return
            rest = tuple(other for other in self.topology.members if other is not member)
            self._note_duplicates(rest)
            self.topology = Topology(rest)
            self._part_with(member)
        self._tell_of_change([], [], [member])

    def _tell_of_change(self, joined: Sequence[Member], leaving: Sequence[Member], removed: Sequence[Member]) -> None:
        self.on_change()
        for member in removed:
            member.pool.remove()
        self.monitor.wake()
        # A server is new, or another name of a process takes the place of one that was removed.
        self.availability.changed(came_back=True)
        if joined or leaving or removed:
            addresses = [tuple(member.address for member in members) for members in (joined, leaving, removed)]
            self.reporter.servers_changed(*addresses)

    def _member(self, server: Server) -> Member:
        return Member(
            server, self._settings, self, self.reporter, self.jobs_in_hand.setdefault(str(server.address), InHand())
        )

    def _part_with(self, member: Member) -> None:
        """Let go of a server that was removed, as soon as no job of it is in hand; what was counted of it is kept."""
        gone = [other for other in self._removed if not other.pool.counts()[0]]
        counts = [self._former_counts, *(other.pool.counted() for other in gone)]
        staying = tuple(other for other in self._removed if other not in gone)
        self._former_counts, self._removed = total(counts), (*staying, member)

    def stats(self) -> dict[str, int]:
        """The counters of the pool: of all servers that it has and had, and its own."""
        with self._lock:
            parts = [member.stats() for member in self.topology.members]
            parts += [self._former_counts, *(member.pool.counted() for member in self._removed)]
        return {
            **total(parts),
            # Also jobs whose server was removed; one that was added again has those of before, too.
            "in_hand": sum(jobs.count for jobs in list(self.jobs_in_hand.values())),
            **self.reporter.counters.snapshot(),
        }

    def resize(self, max_connections: int) -> None:
        """Change the limit of connections to each server; see :meth:`beanpool.PoolManager.resize`."""
        refuse_within(self._lock, "changing the limit of connections")
        with self._lock:
            # That of servers which join later, too, and of a forked child.
            self._settings = dataclasses.replace(self._settings, max_connections=max_connections)
            members = (*self.topology.members, *self._removed)
        for member in members:
            member.pool.pruning.resize(max_connections)
        self.on_change()

    def set_weight(self, server: AnyServer, weight: float) -> None:
        """Change a server's share of the puts; see :meth:`beanpool.PoolManager.set_weight`."""
        checked = Server(weight=weight).weight
        refuse_within(self._lock, "changing a weight")
        with self._lock:
            member = self.topology.get(server)
            if member.leaving:
                raise ValueError(f"server {member.name} is leaving: let it stay by set_servers() or add_server() first")
            self._weights_set[member.server.key] = checked
            member.stay(dataclasses.replace(member.server, weight=checked))
            self.topology = Topology(self.topology.members)
        self.availability.changed(came_back=member.accepting)


def _nobody_waits(_: Member | None = None) -> None: ...


def _start_afresh_in_child() -> None:
    for cluster in list(_clusters):
        cluster._after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_afresh_in_child)
