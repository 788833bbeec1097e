"""What sends a producer's puts: its buffer, and the thread that empties it.

It outlives a producer that is dropped unclosed, until what is left was sent. The thread knows it, and it knows the
pool; the producer, which users have, is known to neither.
"""

from __future__ import annotations

import atexit
import collections
import contextlib
import math
import sys
import threading
import time
from collections.abc import Callable

from beanpool.connection import JobId
from beanpool.errors import BeanpoolError, PoolTimeoutForPut, PutAmbiguous, PutFailed
from beanpool.put.batch import PutMany
from beanpool.put.bell import Bell
from beanpool.put.future import LazyFuture
from beanpool.put.item import EncodedPut
from beanpool.put.losses import Losses
from beanpool.put.outcomes import OnOutcomes, Outcome
from beanpool.put.senders import AtExit, enlist
from beanpool.runtime import Lock

# How many batches may wait: enough to keep the servers busy, and no more memory than that.
_BATCHES_AHEAD = 8
# How many may be on their way: the next ones are at the servers when they are done with the first. What is on its way
# to a server that falls silent may or may not be stored, so it must not be much.
_BATCHES_UNDER_WAY = 3
# While puts are stored a flush without a time-out goes on, but not for longer than so many times the pool's.
_LONGEST_FLUSH = 10
# How long a server may let what comes meanwhile wait for the end of the batch (seconds). Near ones are done by then,
# and batches are larger for it.
_SOON = 0.002
# How long to wait for those who waited for the last batch, and may put again at once (seconds).
_UNTIL_THEY_RETURN = 0.0003
_SHORTEST_BATCH = 0.001
_THREADS_END_WITHIN = 1.0
# How much earlier than a flush the puts end that it waits for (seconds).
_GRACE = 0.25

Entry = tuple[LazyFuture[JobId], EncodedPut]


class Sender:
    """Sends what is put into its buffer, in batches, from a thread of its own.

    :param batch: begins a batch, which gives its outcomes to what is passed, within so many seconds (None: the pool's).
    :param linger: how long the first put of a batch may wait for others (seconds).
    :param max_batch: how many go out together at most.
    :param timeout: the pool's (seconds).
    """

    def __init__(
        self,
        batch: Callable[[OnOutcomes[LazyFuture[JobId]], float | None], PutMany[LazyFuture[JobId]]],
        linger: float,
        max_batch: int,
        timeout: float,
        name: str,
    ) -> None:
        self.room: int = max_batch * _BATCHES_AHEAD
        """How many puts may wait."""
        self.closed: bool = False
        """Whether nothing more is taken."""
        self.timeout = timeout
        self.ends_since: float | None = None
        """When the program began to end (monotonic seconds)."""
        self._batch = batch
        self._linger = linger
        self._max_batch = max_batch
        self._name = name
        self._begin()
        enlist(self)
        # Not as its own method: a call of the same name would be taken for it when it is unregistered.
        self._at_exit = AtExit(self)
        atexit.register(self._at_exit)

    def _begin(self) -> None:
        self.entries: collections.deque[Entry] = collections.deque()
        """What waits. Puts append to it without a lock."""
        self.wake_at: int = 0
        """How many must be there for the thread to be woken: more than ever are while it is busy."""
        self._taken = 0
        # Of what was taken out of the buffer and is not finished, with the number that it was taken as.
        self._in_flight: list[tuple[int, LazyFuture[JobId]]] = []
        # How many of these are not done yet.
        self._under_way = 0
        self._flushing = 0
        # Whether somebody waits for one of those that wait.
        self._awaited = False
        # How many waited for puts of the last batch: they may put again at once, and are waited for a little.
        self._returning = 0
        # Since when it is to close, and the time that it has for that (seconds; None as in _until).
        self._closing: tuple[float, float | None] | None = None
        self._stored_at = 0.0
        self._abandoned = False
        self._ended = False
        self._thread: threading.Thread | None = None
        self._lock = Lock()
        self._losses = Losses(self._name, self._lock)
        self._changed = threading.Condition(self._lock)
        self._has_room = threading.Condition(self._lock)
        # What the thread waits for: a lock that anybody may release, a finalizer too, without waiting for another one.
        self._signal = threading.Lock()
        self._signal.acquire()
        # What else it waits for, while it waits for servers.
        self._bell: Bell | None = None

    def counts(self) -> tuple[int, int]:
        """How many puts wait, and how many are on their way."""
        return len(self.entries), self._under_way

    # From any thread.

    def start(self) -> None:
        """Start the thread, unless it runs.

        :raises PutFailed: if there can be none.
        """
        with self._lock:
            if self._thread is not None:
                return
            thread = threading.Thread(target=self._run, name=f"beanpool-producer-{self._name}", daemon=True)
            self._thread = thread
            try:
                thread.start()
            except RuntimeError as error:
                self._thread = None
                raise PutFailed(
                    f"the producer's thread could not be started ({error}): there are too many, or the program is at "
                    "its end; use put or put_many"
                ) from error
            except BaseException:
                # An interrupt: it may run nevertheless.
                if not thread.is_alive():
                    self._thread = None
                raise

    def wake(self) -> None:
        """Let the thread look at what there is; in a forked child the first put starts it."""
        if self._thread is None and not self.closed:
            self.start()
        self._wake()

    def hurry(self) -> None:
        """Somebody waits for a put that is not on its way yet: let it go as soon as nothing else is."""
        self._awaited = True
        # Set back before the thread looks whether anybody waits.
        if not self._returning:
            self._wake()

    def _wake(self) -> None:
        self._signal_thread()
        bell = self._bell
        if bell is not None:
            bell.ring()

    def _signal_thread(self) -> None:
        if self._signal.locked():
            with contextlib.suppress(RuntimeError):
                self._signal.release()

    def await_room(self, timeout: float) -> None:
        """Wait until the buffer has room.

        :raises PoolTimeout: if it stays full.
        """
        self.wake()
        with self._lock:
            if not self._has_room.wait_for(lambda: self.closed or len(self.entries) < self.room, timeout):
                raise PoolTimeoutForPut(f"the producer's buffer stayed full: {self.room} puts wait for the servers")

    def withdraw(self, entry: Entry) -> bool:
        """Take back a put; false if it is on its way."""
        while True:
            with self._lock:
                try:
                    self.entries.remove(entry)
                except ValueError:
                    return False
                except IndexError:
                    # Another put has come meanwhile, on a Python without a global lock.
                    continue
                return True

    def flush(self, timeout: float | None) -> None:
        """Send what is there, and wait until it is finished. See :meth:`Producer.flush`."""
        if self._thread is threading.current_thread():
            raise BeanpoolError("a callback of a future cannot flush the producer: it is the sending thread that waits")
        with self._lock:
            target = self._taken + len(self.entries)
        done = self._await_finished(lambda: self._is_settled(target), timeout)
        self._losses.tell(None if done else "the producer could not send everything in time; it goes on trying")

    def close(self, timeout: float | None, since: float | None = None) -> None:
        """Take no more, send what is there. See :meth:`Producer.close`.

        :param since: from when on the time counts (monotonic seconds); None for now.
        """
        self.begin_to_close()
        if self._thread is threading.current_thread():
            # In a callback of a future: the thread ends when it has sent what is left.
            return
        if self._thread is not None:
            if not self._await_finished(lambda: self._ended, timeout, since):
                self._give_up()
            self._thread.join(_THREADS_END_WITHIN)
        self._losses.tell(None)
        atexit.unregister(self._at_exit)

    def _give_up(self) -> None:
        with self._lock:
            late = list(self.entries)
            self.entries.clear()
            unsure = sum(not future.done() for _, future in self._in_flight)
        given_up = PoolTimeoutForPut("the producer was closed before a server had taken this put; it was not put")
        self._finish([(future, given_up) for future, _ in _started(late)])
        self._losses.tell("the producer was closed before the servers had taken everything", given_up, unsure)

    def begin_to_close(self) -> None:
        """Take no more. For finalizers too: it takes no lock, and does no I/O."""
        self.closed = True
        # Not the bell, which has a lock: while it is waited on, there will be replies, or the end of all patience.
        self._signal_thread()

    def abandon(self) -> None:
        """The producer is gone: send what is left, and end. For finalizers."""
        self._abandoned = True
        self.begin_to_close()
        if self._thread is None:
            atexit.unregister(self._at_exit)

    def _await_finished(self, finished: Callable[[], bool], timeout: float | None, since: float | None = None) -> bool:
        started = time.monotonic() if since is None else since
        if self.closed:
            self._closing = started, timeout
        with self._lock:
            self._flushing += 1
            try:
                self._has_room.notify_all()
                self._wake()
                while not (done := finished()):
                    remaining = self._until(started, timeout) - time.monotonic()
                    if remaining <= 0:
                        break
                    self._changed.wait(remaining)
            finally:
                self._flushing -= 1
        return done

    def _until(self, started: float, timeout: float | None) -> float:
        """Until when to wait for what is to be sent (monotonic seconds)."""
        if timeout is not None:
            return started + timeout
        # A server that is slow is not dead. Puts that no server takes fail by themselves, a moment before this.
        until = max(started, self._stored_at) + self.timeout + _GRACE
        return min(until, started + _LONGEST_FLUSH * self.timeout)

    def _seconds_left(self) -> float | None:
        """How long the next batch may take (seconds); None for as long as any."""
        if self._closing is None:
            return None
        started, timeout = self._closing
        remaining = self._until(started, timeout) - time.monotonic()
        # So that it ends, and it is known how, before it is given up.
        return min(self.timeout, max(_SHORTEST_BATCH, remaining - min(_GRACE, remaining / 10)))

    def _is_settled(self, target: int) -> bool:
        first = self._in_flight[0][0] if self._in_flight else self._taken + 1
        return first > target or not (self._in_flight or self.entries)

    # In the thread.

    def _run(self) -> None:
        try:
            while batch := self._next_batch():
                self._deliver(batch)
        finally:
            with self._lock:
                self._ended = True
                self._changed.notify_all()
            if self._abandoned:
                atexit.unregister(self._at_exit)
                # Nobody else will say so.
                with contextlib.suppress(BeanpoolError):
                    self._losses.tell(None)

    def _next_batch(self) -> list[Entry]:
        """Wait for a batch; empty if none will come."""
        with self._lock:
            self._note_settled()
        if self._returning > 1:
            self._await_entries(self._returning, time.monotonic() + min(_UNTIL_THEY_RETURN, self._linger))
        self._returning = 0
        self._await_entries(1, None)
        self._await_entries(self._max_batch, time.monotonic() + self._linger)
        with self._lock:
            return self._take()

    def _await_entries(self, count: int, until: float | None) -> None:
        while True:
            # Set before the look at what is there, as a put looks at it when it is in.
            self.wake_at = count
            remaining = None if until is None else until - time.monotonic()
            if self._is_due(count) or (remaining is not None and remaining <= 0):
                break
            self._signal.acquire(timeout=-1 if remaining is None else remaining)
        self.wake_at = sys.maxsize

    def _is_due(self, count: int) -> bool:
        waiting = len(self.entries)
        if waiting >= count or self.closed:
            return True
        return waiting > 0 and (self._flushing > 0 or (self._awaited and not self._returning))

    def _take(self) -> list[Entry]:
        # Before: who waits from now on says so again.
        awaited, self._awaited = self._awaited, False
        batch = [self.entries.popleft() for _ in range(min(len(self.entries), self._max_batch))]
        self._in_flight += [(self._taken + number, future) for number, (future, _) in enumerate(batch, 1)]
        self._taken += len(batch)
        if awaited and self.entries:
            # It may be one of those that are left.
            self._awaited = True
        self._has_room.notify_all()
        return batch

    def _note_settled(self) -> None:
        # Else it would be looked through for each put.
        if self._flushing or len(self._in_flight) > 2 * self._under_way + self._max_batch or not self._under_way:
            self._in_flight = [sent for sent in self._in_flight if not sent[1].done()]
        if self._flushing:
            self._changed.notify_all()

    def _deliver(self, batch: list[Entry]) -> None:
        """Send a batch, and those that are due by then, without waiting for the replies in between."""
        finished: list[tuple[LazyFuture[JobId], Outcome]] = []
        live = self._start_all(batch)
        try:
            with self._batch(finished.extend, self._seconds_left()) as running:
                goes_on = True
                while goes_on:
                    goes_on = running.feed(live, hold_back=False)
                    self._settle(finished)
                    if goes_on:
                        batch = self._next_beside(running, finished)
                        live = self._start_all(batch)
                        goes_on = bool(batch)
                running.finish()
        except Exception as error:
            self._finish(finished)
            finished = [(future, error) for _, future in self._in_flight if not future.done()]
        self._finish(finished)

    def _start_all(self, batch: list[Entry]) -> list[Entry]:
        live = _started(batch)
        self._under_way += len(live)
        return live

    def _settle(self, finished: list[tuple[LazyFuture[JobId], Outcome]]) -> None:
        """Tell those who wait what has become of their puts."""
        if finished or self._flushing:
            self._finish(finished)
            with self._lock:
                self._note_settled()

    def _next_beside(
        self, running: PutMany[LazyFuture[JobId]], finished: list[tuple[LazyFuture[JobId], Outcome]]
    ) -> list[Entry]:
        """Wait for puts that are due while others are under way; empty if there were none until all of these are done.

        A full batch is due as soon as there is room for it. Others wait until what is under way is done; but where a
        server takes its time, what came of the rest is told, and nobody waits for it any more.
        """
        if self._may_send_more() and self.entries and self._is_due(self._max_batch):
            return self._take_now()
        lingers_until: float | None = None
        try:
            while running.busy:
                now, slow_from = time.monotonic(), running.silent_since + _SOON
                if now < slow_from:
                    self._bell = None
                    if self._may_send_more() and len(self.entries) >= self._max_batch:
                        return self._take_now()
                    running.wait(slow_from)
                    continue
                self._settle(finished)
                # They need not wait for each other, as one of them waits for a slow server.
                self._returning = 0
                # In this order: whoever puts, or waits, meanwhile rings.
                self._bell = running.bell
                waiting, has_room = len(self.entries), self._may_send_more()
                self.wake_at = sys.maxsize if not has_room else self._max_batch if waiting else 1
                waiting = len(self.entries)
                if waiting and lingers_until is None:
                    lingers_until = now + self._linger
                if waiting and has_room and (self._is_due(self._max_batch) or now >= (lingers_until or now)):
                    return self._take_now()
                running.wait(lingers_until if has_room and lingers_until is not None else math.inf)
        finally:
            self._bell = None
            self.wake_at = sys.maxsize
        return []

    def _may_send_more(self) -> bool:
        """Whether another batch may be on its way."""
        return self._under_way <= (_BATCHES_UNDER_WAY - 1) * self._max_batch

    def _take_now(self) -> list[Entry]:
        with self._lock:
            return self._take()

    def _finish(self, finished: list[tuple[LazyFuture[JobId], Outcome]]) -> None:
        self._under_way -= len(finished)
        failed = []
        for future, outcome in finished:
            if isinstance(outcome, JobId):
                self._returning += len(future.sleepers)
                future.set_result(outcome)
            else:
                future.set_exception(outcome)
                failed.append(future)
        if len(failed) < len(finished):
            self._stored_at = time.monotonic()
        if failed:
            self._losses.note(failed)
        finished.clear()

    # In a forked child.

    def leave_to_parent(self) -> None:
        """Start afresh: what was put so far, and the thread, are the parent's."""
        inherited = [future for future, _ in self.entries] + [future for _, future in self._in_flight]
        self._begin()
        error = PutAmbiguous("the put was made by the parent process, and only that will know whether it is stored")
        for future in inherited:
            future.leave_to_parent(error)


def _started(batch: list[Entry]) -> list[Entry]:
    """Those that nobody has cancelled; it is too late for that now."""
    return [entry for entry in batch if entry[0].set_running_or_notify_cancel()]
