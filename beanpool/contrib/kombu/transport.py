"""The transport: a connection of kombu's to a cluster."""

from __future__ import annotations

import math
import threading
import time
from typing import Any, TypeAlias

from kombu.transport import virtual

import beanpool
from beanpool import (
    DEFAULT_PORT,
    BeanpoolError,
    CommandFailed,
    Job,
    NoServerAvailable,
    PoolClosed,
    PoolTimeout,
    PutAmbiguous,
    UnexpectedResponse,
    Waker,
)
from beanpool.contrib.kombu.channel import Channel, Handler
from beanpool.contrib.kombu.options import Options, joined, own_url, servers_of, split_options
from beanpool.contrib.kombu.qos import logger
from beanpool.contrib.kombu.shared_pool import SharedPool, share

# While all messages are held that may be, the caller gets a turn so often (seconds): before 5.7 Celery acknowledges
# between two calls.
_TURN = 0.1
_NOTHING = "no message came in time"

Consumers: TypeAlias = dict[str, tuple[Channel, Handler]]
"""Who gets the messages of which tube."""

_CONNECTION_ERRORS = (
    *virtual.Transport.connection_errors,
    NoServerAvailable,
    PoolClosed,
    PoolTimeout,
    PutAmbiguous,
    UnexpectedResponse,
)


class Transport(virtual.Transport):
    """Connects kombu with a cluster of beanstalkd servers through a pool, which all connections of a process share.

    ``beanstalk://q1:11300,q2:11300;weight=2`` has many servers, and so have several URLs: they are one cluster, and
    servers fail and come back without kombu noticing. ``transport_options`` are those of a
    :class:`~beanpool.PoolManager`, and :class:`~beanpool.contrib.kombu.options.Options`.
    """

    Channel = Channel
    can_parse_url = True
    default_port = DEFAULT_PORT
    driver_type = "beanstalk"
    driver_name = "beanpool"
    connection_errors = _CONNECTION_ERRORS
    channel_errors = (*virtual.Transport.channel_errors, CommandFailed)
    # To publish a body again that is too big mends nothing.
    recoverable_connection_errors = _CONNECTION_ERRORS
    recoverable_channel_errors = ()
    implements = virtual.Transport.implements.extend(
        asynchronous=False, exchange_type=frozenset({"direct", "topic"}), heartbeats=False
    )

    def __init__(self, client: Any, **options: Any) -> None:
        super().__init__(client, **options)
        self.urls = _urls(client)
        self._pool_options, self.options = self._split(client.transport_options)
        # All alternates are servers of one cluster: there is nothing to switch to.
        client.cycle = None
        self._shared: SharedPool | None = None
        self._waker = Waker()
        self._changed = threading.Event()
        self._left_out = False

    @staticmethod
    def _split(options: Any) -> tuple[dict[str, Any], Options]:
        return split_options(options or {})

    def driver_version(self) -> str:
        """beanpool's version."""
        return beanpool.__version__

    def as_uri(self, uri: str, include_password: bool = False, mask: str = "**") -> str:
        """All servers, as they were written: there is no password in such a URL."""
        return ";".join(self.urls)

    # Its life.

    @property
    def shared(self) -> SharedPool:
        """The pool that it uses, with others.

        :raises PoolClosed: if it is not connected.
        """
        if self._shared is None:
            raise PoolClosed("the connection is closed")
        return self._shared

    def establish_connection(self) -> Transport:
        """Connect: at least one server has to answer.

        :raises NoServerAvailable: if none does within the ``connect_timeout`` of kombu's connection.
        """
        shared = share(servers_of(self.urls), self._pool_options)
        try:
            shared.pool.wait(timeout=self.client.connect_timeout or None)
        except BaseException:
            shared.release()
            raise
        self._shared = shared
        super().establish_connection()
        return self

    def close_connection(self, connection: Any) -> None:
        """Close all channels: their messages go back to their queues."""
        super().close_connection(connection)
        shared, self._shared = self._shared, None
        if shared is not None:
            shared.release()

    def verify_connection(self, connection: Any) -> bool:
        """Whether it is connected: what becomes of single servers is the pool's business."""
        return self._shared is not None

    # Consuming.

    def on_change(self) -> None:
        """A message was acknowledged, or a consumer came or went: whoever waits looks again. From any thread."""
        self._changed.set()
        if self._left_out:
            self._waker.set()

    def drain_events(self, connection: Any, timeout: float | None = None) -> None:
        """Wait for a message in any queue of any channel, on all servers at once, and deliver it.

        :param timeout: how long (seconds); None for ever.
        :raises TimeoutError: if none came in time; sooner if all messages are held that may be.
        """
        end = math.inf if timeout is None else time.monotonic() + timeout
        while True:
            consumers = self._consumers()
            left = max(0.0, end - time.monotonic())
            if consumers:
                job = self._reserve(consumers, left)
                if job is not None and self._deliver_to_one_of(consumers, job):
                    return
            else:
                turn = _TURN if self._left_out else threading.TIMEOUT_MAX
                if not self._changed.wait(min(left, turn)) and timeout is not None:
                    raise TimeoutError(_NOTHING)
            if time.monotonic() >= end:
                raise TimeoutError(_NOTHING)

    def _consumers(self) -> Consumers:
        """Who gets a message of which tube, now."""
        # In this order: what changes from here on ends the wait.
        self._left_out = True
        self._waker.clear()
        self._changed.clear()
        found: Consumers = {}
        left_out = False
        for channel in list(self.channels):
            if channel.handlers and not channel.qos.can_consume():
                left_out = True
                continue
            for handler in list(channel.handlers.values()):
                found.setdefault(handler.tube, (channel, handler))
        self._left_out = left_out
        return found

    def _reserve(self, consumers: Consumers, left: float) -> Job[bytes] | None:
        try:
            return self.shared.pool.reserve(
                None if left == math.inf else left,
                tubes=list(consumers),
                order=self.options.order,
                waker=self._waker,
            )
        except (NoServerAvailable, PoolTimeout):
            # The pool has said so in its log, and looks for them. To give up the connection would give back messages
            # that are being worked on.
            self._changed.wait(min(left, _TURN))
            return None

    @staticmethod
    def _deliver_to_one_of(consumers: Consumers, job: Job[bytes]) -> bool:
        tube = job.tube
        if tube is None:
            # Without an order of the queues nobody has said where it comes from.
            try:
                tube = next(iter(consumers)) if len(consumers) == 1 else str(job.stats()["tube"])
            except BeanpoolError as error:
                logger.info("%r was lost before it was delivered: %s", job, error)
                return False
        channel, handler = consumers[tube]
        return channel.deliver(job, handler)


def _urls(client: Any) -> list[str]:
    """The URLs that a connection of kombu's was made with, as beanpool knows them."""
    if client.alt:
        return [own_url(url) for url in joined(client.alt)]
    host = client.hostname or ""
    if client.uri_prefix:
        # Of beanstalk+unix:///path kombu keeps what is before the plus apart.
        host = f"{client.uri_prefix}+{host}"
    elif client.port and "://" not in host and ":" not in host:
        host = f"{host}:{client.port}"
    return [own_url(host)]
