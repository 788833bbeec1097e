"""The messages that a worker has in hand: reserved jobs, kept alive until they are acknowledged."""

from __future__ import annotations

import collections
import contextlib
import logging
import threading
import time
import weakref
from collections.abc import Callable, Iterable
from typing import Any

from dramatiq.broker import Consumer, MessageProxy
from dramatiq.errors import ConnectionClosed, DecodeError
from dramatiq.message import Message

from beanpool.connection import Job
from beanpool.contrib.dramatiq.failures import Unsent, connection_errors
from beanpool.contrib.dramatiq.sending import whole_seconds
from beanpool.contrib.dramatiq.together import FinishedTogether
from beanpool.errors import BeanpoolError, Buried, JobLost, NoServerAvailable, NotFound, PoolClosed, PoolTimeout
from beanpool.jobs import KeptJobs
from beanpool.manager import PoolManager
from beanpool.reserve import Waker
from beanpool.tube import Tube

# How many round trips it takes at most to fetch many messages, from a connect to the last of them.
_ROUND_TRIPS = 4
# How long a message waits before it is worked on again whose follow-up could not be sent (milliseconds).
_AGAIN_IN = 5_000


class ReservedMessage(MessageProxy):
    """A message, its reserved job, and what keeps that alive."""

    def __init__(self, message: Message[Any], job: Job[Any], kept: KeptJobs | None) -> None:
        super().__init__(message)
        self.job = job
        self.kept = kept
        self.unsent: Unsent | None = None

    @property
    def lost(self) -> bool:
        """Whether the server has given the message to somebody else, or will."""
        return self.job.lost or (self.kept is not None and bool(self.kept.lost))


class BeanpoolConsumer(Consumer):
    """The messages of one queue. Unlike others of its kind it may be used by many threads.

    :param prefetch: how many are in hand at most.
    :param timeout: how long to wait for one (seconds).
    """

    def __init__(
        self,
        pool: PoolManager[Any],
        tube: Tube[Any],
        queue_name: str,
        prefetch: int,
        timeout: float,
        keep_alive: bool,
        logger: logging.Logger,
    ) -> None:
        self.prefetch = prefetch
        self.closed = False
        self._pool = pool
        self._tube = tube
        self._queue_name = queue_name
        self._timeout = timeout
        self._keep_alive = keep_alive
        self._logger = logger
        self._delete = FinishedTogether(Job.delete, pool.delete_many)
        self._bury = FinishedTogether(Job.bury, pool.bury_many)
        self._waker = Waker()
        self._changed = threading.Condition()
        # What dramatiq drops is given back, and leaves a place.
        self._in_hand: weakref.WeakSet[Job[Any]] = weakref.WeakSet()
        self._fetched: collections.deque[tuple[Job[Any], KeptJobs | None]] = collections.deque()

    def __next__(self) -> MessageProxy | None:
        """The next message; None if none came in time.

        :raises dramatiq.errors.ConnectionClosed: if the broker is closed.
        """
        while True:
            if not self._fetched:
                self._fetch(time.monotonic() + self._patience)
            try:
                job, kept = self._fetched.popleft()
            except IndexError:
                return None
            message = self._open(job, kept)
            if message is not None:
                return message

    @property
    def _patience(self) -> float:
        """How long to wait for messages (seconds): what comes later than that from a server far away is given back."""
        return max(
            self._timeout, _ROUND_TRIPS * max((one.round_trip or 0.0 for one in self._pool.servers), default=0.0)
        )

    def _fetch(self, deadline: float) -> None:
        """Reserve as many as there is room for; none if none comes until the deadline."""
        with self._changed:
            while (room := self.prefetch - len(self._in_hand)) <= 0:
                if not self._changed.wait(max(0.0, deadline - time.monotonic())):
                    return
        jobs: list[Job[Any]] = []
        with connection_errors():
            # The pool says so in its log. The next call waits for servers, and for connections.
            with contextlib.suppress(NoServerAvailable, PoolTimeout):
                jobs = self._tube.reserve_many(room, max(0.0, deadline - time.monotonic()), waker=self._waker)
            fetched = [(job, self._pool.keep(job).__enter__() if self._keep_alive else None) for job in jobs]
        with self._changed:
            closed = self.closed
            if not closed:
                self._in_hand.update(jobs)
                self._fetched.extend(fetched)
        if closed:
            self._give_back(fetched)
            raise ConnectionClosed("the consumer was closed")

    def _open(self, job: Job[Any], kept: KeptJobs | None) -> ReservedMessage | None:
        """Decode a message; bury one that cannot be worked on."""
        try:
            message = Message.decode(job.data)
            if not (
                isinstance(message.actor_name, str)
                and isinstance(message.kwargs, dict)
                and isinstance(message.options, dict)
            ):
                raise DecodeError("The fields of the message are not those of dramatiq.", job.data, None)
        except DecodeError as error:
            # Not its traceback: that may show the body.
            self._logger.error("Job %d of %s is no message of dramatiq, and is buried: %s", job.id, job.server, error)
            self._finish(job, kept, f"job {job.id} of {job.server}", self._bury)
            return None
        if isinstance(message.options.get("eta"), int | float):
            # The server has waited for it, or somebody has kicked it. What is no time is the worker's to complain of.
            del message.options["eta"]
        # It is acknowledged where it came from, also if somebody has moved it there.
        return ReservedMessage(message.copy(queue_name=self._queue_name), job, kept)

    def ack(self, message: MessageProxy) -> None:
        """Delete its job; or give it back, if a message that was to follow it could not be sent."""
        assert isinstance(message, ReservedMessage)
        job, unsent = message.job, message.unsent
        end: Callable[[Job[Any]], None] = self._delete
        if unsent is not None and unsent.hopeless:
            self._logger.error(
                "Message %r is buried, for a message that was to follow it cannot be sent: %s",
                *(message.message_id, unsent.error),
            )
            end = self._bury
        elif unsent is not None:
            delay = max(1, whole_seconds(_AGAIN_IN if unsent.delay is None else unsent.delay))
            self._logger.error(
                "Message %r is worked on again in %d s, for a message that was to follow it could not be sent: %s",
                *(message.message_id, delay, unsent.error),
            )

            def end(job: Job[Any]) -> None:
                job.release(delay=delay)

        self._finish(job, message.kept, f"message {message.message_id!r}", end)

    def nack(self, message: MessageProxy) -> None:
        """Bury its job."""
        assert isinstance(message, ReservedMessage)
        self._finish(message.job, message.kept, f"message {message.message_id!r}", self._bury)

    def _finish(self, job: Job[Any], kept: KeptJobs | None, name: str, end: Callable[[Job[Any]], None]) -> None:
        """:raises dramatiq.errors.ConnectionClosed: if it could not be told to the server, and can be again."""
        try:
            end(job)
        except (JobLost, NotFound, PoolClosed) as error:
            self._logger.warning("%s may be worked on again: %s", name, error)
        except Buried as error:
            self._logger.warning("%s was given back, and is buried: %s", name, error)
        except BeanpoolError as error:
            raise ConnectionClosed(str(error)) from error
        self._let_go(((job, kept),))

    def _let_go(self, pairs: Iterable[tuple[Job[Any], KeptJobs | None]]) -> None:
        with self._changed:
            for job, kept in pairs:
                if kept is not None:
                    kept.__exit__(None, None, None)
                self._in_hand.discard(job)
            self._changed.notify_all()

    def requeue(self, messages: Iterable[MessageProxy]) -> None:
        """Give them back to their server, in one round trip."""
        self._give_back([(message.job, message.kept) for message in messages if isinstance(message, ReservedMessage)])

    def _give_back(self, pairs: list[tuple[Job[Any], KeptJobs | None]]) -> None:
        with connection_errors():
            for error in self._pool.release_many([job for job, _ in pairs]) if pairs else ():
                if error is not None:
                    self._logger.info("The server takes a message back by itself: %s", error)
        self._let_go(pairs)

    def close(self) -> None:
        """Give back what was fetched and not handed out. Idempotent."""
        with self._changed:
            self.closed = True
            fetched = list(self._fetched)
            self._fetched.clear()
            self._changed.notify_all()
        self._waker.set()
        self._give_back(fetched)
