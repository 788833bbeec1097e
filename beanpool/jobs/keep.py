"""Jobs that are kept alive while somebody works on them."""

from __future__ import annotations

import enum
import math
import time
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, Self

from beanpool.cluster import Keeping
from beanpool.connection import Job
from beanpool.errors import BeanpoolError, NotPicklable
from beanpool.jobs.batch import Get
from beanpool.server import PooledConnection


class _State(enum.Enum):
    NOT_BEGUN = "not begun"
    KEEPING = "keeping"
    ENDED = "ended"


class _Kept:
    """What the keeper knows of a block: the jobs that it is to keep, and until when (monotonic seconds)."""

    __slots__ = ("__weakref__", "jobs", "lost_jobs")

    def __init__(self) -> None:
        self.jobs: dict[Job[Any], float] = {}
        self.lost_jobs: list[Job[Any]] = []

    # Called in the keeper's thread. Each is one step on a dictionary, and so is what others do to it.

    def keeps(self, job: Job[Any], now: float) -> bool:
        return now < self.jobs.get(job, -math.inf)

    def lost(self, job: Job[Any]) -> None:
        if self.jobs.pop(job, None) is not None:
            self.lost_jobs.append(job)


class KeptJobs(NotPicklable):
    """Jobs that are kept alive within a ``with`` block: what :meth:`PoolManager.keep` returns.

    It never finishes a job. One that is finished is kept no longer; one that is not is as it was when the block ends.
    Any thread may call it. In a forked child nothing is kept: the jobs are the parent's.
    """

    def __init__(
        self,
        keep: Callable[[Keeping, Iterable[Job[Any]]], None],
        get: Get,
        jobs: Iterable[Job[Any] | int],
        until: float | None,
    ) -> None:
        self._keep = keep
        self._get = get
        self._until = math.inf if until is None else _check_until(until)
        self._kept = _Kept()
        self._state = _State.NOT_BEGUN
        self._kept.jobs.update((self._find(job), self._until) for job in jobs)

    def __repr__(self) -> str:
        kept = self._kept
        return f"<{type(self).__name__}: {self._state.value}, {len(kept.jobs)} jobs, {len(kept.lost_jobs)} lost>"

    def __enter__(self) -> Self:
        if self._state is not _State.NOT_BEGUN:
            raise BeanpoolError("these jobs were kept alive before: call keep() again")
        self._state = _State.KEEPING
        try:
            self._keep(self._kept, list(self._kept.jobs))
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._end()

    def _end(self) -> None:
        self._state = _State.ENDED
        # What nobody else has is dropped now.
        self._kept.jobs.clear()

    @property
    def lost(self) -> tuple[Job[Any], ...]:
        """The jobs whose reservation was found to be gone: another worker may run them, or has run them.

        A touch finds that out, when a third of the TTR has passed. :attr:`Job.lost` sees at once that a connection has
        broken.
        """
        return tuple(self._kept.lost_jobs)

    def add(self, job: Job[Any] | int, *, until: float | None = None) -> None:
        """Keep another job alive, too.

        :param until: when to stop (a moment of ``time.monotonic()``); None for that of the block.
        :raises BeanpoolError: if the block has ended, or the thread that touches jobs cannot be started.
        """
        found, moment = self._find(job), self._until if until is None else _check_until(until)
        if self._state is _State.ENDED:
            raise BeanpoolError("the block in which the jobs were kept alive has ended")
        self._kept.jobs[found] = moment
        if self._state is _State.KEEPING:
            self._keep(self._kept, (found,))

    def discard(self, job: Job[Any] | int) -> None:
        """Keep a job alive no longer; does nothing if it is not kept."""
        self._kept.jobs.pop(self._find(job), None)

    def _find(self, job: Job[Any] | int) -> Job[Any]:
        found = self._get(job, None, "touch")
        if not isinstance(found.connection, PooledConnection):
            raise ValueError(
                f"{found!r} is of a plain Connection, which belongs to one thread: only a pool's jobs can be kept alive"
            )
        return found


def _check_until(until: float) -> float:
    if isinstance(until, bool) or not isinstance(until, int | float):
        raise TypeError(f"until must be None or a moment of time.monotonic(), not {type(until).__name__}")
    now = time.monotonic()
    if not until > now:
        raise ValueError(
            f"until must be a moment of time.monotonic() that is to come (it is {now:.3f} now), not {until:g}: write "
            "time.monotonic() + seconds"
        )
    return float(until)
