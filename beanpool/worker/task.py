"""A tube, and what is done with its jobs."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

from beanpool.connection import Job
from beanpool.protocol import MAX_UINT32, check_int, check_tube
from beanpool.validation import check_seconds
from beanpool.worker.backoff import Backoff
from beanpool.worker.batch import Batches, BatchSize, check_batch
from beanpool.worker.breaker import Breaker
from beanpool.worker.settings import Settings, check_is

Handler = Callable[[Job[Any]], Any]


@dataclasses.dataclass(frozen=True, slots=True)
class Task:
    """A tube, its handler, and the rules for its jobs; see :meth:`beanpool.worker.Worker.add`.

    :ivar retry: None for that of the worker, and so for `batch` and `breaker`.
    """

    tube: str
    handler: Handler
    concurrency: int | None = None
    time_limit: float | None = None
    retry: Backoff | None = None
    batch: BatchSize | None = None
    breaker: Breaker | None = None

    def __post_init__(self) -> None:
        check_tube(self.tube)
        check_handler(self.handler)
        if self.concurrency is not None:
            check_int("concurrency", self.concurrency, 1, MAX_UINT32)
        if self.time_limit is not None:
            check_seconds("time_limit", self.time_limit)
        if self.retry is not None:
            check_is("retry", self.retry, Backoff)
        if self.batch is not None:
            check_batch(self.batch)
        if self.breaker is not None:
            check_is("breaker", self.breaker, Breaker)


@dataclasses.dataclass(frozen=True, slots=True)
class Duty:
    """A task together with what its worker says for all of them."""

    tube: str
    handler: Handler
    concurrency: int | None
    time_limit: float | None
    retry: Backoff
    batches: Batches | None
    """None where jobs are taken one by one."""
    breaker: Breaker | None

    @classmethod
    def of(cls, task: Task, settings: Settings) -> Duty:
        """Fill in what `task` leaves to the worker."""
        size = settings.batch if task.batch is None else task.batch
        return cls(
            tube=task.tube,
            handler=task.handler,
            concurrency=task.concurrency,
            time_limit=task.time_limit,
            retry=settings.retry if task.retry is None else task.retry,
            batches=None if size == 1 else Batches(size),
            breaker=settings.breaker if task.breaker is None else task.breaker,
        )


def check_handler(handler: Any) -> None:
    """Check that `handler` can be called with a job.

    :raises TypeError: if it cannot.
    """
    if not callable(handler):
        raise TypeError(f"a handler must be callable, not {type(handler).__name__}")
    name = name_of(handler)
    if inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(getattr(handler, "__call__", None)):  # noqa: B004  # Asked of what is callable.
        raise TypeError(f"the handler {name} is a coroutine function; a worker calls plain functions in threads")
    try:
        inspect.signature(handler).bind(None)
    except TypeError as error:
        raise TypeError(f"the handler {name} must take one argument, the job: {error}") from None
    except ValueError:
        # Of some functions written in C nobody knows what they take.
        pass


def name_of(handler: Any) -> str:
    """What a handler is called in messages."""
    return getattr(handler, "__qualname__", None) or type(handler).__name__
