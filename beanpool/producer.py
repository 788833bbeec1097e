"""Puts from many threads, collected into batches."""

from __future__ import annotations

import atexit
import collections
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from types import TracebackType

from beanpool.errors import BeanpoolError, NotPicklable, PoolClosed, PoolTimeout
from beanpool.job_id import JobId
from beanpool.locks import Lock
from beanpool.promise import Promise
from beanpool.protocol.arguments import DEFAULT_PRIORITY, DEFAULT_TTR, Body
from beanpool.put_item import EncodedPut
from beanpool.put_many import Outcome, PutMany, Settle

# How many batches may wait: enough to keep the servers busy, and no more memory than that.
_BATCHES_AHEAD = 8
# How many may be on their way: the next ones are at the servers when they are done with the first. What is on its way
# to a server that falls silent may or may not be stored, so it must not be much.
_BATCHES_UNDER_WAY = 3

_Entry = tuple[Promise[JobId], EncodedPut]


class Producer(NotPicklable):
    """Takes single puts from any number of threads and sends them in batches, from a thread of its own.

    Every :meth:`put` returns a future of the job's id, with the promises of :meth:`PoolManager.put`: nothing is
    acknowledged before a server has stored it. Use it in a ``with`` block, or call :meth:`close`: what was put is
    flushed then.

    :param encode: checks and encodes one put, from the arguments of :meth:`put`.
    :param batch: begins a batch, which gives its outcomes to what is passed.
    :param linger: how long the first put of a batch may wait for others (seconds).
    :param max_batch: how many go out together at most; up to two more batches may follow before the replies are there.
    :param timeout: how long a put may wait for room in the buffer (seconds).
    """

    def __init__(
        self,
        encode: Callable[[Body, int, float, float, str | None, str | bytes | None], EncodedPut],
        batch: Callable[[Settle[Promise[JobId]]], PutMany[Promise[JobId]]],
        linger: float,
        max_batch: int,
        timeout: float,
        name: str,
    ) -> None:
        self._encode = encode
        self._batch = batch
        self._linger = linger
        self._max_batch = max_batch
        self._room = max_batch * _BATCHES_AHEAD
        self._timeout = timeout
        self._entries: collections.deque[_Entry] = collections.deque()
        # How many must be there for the sender to be woken: more than ever are while it is busy.
        self._wake_at = sys.maxsize
        self._sending = 0
        self._flushing = 0
        self._closed = False
        self._lock = Lock()
        self._has_work = threading.Condition(self._lock)
        self._has_room = threading.Condition(self._lock)
        self._is_empty = threading.Condition(self._lock)
        self._thread = threading.Thread(target=self._run, name=f"beanpool-producer-{name}", daemon=True)
        try:
            self._thread.start()
        except RuntimeError as error:
            raise BeanpoolError(
                f"the producer's thread could not be started ({error}): there are too many, or the program is at its "
                "end; use put or put_many"
            ) from error
        # A program that ends without close() must not lose what it has put.
        atexit.register(self.close)

    def __repr__(self) -> str:
        return f"<Producer: {len(self._entries)} waiting, {self._sending} on their way>"

    def put(
        self,
        body: Body,
        priority: int = DEFAULT_PRIORITY,
        delay: float = 0,
        ttr: float = DEFAULT_TTR,
        *,
        tube: str | None = None,
        key: str | bytes | None = None,
        timeout: float | None = None,
    ) -> Future[JobId]:
        """Put a job with the next batch; the future has its :class:`JobId`, or the error of its put.

        Bad arguments are raised at once. When the buffer is full, it waits for room.

        :param timeout: how long to wait for room (seconds); None for the pool's.
        :raises PoolTimeout: if there was none in time; the job was not put.
        :raises PoolClosed: if the producer is closed.
        """
        encoded = self._encode(body, priority, delay, ttr, tube, key)
        promise: Promise[JobId] = Promise()
        entry = (promise, encoded)
        entries = self._entries
        if len(entries) >= self._room:
            self._await_room(self._timeout if timeout is None else timeout)
        entries.append(entry)
        if len(entries) >= self._wake_at:
            self._wake()
        if self._closed:
            self._withdraw(entry)
        return promise

    def _await_room(self, timeout: float) -> None:
        with self._lock:
            self._has_work.notify()
            if not self._has_room.wait_for(lambda: self._closed or len(self._entries) < self._room, timeout):
                raise PoolTimeout(f"the producer's buffer stayed full: {self._room} puts wait for the servers")

    def _wake(self) -> None:
        with self._lock:
            self._has_work.notify()
            # Last: an interrupt before it leaves the next put to do the same.
            self._wake_at = sys.maxsize

    def _withdraw(self, entry: _Entry) -> None:
        """Take back what came too late, unless it is on its way."""
        try:
            self._entries.remove(entry)
        except ValueError:
            return
        raise PoolClosed("the producer is closed")

    def flush(self, timeout: float | None = None) -> None:
        """Send what was put so far, and wait until every future of it is done.

        :param timeout: how long to wait (seconds); None until it is done (each put has its own deadline).
        :raises PoolTimeout: if it was not done in time; it is still on its way.
        """
        with self._lock:
            self._flushing += 1
            self._has_work.notify()
            try:
                if not self._is_empty.wait_for(lambda: not self._entries and not self._sending, timeout):
                    raise PoolTimeout("the producer could not send everything in time; it goes on trying")
            finally:
                self._flushing -= 1

    def close(self, timeout: float | None = None) -> None:
        """Flush, then take no more. Idempotent.

        :param timeout: how long to wait (seconds); None until it is done.
        :raises PoolTimeout: if it was not done in time; what is left is still sent.
        """
        with self._lock:
            self._closed = True
            self._has_work.notify()
            self._has_room.notify_all()
        if self._thread is not threading.current_thread():
            self._thread.join(timeout)
        if self._thread.is_alive():
            raise PoolTimeout("the producer could not send everything in time; it goes on trying")
        atexit.unregister(self.close)

    def __enter__(self) -> Producer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _run(self) -> None:
        while batch := self._next_batch():
            self._deliver(batch)

    def _next_batch(self) -> list[_Entry]:
        """Wait for a batch; empty if none will come."""
        with self._lock:
            self._sending = 0
            if not self._entries:
                self._is_empty.notify_all()
            self._await_entries(1, None)
            self._await_entries(self._max_batch, time.monotonic() + self._linger)
            return self._take()

    def _await_entries(self, count: int, until: float | None) -> None:
        while True:
            # Set before the look at what is there, as a put looks at it when it is in; and set again after each wait,
            # which may have been ended by a thread that was late and has reset it.
            self._wake_at = count
            remaining = None if until is None else until - time.monotonic()
            if self._is_due(count) or (remaining is not None and remaining <= 0):
                break
            self._has_work.wait(remaining)
        self._wake_at = sys.maxsize

    def _is_due(self, count: int) -> bool:
        waiting = len(self._entries)
        return waiting >= count or self._closed or (waiting > 0 and self._flushing > 0)

    def _take(self) -> list[_Entry]:
        batch = [self._entries.popleft() for _ in range(min(len(self._entries), self._max_batch))]
        self._sending += len(batch)
        self._has_room.notify_all()
        return batch

    def _deliver(self, batch: list[_Entry]) -> None:
        """Send a batch, and those that are due by then, without waiting for the replies in between."""
        settled: list[tuple[Promise[JobId], Outcome]] = []
        live = _started(batch)
        waiting = [promise for promise, _ in live]
        try:
            with self._batch(settled.extend) as running:
                while live:
                    goes_on = running.feed(live)
                    _finish(settled)
                    waiting = [promise for promise in waiting if not promise.done()]
                    with self._lock:
                        self._sending = len(waiting)
                        goes_on = goes_on and len(waiting) <= (_BATCHES_UNDER_WAY - 1) * self._max_batch
                        batch = self._take() if goes_on and self._is_due(self._max_batch) else []
                    live = _started(batch)
                    waiting += [promise for promise, _ in live]
                running.finish()
        except Exception as error:
            _finish(settled)
            settled = [(promise, error) for promise in waiting if not promise.done()]
        _finish(settled)


def _started(batch: list[_Entry]) -> list[_Entry]:
    """Those that nobody has cancelled; it is too late for that now."""
    return [entry for entry in batch if entry[0].set_running_or_notify_cancel()]


def _finish(settled: list[tuple[Promise[JobId], Outcome]]) -> None:
    for promise, outcome in settled:
        if isinstance(outcome, JobId):
            promise.set_result(outcome)
        else:
            promise.set_exception(outcome)
    settled.clear()
