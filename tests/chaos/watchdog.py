"""Who sees that a call does not end: it turns a hang into the stacks of all threads."""

from __future__ import annotations

import collections
import faulthandler
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from support.lag import LagProbe

T = TypeVar("T")

SLACK = 0.25
HUNG_AFTER = 10.0
"""A call that is so much over its deadline is hung (seconds)."""


class Watchdog:
    """Knows what every thread is doing and since when; a call that does not end becomes a dump of all stacks."""

    def __init__(self) -> None:
        self._calls: dict[int, tuple[str, float, float]] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)
        self.hung: list[str] = []
        self.late: list[str] = []
        self.count: collections.Counter[str] = collections.Counter()
        self.worst = 0.0
        """How much the latest call was over its deadline (seconds)."""
        self.lag = LagProbe()
        self._lock = threading.Lock()

    def __enter__(self) -> Watchdog:
        self.lag.__enter__()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self.lag.__exit__()

    def timed(self, what: str, limit: float, call: Callable[[], T]) -> T:
        """Call it, under watch."""
        me = threading.get_ident()
        started = time.monotonic()
        self._calls[me] = (what, started, limit)
        try:
            return call()
        finally:
            ended = time.monotonic()
            del self._calls[me]
            over = ended - started - limit
            with self._lock:
                self.count[what] += 1
                self.worst = max(self.worst, over)
            if over > SLACK and over - self.lag.stalled(started, ended) > SLACK:
                self.late.append(f"{what} was {over:.3f} s over its {limit:g} s")

    def _run(self) -> None:
        while not self._stop.wait(1.0):
            now = time.monotonic()
            for what, started, limit in list(self._calls.values()):
                if now - started > limit + HUNG_AFTER:
                    self.hung.append(f"{what} has not ended after {now - started:.1f} s")
            if self.hung:
                dump_stacks(self.hung[0])
                return


def dump_stacks(why: str) -> None:
    """Write the stacks of all threads to stderr."""
    print(f"soak: {why}; the stacks of all threads:", file=sys.stderr)
    with tempfile.TemporaryFile("w+") as file:
        faulthandler.dump_traceback(file, all_threads=True)
        file.seek(0)
        print(file.read(), file=sys.stderr)
