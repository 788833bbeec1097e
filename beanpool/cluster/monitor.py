"""The one background thread of a pool: it probes servers, and tidies up what callers should not wait for.

All its I/O is driven by readiness, so the silence of one server delays nobody else's check. An unexpected error is
logged and costs what it came up in: a check, which is made anew with another connection, a connection whose jobs were
being given back, or one that was being closed anyway. The care for all others goes on.

Where no thread can be started (a container's limit of processes, the end of the interpreter) the pool's calls do this
work, a turn each, and try again to start the thread.
"""

from __future__ import annotations

import collections
import selectors
import threading
import time
from collections.abc import Callable, Iterable, Sequence

from beanpool.cluster.upkeep import TICK, Upkeep
from beanpool.net import Channel, WakeUpPipe
from beanpool.runtime import Lock, is_mine
from beanpool.server import Member
from beanpool.telemetry import ErrorLog

# How soon to try again to start the thread, and to do its work in a caller's (seconds).
_START_AGAIN_AFTER = 1.0
_TURN_AGAIN_AFTER = 0.02
# How long a caller that waits for a server anyway may work in the thread's place (seconds).
_LONGEST_TURN = 0.05


class Monitor:
    """Probes members and closes what others have left, in a daemon thread that starts with the first need.

    :param members: returns the members to watch, or None once the pool is gone and the thread should end.
    :param interval: how often an idle server is probed (seconds); every interval is jittered by a fifth.
    """

    def __init__(self, members: Callable[[], Sequence[Member] | None], interval: float, name: str) -> None:
        self._members = members
        self._interval = interval
        self._name = name
        self._lock = Lock()
        self._thread: threading.Thread | None = None
        self._start_at = 0.0
        self._stopping = False
        self._down_wanted = False
        self._error_log = ErrorLog(name)
        self._wake_up: WakeUpPipe | None = None
        self._half_closed: collections.deque[Channel] = collections.deque()
        self._calls: collections.deque[Callable[[], None]] = collections.deque()
        self._changed: collections.deque[Member] = collections.deque()
        self._doubted: collections.deque[Member] = collections.deque()
        self._unconnected: collections.deque[Member] = collections.deque()
        # What the callers work with while there is no thread; that takes it over.
        self._loop: _Loop | None = None
        self._loop_lock = Lock()
        self._next_turn_at = 0.0

    # From any thread.

    def start(self) -> bool:
        """Start the thread, unless it runs or the pool is closed.

        :returns: false if it could not be started: call this again with the next call. What is due was done here.
        """
        if self._thread is not None or self._stopping:
            return True
        if self._try_to_start():
            return True
        self._work_without_thread(0.0)
        return False

    def _try_to_start(self) -> bool:
        if is_mine(self._lock):
            # A signal handler has come in between.
            return False
        with self._lock:
            if self._thread is not None or self._stopping:
                return True
            now = time.monotonic()
            if now < self._start_at:
                return False
            self._start_at = now + _START_AGAIN_AFTER
            thread = threading.Thread(target=self._run, name=f"beanpool-monitor-{self._name}", daemon=True)
            try:
                if self._wake_up is None:
                    self._wake_up = WakeUpPipe()
                self._thread = thread
                thread.start()
            except (RuntimeError, OSError, MemoryError):
                # Too many threads or descriptors, or the end of the interpreter.
                self._thread = None
                return False
            except BaseException:
                # An interrupt: if it runs nevertheless, it says so itself.
                self._thread = None
                self._start_at = 0.0
                raise
        return True

    def wake(self) -> None:
        """Look at what is due now."""
        wake_up = self._wake_up
        if wake_up is not None:
            wake_up.wake()

    def state_changed(self, member: Member) -> None:
        """What is believed about a member has changed: plan its next check anew."""
        self._changed.append(member)
        self.wake()

    def doubt(self, member: Member) -> None:
        """Check a member soon: somebody had no answer from it, and had no patience either."""
        self._doubted.append(member)
        self.wake()

    def check_down_servers(self) -> None:
        """Check the servers that are down now: a caller waits for one."""
        self._down_wanted = True
        self.wake()
        if self._thread is None and not self.start():
            self._work_without_thread(_LONGEST_TURN)

    def close_half_closed(self, channels: Iterable[Channel]) -> None:
        """Read half-closed channels to their end, then close them."""
        self._half_closed.extend(channels)
        self.wake()

    def reconnect(self, members: Iterable[Member]) -> None:
        """See to it that the next call finds a connection to each of these servers."""
        self._unconnected.extend(members)
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
        if thread is None:
            self._close_pipe()
        self._end_loop()
        while self._calls:
            self._calls.popleft()()
        while self._half_closed:
            self._half_closed.popleft().close("the pool was closed")

    def abandon(self) -> None:
        """End the thread at its next tick. For finalizers: takes no lock, does no I/O."""
        self._stopping = True

    def leave_to_parent(self) -> None:
        """In a forked child, which has none of the parent's threads: close the descriptors."""
        if self._wake_up is not None:
            self._wake_up.leave_to_parent()

    # In a caller's thread, where there is no other.

    def _work_without_thread(self, seconds: float) -> None:
        """Do what is due, and wait up to `seconds` for what is under way."""
        now = time.monotonic()
        if self._stopping or now < self._next_turn_at or is_mine(self._loop_lock):
            return
        with self._loop_lock, self._error_log.catching("a turn of the monitor"):
            if self._thread is not None:
                # It was started meanwhile.
                return
            self._next_turn_at = now + _TURN_AGAIN_AFTER
            if self._loop is None:
                self._loop = _Loop(self._interval, self._error_log, self.wake)
            loop = self._loop
            until = now + seconds
            while self._prepare(loop):
                remaining = until - time.monotonic()
                loop.pump(min(remaining, TICK) if loop.upkeep.checks.under_way else 0.0, None)
                if remaining <= 0 or not loop.upkeep.checks.under_way:
                    return

    def _end_loop(self) -> None:
        with self._loop_lock:
            loop, self._loop = self._loop, None
        if loop is not None:
            loop.end()

    # In the thread.

    def _run(self) -> None:
        with self._lock:
            if self._thread not in (None, threading.current_thread()):
                # The start of this one was interrupted, and another one was started since.
                return
            self._thread = threading.current_thread()
        loop = None
        try:
            goes_on = True
            while goes_on and not self._stopping:
                done = False
                with self._error_log.catching("a turn of the monitor"):
                    if loop is None:
                        # Here: there may be no descriptor for it at first.
                        loop = self._take_over_loop()
                    goes_on = self._turn(loop)
                    done = True
                if not done:
                    # Whatever it was, it may be there again at once.
                    time.sleep(TICK)
        finally:
            if loop is not None:
                loop.end()
            self._close_pipe()

    def _take_over_loop(self) -> _Loop:
        with self._loop_lock:
            loop = self._loop or _Loop(self._interval, self._error_log, self.wake)
            if self._wake_up is not None:
                loop.selector.register(self._wake_up.descriptor, selectors.EVENT_READ)
            self._loop = None
        return loop

    def _turn(self, loop: _Loop) -> bool:
        until = self._prepare(loop)
        if until is None:
            return False
        loop.pump(max(0.0, until - time.monotonic()), self._wake_up)
        return True

    def _prepare(self, loop: _Loop) -> float | None:
        """Start what is due; returns until when to wait at most, or None if there is nothing any more to care for."""
        members = self._members()
        if members is None:
            return None
        while self._calls:
            call = self._calls.popleft()
            with self._error_log.catching("what was left to the monitor"):
                call()
            del call
        upkeep = loop.upkeep
        while self._half_closed:
            upkeep.close_half_closed(self._half_closed.popleft())
        while self._changed:
            upkeep.checks.changed(self._changed.popleft())
        while self._doubted:
            upkeep.checks.doubt(self._doubted.popleft())
        while self._unconnected:
            upkeep.checks.reconnect(self._unconnected.popleft())
        if self._down_wanted:
            # Not otherwise: it may have been set just now.
            self._down_wanted = False
            upkeep.checks.want(member for member in members if member.down)
        # Nothing that keeps the pool alive is held on return: the thread waits then.
        return upkeep.tend(members)

    def _close_pipe(self) -> None:
        with self._lock:
            wake_up, self._wake_up = self._wake_up, None
        if wake_up is not None:
            wake_up.close()


class _Loop:
    """Where the monitor's work is done: a selector, and what is in hand."""

    def __init__(self, interval: float, error_log: ErrorLog, wake: Callable[[], None]) -> None:
        self.selector = selectors.DefaultSelector()
        self.upkeep = Upkeep(self.selector, interval, error_log, wake)

    def pump(self, seconds: float, wake_up: WakeUpPipe | None) -> None:
        """Wait so long (seconds) until something is ready, and see to it."""
        for key, _ in self.selector.select(max(0.0, seconds)):
            if key.data is not None:
                self.upkeep.ready(key.data)
            elif wake_up is not None:
                wake_up.drain()

    def end(self) -> None:
        """Let go of everything."""
        self.upkeep.end()
        self.selector.close()
