"""The one background thread of a pool: it probes servers, and tidies up what callers should not wait for.

All its I/O is driven by readiness, so the silence of one server delays nobody else's check.
"""

from __future__ import annotations

import collections
import contextlib
import os
import random
import selectors
import threading
import time
import weakref
from collections.abc import Callable, Iterable

from beanpool.channel import Channel
from beanpool.errors import BeanpoolError
from beanpool.giving_back import GiveBack
from beanpool.lease import Lease
from beanpool.member import Member
from beanpool.pooled_connection import PooledConnection

_TICK = 0.5
# Until when a server may take to close its side of a connection that was half-closed (seconds).
_LINGER = 1.0
_IDLE_FOR = 60.0
_FAREWELL = 1.0


class Monitor:
    """Probes members and lingers on half-closed connections, in a daemon thread that starts with the first need.

    :param members: returns the members to watch, or None once the pool is gone and the thread should end.
    :param interval: how often an idle server is probed (seconds); every interval is jittered by a fifth.
    """

    def __init__(self, members: Callable[[], Iterable[Member] | None], interval: float, name: str) -> None:
        self._members = members
        self._interval = interval
        self._name = name
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._stopping = False
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
        watch = _Watch(selector, self._interval)
        try:
            selector.register(self._wake_reader, selectors.EVENT_READ)
            while not self._stopping:
                members = self._members()
                if members is None:
                    break
                while self._calls:
                    self._calls.popleft()()
                until = watch.tend(members, self._lingering)
                # Nothing that keeps the pool alive may be held while waiting.
                del members
                self._turn(selector, watch, until)
        finally:
            watch.end()
            selector.close()
            self._close_pipe()

    def _turn(self, selector: selectors.BaseSelector, watch: _Watch, until: float) -> None:
        for key, _ in selector.select(max(0.0, until - time.monotonic())):
            if key.fd == self._wake_reader:
                with contextlib.suppress(BlockingIOError):
                    os.read(self._wake_reader, 4096)
            else:
                watch.ready(key.data)

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

    def __init__(self, selector: selectors.BaseSelector, interval: float) -> None:
        self._selector = selector
        self._interval = interval
        # Weak: a member knows its pool, and the pool must not live because it is watched.
        self._due: weakref.WeakKeyDictionary[Member, float] = weakref.WeakKeyDictionary()
        self._returns_seen: weakref.WeakKeyDictionary[Member, int] = weakref.WeakKeyDictionary()
        self._probes: dict[Member, _Probe] = {}
        self._lingering: dict[Channel, float] = {}
        self._give_backs: dict[Lease, GiveBack] = {}

    def tend(self, members: Iterable[Member], lingering: collections.deque[Channel]) -> float:
        """Start what is due; return until when to wait at most (monotonic seconds)."""
        now = time.monotonic()
        wait_until = now + _TICK
        while lingering:
            self._linger(lingering.popleft(), now)
        for channel, close_at in list(self._lingering.items()):
            if close_at <= now:
                self._close(channel)
        for probe in list(self._probes.values()):
            if probe.connection.give_up_at <= now:
                self._finish(probe, probe.connection.late())
            else:
                wait_until = min(wait_until, probe.connection.give_up_at)
        for give_back in list(self._give_backs.values()):
            if give_back.give_up_at <= now:
                self._end_give_back(give_back, give_back.connection.late())
        for member in members:
            member.pool.collect_abandoned()
            self._give_back(member)
            member.pool.trim(_IDLE_FOR)
            member.wake_up(now)
            if member not in self._probes:
                due = self._due_at(member, now)
                if due <= now:
                    self._start(member, now)
                else:
                    wait_until = min(wait_until, due)
        return wait_until

    def _due_at(self, member: Member, now: float) -> float:
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
        self._next(member, now)
        connection = None
        try:
            connection = member.pool.acquire_now(()) or member.pool.extra()
            if connection.channel_state is None:
                connection.begin_dialing()
            connection.begin_probe()
            probe = self._probes[member] = _Probe(member, connection)
            self._step(probe)
        except BeanpoolError as error:
            self._probes.pop(member, None)
            if connection is not None:
                member.pool.broke(connection, error)

    def ready(self, what: object) -> None:
        """Something that the selector watches is ready."""
        if isinstance(what, Channel):
            if what.at_end():
                self._close(what)
        elif isinstance(what, _Probe):
            try:
                self._step(what)
            except BeanpoolError as error:
                self._finish(what, error)
        elif isinstance(what, GiveBack):
            self._go_on_giving_back(what)

    def _step(self, probe: _Probe) -> None:
        reply = probe.connection.step()
        if reply is None:
            self._register(probe)
            return
        self._unregister(probe)
        self._probes.pop(probe.member, None)
        probe.connection.greet(reply)
        probe.member.works()
        probe.member.pool.release(probe.connection)
        # The probe's own return is no sign of other life.
        self._next(probe.member, time.monotonic())

    def _register(self, probe: _Probe) -> None:
        self._unregister(probe)
        descriptor = probe.connection.live_descriptor()
        events = selectors.EVENT_WRITE if probe.connection.wants_write else selectors.EVENT_READ
        self._selector.register(descriptor, events, probe)
        probe.descriptor = descriptor

    def _unregister(self, probe: _Probe) -> None:
        if probe.descriptor >= 0:
            with contextlib.suppress(KeyError, ValueError, OSError):
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
            if lease in self._give_backs:
                later.append(lease)
                continue
            if not lease.dropped():
                continue
            if lease.deserted and not lease.connection.guard.locked():
                lease.scrap("its jobs were dropped unfinished")
                continue
            give_back = GiveBack(lease)
            try:
                if not give_back.begin():
                    # A sibling's command is under way.
                    later.append(lease)
                    continue
                self._selector.register(give_back.live_descriptor(), selectors.EVENT_READ, give_back)
            except BeanpoolError as error:
                give_back.end(error)
                continue
            self._give_backs[lease] = give_back
        member.pool.bereaved.extend(later)

    def _go_on_giving_back(self, give_back: GiveBack) -> None:
        try:
            if give_back.step():
                self._end_give_back(give_back)
        except BeanpoolError as error:
            self._end_give_back(give_back, error)

    def _end_give_back(self, give_back: GiveBack, error: BeanpoolError | None = None) -> None:
        del self._give_backs[give_back.lease]
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
        if channel.at_end():
            channel.close("its reserve was cancelled")
            return
        self._lingering[channel] = now + _LINGER
        self._selector.register(channel.fileno(), selectors.EVENT_READ, channel)

    def _close(self, channel: Channel) -> None:
        self._lingering.pop(channel, None)
        with contextlib.suppress(KeyError, ValueError, OSError):
            self._selector.unregister(channel.fileno())
        channel.close("its reserve was cancelled")

    def end(self) -> None:
        """Let go of everything."""
        for channel in list(self._lingering):
            self._close(channel)
        for probe in list(self._probes.values()):
            self._unregister(probe)
            probe.member.pool.discard(probe.connection)
        self._probes.clear()
        for give_back in list(self._give_backs.values()):
            give_back.connection.drop("the pool was closed")
            self._end_give_back(give_back)
