"""A handle on one tube of a cluster."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Generic, Protocol, TypeVar

from beanpool.connection import BodyT, Job, JobId
from beanpool.errors import NotPicklable
from beanpool.protocol import DEFAULT_PRIORITY, DEFAULT_TTR, Body, check_tube
from beanpool.put import Outcome, Put
from beanpool.reserve import Waker
from beanpool.validation import OnAmbiguous

PoolBody = TypeVar("PoolBody", bound=str | bytes)


class TubePool(Protocol[PoolBody]):
    """What a handle on a tube needs of its pool; see :class:`beanpool.PoolManager`."""

    def put(
        self,
        body: Body,
        priority: int,
        delay: float,
        ttr: float,
        *,
        tube: str | None,
        key: str | bytes | None,
        timeout: float | None,
        on_ambiguous: OnAmbiguous | None,
    ) -> JobId:
        """Put a job."""

    def put_many(
        self,
        items: Iterable[Body | Put],
        *,
        tube: str | None,
        key: str | bytes | None,
        priority: int,
        delay: float,
        ttr: float,
        timeout: float | None,
        on_ambiguous: OnAmbiguous | None,
    ) -> list[Outcome]:
        """Put many jobs."""

    def reserve(self, timeout: float | None, *, tubes: str, waker: Waker | None) -> Job[PoolBody] | None:
        """Reserve a job."""

    def reserve_many(
        self, limit: int, timeout: float | None, *, tubes: str, waker: Waker | None
    ) -> list[Job[PoolBody]]:
        """Reserve many jobs."""

    def peek_ready(self, *, tube: str | None, timeout: float | None) -> Job[PoolBody] | None:
        """Look at a ready job."""

    def peek_delayed(self, *, tube: str | None, timeout: float | None) -> Job[PoolBody] | None:
        """Look at a delayed job."""

    def peek_buried(self, *, tube: str | None, timeout: float | None) -> Job[PoolBody] | None:
        """Look at a buried job."""

    def kick(self, bound: int, *, tube: str | None, timeout: float | None) -> int:
        """Kick jobs."""

    def stats_tube(self, tube: str, *, timeout: float | None) -> dict[str, Any]:
        """The statistics of a tube."""

    def pause_tube(self, tube: str, seconds: float, *, timeout: float | None) -> None:
        """Pause a tube."""


class Tube(NotPicklable, Generic[BodyT]):
    """The verbs of a :class:`PoolManager`, bound to one tube; its defaults for other callers stay as they are."""

    __slots__ = ("_pool", "name")

    def __init__(self, pool: TubePool[BodyT], name: str) -> None:
        check_tube(name)
        self._pool = pool
        self.name: str = name

    def __repr__(self) -> str:
        return f"<Tube {self.name} of {self._pool!r}>"

    def put(
        self,
        body: Body,
        priority: int = DEFAULT_PRIORITY,
        delay: float = 0,
        ttr: float = DEFAULT_TTR,
        *,
        key: str | bytes | None = None,
        timeout: float | None = None,
        on_ambiguous: OnAmbiguous | None = None,
    ) -> JobId:
        """Put a job into this tube; see :meth:`PoolManager.put`."""
        return self._pool.put(
            body, priority, delay, ttr, tube=self.name, key=key, timeout=timeout, on_ambiguous=on_ambiguous
        )

    def put_many(
        self,
        items: Iterable[Body | Put],
        *,
        key: str | bytes | None = None,
        priority: int = DEFAULT_PRIORITY,
        delay: float = 0,
        ttr: float = DEFAULT_TTR,
        timeout: float | None = None,
        on_ambiguous: OnAmbiguous | None = None,
    ) -> list[Outcome]:
        """Put many jobs into this tube; see :meth:`PoolManager.put_many`."""
        return self._pool.put_many(
            items,
            tube=self.name,
            key=key,
            priority=priority,
            delay=delay,
            ttr=ttr,
            timeout=timeout,
            on_ambiguous=on_ambiguous,
        )

    def reserve(self, timeout: float | None = None, *, waker: Waker | None = None) -> Job[BodyT] | None:
        """Reserve a job of this tube; see :meth:`PoolManager.reserve`."""
        return self._pool.reserve(timeout, tubes=self.name, waker=waker)

    def reserve_many(self, limit: int, timeout: float | None = None, *, waker: Waker | None = None) -> list[Job[BodyT]]:
        """Reserve up to `limit` jobs of this tube at once; see :meth:`PoolManager.reserve_many`."""
        return self._pool.reserve_many(limit, timeout, tubes=self.name, waker=waker)

    def peek_ready(self, *, timeout: float | None = None) -> Job[BodyT] | None:
        """Look at a ready job of this tube, on whichever server has one."""
        return self._pool.peek_ready(tube=self.name, timeout=timeout)

    def peek_delayed(self, *, timeout: float | None = None) -> Job[BodyT] | None:
        """Look at a delayed job of this tube, on whichever server has one."""
        return self._pool.peek_delayed(tube=self.name, timeout=timeout)

    def peek_buried(self, *, timeout: float | None = None) -> Job[BodyT] | None:
        """Look at a buried job of this tube, on whichever server has one."""
        return self._pool.peek_buried(tube=self.name, timeout=timeout)

    def kick(self, bound: int = 1, *, timeout: float | None = None) -> int:
        """Kick up to `bound` jobs of this tube over all servers; see :meth:`PoolManager.kick`."""
        return self._pool.kick(bound, tube=self.name, timeout=timeout)

    def stats(self, *, timeout: float | None = None) -> dict[str, Any]:
        """The tube's statistics, added up over the servers; see :meth:`PoolManager.stats_tube`."""
        return self._pool.stats_tube(self.name, timeout=timeout)

    def pause(self, seconds: float, *, timeout: float | None = None) -> None:
        """Let nobody reserve from this tube for this long, on all servers; see :meth:`PoolManager.pause_tube`."""
        self._pool.pause_tube(self.name, seconds, timeout=timeout)
