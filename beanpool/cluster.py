"""A running cluster: its servers, what becomes of them, and the life of the parts that serve it."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import operator
import os
import threading
import time
import warnings
import weakref
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from beanpool.announcer import Announcer
from beanpool.checks import check_seconds, check_wait
from beanpool.comebacks import Comebacks
from beanpool.config import AnyServer, Server, Settings, check_distinct, parse_servers
from beanpool.counters import total
from beanpool.errands import Errands
from beanpool.errors import CommandTimeout, PoolClosed, no_server
from beanpool.events import Event
from beanpool.health import Health, ServerState
from beanpool.in_hand import InHand
from beanpool.job import Job
from beanpool.locks import Lock, ReentrantEvent, refuse_within
from beanpool.member import Member
from beanpool.monitor import Monitor
from beanpool.protocol.arguments import check_int
from beanpool.protocol.commands import STATS, encode_bare
from beanpool.putting import Putter
from beanpool.reserving import Reserver
from beanpool.retry import RetryPolicy
from beanpool.retry_budget import RetryBudget
from beanpool.status import ServerStatus
from beanpool.survey import Answers, Question, ask_all
from beanpool.topology import Topology, twins

# How long commands that are on their way may take when the pool closes (seconds).
_CLOSE_GRACE = 0.25
_WAIT_STEP = 0.2
_WHO_IS_IT = Question(STATS, encode_bare(STATS), lambda connection, reply, _: connection.greet(reply))

_numbers = itertools.count(1)
_clusters: weakref.WeakSet[Cluster] = weakref.WeakSet()


class Cluster:
    """The servers of a pool, and the parts that work on them. :class:`~beanpool.PoolManager` adds the verbs."""

    def __init__(self, servers: tuple[Server, ...], settings: Settings, policy: RetryPolicy) -> None:
        self._settings = settings
        self._policy = policy
        self._timeout = settings.timeout
        self.name = settings.name or f"pool-{next(_numbers)}"
        self._announcer = Announcer(self.name)
        self._begin(servers)
        _clusters.add(self)

    def _begin(self, servers: tuple[Server, ...]) -> None:
        self._lock = Lock()
        self._closing = ReentrantEvent()
        # Whether calls find everything that they need, the monitor's thread too; and whether there was a call.
        self._started = self._used_at_all = False
        self._changed = threading.Condition()
        # By address: whatever is removed and added again, a job in hand is found by its id.
        self._jobs_in_hand: weakref.WeakValueDictionary[str, InHand] = weakref.WeakValueDictionary()
        self._topology = Topology(tuple(map(self._member, servers)))
        # The monitor's thread must not keep an unused pool alive: it looks at it through a weak reference.
        myself = weakref.ref(self)

        def members() -> tuple[Member, ...] | None:
            pool = myself()
            return (*pool._topology.members, *pool._leaving) if pool is not None else None

        self._leaving: tuple[Member, ...] = ()
        self._monitor = Monitor(members, self._settings.health_interval, self.name)
        self._errands = Errands(self.name)
        # Not a lambda: every reserve asks for it.
        topology: Callable[[], Topology] = functools.partial(operator.attrgetter("_topology"), self)
        self._reserver = Reserver(topology, self._timeout, self._monitor, self._errands)
        self._comebacks = Comebacks(self._monitor.hurry)
        budget = RetryBudget(
            lambda: sum(member.pool.returns for member in self._topology.members), lambda: self._comebacks.count
        )
        self._putter = Putter(topology, self._policy, self._closing, self._announcer, budget, self._comebacks)

    def __del__(self) -> None:
        # Only flags: a finalizer may run at any line of any thread. The monitor's thread sees them at its next tick.
        if getattr(self, "_used_at_all", False) and not self._closing.is_set():
            self._monitor.abandon()
            self._errands.abandon()
            warnings.warn(
                f"{self.name} was never closed; use it in a with block", ResourceWarning, stacklevel=2, source=self
            )

    def __repr__(self) -> str:
        servers = ", ".join(f"{member.name} {member.health.state.value}" for member in self._topology.members)
        closed = " (closed)" if self._closing.is_set() else ""
        return f"<{type(self).__name__} {self.name}{closed}: {servers}>"

    # Life cycle.

    def __enter__(self) -> Self:
        self._start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # What went wrong here matters more than jobs in hand: whoever holds one in this frame will not finish it.
        self.close(5 if error is None else _CLOSE_GRACE)

    def _start(self) -> None:
        if self._closing.is_set():
            raise PoolClosed(f"{self.name} is closed")
        self._used_at_all = True
        self._started = self._monitor.start()

    def close(self, timeout: float = 5) -> None:
        """Close the pool: wake everybody who waits with :class:`PoolClosed`, then close the connections. Idempotent.

        Jobs that are being worked on may be finished for up to `timeout` (seconds); after that their connections are
        closed, and the servers give the jobs to others.
        """
        seconds = check_wait("timeout", timeout) or 0.0
        now = time.monotonic()
        self._closing.set()
        self._putter.end()
        self._reserver.close()
        # Those that were removed too: they may still have jobs in hand.
        members = (*self._topology.members, *self._leaving)
        for member in members:
            member.pool.retire()
        for member in members:
            member.pool.close(min(now + seconds, now + _CLOSE_GRACE), now + seconds)
        self._errands.stop(1.0)
        self._monitor.stop(1.0)

    def _after_fork(self) -> None:
        # In a forked child everything starts anew; the sockets are the parent's.
        closed = self._closing.is_set()
        self._monitor.leave_to_parent()
        self._announcer = self._announcer.afresh()
        # With the weights of now: they may have been changed since.
        self._begin(tuple(dataclasses.replace(m.server, weight=m.weight) for m in self._topology.members))
        if closed:
            self._closing.set()

    # What members tell (see MemberOwner in member.py).

    def member_changed(self, member: Member, before: Health, after: Health) -> None:
        """What is believed about a server has changed."""
        if after.alternates and not before.alternates:
            self._announcer.several_found(member, after)
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
                topology = self._topology
                new, one_freed = self._note_twins(topology.members)
                found += new
                freed |= one_freed
                refreshed = topology.refreshed()
                # A signal handler in this thread may have changed it meanwhile.
                if self._topology is topology:
                    self._topology = refreshed
                    break
        for name, twin in found:
            self._announcer.twin_found(name, twin)
        self._reserver.poke()
        self._monitor.look_at(member)
        with self._changed:
            self._changed.notify_all()
        came_back = member.accepting and (before.state is ServerState.DOWN or before.draining or before.rests_until)
        if freed or came_back:
            self._comebacks.note()
        if before.state is not after.state or before.draining != after.draining or restarted:
            self._announcer.server_changed(member, before, after, restarted)

    def _note_twins(self, members: tuple[Member, ...]) -> tuple[list[tuple[Member, Member]], bool]:
        """Let every server process be used by one of its names.

        :returns: the members that are new as another name, and whether one is used now that was not before.
        """
        known = twins(members)
        changed = [member for member in members if member.twin is not known.get(member)]
        for member in changed:
            member.set_twin(known.get(member))
        found = [(member, member.twin) for member in changed if member.twin is not None]
        return found, len(found) < len(changed)

    def member_doubted(self, member: Member) -> None:
        """A caller had no answer from a member, in a time that says nothing."""
        self._monitor.doubt(member)

    def member_starved(self, member: Member) -> None:
        """A caller waits for a connection: one that only waits for jobs can be spared."""
        self._reserver.give_up(member)

    def job_lost(self, job: Job, reason: str) -> None:
        """The reservation of a job is gone."""
        self._announcer.job_lost(job, reason)

    def connection_opened(self, member: Member, instance: str) -> None:
        """A connection stands."""
        self._announcer.connection_opened(member, instance)

    def connection_closed(self, member: Member, because: str) -> None:
        """A connection was given up."""
        self._announcer.connection_closed(member, because)

    # What users are told.

    def add_listener(self, listener: Callable[[Event], Any]) -> None:
        """Call `listener` with every event (see :mod:`beanpool.events`) from now on.

        It is called in the thread in which the event happens, outside of all locks; what it raises is logged and
        harms nobody.

        :raises TypeError: if it cannot be called.
        """
        self._announcer.listeners.add(listener)

    def remove_listener(self, listener: Callable[[Event], Any]) -> None:
        """Call `listener` no longer.

        :raises ValueError: if it was never added.
        """
        self._announcer.listeners.remove(listener)

    def get_stats(self) -> dict[str, int]:
        """The pool's own counters since it was made, always all of them, by psycopg_pool's names where they fit.

        - ``pool_max``, ``pool_size``, ``pool_available``: connections to all servers: allowed, open, idle.
        - ``requests_num``, ``requests_queued``, ``requests_waiting``, ``requests_wait_ms``, ``requests_errors``:
          callers who wanted one; how many had to wait, wait now, for how long, and in vain.
        - ``connections_num``, ``connections_ms``, ``connections_errors``, ``connections_lost``: connections that were
          made, the time that took, attempts that failed, and connections that broke.
        - ``returns_bad``: connections that came back broken.
        - ``puts_rerouted``, ``puts_ambiguous``, ``retries_num``, ``retries_refused``, ``jobs_lost``, ``outages_num``:
          what callers felt of the servers' failures.
        """
        members = self._topology.members
        return {**total(member.pool.stats() for member in members), **self._announcer.counters.snapshot()}

    # Membership.

    def add_server(self, server: AnyServer) -> None:
        """Let a server join while the pool runs: it takes its share of keys, and waiting reserves wait on it too.

        :raises ValueError: if a server of this name or address is there already.
        """
        (known,), _ = parse_servers([server])
        member = self._member(known)
        refuse_within(self._lock, "adding a server")
        with self._lock:
            topology = self._topology
            check_distinct([*(other.server for other in topology.members), known])
            self._topology = Topology((*topology.members, member))
        self._reserver.poke()
        self._monitor.wake()
        self._comebacks.note()

    def _member(self, server: Server) -> Member:
        return Member(server, self._settings, self, self._jobs_in_hand.setdefault(str(server.address), InHand()))

    def remove_server(self, server: AnyServer) -> None:
        """Let a server go while the pool runs: it gets and gives no more jobs; those in hand can still be finished.

        Puts that wait for a connection to it go to another server.

        :param server: its name or address.
        :raises ValueError: if it is not there, or is the last one.
        """
        refuse_within(self._lock, "removing a server")
        with self._lock:
            topology = self._topology
            member = self._find(topology, server)
            rest = tuple(other for other in topology.members if other is not member)
            if not rest:
                raise ValueError(f"server {member.name} is the last one of the pool: close the pool instead")
            self._note_twins(rest)
            self._topology = Topology(rest)
            self._leaving = (*(m for m in self._leaving if m.pool.counts()[0]), member)
        self._reserver.poke()
        member.pool.remove()
        # Another name of its process may take its place.
        self._comebacks.note()

    def set_weight(self, server: AnyServer, weight: float) -> None:
        """Change a server's share of the puts; with 0 it gets no more, and is still reserved from.

        :param server: its name or address.
        """
        checked = Server(weight=weight).weight
        refuse_within(self._lock, "changing a weight")
        with self._lock:
            member = self._find(self._topology, server)
        member.set_weight(checked)
        with self._lock:
            self._topology = Topology(self._topology.members)
        if member.accepting:
            self._comebacks.note()

    def _find(self, topology: Topology, server: AnyServer) -> Member:
        member = topology.find(server)
        if member is None:
            raise ValueError(f"server must be one of {', '.join(m.name for m in topology.members)}, not {server!r}")
        return member

    def wait(self, min_servers: int = 1, timeout: float | None = None) -> None:
        """Wait until so many servers answer: a check for start-up scripts.

        :param min_servers: how many (1 to the number of servers).
        :param timeout: how long (seconds); None for the pool's.
        :raises NoServerAvailable: if they do not in time; ``errors`` says why, by address.
        """
        members = self._members()
        check_int("min_servers", min_servers, 1, len(members))
        deadline = time.monotonic() + (self._timeout if timeout is None else check_seconds("timeout", timeout))
        said: Answers = {}
        while True:
            answers = ask_all(members, deadline, _WHO_IS_IT)
            # Only now it is known who is who.
            answers |= {member.address: member.unusable("does not count") for member in members if member.twin}
            if sum(not isinstance(answer, BaseException) for answer in answers.values()) >= min_servers:
                return
            # That the last round had no time left for a server says nothing of one that had answered before.
            said |= {
                address: answer
                for address, answer in answers.items()
                if not isinstance(answer, CommandTimeout) or isinstance(said.get(address, answer), BaseException)
            }
            with self._changed:
                self._changed.wait(min(max(0.0, deadline - time.monotonic()), _WAIT_STEP))
            if self._closing.is_set():
                raise PoolClosed(f"{self.name} is closed")
            if time.monotonic() >= deadline:
                silent = {address: error for address, error in said.items() if isinstance(error, BaseException)}
                # Unless all of them have answered, but never at the same time.
                silent = silent or {a: error for a, error in answers.items() if isinstance(error, BaseException)}
                raise no_server(silent, f"answered, or fewer than {min_servers} did")

    @property
    def servers(self) -> tuple[ServerStatus, ...]:
        """A snapshot of every server: its state and connections."""
        return tuple(member.status() for member in self._topology.members)

    def _members(self) -> tuple[Member, ...]:
        if not self._started or self._closing.is_set():
            self._start()
        return self._topology.members


def _start_afresh_in_child() -> None:
    for cluster in list(_clusters):
        cluster._after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_afresh_in_child)
