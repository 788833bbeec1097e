"""Puts from many threads, collected into batches."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from concurrent.futures import Future
from types import TracebackType

from beanpool.connection import JobId
from beanpool.errors import BeanpoolError, NotPicklable, PoolClosedForPut
from beanpool.protocol import DEFAULT_PRIORITY, DEFAULT_TTR, Body
from beanpool.put.future import LazyFuture
from beanpool.put.item import EncodedPut
from beanpool.put.sender import Sender
from beanpool.validation import check_wait


class Producer(NotPicklable):
    """Takes single puts from any number of threads and sends them in batches, from a thread of its own.

    Every :meth:`put` returns a future of the job's id, with the promises of :meth:`PoolManager.put`: nothing is
    acknowledged before a server has stored it. Use it in a ``with`` block, or call :meth:`close`: what was put is
    flushed then, and what was lost is said, if nobody has asked its future. One that is dropped, or still open when the
    program ends, is flushed too. In a forked child it starts afresh; what was put before the fork is the parent's.

    :param encode: checks and encodes one put, from the arguments of :meth:`put`.
    :param sender: sends them.
    """

    def __init__(
        self,
        encode: Callable[[Body, int, float, float, str | None, str | bytes | None], EncodedPut],
        sender: Sender,
    ) -> None:
        self._encode = encode
        self._sender = sender
        self._hurry = sender.hurry
        try:
            sender.start()
        except BaseException:
            sender.abandon()
            raise

    def __del__(self) -> None:
        sender = getattr(self, "_sender", None)
        if sender is not None and not sender.closed:
            sender.abandon()
            warnings.warn(
                "a producer was never closed; use it in a with block", ResourceWarning, stacklevel=2, source=self
            )

    def __repr__(self) -> str:
        waiting, sending = self._sender.counts()
        return f"<Producer: {waiting} waiting, {sending} on their way>"

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
        """Put a job with the next batch; the future has its :class:`JobId`, or the :class:`PutFailed` of its put.

        Bad arguments are raised at once. When the buffer is full, it waits for room.

        :param timeout: how long to wait for room (seconds); None for the pool's.
        :raises PoolTimeoutForPut: if there was none in time; the job was not put.
        :raises PoolClosedForPut: if the producer is closed.
        """
        encoded = self._encode(body, priority, delay, ttr, tube, key)
        future: LazyFuture[JobId] = LazyFuture(self._hurry)
        entry = (future, encoded)
        sender = self._sender
        entries = sender.entries
        if len(entries) >= sender.room:
            sender.await_room(sender.timeout if timeout is None else timeout)
        entries.append(entry)
        if len(entries) >= sender.wake_at:
            try:
                sender.wake()
            except BeanpoolError:
                sender.withdraw(entry)
                raise
        if sender.closed and sender.withdraw(entry):
            raise PoolClosedForPut("the producer is closed")
        return future

    def flush(self, timeout: float | None = None) -> None:
        """Send what was put so far, and wait until every future of it is done, whatever others put meanwhile.

        :param timeout: how long to wait (seconds); None for as long as puts are being stored: until none was for the
            pool's timeout, and for at most ten times that.
        :raises PoolTimeoutForPut: if it was not done in time; it is still on its way.
        :raises PutFailed: if puts have failed and nobody has asked their futures: one error for all of them, of the
            first one's kind, which says how many. It is raised once, and is in the log (``beanpool.put.producer``).
        """
        self._sender.flush(check_wait("timeout", timeout))

    def close(self, timeout: float | None = None) -> None:
        """Take no more, and flush. Idempotent. What could not be sent in time is given up: its futures say so.

        :param timeout: as for :meth:`flush`.
        :raises PoolTimeoutForPut: if it was not done in time; it says how many puts are not stored, or may or may not
            be.
        :raises PutFailed: as :meth:`flush`.
        """
        self._sender.close(check_wait("timeout", timeout))

    def __enter__(self) -> Producer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self.close()
        except BeanpoolError:
            # It is in the log, too; what went wrong in the block matters more.
            if error is None:
                raise
