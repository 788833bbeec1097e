"""The broker: queues, sending, and who works on what was sent."""

from __future__ import annotations

import math
import os
import threading
import time
import weakref
from collections.abc import Iterable
from typing import Any, Unpack

from dramatiq.broker import Broker, Consumer
from dramatiq.common import current_millis
from dramatiq.errors import ConnectionClosed, QueueJoinTimeout, QueueNotFound
from dramatiq.message import Message
from dramatiq.middleware import Middleware, SkipMessage

from beanpool import admin
from beanpool.config import DEFAULTS, ENVIRONMENT_VARIABLES, AnyServer, PoolOptions
from beanpool.contrib.dramatiq.consumer import BeanpoolConsumer, ReservedMessage
from beanpool.contrib.dramatiq.emptiness import Emptiness, emptiness_of
from beanpool.contrib.dramatiq.failures import EnqueueFailed, Unsent, connection_errors
from beanpool.contrib.dramatiq.sending import seconds_until, with_less_traceback
from beanpool.errors import JobLost, JobTooBig, NotFound, PutFailed, PutRefused
from beanpool.manager import PoolManager
from beanpool.net import DEFAULT_HOST, DEFAULT_PORT
from beanpool.protocol import DEFAULT_PRIORITY, MAX_UINT32, check_int
from beanpool.tube import Tube
from beanpool.validation import check_seconds

# How many messages are deleted at once.
_AT_ONCE = 500


class BeanpoolBroker(Broker):
    """A dramatiq broker on a cluster of beanstalkd servers.

    A message is acknowledged by deleting its job, and rejected by burying it. A delay is the server's own: whole
    seconds, rounded up. What a worker has fetched is kept alive until it is acknowledged, and given back when the
    worker stops. An enqueue that fails in a middleware, where dramatiq goes on as if it had not (a retry's, or the next
    step of a pipeline), lets the message that it should have followed be worked on again.

    :param url: the servers, as for :class:`beanpool.PoolManager`; None for those of ``BEANPOOL_URL``,
        ``BEANSTALKD_URL`` or ``BEANSTALK_URL``, else of localhost.
    :param pool: a pool to use instead, which stays open when the broker is closed. Its `max_connections` must be at
        least what all workers of this process prefetch.
    :param middleware: all middleware; None for dramatiq's default.
    :param namespace: what the tubes' names start with: ``dramatiq.default``; empty for the queues' plain names.
    :param ttr: how long a worker that has gone silent keeps a message (whole seconds). Without `keep_alive`, how long
        one may take, the time that it waits in its worker included.
    :param keep_alive: whether messages are touched until they are acknowledged.
    :param priority: the jobs' priority (0 to 2**32 - 1; 0 is most urgent). The ``priority`` of an actor, or of one
        message (``send_with_options(priority=-10)``), is added to it.
    :param enqueue_timeout: the longest that sending a message may take (seconds); None for the pool's.
    :param pool_options: those of :class:`beanpool.PoolManager`. Unless `max_connections` is among them, or in `url`,
        there are as many as the workers need.
    :raises ValueError: for an option that cannot be; :raises TypeError: for one of a wrong type, or for a `pool` with a
        `url` or options.

    :ivar pool: the :class:`beanpool.PoolManager`.
    """

    def __init__(
        self,
        url: AnyServer | Iterable[AnyServer] | None = None,
        pool: PoolManager[Any] | None = None,
        middleware: list[Middleware] | None = None,
        namespace: str = "dramatiq",
        ttr: int = 60,
        keep_alive: bool = True,
        priority: int = DEFAULT_PRIORITY,
        enqueue_timeout: float | None = None,
        **pool_options: Unpack[PoolOptions],
    ) -> None:
        if pool is not None and (url is not None or pool_options):
            raise TypeError("a broker with a pool takes its servers and options from there: leave out url and options")
        check_int("ttr", ttr, 1, MAX_UINT32)
        check_int("priority", priority, 0, MAX_UINT32)
        self.namespace = namespace
        self.ttr = ttr
        self.keep_alive = keep_alive
        self.priority = priority
        self.enqueue_timeout = None if enqueue_timeout is None else check_seconds("enqueue_timeout", enqueue_timeout)
        self._owns_pool = pool is None
        sized = "max_connections" in pool_options or "max_connections" in str(url)
        self._most = DEFAULTS.max_connections if pool is None and not sized else None
        self.pool: PoolManager[Any] = _open_pool(url, pool_options) if pool is None else pool
        self._tube("default")
        self._lock = threading.Lock()
        self._consumers: weakref.WeakSet[BeanpoolConsumer] = weakref.WeakSet()
        self._finishing = threading.local()
        super().__init__(middleware)
        self.queues: dict[str, Tube[Any]] = {}

    def close(self) -> None:
        """Give back what was fetched and not handed to a worker, and close the pool, unless it was given."""
        with self._lock:
            consumers = list(self._consumers)
        for consumer in consumers:
            consumer.close()
        if self._owns_pool:
            self.pool.close()

    # Queues.

    def declare_queue(self, queue_name: str) -> None:
        """Declare a queue: nothing is sent, for a tube exists while it has jobs.

        :raises ValueError: if the namespace and the queue's name make no name of a tube.
        """
        if queue_name in self.queues:
            return
        tube = self._tube(queue_name)
        self.emit_before("declare_queue", queue_name)
        self.queues[queue_name] = tube
        self.emit_after("declare_queue", queue_name)

    def _tube(self, queue_name: str) -> Tube[Any]:
        return self.pool.tube(f"{self.namespace}.{queue_name}" if self.namespace else queue_name)

    def _declared(self, queue_name: str) -> Tube[Any]:
        try:
            return self.queues[queue_name]
        except KeyError:
            raise QueueNotFound(queue_name) from None

    # Sending messages.

    def enqueue(self, message: Message[Any], *, delay: int | None = None) -> Message[Any]:
        """Send a message (``put``).

        A message with an ``eta`` (Unix time in milliseconds) and no delay waits until then, too.

        :param delay: how long it waits at least (milliseconds, rounded up to whole seconds).
        :raises EnqueueFailed: if no server has certainly taken it.
        :raises beanpool.JobTooBig: if it exceeds the ``max-job-size`` of all servers.
        """
        try:
            if delay is not None:
                message = message.copy(options={"eta": current_millis() + delay})
            self.emit_before("enqueue", message, delay)
            message = self._put(message)
            self.emit_after("enqueue", message, delay)
        except Exception as error:
            # Of a middleware's, dramatiq takes no notice, and acknowledges the message that it works on.
            finishing: ReservedMessage | None = getattr(self._finishing, "message", None)
            if finishing is not None:
                finishing.unsent = Unsent(error, delay)
            raise
        return message

    def _put(self, message: Message[Any]) -> Message[Any]:
        """Send it, with less of the traceback of its last failure if it is too big otherwise; return what was sent."""
        while True:
            try:
                self._put_whole(message)
            except JobTooBig as error:
                shorter = with_less_traceback(message, error)
                if shorter is None:
                    raise
                message = shorter
            except PutRefused:
                raise
            except PutFailed as error:
                raise EnqueueFailed(str(error), error.may_be_stored) from error
            else:
                return message

    def _put_whole(self, message: Message[Any]) -> None:
        tube = self.queues.get(message.queue_name) or self._tube(message.queue_name)
        jid = tube.put(
            message.encode(),
            self._priority(message),
            seconds_until(message.options.get("eta")),
            self.ttr,
            timeout=self.enqueue_timeout,
        )
        if jid.buried:
            self.logger.warning(
                "Message %r is stored, but buried: %s has no memory to queue it.", message.message_id, jid.server
            )

    def _priority(self, message: Message[Any]) -> int:
        own = message.options.get("priority")
        if own is None:
            actor = self.actors.get(message.actor_name)
            own = 0 if actor is None else actor.priority
        return max(0, min(self.priority + int(own), MAX_UINT32))

    # Working on messages.

    def consume(self, queue_name: str, prefetch: int = 1, timeout: int = 30_000) -> Consumer:
        """Take messages off a queue.

        :param prefetch: how many are in hand at most: those that are worked on, and those that wait for a thread.
        :param timeout: how long to wait for one (milliseconds).
        :raises dramatiq.errors.QueueNotFound: if the queue was not declared.
        """
        consumer = BeanpoolConsumer(
            *(self.pool, self._declared(queue_name), queue_name, prefetch, timeout / 1000, self.keep_alive, self.logger)
        )
        with self._lock:
            self._consumers.add(consumer)
            # Jobs that came one by one hold a connection each, and so does a wait; some are for what actors send.
            needed = sum(other.prefetch + 2 for other in self._consumers if not other.closed)
            if self._most is not None and needed > self._most:
                self._most = needed
                self.pool.resize(needed)
        return consumer

    def emit_before(self, signal: str, *args: Any, **kwargs: Any) -> None:
        """Tell the middleware, and skip a message that was lost while it waited for a thread."""
        super().emit_before(signal, *args, **kwargs)
        # After the others, which expect to be told of the end of what they were told of.
        if signal == "process_message" and isinstance(args[0], ReservedMessage) and args[0].lost:
            raise SkipMessage("its reservation is gone: another worker gets it")

    def emit_after(self, signal: str, *args: Any, **kwargs: Any) -> None:
        """Tell the middleware, and see whether a message that it sends is not sent."""
        if signal not in ("process_message", "skip_message") or not isinstance(args[0], ReservedMessage):
            super().emit_after(signal, *args, **kwargs)
            return
        self._finishing.message = args[0]
        try:
            super().emit_after(signal, *args, **kwargs)
        finally:
            self._finishing.message = None

    # For tests.

    def flush(self, queue_name: str) -> None:
        """Delete the messages of a queue, delayed ones and dead letters too, but not those that are worked on.

        :raises dramatiq.errors.QueueNotFound: if the queue was not declared.
        :raises dramatiq.errors.ConnectionClosed: if a server did not answer: its messages may still be there.
        """
        tube = self._declared(queue_name)
        with connection_errors():
            # What a consumer that has just been closed gave back may have come to a wait of the pool's, which nobody
            # but a reserve takes it from.
            while reserved := tube.reserve_many(_AT_ONCE, 0):
                for error in self.pool.delete_many(reserved):
                    # Somebody else may have taken it.
                    if error is not None and not isinstance(error, NotFound | JobLost):
                        raise error
            # In a tube that is paused they cannot be reserved.
            outcomes = admin.clear(self.pool, tube.name)
        if error := admin.total(outcomes).error:
            raise ConnectionClosed(str(error)) from error

    def flush_all(self) -> None:
        """:meth:`flush` all declared queues."""
        for queue_name in list(self.queues):
            self.flush(queue_name)

    def join(self, queue_name: str, *, interval: int = 100, timeout: int | None = None) -> None:
        """Wait until no server has a message of a queue: ready, delayed or worked on. Dead letters do not count.

        A server that does not answer is not an empty one: it is waited for.

        :param interval: how often to look (milliseconds).
        :param timeout: how long to wait (milliseconds); None for ever.
        :raises dramatiq.errors.QueueNotFound: if the queue was not declared.
        :raises dramatiq.errors.QueueJoinTimeout: if there were messages until then, or a server did not answer.
        """
        tube = self._declared(queue_name).name
        deadline = None if timeout is None else time.monotonic() + timeout / 1000
        before: Emptiness | None = None
        while True:
            left = math.inf if deadline is None else deadline - time.monotonic()
            # One look there is in any case. A server that is silent has the pool's timeout, or what is left.
            seconds = left if 0 < left < DEFAULTS.timeout else None
            emptiness, why_not = emptiness_of(self.pool.stats_tube_by_server(tube, timeout=seconds))
            # The servers answer at different moments, and a retry may have gone from one that has not answered yet to
            # one that has. If nothing came between two looks, all were empty at one moment.
            if emptiness is not None and emptiness == before:
                return
            if deadline is not None and time.monotonic() >= deadline:
                raise QueueJoinTimeout(f"queue {queue_name} is not known to be empty: {why_not}")
            if emptiness is None:
                left = math.inf if deadline is None else max(0.0, deadline - time.monotonic())
                time.sleep(min(interval / 1000, left))
            before = emptiness


def _open_pool(url: AnyServer | Iterable[AnyServer] | None, options: PoolOptions) -> PoolManager[Any]:
    if url is not None:
        return PoolManager(url, encoding=None, **options)
    if any(os.environ.get(variable, "").strip() for variable in ENVIRONMENT_VARIABLES):
        return PoolManager.from_env(encoding=None, **options)
    return PoolManager(f"beanstalk://{DEFAULT_HOST}:{DEFAULT_PORT}", encoding=None, **options)
