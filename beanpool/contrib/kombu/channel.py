"""A channel of kombu's on a pool: messages are jobs, queues are tubes."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Callable
from typing import Any

from amqp.protocol import queue_declare_ok_t
from kombu.exceptions import ChannelError
from kombu.transport import virtual
from kombu.utils.uuid import uuid

from beanpool import BeanpoolError, Job, JobLost, NotFound, PoolManager, admin
from beanpool.contrib.kombu.envelope import decode, delay_until, encode, eta_of, priority_of, tube_of
from beanpool.contrib.kombu.options import Options
from beanpool.contrib.kombu.qos import QoS, logger
from beanpool.contrib.kombu.shared_pool import SharedPool

_NO_FANOUT = (
    "beanstalkd has no exchange of type fanout ({exchange}): a job goes to one worker. So there is no remote control"
    " (celery inspect, control, status and events) and no broadcast queue; see docs/celery.md"
)
# Jobs that are deleted in one go when a queue is purged.
_PORTION = 1000
# Closer than this to its ETA a message is left to the worker's own timer (seconds).
_SOON = 1


@dataclasses.dataclass(frozen=True, slots=True)
class Handler:
    """Who gets the messages of a queue."""

    tube: str
    callback: Callable[[Any], Any]
    no_ack: bool


class Channel(virtual.Channel):
    """Publishes and consumes over the pool of its transport."""

    QoS = QoS
    supports_fanout = False
    body_encoding = None

    def __init__(self, connection: Any, **options: Any) -> None:
        self.shared: SharedPool = connection.shared
        self.options: Options = connection.options
        self.on_change: Callable[[], None] = connection.on_change
        self.handlers: dict[str, Handler] = {}
        super().__init__(connection, **options)

    @property
    def pool(self) -> PoolManager[bytes]:
        """The pool of the transport."""
        return self.shared.pool

    def tube(self, queue: str) -> str:
        """The name of a queue's tube."""
        return tube_of(queue, self.options.namespace)

    # Publishing.

    def exchange_declare(
        self, exchange: str | None = None, type: str | None = "direct", *args: Any, **options: Any
    ) -> None:
        """Declare an exchange, of type direct or topic. It is known to this connection only.

        :raises ChannelError: for one of type fanout.
        """
        if type == "fanout":
            raise ChannelError(_NO_FANOUT.format(exchange=exchange))
        super().exchange_declare(exchange, type, *args, **options)

    def _lookup(self, exchange: str, routing_key: str, default: str | None = None) -> Any:
        found = super()._lookup(exchange, routing_key, default)
        if not found and self.typeof(exchange).type == "direct":
            # A broker that keeps bindings may know one that another process has made. Here the message would be lost.
            raise ChannelError(
                f"no queue is bound to exchange {exchange!r} with key {routing_key!r}. beanstalkd keeps no bindings, so"
                " the publisher declares them: publish(..., declare=[queue]); or publish to the exchange '' with the"
                " queue's name as the key"
            )
        return found

    def encode_body(self, body: Any, encoding: str | None = None) -> tuple[Any, str | None]:
        """Text goes as it is into the envelope, bytes as base64: so what is text takes less room."""
        if encoding is None:
            encoding = "utf-8" if isinstance(body, str) else "base64"
        encoded: tuple[Any, str | None] = super().encode_body(body, encoding)
        return encoded

    def _put(self, queue: str, message: dict[str, Any], *, timeout: float | None = None, **options: Any) -> None:
        jid = self.pool.put(
            encode(message),
            priority_of(self._get_message_priority(message)),
            delay_until(eta_of(message), _now()),
            self.options.ttr,
            tube=self.tube(queue),
            timeout=timeout,
        )
        if jid.buried:
            logger.error("server %s has no memory to queue message %d: it is buried; kick it", jid.server, jid)

    # Consuming.

    def basic_consume(
        self, queue: str, no_ack: bool, callback: Callable[[Any], Any], consumer_tag: str, **options: Any
    ) -> None:
        """Deliver the messages of a queue to `callback`."""
        self._tag_to_queue[consumer_tag] = queue
        self._active_queues.append(queue)
        self.handlers[consumer_tag] = Handler(self.tube(queue), callback, no_ack)
        self._consumers.add(consumer_tag)
        self.on_change()

    def basic_cancel(self, consumer_tag: str) -> None:
        """Deliver them no longer. What was delivered can still be acknowledged."""
        if consumer_tag in self._consumers:
            self._consumers.remove(consumer_tag)
            self._active_queues.remove(self._tag_to_queue.pop(consumer_tag))
            del self.handlers[consumer_tag]
            self.on_change()

    def basic_get(self, queue: str, no_ack: bool = False, **options: Any) -> Any:
        """A message of a queue, or None if it has none now."""
        while (job := self.pool.reserve(0, tubes=self.tube(queue))) is not None:
            message = self.accept(job, no_ack)
            if message is not None:
                return message
        return None

    def deliver(self, job: Job[bytes], handler: Handler) -> bool:
        """Deliver a job that was reserved; false if there is nothing to deliver."""
        message = self.accept(job, handler.no_ack)
        if message is None:
            return False
        handler.callback(message)
        return True

    def accept(self, job: Job[bytes], no_ack: bool) -> Any:
        """The message of a job that was reserved, which is held from now on.

        :returns: None if there is none to deliver: it was no message, and is buried; it is not its time yet, and it is
            given back with a delay; or it is lost already.
        """
        tag = self.qos.hold(job)
        try:
            payload = decode(job.data)
            properties = payload["properties"]
            properties["delivery_tag"] = tag
            message = self.Message(payload, channel=self)
        except Exception as error:
            # Whatever its codecs raise: a message that cannot be read must not end the worker, each that gets it.
            logger.error("message %s cannot be read, and is buried: %s", tag, type(error).__name__)
            self.qos.reject(tag)
            return None
        eta = eta_of(payload)
        early = delay_until(eta, _now())
        if early > _SOON:
            # It was kicked, or was put by who knows nothing of delays, or the clocks differ.
            self.qos.put_off(tag, early)
            return None
        if eta is not None and not early:
            # It has waited. Celery's timer would hold it for up to a second more.
            message.headers["eta"] = None
        if no_ack:
            self.qos.ack(tag, wait=True)
            return message if not job.lost else None
        if self.options.ask_redelivered:
            properties["delivery_info"]["redelivered"] = _redelivered(job)
        if self.closed:
            self.qos.restore_unacked_once()
            return None
        return message

    # Queues.

    def queue_declare(self, queue: str | None = None, passive: bool = False, **options: Any) -> Any:
        """Declare a queue. Its number of ready messages is asked for only if that is all that is wanted (`passive`).

        A tube comes into being with its first job, so there is nothing else to do.
        """
        if passive:
            return super().queue_declare(queue, passive=True, **options)
        return queue_declare_ok_t(queue or f"amq.gen-{uuid()}", 0, 0)

    def _size(self, queue: str) -> int:
        try:
            return int(self.pool.stats_tube(self.tube(queue))["current-jobs-ready"])
        except NotFound:
            return 0

    def _purge(self, queue: str) -> int:
        """Delete what is ready, and what waits for its ETA, as far as it is there when this begins; not what is buried.

        A purge is none of a worker's business, so jobs that are held are left alone.
        """
        tube = self.tube(queue)
        try:
            stats = self.pool.stats_tube(tube)
        except NotFound:
            return 0
        deleted = self._purge_ready(tube, int(stats["current-jobs-ready"]))
        if stats["current-jobs-delayed"]:
            deleted += admin.total(admin.clear(self.pool, tube, "delayed")).done
        return deleted

    def _purge_ready(self, tube: str, most: int) -> int:
        deleted = 0
        while deleted < most:
            jobs = self.pool.reserve_many(min(_PORTION, most - deleted), 0, tubes=tube)
            count = sum(outcome is None for outcome in self.pool.delete_many(jobs))
            if not count:
                break
            deleted += count
        return deleted


def _redelivered(job: Job[bytes]) -> bool:
    try:
        return int(job.stats()["reserves"]) > 1
    except JobLost:
        return True
    except BeanpoolError as error:
        logger.info("whether %r was delivered before is not known: %s", job, error)
        return True


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)
