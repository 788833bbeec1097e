"""Puts from many threads, collected into batches."""

from __future__ import annotations

import atexit
import collections
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from types import TracebackType

from beanpool.errors import PoolClosed, PoolTimeout
from beanpool.job_id import JobId
from beanpool.protocol.arguments import DEFAULT_PRIORITY, DEFAULT_TTR, Body
from beanpool.put_item import EncodedPut
from beanpool.put_many import Outcome

# How many batches may wait: enough to keep the servers busy, and no more memory than that.
_BATCHES_AHEAD = 8

_Entry = tuple[EncodedPut, "Future[JobId]"]


class Producer:
    """Takes single puts from any number of threads and sends them in batches, from a thread of its own.

    Every :meth:`put` returns a future of the job's id, with the promises of :meth:`PoolManager.put`: nothing is
    acknowledged before a server has stored it. Use it in a ``with`` block, or call :meth:`close`: what was put is
    flushed then.

    :param encode: checks and encodes one put, from the arguments of :meth:`put`.
    :param send: sends a batch and returns its outcomes.
    :param linger: how long the first put of a batch may wait for others (seconds).
    :param max_batch: how many go out together at most.
    :param timeout: how long a put may wait for room in the buffer (seconds).
    """

    def __init__(
        self,
        encode: Callable[[Body, int, int, int, str | None, str | bytes | None], EncodedPut],
        send: Callable[[Iterable[EncodedPut]], list[Outcome]],
        linger: float,
        max_batch: int,
        timeout: float,
        name: str,
    ) -> None:
        self._encode = encode
        self._send = send
        self._linger = linger
        self._max_batch = max_batch
        self._room = max_batch * _BATCHES_AHEAD
        self._timeout = timeout
        self._entries: collections.deque[_Entry] = collections.deque()
        self._sending = 0
        self._flushing = 0
        self._closed = False
        self._lock = threading.Lock()
        self._has_work = threading.Condition(self._lock)
        self._has_room = threading.Condition(self._lock)
        self._is_empty = threading.Condition(self._lock)
        self._thread = threading.Thread(target=self._run, name=f"beanpool-producer-{name}", daemon=True)
        self._thread.start()
        # A program that ends without close() must not lose what it has put.
        atexit.register(self.close)

    def __repr__(self) -> str:
        return f"<Producer: {len(self._entries)} waiting, {self._sending} on their way>"

    def put(
        self,
        body: Body,
        priority: int = DEFAULT_PRIORITY,
        delay: int = 0,
        ttr: int = DEFAULT_TTR,
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
        future: Future[JobId] = Future()
        with self._lock:
            if len(self._entries) >= self._room:
                self._await_room(self._timeout if timeout is None else timeout)
            if self._closed:
                raise PoolClosed("the producer is closed")
            self._entries.append((encoded, future))
            if len(self._entries) in (1, self._max_batch):
                self._has_work.notify()
        return future

    def _await_room(self, timeout: float) -> None:
        self._has_work.notify()
        if not self._has_room.wait_for(lambda: self._closed or len(self._entries) < self._room, timeout):
            raise PoolTimeout(f"the producer's buffer stayed full: {self._room} puts wait for the servers")

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
        while (batch := self._next_batch()) is not None:
            self._deliver(batch)

    def _next_batch(self) -> list[_Entry] | None:
        with self._lock:
            self._sending = 0
            if not self._entries:
                self._is_empty.notify_all()
            self._has_work.wait_for(lambda: self._entries or self._closed)
            if not self._entries:
                return None
            linger_until = time.monotonic() + self._linger
            while len(self._entries) < self._max_batch and not (self._closed or self._flushing):
                remaining = linger_until - time.monotonic()
                if remaining <= 0 or not self._has_work.wait(remaining):
                    break
            batch = [self._entries.popleft() for _ in range(min(len(self._entries), self._max_batch))]
            self._sending = len(batch)
            self._has_room.notify_all()
        return batch

    def _deliver(self, batch: list[_Entry]) -> None:
        live = [entry for entry in batch if entry[1].set_running_or_notify_cancel()]
        outcomes: list[Outcome]
        try:
            outcomes = self._send(put for put, _ in live)
        except Exception as error:
            outcomes = [error] * len(live)
        for (_, future), outcome in zip(live, outcomes, strict=True):
            if isinstance(outcome, JobId):
                future.set_result(outcome)
            else:
                future.set_exception(outcome)
