"""The messages that a channel holds: each is a reserved job."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Protocol

from beanpool import BeanpoolError, Buried, Job, JobLost, KeptJobs, NotFound, PoolManager
from beanpool.contrib.kombu.finishing import End
from beanpool.contrib.kombu.options import Options
from beanpool.contrib.kombu.shared_pool import SharedPool

logger = logging.getLogger("beanpool.kombu")


class Holder(Protocol):
    """A channel, as far as it matters here."""

    shared: SharedPool
    options: Options
    on_change: Callable[[], None]


class _Held:
    """A job, and what keeps it alive."""

    __slots__ = ("job", "kept")

    def __init__(self, job: Job[bytes], kept: KeptJobs | None) -> None:
        self.job = job
        self.kept = kept

    def let_go(self) -> None:
        if self.kept is not None:
            self.kept.__exit__(None, None, None)


class QoS:
    """What virtual channels call the quality of service: how many messages may be held, and which are.

    Messages are acknowledged from any thread; where that takes long, it goes on in another one. To acknowledge one that
    was lost (its server is gone, or has given it to another worker) does nothing: there is nothing left to do, and the
    other worker's copy is not this one's to touch.
    """

    # The servers give back what a process has held by themselves.
    restore_at_shutdown = False

    def __init__(self, channel: Holder, prefetch_count: int = 0) -> None:
        self._pool: PoolManager[bytes] = channel.shared.pool
        self._keep_alive = channel.options.keep_alive
        self._shared = channel.shared
        self._on_change = channel.on_change
        self._held: dict[str, _Held] = {}
        self._again = 0
        self._prefetch_count = 0
        self.prefetch_count = prefetch_count

    @property
    def prefetch_count(self) -> int:
        """How many messages may be held; 0 for any number, as far as there are connections."""
        return self._prefetch_count

    @prefetch_count.setter
    def prefetch_count(self, count: int) -> None:
        self._prefetch_count = count or 0
        self._shared.hold_at_most(id(self), self._prefetch_count)
        self._on_change()

    def can_consume(self) -> bool:
        """Whether one more may be held."""
        return not self._prefetch_count or len(self._held) < self._prefetch_count

    def can_consume_max_estimate(self) -> int | None:
        """How many more may be held; None for any number."""
        return max(0, self._prefetch_count - len(self._held)) if self._prefetch_count else None

    def hold(self, job: Job[bytes]) -> str:
        """Hold a job from now on, and keep it alive; returns its delivery tag: the server and the job's id there."""
        tag = f"{job.server}/{job.id}"
        while tag in self._held:
            # The same job a second time, after it was lost; or another one with its id, of a server that was restarted.
            # Each is acknowledged by its own tag, so that nobody finishes what is somebody else's.
            self._again += 1
            tag = f"{job.server}/{job.id}/{self._again}"
        kept = None
        if self._keep_alive:
            try:
                kept = self._pool.keep(job).__enter__()
            except BeanpoolError as error:
                logger.warning("message %s is not kept alive, and may be delivered again: %s", tag, error)
        self._held[tag] = _Held(job, kept)
        return tag

    def append(self, message: Any, delivery_tag: str) -> None:
        """Nothing: it is held since it was reserved."""

    def get(self, delivery_tag: str) -> Job[bytes]:
        """The job of a message that is held.

        :raises KeyError: if it is not.
        """
        return self._held[delivery_tag].job

    def ack(self, delivery_tag: str, *, wait: bool = False) -> None:
        """Delete the job: its work is done.

        :param wait: whether to return no sooner than it is deleted, or lost.
        """
        self._finish(delivery_tag, End("delete"), wait=wait)

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        """Bury the job, or give it back to its queue at once."""
        self._finish(delivery_tag, End("release" if requeue else "bury"))

    def put_off(self, delivery_tag: str, delay: int) -> None:
        """Give the job back to its queue, for so long (seconds)."""
        self._finish(delivery_tag, End("release", delay))

    def restore_unacked(self) -> list[Any]:
        """Give all that are held back to their queues; returns an empty list: those that are lost are back already."""
        held = []
        while self._held:
            try:
                held.append(self._held.popitem()[1])
            except KeyError:
                # Another thread was quicker.
                break
        for one in held:
            one.let_go()
        for one, outcome in zip(held, self._pool.release_many([one.job for one in held]), strict=True):
            if outcome is not None:
                logger.debug("%r could not be given back: %s", one.job, outcome)
        self._on_change()
        return []

    def restore_unacked_once(self, stderr: Any = None) -> None:
        """The end of the channel: give all that are held back to their queues."""
        self._shared.hold_at_most(id(self), 0)
        if self._held:
            try:
                self.restore_unacked()
            except BeanpoolError as error:
                logger.debug("messages are given back by their servers: %s", error)

    def restore_visible(self, *args: Any, **options: Any) -> None:
        """Nothing: the servers know which messages are held."""

    def _finish(self, delivery_tag: str, end: End, *, wait: bool = False) -> None:
        held = self._held.pop(delivery_tag, None)
        if held is None:
            # The channel was closed meanwhile: it was given back.
            return

        def ended(error: Exception | None) -> None:
            held.let_go()
            if isinstance(error, JobLost | NotFound):
                logger.info(
                    "message %s was lost before it was finished, and is delivered again: %s", delivery_tag, error
                )
            elif isinstance(error, Buried):
                # In answer to a release.
                logger.error("message %s could not be given back to its queue: %s", delivery_tag, error)
            elif error is not None:
                logger.warning("message %s could not be finished, and comes again: %s", delivery_tag, error)

        try:
            self._shared.finisher.finish(held.job, end, ended, wait=wait)
        finally:
            self._on_change()
