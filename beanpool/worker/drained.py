"""Whether there is nothing left to do."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from beanpool.errors import BeanpoolError, NotFound
from beanpool.manager import PoolManager

# Between two looks at whether a job is in hand; all servers are asked if there is none (seconds).
_EMPTY_FOR = 0.25
# A job that is reserved may be under way to a thread that waits. So long nothing ends then: it would go back (seconds).
_UNDER_WAY = 5.0

_monotonic = time.monotonic


class Drained:
    """A thread that asks all servers whether tubes are empty. One that does not answer may have jobs.

    The threads that wait for jobs wait on meanwhile: so they are reached by what is far, too.

    :param taken: how many jobs the worker has taken so far.
    :param tell: is called once, when no tube has a ready job on any server, and the pool has none in hand: what is done
        with that may make others ready.
    :param name: of the thread.
    """

    def __init__(
        self,
        pool: PoolManager[Any],
        tubes: Iterable[str],
        taken: Callable[[], int],
        tell: Callable[[], object],
        name: str,
    ) -> None:
        self._pool = pool
        self._tubes = tuple(tubes)
        self._taken = taken
        self._tell = tell
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Let the thread end; an answer that is still out is waited for in the background."""
        self._ending.set()

    def _run(self) -> None:
        # What was taken when all was empty but for jobs that somebody has reserved, and when that was seen first.
        taken, since = -1, 0.0
        while not self._ending.wait(_EMPTY_FOR):
            taken_before, taken = taken, self._taken()
            jobs = self._jobs() if self._is_idle(taken) else None
            if jobs is None or jobs.ready or not self._is_idle(taken):
                taken = -1
                continue
            now = _monotonic()
            if taken != taken_before:
                since = now
            # Those that do not come are others'.
            if not jobs.reserved or now - since >= _UNDER_WAY:
                self._tell()
                return

    def _is_idle(self, taken: int) -> bool:
        """Whether no job is in hand, and none has been since so many were taken."""
        return self._pool.get_stats()["in_hand"] == 0 and self._taken() == taken

    def _jobs(self) -> _Jobs | None:
        """How many there are; None if not all servers say."""
        ready = reserved = 0
        try:
            answers = self._pool.stats_tubes_by_server(self._tubes)
        except BeanpoolError:
            return None
        for answer in answers.values():
            if isinstance(answer, BaseException):
                return None
            for found in answer.values():
                if isinstance(found, NotFound):
                    continue
                if isinstance(found, BaseException):
                    return None
                ready += found["current-jobs-ready"]
                reserved += found["current-jobs-reserved"]
        return _Jobs(ready, reserved)


class _Jobs(NamedTuple):
    """The jobs of all tubes on all servers."""

    ready: int
    reserved: int
