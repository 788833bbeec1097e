"""A worker's options."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

from beanpool.protocol import MAX_UINT32, check_int
from beanpool.reserve import Order, check_order
from beanpool.validation import check_pause, check_seconds
from beanpool.worker.backoff import Backoff
from beanpool.worker.batch import BatchSize, check_batch
from beanpool.worker.breaker import Breaker


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What :class:`beanpool.worker.Worker` was told; there is what each of them means."""

    threads: int
    grace: float
    retry: Backoff
    keep_alive: bool
    batch: BatchSize
    max_deliveries: int | None
    max_jobs: int | None
    max_time: float | None
    max_memory: int | None
    stop_when_empty: bool
    order: Order
    breaker: Breaker | None
    heartbeat_file: str | os.PathLike[str] | None

    def __post_init__(self) -> None:
        check_int("threads", self.threads, 1, MAX_UINT32)
        check_pause("grace", self.grace)
        check_is("retry", self.retry, Backoff)
        check_batch(self.batch)
        for name in ("max_deliveries", "max_jobs", "max_memory"):
            if getattr(self, name) is not None:
                check_int(name, getattr(self, name), 1, 2**63 - 1)
        if self.max_time is not None:
            check_seconds("max_time", self.max_time)
        for name in ("keep_alive", "stop_when_empty"):
            check_is(name, getattr(self, name), bool)
        check_order(self.order)
        if self.breaker is not None:
            check_is("breaker", self.breaker, Breaker)
        if self.heartbeat_file is not None:
            os.fspath(self.heartbeat_file)


def check_is(name: str, value: Any, kind: type) -> None:
    """Check that `value` is a `kind`.

    :raises TypeError: if it is not.
    """
    if not isinstance(value, kind):
        raise TypeError(f"{name} must be a {kind.__name__}, not {type(value).__name__}")
