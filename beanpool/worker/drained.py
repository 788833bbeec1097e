"""Whether there is nothing left to do."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Any

from beanpool.errors import BeanpoolError, NotFound
from beanpool.manager import PoolManager


class Drained:
    """Asks all servers whether tubes are empty. One that does not answer may have jobs.

    :param taken: how many jobs the worker has taken so far.
    """

    def __init__(self, pool: PoolManager[Any], tubes: Iterable[str], taken: Callable[[], int]) -> None:
        self._pool = pool
        self._tubes = tuple(tubes)
        self._taken = taken
        self._lock = threading.Lock()

    def ask(self) -> bool:
        """Whether no tube has a ready job on any server, and the pool has none in hand: what is done with that may
        make others ready. False if another thread asks.
        """
        if not self._lock.acquire(blocking=False):
            return False
        try:
            taken = self._taken()
            if self._busy() or not all(map(self._is_empty, self._tubes)):
                return False
            # One that a thread has taken meanwhile is in hand, or was.
            return not self._busy() and self._taken() == taken
        finally:
            self._lock.release()

    def _busy(self) -> bool:
        return self._pool.get_stats()["in_hand"] > 0

    def _is_empty(self, tube: str) -> bool:
        try:
            answers = self._pool.stats_tube_by_server(tube).values()
        except BeanpoolError:
            return False
        return all(
            isinstance(answer, NotFound) or (not isinstance(answer, BaseException) and not answer["current-jobs-ready"])
            for answer in answers
        )
