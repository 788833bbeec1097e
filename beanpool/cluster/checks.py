"""The checks of servers: when each is due, and those that are under way."""

from __future__ import annotations

import math
import random
import time
import weakref
from collections.abc import Iterable, Sequence

from beanpool.cluster.activities import Activities
from beanpool.cluster.fresh_checks import FreshChecks
from beanpool.errors import BeanpoolError, PoolClosed
from beanpool.policy import Schedule
from beanpool.protocol import count_jobs
from beanpool.server import Member, PooledConnection
from beanpool.telemetry import ErrorLog

_IDLE_FOR = 60.0
# How far apart the moments are at which servers are checked that nobody is in a hurry to know of (seconds).
_GRID = 0.25
# What a caller waits for is checked sooner than its back-off says, but not more often than this (seconds).
_LEAST_BETWEEN_CHECKS = 0.25
# When a check is made anew that failed unexpectedly (seconds).
_AGAIN_AFTER = 0.5
# How many times as long as says something a check waits that was made because of such a silence.
_DOUBTS = 2


class Probe:
    """A check of one member that is under way, as an :class:`~beanpool.cluster.activities.Activity`.

    :param fresh: whether it is to find out who answers a new connection.
    :param patience: how long the server may take to answer (seconds), if that is less than usual.
    """

    def __init__(
        self, checks: Checks, member: Member, connection: PooledConnection, *, fresh: bool, patience: float
    ) -> None:
        self.member = member
        self.fresh = fresh
        self.doing = f"the check of {member.name}"
        """See :class:`Activity`."""
        self.found_empty = False
        """Whether the server was to leave when it has no jobs, and has none."""
        self._may_be_empty = False
        self._checks = checks
        self._connection = connection
        self._patience = patience

    @property
    def late_at(self) -> float:
        """See :class:`Activity`."""
        return self._connection.give_up_at

    @property
    def wants_write(self) -> bool:
        """See :class:`Activity`."""
        return self._connection.wants_write

    def descriptor(self) -> int:
        """See :class:`Activity`."""
        return self._connection.live_descriptor()

    def begin(self) -> bool:
        """Ask the server who it is, and what has become of jobs that somebody may hold in vain."""
        if self._connection.channel_state is None:
            self._connection.begin_connecting()
        now = time.monotonic()
        self._may_be_empty = self.member.may_be_empty(now)
        reservations = self.member.reservations
        if reservations.review_due(now):
            self._connection.begin_questions(reservations.questions(now), self._patience)
        else:
            self._connection.begin_probe(self._patience)
        return self.ready()

    def ready(self) -> bool:
        """See :class:`Activity`."""
        reply = self._connection.step()
        if reply is None:
            return False
        self._connection.identify(reply)
        self.member.works(self._connection.asked_at)
        self.found_empty = self._may_be_empty and count_jobs(reply.body) == 0
        return True

    def late(self) -> bool:
        """Try another address of the same name, if there is one."""
        if self._connection.connecting:
            return self.ready()
        raise self._connection.late()

    def end(self, error: BeanpoolError | None) -> None:
        """See :class:`Activity`."""
        try:
            if self.fresh and error is not None:
                # A server without a descriptor to spare is none that is silent: those that it has say more.
                self.member.pool.discard(self._connection, str(error))
            else:
                self.member.pool.checkin(self._connection, broken=error)
        finally:
            self._checks.ended(self, failed=error is not None)

    def abort(self, because: str) -> None:
        """See :class:`Activity`."""
        try:
            self.member.pool.discard(self._connection, because)
        finally:
            self._checks.aborted(self)


class Checks:
    """When each member is to be checked. Used by one thread at a time.

    :param interval: how often an idle server is probed (seconds); every interval is jittered by a fifth.
    """

    def __init__(self, interval: float, activities: Activities, error_log: ErrorLog) -> None:
        self._interval = interval
        self._activities = activities
        self._error_log = error_log
        # Whatever is kept of members is kept weakly: they know their pool, which must not live because it is watched.
        self._due: Schedule[Member] = Schedule()
        self._returns_seen: weakref.WeakKeyDictionary[Member, int] = weakref.WeakKeyDictionary()
        # When the last check began.
        self._started: weakref.WeakKeyDictionary[Member, float] = weakref.WeakKeyDictionary()
        self._fresh_checks = FreshChecks(interval)
        # Those whose next check is not to be put off.
        self._wanted: weakref.WeakSet[Member] = weakref.WeakSet()
        # Those of them that were silent, but only for a time that says nothing.
        self._doubted: weakref.WeakSet[Member] = weakref.WeakSet()
        # Each process has moments of its own, lest they all check at once.
        self._grid = min(_GRID, interval / 20)
        self._phase = random.uniform(0.0, self._grid)
        self._known: tuple[int, ...] = ()
        self._probes: dict[Member, Probe] = {}

    @property
    def next_moment(self) -> float:
        """When the next one is due (monotonic seconds)."""
        return self._due.next_moment

    @property
    def under_way(self) -> bool:
        """Whether a check is under way."""
        return bool(self._probes)

    # When.

    def keep_up_with(self, members: Sequence[Member], now: float) -> None:
        """Plan a first check of those that are new."""
        known = tuple(map(id, members))
        if known == self._known:
            return
        for member in members:
            if member not in self._due and member not in self._probes:
                self._returns_seen[member] = member.pool.returns
                first = self._together(now + self._interval * random.uniform(0.0, 1.2))
                self._due.plan(member, first if member.up else member.health.retry_at)
        self._known = known

    def changed(self, member: Member) -> None:
        """What is believed about a member has changed: plan its next check anew."""
        now = time.monotonic()
        fresh_at = self._fresh_checks.changed(member, now)
        if fresh_at is not None and member.up:
            self._due.hasten(member, fresh_at)
        if member not in self._probes:
            if member.up:
                self._due.hasten(member, self._soon(now))
            else:
                self._due.plan(member, member.health.retry_at)

    def want(self, members: Iterable[Member]) -> None:
        """Check these now, or as soon as may be: somebody needs to know."""
        now = time.monotonic()
        for member in members:
            self._wanted.add(member)
            if member not in self._probes:
                self._due.hasten(member, max(now, self._started.get(member, 0.0) + _LEAST_BETWEEN_CHECKS))

    def doubt(self, member: Member) -> None:
        """Check it soon: a caller had no answer, in a time that says nothing."""
        self._doubted.add(member)
        self.want((member,))

    def reconnect(self, member: Member) -> None:
        """Connect to it, unless a connection is idle: the next call need not. What that finds out is a check, too."""
        pool = member.pool
        opened, idle = pool.counts()
        room = not idle and opened < pool.max_connections and not pool.pruning.keeps_nothing
        if room and member.up and member not in self._probes:
            with self._error_log.catching(f"connecting to {member.name} anew"):
                self._start(member, time.monotonic(), fresh=False)

    def _plan(self, member: Member, now: float) -> None:
        self._returns_seen[member] = member.pool.returns
        self._due.plan(member, self._soon(now) if member.up else max(now, member.health.retry_at))

    def _soon(self, now: float) -> float:
        return self._together(now + self._interval * random.uniform(0.8, 1.2))

    def _together(self, moment: float) -> float:
        """The next moment at which this process checks several servers: to wake up for each costs more than a check."""
        return moment + (self._phase - moment) % self._grid

    # What is due.

    def start_due(self, now: float) -> None:
        """Start those that are due, as far as there is something to find out."""
        for member in self._due.take(now):
            with self._error_log.catching(f"the check of {member.name}"):
                try:
                    self._check(member, now)
                except BaseException:
                    self._due.plan(member, now + _AGAIN_AFTER)
                    raise

    def _check(self, member: Member, now: float) -> None:
        if member in self._probes or not member.pool.is_open:
            # One that was removed is not checked any more.
            return
        with self._error_log.catching(f"tidying up after {member.name}"):
            member.pool.pruning.trim(_IDLE_FOR)
        fresh = self._fresh_checks.due(member, now)
        if member not in self._wanted and not fresh:
            if member.up and not member.leaving and member.pool.returns != self._returns_seen.get(member):
                # Passive first: commands were answered since the last look, so there is nothing to ask.
                self._plan(member, now)
                return
            if not member.up and member.health.retry_at > now:
                # It has failed once more meanwhile.
                self._plan(member, now)
                return
        self._start(member, now, fresh)

    def _start(self, member: Member, now: float, fresh: bool) -> None:
        if fresh:
            self._fresh_checks.began(member, now)
        # A caller is waiting, or will be: it need not be as long as usual until others are preferred.
        patience = _DOUBTS * member.patience if member in self._doubted else math.inf
        self._wanted.discard(member)
        self._doubted.discard(member)
        self._started[member] = now
        try:
            connection = (None if fresh else member.pool.try_acquire(())) or member.pool.probe_connection()
        except PoolClosed:
            # It was removed, or the pool is closed: it is not checked any more.
            return
        probe = self._probes[member] = Probe(self, member, connection, fresh=fresh, patience=patience)
        self._activities.begin(probe)

    # What has ended.

    def ended(self, probe: Probe, *, failed: bool) -> None:
        """A check has ended; the connection is the pool's again."""
        del self._probes[probe.member]
        if probe.found_empty:
            probe.member.emptied()
        elif failed and probe.fresh:
            self.want((probe.member,))
        else:
            # Its own return is no sign of other life.
            self._plan(probe.member, time.monotonic())

    def aborted(self, probe: Probe) -> None:
        """A check was aborted: that says nothing of the server."""
        del self._probes[probe.member]
        self._due.plan(probe.member, time.monotonic() + _AGAIN_AFTER)
