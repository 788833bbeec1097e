"""Whether there is nothing left to do."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Any

from beanpool.errors import BeanpoolError, NotFound
from beanpool.manager import PoolManager

# Between two looks at whether a job is in hand; all servers are asked if there is none (seconds).
_EMPTY_FOR = 0.25
# What a server has given may still be on its way to a thread that waits. It has come when the server answers again.
_TIMES = 2


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
        while not self._ending.wait(_EMPTY_FOR):
            if self._ask():
                self._tell()
                return

    def _ask(self) -> bool:
        taken = self._taken()

        def idle() -> bool:
            # One that a thread has taken meanwhile is in hand, or was.
            return self._pool.get_stats()["in_hand"] == 0 and self._taken() == taken

        return idle() and all(self._are_empty() and idle() for _ in range(_TIMES))

    def _are_empty(self) -> bool:
        try:
            answers = self._pool.stats_tubes_by_server(self._tubes).values()
        except BeanpoolError:
            return False
        return all(not isinstance(answer, BaseException) and all(map(_is_empty, answer.values())) for answer in answers)


def _is_empty(answer: Any) -> bool:
    return isinstance(answer, NotFound) or (not isinstance(answer, BaseException) and not answer["current-jobs-ready"])
