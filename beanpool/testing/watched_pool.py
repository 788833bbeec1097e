"""A pool that remembers the jobs that it gave out."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from beanpool import Job, PoolManager, Waker
from beanpool.config import AnyServer
from beanpool.reserve import Order


class WatchedPool(PoolManager):
    """A PoolManager for a test, which can tell which jobs were not finished.

    It keeps the jobs alive, so a job that is dropped is not given back until the pool is closed.
    """

    def __init__(self, servers: Any, **options: Any) -> None:
        super().__init__(servers, **options)
        self._given_out: list[Job] = []

    def reserve(
        self,
        timeout: float | None = None,
        *,
        tubes: str | Iterable[str] | None = None,
        order: Order = "any",
        waker: Waker | None = None,
        server: AnyServer | None = None,
    ) -> Job | None:
        """See :meth:`PoolManager.reserve`."""
        job = super().reserve(timeout, tubes=tubes, order=order, waker=waker, server=server)
        if job is not None:
            self._given_out.append(job)
        return job

    def reserve_many(
        self,
        limit: int,
        timeout: float | None = None,
        *,
        tubes: str | Iterable[str] | None = None,
        order: Order = "any",
        waker: Waker | None = None,
        server: AnyServer | None = None,
    ) -> list[Job]:
        """See :meth:`PoolManager.reserve_many`."""
        jobs = super().reserve_many(limit, timeout, tubes=tubes, order=order, waker=waker, server=server)
        self._given_out += jobs
        return jobs

    def reserve_job(self, jid: int, *, server: AnyServer | None = None, timeout: float | None = None) -> Job:
        """See :meth:`PoolManager.reserve_job`."""
        job = super().reserve_job(jid, server=server, timeout=timeout)
        self._given_out.append(job)
        return job

    @property
    def unfinished(self) -> list[Job]:
        """The jobs that were neither deleted, released nor buried, and are not lost."""
        return [job for job in self._given_out if job.reserved and not job.lost]
