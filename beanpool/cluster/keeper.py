"""A thread of its own that keeps jobs alive: it touches them before their TTR runs out.

All of its I/O is driven by readiness: a server that is silent keeps no touch from another. The jobs of a connection go
together, in one round trip. It holds nothing that it keeps: what its caller drops is given back as ever.

Callers leave notes, in a deque, and wake it only if it would sleep for too long. What it knows is its own.
"""

from __future__ import annotations

import collections
import functools
import math
import selectors
import threading
import time
import weakref
from collections.abc import Iterable
from typing import Any, Protocol

from beanpool.connection import Job, JobState, Wish, lease_of, leave_line, lose_to_ttr, reserved_at, state_of
from beanpool.errors import BeanpoolError
from beanpool.net import WakeUpPipe
from beanpool.policy import YOUNG, TouchSchedule
from beanpool.runtime import Lock, is_mine
from beanpool.server import Lease, PooledConnection, TouchRound
from beanpool.telemetry import ErrorLog, Observers

# How many touches may be under way on one connection: the commands of others wait for them.
# More in a round are no quicker: they wait for the server, which looks through all jobs of a connection for each touch.
_AT_ONCE = 256
# How long others have the connection for themselves before the next (seconds).
_PAUSE = 0.002
# When to ask again for a connection that others use, if it was not offered (seconds).
_LOOK_AGAIN = 0.2
# How long to wait after an unexpected error (seconds).
_AFTER_AN_ERROR = 0.02
# Moments that are so close are one (seconds).
_GRID = 0.05
# The thread looks this often whether it is needed, and ends when it has had nothing to keep for so long (seconds).
_TICK = 2.0


class Keeping(Protocol):
    """Somebody who wants jobs to be kept alive."""

    def keeps(self, job: Job[Any], now: float) -> bool:
        """Whether he still does (`now` in monotonic seconds). Called in the keeper's thread."""

    def lost(self, job: Job[Any]) -> None:
        """The reservation is gone. Called in the keeper's thread."""


_Jobs = TouchSchedule["weakref.ref[Job[Any]]", "weakref.ref[Lease[PooledConnection]]"]


class Keeper:
    """Touches the jobs that it is told of, in a daemon thread that starts with the first of them.

    :param name: the pool's name.
    :param observers: are told of the touches.
    """

    def __init__(self, name: str, observers: Observers) -> None:
        self._name = name
        self._observers = observers
        self._error_log = ErrorLog(name)
        self._lock = Lock()
        self._thread: threading.Thread | None = None
        self._stopping = False
        self._notes: collections.deque[tuple[weakref.ref[Keeping], weakref.ref[Job[Any]]]] = collections.deque()
        self._sleeps_until = -math.inf
        """When the thread looks at the notes by itself (monotonic seconds)."""
        self._pipe: WakeUpPipe | None = None

    # From any thread.

    def keep(self, keeping: Keeping, jobs: Iterable[Job[Any]]) -> None:
        """Touch these for as long as `keeping` keeps them.

        :raises BeanpoolError: if the thread cannot be started.
        """
        who = weakref.ref(keeping)
        first = math.inf
        for job in jobs:
            self._notes.append((who, weakref.ref(job)))
            first = min(first, _first_touch(job))
        self._start()
        pipe = self._pipe
        if first < self._sleeps_until and pipe is not None:
            pipe.wake()

    def _start(self) -> None:
        if is_mine(self._lock):
            # A signal handler has come in between: the thread is just being started, or ends.
            return
        with self._lock:
            if self._thread is not None or self._stopping or not self._notes:
                return
            try:
                if self._pipe is None:
                    self._pipe = WakeUpPipe()
                thread = threading.Thread(target=self._run, name=f"beanpool-keeper-{self._name}", daemon=True)
                self._thread = thread
                thread.start()
            except (RuntimeError, OSError, MemoryError) as error:
                self._thread = None
                raise BeanpoolError(
                    f"jobs cannot be kept alive: the thread that touches them could not be started ({error})"
                ) from error
            except BaseException:
                # An interrupt: if it runs nevertheless, it says so itself.
                self._thread = None
                raise

    def stop(self, timeout: float) -> None:
        """Touch nothing any more, end the thread, and wait for it, but not for longer than `timeout` (seconds)."""
        self._stopping = True
        with self._lock:
            thread, pipe = self._thread, self._pipe
        if pipe is not None:
            pipe.wake()
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout)

    def abandon(self) -> None:
        """End the thread at its next look. For finalizers: takes no lock, does no I/O."""
        self._stopping = True

    def leave_to_parent(self) -> None:
        """In a forked child, which has none of the parent's threads: close the descriptors."""
        self._stopping = True
        if self._pipe is not None:
            self._pipe.leave_to_parent()

    # In the thread.

    def _run(self) -> None:
        with self._lock:
            if self._thread not in (None, threading.current_thread()):
                # The start of this one was interrupted, and another one was started since.
                return
            self._thread = threading.current_thread()
        idle_since = time.monotonic()
        touching = None
        try:
            while not self._stopping:
                with self._error_log.catching("keeping jobs alive"):
                    if touching is None:
                        # Here: there may be no descriptor for it at first.
                        touching = _Touching(self._pipe, self._observers)
                    self._turn(touching)
                    if touching.busy or self._notes:
                        idle_since = time.monotonic()
                    if time.monotonic() - idle_since >= _TICK and self._ends():
                        return
                    continue
                # Whatever it was, it may be there again at once.
                time.sleep(_AFTER_AN_ERROR)
        finally:
            if touching is not None:
                touching.end()
            with self._lock:
                if self._thread is threading.current_thread():
                    self._thread = None

    def _ends(self) -> bool:
        with self._lock:
            if self._notes:
                return False
            self._thread = None
            return True

    def _turn(self, touching: _Touching) -> None:
        self._sleeps_until = -math.inf
        while self._notes:
            touching.note(*self._notes.popleft())
        until = touching.tend()
        self._sleeps_until = until
        # Who left a note before that did not wake anybody.
        touching.wait(0.0 if self._notes or self._stopping else max(0.0, until - time.monotonic()))


class _Touching:
    """What is kept, and the touches that are under way. Used by one thread."""

    def __init__(self, pipe: WakeUpPipe | None, observers: Observers) -> None:
        self._pipe = pipe
        self._observers = observers
        self._selector = selectors.DefaultSelector()
        if pipe is not None:
            self._selector.register(pipe.descriptor, selectors.EVENT_READ)
        self._jobs: _Jobs = TouchSchedule()
        self._keepings: dict[weakref.ref[Job[Any]], list[weakref.ref[Keeping]]] = {}
        self._rounds: dict[TouchRound, weakref.ref[Lease[PooledConnection]]] = {}
        # Where touches wait for their turn, each with the connection; and where it has come, which any thread tells.
        self._wishes: dict[weakref.ref[Lease[PooledConnection]], tuple[Wish, weakref.ref[PooledConnection]]] = {}
        self._offered: collections.deque[weakref.ref[Lease[PooledConnection]]] = collections.deque()

    @property
    def busy(self) -> bool:
        """Whether anything is kept, or being touched."""
        return bool(len(self._jobs) or self._rounds)

    def note(self, who: weakref.ref[Keeping], ref: weakref.ref[Job[Any]]) -> None:
        """Somebody wants this job to be kept."""
        job = ref()
        if job is None:
            return
        keepings = self._keepings.setdefault(ref, [])
        if who not in keepings:
            keepings.append(who)
        lease = lease_of(job)
        if not isinstance(lease, Lease):
            self._let_go(ref, job)
        elif ref not in self._jobs:
            self._jobs.add(ref, weakref.ref(lease), _first_touch(job))

    def tend(self) -> float:
        """Send what is due; returns until when to wait at most (monotonic seconds)."""
        now = time.monotonic()
        for round_ in [one for one in self._rounds if one.give_up_at <= now]:
            self._end(round_, str(round_.connection.late()))
        while self._offered:
            group = self._offered.popleft()
            if group in self._wishes and self._jobs.has(group):
                self._jobs.postpone(group, now)
            else:
                self._withdraw(group)
        for group in self._jobs.due(now):
            self._begin(group, now)
        limits = [round_.give_up_at for round_ in self._rounds]
        return min([now + _TICK, self._jobs.next_at, *limits])

    def wait(self, seconds: float) -> None:
        """Wait so long until something is ready, and see to it."""
        for key, _ in self._selector.select(seconds):
            if isinstance(key.data, TouchRound):
                self._go_on(key.data)
            elif self._pipe is not None:
                self._pipe.drain()

    def _begin(self, group: weakref.ref[Lease[PooledConnection]], now: float) -> None:
        wanted = [(ref, ref(), asks) for ref, asks in self._jobs.begin(group, now, _AT_ONCE)]
        lease = group()
        jobs = []
        for ref, job, asks in wanted:
            if job is None or not self._is_kept(ref, job, now):
                self._forget(ref)
            elif lease is None or lease_of(job) is not lease:
                # It is finished, or lost, or was reserved again.
                self._let_go(ref, job)
            else:
                jobs.append((job, asks))
        if lease is None or not jobs:
            self._withdraw(group)
            self._jobs.postpone(group, now)
            return
        round_ = TouchRound(lease, jobs)
        if group not in self._wishes:
            self._wishes[group] = Wish(functools.partial(self._offer, group)), weakref.ref(lease.connection)
        if not round_.take_connection(self._wishes[group][0]):
            # Somebody's command is under way on it, or its last job was just finished.
            self._jobs.postpone(group, now + _LOOK_AGAIN)
            return
        self._withdraw(group)
        self._rounds[round_] = group
        try:
            if round_.begin():
                self._end(round_)
            else:
                self._watch(round_)
        except BeanpoolError as error:
            self._end(round_, str(error))
        except BaseException as error:
            self._end(round_, f"keeping its jobs alive failed: {type(error).__name__}")
            raise

    def _offer(self, group: weakref.ref[Lease[PooledConnection]]) -> None:
        """Nobody has this connection. Called in any thread."""
        self._offered.append(group)
        if self._pipe is not None:
            self._pipe.wake()

    def _withdraw(self, group: weakref.ref[Lease[PooledConnection]]) -> None:
        wish, place = self._wishes.pop(group, (None, None))
        connection = place() if place is not None else None
        if wish is not None and connection is not None:
            leave_line(connection, wish)

    def _go_on(self, round_: TouchRound) -> None:
        try:
            if round_.step():
                self._end(round_)
            else:
                self._watch(round_)
        except BeanpoolError as error:
            self._end(round_, str(error))
        except BaseException as error:
            self._end(round_, f"keeping its jobs alive failed: {type(error).__name__}")
            raise

    def _watch(self, round_: TouchRound) -> None:
        self._unwatch(round_)
        descriptor = round_.live_descriptor()
        # Another thread may have closed what had this number before: the selector has not been told.
        if descriptor in self._selector.get_map():
            self._selector.unregister(descriptor)
        wants_write = round_.connection.wants_write
        events = selectors.EVENT_READ | selectors.EVENT_WRITE if wants_write else selectors.EVENT_READ
        try:
            self._selector.register(descriptor, events, round_)
        except OSError as error:
            raise round_.connection.closed_meanwhile() from error

    def _unwatch(self, round_: TouchRound) -> None:
        for key in list(self._selector.get_map().values()):
            if key.data is round_:
                self._selector.unregister(key.fd)

    def _end(self, round_: TouchRound, because: str | None = None) -> None:
        """A round is over; a reason says why its connection is, too."""
        group = self._rounds.pop(round_, None)
        if group is None:
            return
        self._unwatch(round_)
        round_.end(because)
        now = time.monotonic()
        touched = {weakref.ref(job): ttr for job, ttr in round_.touched.items()}
        untouched = [weakref.ref(job) for job in round_.untouched]
        self._jobs.end(group, touched, untouched, round_.began_at, now + _PAUSE)
        for job in round_.lost:
            lose_to_ttr(job)
            self._let_go(weakref.ref(job), job)
        if because is not None:
            # All of its jobs are lost, and they will say so.
            for ref in self._jobs.items(group):
                job_or_none = ref()
                if job_or_none is None:
                    self._forget(ref)
                else:
                    self._let_go(ref, job_or_none)
        if self._observers.active:
            server, seconds = round_.connection.server, now - round_.began_at
            for count, ok in ((len(touched), True), (len(untouched) + len(round_.lost), False)):
                if count:
                    self._observers.touched(server, count, seconds, ok)

    def _is_kept(self, ref: weakref.ref[Job[Any]], job: Job[Any], now: float) -> bool:
        """Whether anybody still wants it to be kept."""
        keepings = [who for who in self._keepings.get(ref, []) if (one := who()) is not None and one.keeps(job, now)]
        self._keepings[ref] = keepings
        return bool(keepings)

    def _let_go(self, ref: weakref.ref[Job[Any]], job: Job[Any]) -> None:
        """It is not reserved over this connection any more: if it is not just finished, its reservation is lost."""
        lease = lease_of(job)
        if isinstance(lease, Lease):
            self._jobs.add(ref, weakref.ref(lease), _first_touch(job))
            return
        is_lost = state_of(job) is not JobState.NOT_RESERVED
        for who in self._keepings.get(ref, []):
            one = who()
            if one is not None and is_lost:
                one.lost(job)
        self._forget(ref)

    def _forget(self, ref: weakref.ref[Job[Any]]) -> None:
        self._jobs.drop(ref)
        self._keepings.pop(ref, None)

    def end(self) -> None:
        """Let go of everything: what is under way is not known to be done."""
        for group in list(self._wishes):
            self._withdraw(group)
        for round_ in list(self._rounds):
            self._end(round_, "the pool was closed")
        self._selector.close()


def _first_touch(job: Job[Any]) -> float:
    """When a job is to be touched first (monotonic seconds), at one of few moments."""
    return math.ceil((reserved_at(job) + YOUNG) / _GRID) * _GRID
