"""Looks at the servers again and again, in a thread of its own: a silent server must not stop the keys."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from beanpool import PoolClosed, PoolManager
from beanpool.cli.look import Look, look


class Watcher:
    """Has the latest look and the one before.

    :param pool: of the servers.
    :param glob: only tubes that match.
    :param interval: between two looks (seconds).
    :param on_look: is called after each, in the thread.
    """

    def __init__(self, pool: PoolManager[bytes], glob: str, interval: float, on_look: Callable[[], None]) -> None:
        self._pool = pool
        self._glob = glob
        self._interval = interval
        self._on_look = on_look
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="beanpool-top", daemon=True)
        self.looks: tuple[Look | None, Look | None] = (None, None)
        """The one before, and the latest; swapped as a whole."""
        self.number = 0
        self.failure: BaseException | None = None

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def stop(self) -> None:
        """Look no more. A look that waits for a silent server ends with the pool."""
        self._ended.set()

    def _run(self) -> None:
        try:
            while not self._ended.is_set():
                began = time.monotonic()
                latest = look(self._pool, self._glob)
                self.looks = (self.looks[1], latest)
                self.number += 1
                self._on_look()
                self._ended.wait(max(0.0, began + self._interval - time.monotonic()))
        except PoolClosed:
            pass
        except BaseException as error:
            self.failure = error
            self._on_look()
