"""The one background thread of a pool: it probes servers, and tidies up what callers should not wait for.

All its I/O is driven by readiness, so the silence of one server delays nobody else's check. An error that nobody
foresaw is logged and costs what it happened to: a check, which is made anew with another connection, a connection whose
jobs were being given back, one that was being closed anyway. The care for all others goes on.
"""

from __future__ import annotations

import collections
import contextlib
import math
import os
import random
import selectors
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator

from beanpool.channel import Channel
from beanpool.complaints import Complaints
from beanpool.errors import BeanpoolError
from beanpool.giving_back import GiveBack
from beanpool.lease import Lease
from beanpool.locks import Lock
from beanpool.member import Member
from beanpool.pooled_connection import PooledConnection

_TICK = 0.5
# Until when a server may take to close its side of a connection that was half-closed (seconds).
_LINGER = 1.0
_IDLE_FOR = 60.0
_FAREWELL = 1.0
# What a caller waits for is checked sooner than its back-off says, but not more often than this (seconds).
_LEAST_BETWEEN_CHECKS = 0.25


class Monitor:
    """Probes members and lingers on half-closed connections, in a daemon thread that starts with the first need.

    :param members: returns the members to watch, or None once the pool is gone and the thread should end.
    :param interval: how often an idle server is probed (seconds); every interval is jittered by a fifth.
    """

    def __init__(self, members: Callable[[], Iterable[Member] | None], interval: float, name: str) -> None:
        self._members = members
        self._interval = interval
        self._name = name
        self._lock = Lock()
        self._thread: threading.Thread | None = None
        self._stopping = False
        self._hurried = False
        self._complaints = Complaints(name)
        self._wake_reader = self._wake_writer = -1
        self._lingering: collections.deque[Channel] = collections.deque()
        self._calls: collections.deque[Callable[[], None]] = collections.deque()

    # From any thread.

    def start(self) -> None:
        """Start the thread, unless it runs or the pool is closed."""
        if self._thread is not None:
            return
        with self._lock:
            if self._thread is not None or self._stopping:
                return
            self._wake_reader, self._wake_writer = os.pipe()
            os.set_blocking(self._wake_reader, False)
            os.set_blocking(self._wake_writer, False)
            thread = threading.Thread(target=self._run, name=f"beanpool-monitor-{self._name}", daemon=True)
            self._thread = thread
            try:
                thread.start()
            except RuntimeError:
                # At interpreter shutdown no thread can start; the pool works without.
                self._thread = None
                self._close_pipe()

    def wake(self) -> None:
        """Look at everything now."""
        with self._lock:
            if self._wake_writer >= 0:
                with contextlib.suppress(BlockingIOError):
                    os.write(self._wake_writer, b"w")

    def hurry(self) -> None:
        """Check the servers that are down now: a caller waits for one."""
        self._hurried = True
        self.wake()

    def linger(self, channels: Iterable[Channel]) -> None:
        """Read half-closed channels to their end, then close them."""
        self._lingering.extend(channels)
        self.wake()

    def later(self, call: Callable[[], None]) -> None:
        """Have this done in the thread when it looks at everything next; here, if there is none."""
        if self._thread is None:
            call()
        else:
            self._calls.append(call)

    def stop(self, timeout: float) -> None:
        """End the thread and wait for it, but not for longer than `timeout` (seconds)."""
        with self._lock:
            self._stopping = True
            thread = self._thread
        self.wake()
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout)
        while self._calls:
            self._calls.popleft()()
        while self._lingering:
            self._lingering.popleft().close("the pool was closed")

    def abandon(self) -> None:
        """End the thread at its next tick. For finalizers: takes no lock, does no I/O."""
        self._stopping = True

    def leave_to_parent(self) -> None:
        """In a forked child, which has none of the parent's threads: close the descriptors."""
        for descriptor in (self._wake_reader, self._wake_writer):
            if descriptor >= 0:
                os.close(descriptor)

    # In the thread.

    def _run(self) -> None:
        selector = selectors.DefaultSelector()
        watch = _Watch(selector, self._interval, self._complaints)
        try:
            selector.register(self._wake_reader, selectors.EVENT_READ)
            goes_on = True
            while goes_on and not self._stopping:
                done = False
                with self._complaints.about("a turn of the monitor"):
                    goes_on = self._turn(selector, watch)
                    done = True
                if not done:
                    # Whatever it was, it may be there again at once.
                    time.sleep(_TICK)
        finally:
            watch.end()
            selector.close()
            self._close_pipe()

    def _turn(self, selector: selectors.BaseSelector, watch: _Watch) -> bool:
        members = self._members()
        if members is None:
            return False
        while self._calls:
            call = self._calls.popleft()
            with self._complaints.about("what was left to the monitor"):
                call()
            del call
        hurried = self._hurried
        if hurried:
            # Not otherwise: it may have been set just now.
            self._hurried = False
        until = watch.tend(members, self._lingering, hurried)
        # Nothing that keeps the pool alive may be held while waiting.
        del members
        for key, _ in selector.select(max(0.0, until - time.monotonic())):
            if key.fd == self._wake_reader:
                with contextlib.suppress(BlockingIOError):
                    os.read(self._wake_reader, 4096)
            else:
                watch.ready(key.data)
        return True

    def _close_pipe(self) -> None:
        with self._lock:
            for descriptor in (self._wake_reader, self._wake_writer):
                if descriptor >= 0:
                    os.close(descriptor)
            self._wake_reader = self._wake_writer = -1


class _Probe:
    """A check of one member that is under way."""

    __slots__ = ("connection", "descriptor", "member")

    def __init__(self, member: Member, connection: PooledConnection) -> None:
        self.member = member
        self.connection = connection
        self.descriptor = -1


class _Watch:
    """What the monitor's thread has in hand."""

    def __init__(self, selector: selectors.BaseSelector, interval: float, complaints: Complaints) -> None:
        self._selector = selector
        self._interval = interval
        self._complaints = complaints
        # Weak: a member knows its pool, and the pool must not live because it is watched.
        self._due: weakref.WeakKeyDictionary[Member, float] = weakref.WeakKeyDictionary()
        self._returns_seen: weakref.WeakKeyDictionary[Member, int] = weakref.WeakKeyDictionary()
        # Until when those are left alone whose check failed in a way that says nothing of the server.
        self._put_off: weakref.WeakKeyDictionary[Member, float] = weakref.WeakKeyDictionary()
        # When the last check began.
        self._started: weakref.WeakKeyDictionary[Member, float] = weakref.WeakKeyDictionary()
        # Those that somebody waits for.
        self._wanted: weakref.WeakSet[Member] = weakref.WeakSet()
        self._probes: dict[Member, _Probe] = {}
        self._lingering: dict[Channel, float] = {}
        self._give_backs: dict[Lease, GiveBack] = {}

    def tend(self, members: Iterable[Member], lingering: collections.deque[Channel], hurried: bool) -> float:
        """Start what is due; return until when to wait at most (monotonic seconds).

        :param hurried: whether somebody waits for a server that is down.
        """
        now = time.monotonic()
        wait_until = now + _TICK
        while lingering:
            self._linger(lingering.popleft(), now)
        for channel, close_at in list(self._lingering.items()):
            if close_at <= now:
                with self._caring_for(channel):
                    self._close(channel)
        for probe in list(self._probes.values()):
            if probe.connection.give_up_at <= now:
                with self._caring_for(probe.member):
                    self._finish(probe, probe.connection.late())
            else:
                wait_until = min(wait_until, probe.connection.give_up_at)
        for give_back in list(self._give_backs.values()):
            if give_back.give_up_at <= now:
                with self._caring_for(give_back):
                    self._end_give_back(give_back, give_back.connection.late())
        if hurried:
            self._wanted.update(member for member in members if member.down)
        for member in members:
            with self._complaints.about(f"tidying up after {member.name}"):
                self._tidy_up(member, now)
            with self._caring_for(member):
                wait_until = min(wait_until, self._check(member, now))
        return wait_until

    @contextlib.contextmanager
    def _caring_for(self, what: Channel | Member | GiveBack) -> Iterator[None]:
        """Let an error that nobody foresaw cost no more than what the block is for, which is begun anew."""
        if isinstance(what, Channel):
            doing = "closing a connection"
        elif isinstance(what, Member):
            doing = f"the check of {what.name}"
        else:
            doing = f"giving back jobs to {what.connection.server}"
        with self._complaints.about(doing):
            try:
                yield
            except BaseException as error:
                self._let_go(what, error)
                raise

    def _let_go(self, what: Channel | Member | GiveBack, error: BaseException) -> None:
        if isinstance(what, Channel):
            self._close(what)
        elif isinstance(what, GiveBack):
            self._end_give_back(what, error)
        else:
            self._put_off[what] = time.monotonic() + _TICK
            probe = self._probes.pop(what, None)
            if probe is not None:
                self._unregister(probe)
                what.pool.discard(probe.connection, f"its check failed: {type(error).__name__}")

    def _tidy_up(self, member: Member, now: float) -> None:
        member.pool.collect_abandoned()
        self._give_back(member)
        member.pool.trim(_IDLE_FOR)
        member.wake_up(now)

    def _check(self, member: Member, now: float) -> float:
        """Start the check that is due; return when the next one is (monotonic seconds)."""
        if member in self._probes:
            return math.inf
        due = self._due_at(member, now)
        if member in self._wanted:
            due = min(due, self._started.get(member, 0.0) + _LEAST_BETWEEN_CHECKS)
        if due > now:
            return due
        self._start(member, now)
        return math.inf

    def _due_at(self, member: Member, now: float) -> float:
        put_off = self._put_off.get(member)
        if put_off is not None:
            return put_off
        if not member.up:
            return member.health.retry_at
        due = self._due.get(member)
        if due is None:
            due = self._due[member] = now + self._interval * random.uniform(0.0, 1.2)
            self._returns_seen[member] = member.pool.returns
        elif due <= now and member.pool.returns != self._returns_seen.get(member):
            # Passive first: commands were answered since the last look, so there is nothing to ask.
            due = self._next(member, now)
        return due

    def _next(self, member: Member, now: float) -> float:
        self._returns_seen[member] = member.pool.returns
        due = self._due[member] = now + self._interval * random.uniform(0.8, 1.2)
        return due

    def _start(self, member: Member, now: float) -> None:
        self._put_off.pop(member, None)
        self._wanted.discard(member)
        self._started[member] = now
        self._next(member, now)
        try:
            connection = member.pool.acquire_now(()) or member.pool.extra()
        except BeanpoolError:
            return
        probe = self._probes[member] = _Probe(member, connection)
        try:
            if connection.channel_state is None:
                connection.begin_dialing()
            connection.begin_probe()
            self._step(probe)
        except BeanpoolError as error:
            self._finish(probe, error)

    def ready(self, what: object) -> None:
        """Something that the selector watches is ready."""
        if isinstance(what, Channel):
            with self._caring_for(what):
                if what.at_end():
                    self._close(what)
        elif isinstance(what, _Probe):
            with self._caring_for(what.member):
                try:
                    self._step(what)
                except BeanpoolError as error:
                    self._finish(what, error)
        elif isinstance(what, GiveBack):
            with self._caring_for(what):
                self._go_on_giving_back(what)

    def _step(self, probe: _Probe) -> None:
        reply = probe.connection.step()
        if reply is None:
            self._register(probe)
            return
        self._unregister(probe)
        probe.connection.greet(reply)
        probe.member.works()
        # From here on the connection is the pool's again: what goes wrong now must not close it under its next user.
        self._probes.pop(probe.member, None)
        probe.member.pool.release(probe.connection)
        # The probe's own return is no sign of other life.
        self._next(probe.member, time.monotonic())

    def _register(self, probe: _Probe) -> None:
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

    def _unregister(self, probe: _Probe) -> None:
        if probe.descriptor >= 0:
            key = self._selector.get_map().get(probe.descriptor)
            # For the same reason the number may be somebody else's by now.
            if key is not None and key.data is probe:
                self._selector.unregister(probe.descriptor)
            probe.descriptor = -1

    def _finish(self, probe: _Probe, error: BeanpoolError) -> None:
        self._unregister(probe)
        self._probes.pop(probe.member, None)
        probe.member.pool.broke(probe.connection, error)

    def _give_back(self, member: Member) -> None:
        """Give back what was dropped on connections on which other jobs are being worked on."""
        later = []
        while member.pool.bereaved:
            lease = member.pool.bereaved.popleft()
            seen_to = False
            with self._complaints.about(f"giving back jobs to {member.name}"):
                seen_to = self._begin_to_give_back(lease)
            if not seen_to:
                later.append(lease)
        member.pool.bereaved.extend(later)

    def _begin_to_give_back(self, lease: Lease) -> bool:
        """False if it has to be tried again later."""
        if lease in self._give_backs:
            return False
        if not lease.dropped():
            return True
        if lease.deserted and not lease.connection.guard.locked():
            lease.scrap("its jobs were dropped unfinished")
            return True
        give_back = GiveBack(lease)
        if not give_back.take_connection():
            # A sibling's command is under way.
            return False
        self._give_backs[lease] = give_back
        with self._caring_for(give_back):
            try:
                give_back.begin()
                self._register_connection(give_back.live_descriptor(), give_back.connection, give_back)
            except BeanpoolError as error:
                self._end_give_back(give_back, error)
        return True

    def _go_on_giving_back(self, give_back: GiveBack) -> None:
        try:
            if give_back.step():
                self._end_give_back(give_back)
            else:
                # It may have something to send on by now, or no longer.
                self._register_connection(give_back.live_descriptor(), give_back.connection, give_back)
        except BeanpoolError as error:
            self._end_give_back(give_back, error)

    def _end_give_back(self, give_back: GiveBack, error: BaseException | None = None) -> None:
        if self._give_backs.pop(give_back.lease, None) is None:
            # It was its end that failed.
            return
        self._forget(give_back)
        give_back.end(error)
        if error is None:
            # What was dropped meanwhile, or was more than could be done at once.
            give_back.lease.pool.bereaved.append(give_back.lease)

    def _forget(self, what: object) -> None:
        """Stop watching: what broke has no descriptor any more by which the selector could find it."""
        for key in list(self._selector.get_map().values()):
            if key.data is what:
                self._selector.unregister(key.fd)

    def _linger(self, channel: Channel, now: float) -> None:
        with self._caring_for(channel):
            if channel.at_end():
                self._close(channel)
                return
            self._lingering[channel] = now + _LINGER
            self._register_as(channel.fileno(), selectors.EVENT_READ, channel)

    def _close(self, channel: Channel) -> None:
        self._lingering.pop(channel, None)
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
