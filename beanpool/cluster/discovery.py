"""A thread of its own that asks which servers there are, and lets a cluster have these."""

from __future__ import annotations

import contextlib
import queue
import random
import threading
import time
from collections.abc import Callable
from typing import Protocol

from beanpool.config import Server
from beanpool.discovery import Discovery, Found
from beanpool.errors import PoolClosed, describe, without_frames
from beanpool.policy import next_question
from beanpool.runtime import Lock, ReentrantEvent, is_mine
from beanpool.telemetry import ErrorLog, Reporter
from beanpool.validation import LONGEST

# How often a thread that could not be started is tried again, at most (seconds).
_START_AGAIN_AFTER = 1.0


class DiscoveryOwner(Protocol):
    """Whose servers are found out."""

    def discovered(self, servers: tuple[Server, ...], drain_for: float) -> None:
        """Let exactly these be the servers."""

    def server_count(self) -> int:
        """How many servers there are."""


class DiscoveryThread:
    """Asks a discovery again and again, in a daemon thread. What it cannot answer changes nothing.

    :param owner: returns whose servers are found out, or None once that is gone and the thread should end.
    :param discovery: what is asked.
    :param interval: the shortest and the longest time between two questions (seconds).
    :param drain_for: how long a server that is found no more is reserved from, beyond the TTL (seconds).
    :param reporter: is told of questions that have no answer.
    """

    def __init__(
        self,
        owner: Callable[[], DiscoveryOwner | None],
        discovery: Discovery,
        interval: tuple[float, float],
        drain_for: float,
        reporter: Reporter,
    ) -> None:
        self._owner = owner
        self._discovery = discovery
        self._interval = interval
        self._drain_for = drain_for
        self._reporter = reporter
        self._error_log = ErrorLog(reporter.name)
        self._lock = Lock()
        self._thread: threading.Thread | None = None
        self._start_at = 0.0
        self._stopping = False
        self._asking = False
        # A queue, because finalizers and signal handlers may wake the thread.
        self._wakes: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._in_a_hurry = False
        self._settled = ReentrantEvent()
        self._ttl: float | None = None
        self._failures = 0
        self._failing_since = 0.0

    # From any thread.

    @property
    def settled(self) -> bool:
        """Whether the first question has been answered, or has failed; or there will be no answer."""
        return self._settled.is_set()

    def start(self) -> bool:
        """Start the thread, unless it runs or the pool is closed.

        :returns: false if it does not run: call this again with the next call.
        """
        if self._thread is not None or self._stopping:
            return True
        if is_mine(self._lock):
            # A signal handler has come in between: it is just being started.
            return False
        with self._lock:
            if self._thread is not None or self._stopping:
                return True
            now = time.monotonic()
            if now < self._start_at:
                return False
            self._start_at = now + _START_AGAIN_AFTER
            thread = threading.Thread(target=self._run, name=f"beanpool-discovery-{self._reporter.name}", daemon=True)
            try:
                self._thread = thread
                thread.start()
            except (RuntimeError, MemoryError):
                # Too many threads, or the end of the interpreter.
                self._thread = None
                return False
            except BaseException:
                # An interrupt: if it runs nevertheless, it says so itself.
                self._thread = None
                self._start_at = 0.0
                raise
        return True

    def wait(self, deadline: float) -> None:
        """Wait until :attr:`settled`, or the deadline (monotonic seconds)."""
        self._settled.wait(max(0.0, deadline - time.monotonic()))

    def hurry(self) -> None:
        """Ask as soon as the shortest interval allows: the servers may be others now."""
        self._in_a_hurry = True
        self._wakes.put(None)

    def end_waits(self) -> None:
        """Let nobody wait for an answer any more."""
        self._stopping = True
        self._settled.set()
        self._wakes.put(None)

    def stop(self, timeout: float) -> None:
        """End the thread, and wait for it, but not for longer than `timeout` (seconds); not at all if it waits for an
        answer, which nobody wants any more."""
        self.end_waits()
        with self._lock:
            thread = self._thread
        if thread is not None and thread is not threading.current_thread() and not self._asking:
            thread.join(timeout)

    def abandon(self) -> None:
        """End the thread. For finalizers: takes no lock, does no I/O."""
        self._stopping = True
        self._wakes.put(None)

    # In the thread.

    def _run(self) -> None:
        with self._lock:
            if self._thread not in (None, threading.current_thread()):
                # The start of this one was interrupted, and another one was started since.
                return
            self._thread = threading.current_thread()
        while not self._stopping:
            asked_at = time.monotonic()
            self._in_a_hurry = False
            found = self._ask()
            if self._stopping:
                return
            with self._error_log.catching("a change of the servers"):
                if not self._take(found):
                    return
            del found
            self._settled.set()
            self._sleep(asked_at)

    def _ask(self) -> Found | BaseException:
        self._asking = True
        try:
            found = self._discovery()
            if not isinstance(found, Found):
                return TypeError(f"the discovery must return Found, not {type(found).__name__}")
            return found if found.servers else LookupError("the answer is that there are no servers")
        except BaseException as error:
            # SystemExit, too: it would end the thread.
            return without_frames(error)
        finally:
            self._asking = False

    def _take(self, found: Found | BaseException) -> bool:
        """Use an answer, or tell that there is none; returns false if nobody needs one any more."""
        owner = self._owner()
        if owner is None:
            return False
        if isinstance(found, BaseException):
            self._failures += 1
            if self._failures == 1:
                self._failing_since = time.monotonic()
            self._reporter.discovery_failed(describe(found), self._failures, owner.server_count())
            return True
        # Others may have had the former answer when this one came, and go by it until its end.
        ttl = max(found.ttl or 0.0, self._ttl or 0.0)
        with contextlib.suppress(PoolClosed):
            owner.discovered(found.servers, min(self._drain_for + ttl, LONGEST))
        self._ttl = found.ttl
        self._reporter.discovered()
        if self._failures:
            self._reporter.discovery_recovered(self._failures, time.monotonic() - self._failing_since)
            self._failures = 0
        return True

    def _sleep(self, asked_at: float) -> None:
        """Wait until the next question is due."""
        jitter = random.random()
        while not self._stopping:
            pause = next_question(self._ttl, self._failures, *self._interval, jitter, hurry=self._in_a_hurry)
            seconds = asked_at + pause - time.monotonic()
            if seconds <= 0:
                return
            with contextlib.suppress(queue.Empty):
                self._wakes.get(timeout=seconds)
