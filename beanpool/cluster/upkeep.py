"""What a pool's monitor has in hand: checks of servers, jobs that are given back, connections that linger.

Everything is driven by readiness and by due times. A turn touches what is ready or due, and no more: what an idle pool
costs grows with its checks, whatever the number of its servers. Only twice a second all servers are looked through for
notes that finalizers have left, which know no way to wake anybody.
"""

from __future__ import annotations

import contextlib
import math
import random
import selectors
import time
import weakref
from collections.abc import Iterable, Iterator, Sequence

from beanpool.cluster.fresh_checks import FreshChecks
from beanpool.errors import BeanpoolError, PoolClosed
from beanpool.net import Channel
from beanpool.policy import Schedule
from beanpool.server import Lease, Member, PartialRelease, PooledConnection
from beanpool.telemetry import ErrorLog

TICK = 0.5
# Until when a server may take to close its side of a connection that was half-closed (seconds).
_LINGER = 1.0
_IDLE_FOR = 60.0
# How far apart the moments are at which servers are checked that nobody is in a hurry to know of (seconds).
_GRID = 0.25
# How long siblings of dropped jobs have the connection for themselves before more is given back, and when to look again
# if they use it (seconds).
_BREATH = 0.002
_LOOK_AGAIN = 0.05
# What a caller waits for is checked sooner than its back-off says, but not more often than this (seconds).
_LEAST_BETWEEN_CHECKS = 0.25
# How many times as long as says something a check waits that was made because of such a silence.
_DOUBTS = 2


class Probe:
    """A check of one member that is under way."""

    __slots__ = ("__weakref__", "connection", "descriptor", "fresh", "member")

    def __init__(self, member: Member, connection: PooledConnection, fresh: bool) -> None:
        self.member: Member = member
        self.connection: PooledConnection = connection
        self.fresh: bool = fresh
        """Whether it is to find out who answers a new connection."""
        self.descriptor: int = -1

    @property
    def give_up_at(self) -> float:
        """When the server is late (monotonic seconds)."""
        return self.connection.give_up_at


class Upkeep:
    """The care for the members of a pool. Used by one thread at a time.

    :param interval: how often an idle server is probed (seconds); every interval is jittered by a fifth.
    """

    def __init__(self, selector: selectors.BaseSelector, interval: float, error_log: ErrorLog) -> None:
        self._selector = selector
        self._interval = interval
        self._error_log = error_log
        # Whatever is kept of members is kept weakly: they know their pool, which must not live because it is watched.
        self._checks: Schedule[Member] = Schedule()
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
        self._tick_at = 0.0
        self._probes: dict[Member, Probe] = {}
        self._lingering: set[Channel] = set()
        self._give_backs: dict[Lease[PooledConnection], PartialRelease] = {}
        # When to go on with what was dropped.
        self._to_go_on: Schedule[Lease[PooledConnection]] = Schedule()
        # When what is under way is late.
        self._limits: Schedule[Probe | PartialRelease | Channel] = Schedule()

    def tend(self, members: Sequence[Member]) -> float:
        """Start what is due; return until when to wait at most (monotonic seconds)."""
        now = time.monotonic()
        for late in self._limits.take(now):
            self._give_up(late, now)
        if now >= self._tick_at:
            self._tick_at = now + TICK
            self._look_through(members, now)
        for lease in self._to_go_on.take(now):
            self._care_for_dropped(lease)
        for member in self._checks.take(now):
            with self._caring_for(member):
                self._check(member, now)
        return min(self._tick_at, self._checks.next_moment, self._limits.next_moment, self._to_go_on.next_moment)

    def look_at(self, member: Member) -> None:
        """What is believed about a member has changed."""
        now = time.monotonic()
        fresh_at = self._fresh_checks.changed(member, now)
        if fresh_at is not None and member.up:
            self._checks.hasten(member, fresh_at)
        if member not in self._probes:
            if member.up:
                self._checks.hasten(member, self._soon(now))
            else:
                self._checks.plan(member, member.health.retry_at)

    def want(self, members: Iterable[Member]) -> None:
        """Check these now, or as soon as may be: somebody needs to know."""
        now = time.monotonic()
        for member in members:
            self._wanted.add(member)
            if member not in self._probes:
                self._checks.hasten(member, max(now, self._started.get(member, 0.0) + _LEAST_BETWEEN_CHECKS))

    def doubt(self, member: Member) -> None:
        """Check it soon: a caller had no answer, in a time that says nothing."""
        self._doubted.add(member)
        self.want((member,))

    @property
    def checking(self) -> bool:
        """Whether a check is under way."""
        return bool(self._probes)

    def linger(self, channel: Channel) -> None:
        """Read a half-closed channel to its end, then close it."""
        with self._caring_for(channel):
            if channel.at_end():
                self._close(channel)
                return
            self._lingering.add(channel)
            self._limits.plan(channel, time.monotonic() + _LINGER)
            self._register_as(channel.fileno(), selectors.EVENT_READ, channel)

    @contextlib.contextmanager
    def _caring_for(self, what: Channel | Member | PartialRelease) -> Iterator[None]:
        """Let an unexpected error cost no more than what the block is for, which is begun anew."""
        if isinstance(what, Channel):
            doing = "closing a connection"
        elif isinstance(what, Member):
            doing = f"the check of {what.name}"
        else:
            doing = f"giving back jobs to {what.connection.server}"
        with self._error_log.catching(doing):
            try:
                yield
            except BaseException as error:
                self._let_go(what, error)
                raise

    def _let_go(self, what: Channel | Member | PartialRelease, error: BaseException) -> None:
        if isinstance(what, Channel):
            self._close(what)
        elif isinstance(what, PartialRelease):
            self._end_give_back(what, error)
        else:
            # It says nothing of the server.
            self._checks.plan(what, time.monotonic() + TICK)
            probe = self._probes.get(what)
            if probe is not None:
                self._forget_probe(probe)
                self._unregister(probe)
                what.pool.discard(probe.connection, f"its check failed: {type(error).__name__}")

    def _give_up(self, late: Probe | PartialRelease | Channel, now: float) -> None:
        if isinstance(late, Channel):
            with self._caring_for(late):
                self._close(late)
        elif late.give_up_at > now:
            # It has got on meanwhile.
            self._limits.plan(late, late.give_up_at)
        elif isinstance(late, Probe) and late.connection.dialing:
            # There may be another address.
            self.ready(late)
        elif isinstance(late, Probe):
            with self._caring_for(late.member):
                self._finish(late, late.connection.late())
        else:
            with self._caring_for(late):
                self._end_give_back(late, late.connection.late())

    def _look_through(self, members: Sequence[Member], now: float) -> None:
        known = tuple(map(id, members))
        if known != self._known:
            for member in members:
                if member not in self._checks and member not in self._probes:
                    self._meet(member, now)
            self._known = known
        starved = []
        for member in members:
            pool = member.pool
            if pool.starving:
                with self._tidying_up(member):
                    pool.fill_places()
                    if member.up and member.reservations.review_due(now):
                        starved.append(member)
            reservations = member.reservations
            if reservations.abandoned or reservations.partly_abandoned or member.health.rests_until:
                with self._tidying_up(member):
                    reservations.reclaim()
                    self._give_back(member)
                    member.wake_up(now)
        if starved:
            # Jobs in hand may be reserved no longer: the check asks about them, too.
            self.want(starved)

    def _tidying_up(self, member: Member) -> contextlib.AbstractContextManager[None]:
        return self._error_log.catching(f"tidying up after {member.name}")

    def _meet(self, member: Member, now: float) -> None:
        self._returns_seen[member] = member.pool.returns
        self._checks.plan(
            member,
            self._together(now + self._interval * random.uniform(0.0, 1.2)) if member.up else member.health.retry_at,
        )

    # Checks.

    def _check(self, member: Member, now: float) -> None:
        """Its check is due: start it, unless there is nothing to find out."""
        if member in self._probes:
            return
        with self._tidying_up(member):
            member.pool.trim(_IDLE_FOR)
        fresh = self._fresh_checks.due(member, now)
        if member not in self._wanted and not fresh:
            if member.up and member.pool.returns != self._returns_seen.get(member):
                # Passive first: commands were answered since the last look, so there is nothing to ask.
                self._plan(member, now)
                return
            if not member.up and member.health.retry_at > now:
                # It has failed once more meanwhile.
                self._plan(member, now)
                return
        self._start(member, now, fresh)

    def _plan(self, member: Member, now: float) -> None:
        self._returns_seen[member] = member.pool.returns
        self._checks.plan(member, self._soon(now) if member.up else max(now, member.health.retry_at))

    def _soon(self, now: float) -> float:
        return self._together(now + self._interval * random.uniform(0.8, 1.2))

    def _together(self, moment: float) -> float:
        """The next moment at which this process checks several servers: to wake up for each costs more than a check."""
        return moment + (self._phase - moment) % self._grid

    def _start(self, member: Member, now: float, fresh: bool) -> None:
        if fresh:
            self._fresh_checks.began(member, now)
        doubted = member in self._doubted
        self._wanted.discard(member)
        self._doubted.discard(member)
        self._started[member] = now
        try:
            connection = (None if fresh else member.pool.try_acquire(())) or member.pool.probe_connection()
        except PoolClosed:
            # It was removed, or the pool is closed: it is not checked any more.
            return
        probe = self._probes[member] = Probe(member, connection, fresh)
        try:
            if connection.channel_state is None:
                connection.begin_dialing()
            # A caller is waiting, or will be: it need not be as long as usual until others are preferred.
            patience = _DOUBTS * member.patience if doubted else math.inf
            if member.reservations.review_due(now):
                connection.begin_questions(member.reservations.questions(now), patience)
            else:
                connection.begin_probe(patience)
            self._step(probe)
        except BeanpoolError as error:
            self._finish(probe, error)

    def ready(self, what: object) -> None:
        """Something that the selector watches is ready."""
        if isinstance(what, Channel):
            with self._caring_for(what):
                if what.at_end():
                    self._close(what)
        elif isinstance(what, Probe):
            with self._caring_for(what.member):
                try:
                    self._step(what)
                except BeanpoolError as error:
                    self._finish(what, error)
        elif isinstance(what, PartialRelease):
            with self._caring_for(what):
                self._go_on_giving_back(what)

    def _step(self, probe: Probe) -> None:
        reply = probe.connection.step()
        if reply is None:
            self._register(probe)
            self._limits.plan(probe, probe.give_up_at)
            return
        self._unregister(probe)
        probe.connection.greet(reply)
        probe.member.works()
        # From here on the connection is the pool's again: what goes wrong now must not close it under its next user.
        self._forget_probe(probe)
        probe.member.pool.checkin(probe.connection)
        # The probe's own return is no sign of other life.
        self._plan(probe.member, time.monotonic())

    def _finish(self, probe: Probe, error: BeanpoolError) -> None:
        self._unregister(probe)
        self._forget_probe(probe)
        if probe.fresh:
            # A server without a descriptor to spare is none that is silent: those that it has say more.
            probe.member.pool.discard(probe.connection, str(error))
            self.want((probe.member,))
            return
        probe.member.pool.checkin(probe.connection, broken=error)
        self._plan(probe.member, time.monotonic())

    def _forget_probe(self, probe: Probe) -> None:
        self._probes.pop(probe.member, None)
        self._limits.drop(probe)

    def _register(self, probe: Probe) -> None:
        self._unregister(probe)
        descriptor = probe.connection.live_descriptor()
        self._register_connection(descriptor, probe.connection, probe)
        probe.descriptor = descriptor

    def _register_connection(self, descriptor: int, connection: PooledConnection, what: object) -> None:
        events = selectors.EVENT_READ | selectors.EVENT_WRITE if connection.wants_write else selectors.EVENT_READ
        try:
            self._register_as(descriptor, events, what)
        except OSError as error:
            raise connection.closed_meanwhile() from error

    def _register_as(self, descriptor: int, events: int, what: object) -> None:
        # Another thread may have closed what had this number before: the selector has not been told.
        with contextlib.suppress(KeyError):
            self._selector.unregister(descriptor)
        self._selector.register(descriptor, events, what)

    def _unregister(self, probe: Probe) -> None:
        if probe.descriptor >= 0:
            key = self._selector.get_map().get(probe.descriptor)
            # For the same reason the number may be somebody else's by now.
            if key is not None and key.data is probe:
                self._selector.unregister(probe.descriptor)
            probe.descriptor = -1

    # Jobs that were dropped while others on the same connection are being worked on.

    def _give_back(self, member: Member) -> None:
        while member.reservations.partly_abandoned:
            self._care_for_dropped(member.reservations.partly_abandoned.popleft())

    def _care_for_dropped(self, lease: Lease[PooledConnection]) -> None:
        seen_to = False
        with self._error_log.catching(f"giving back jobs to {lease.connection.server}"):
            seen_to = self._begin_to_give_back(lease)
        if not seen_to:
            self._to_go_on.plan(lease, time.monotonic() + _LOOK_AGAIN)

    def _begin_to_give_back(self, lease: Lease[PooledConnection]) -> bool:
        """False if it has to be tried again later."""
        if lease in self._give_backs:
            # Its end looks for more.
            return True
        if not lease.abandoned():
            return True
        if lease.orphaned and not lease.connection.guard.locked():
            lease.discard("its jobs were dropped unfinished")
            return True
        give_back = PartialRelease(lease)
        if not give_back.take_connection():
            # A sibling's command is under way.
            return False
        self._give_backs[lease] = give_back
        with self._caring_for(give_back):
            try:
                give_back.begin()
                self._limits.plan(give_back, give_back.give_up_at)
                self._register_connection(give_back.live_descriptor(), give_back.connection, give_back)
            except BeanpoolError as error:
                self._end_give_back(give_back, error)
        return True

    def _go_on_giving_back(self, give_back: PartialRelease) -> None:
        try:
            if give_back.step():
                self._end_give_back(give_back)
            else:
                # It may have something to send on by now, or no longer.
                self._register_connection(give_back.live_descriptor(), give_back.connection, give_back)
        except BeanpoolError as error:
            self._end_give_back(give_back, error)

    def _end_give_back(self, give_back: PartialRelease, error: BaseException | None = None) -> None:
        if self._give_backs.pop(give_back.lease, None) is None:
            # It was its end that failed.
            return
        self._limits.drop(give_back)
        self._forget(give_back)
        give_back.end(error)
        if error is None:
            # What was dropped meanwhile, or was more than could be done at once.
            self._to_go_on.plan(give_back.lease, time.monotonic() + _BREATH)

    def _forget(self, what: object) -> None:
        """Stop watching: what broke has no descriptor any more by which the selector could find it."""
        for key in list(self._selector.get_map().values()):
            if key.data is what:
                self._selector.unregister(key.fd)

    # The end.

    def _close(self, channel: Channel) -> None:
        self._lingering.discard(channel)
        self._limits.drop(channel)
        with contextlib.suppress(KeyError, ValueError, OSError):
            self._selector.unregister(channel.fileno())
        channel.close("its reserve was cancelled")

    def end(self) -> None:
        """Let go of everything."""
        for channel in list(self._lingering):
            with self._caring_for(channel):
                self._close(channel)
        for probe in list(self._probes.values()):
            with self._caring_for(probe.member):
                self._unregister(probe)
                del self._probes[probe.member]
                probe.member.pool.discard(probe.connection)
        for give_back in list(self._give_backs.values()):
            with self._caring_for(give_back):
                give_back.connection.drop("the pool was closed")
                self._end_give_back(give_back)
