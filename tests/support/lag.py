"""Telling a machine that stood still from a library that did."""

from __future__ import annotations

import threading
import time

_TICK = 0.01
# What a machine with more threads than cores does all the time is no stall.
_ORDINARY_LAG = 0.03


class LagProbe:
    """Notices when the machine, not the library, stood still: a thread sleeps for a moment, and sees how long it was.

    A call is excused for exactly the stalls that lie within it, and for nothing else.
    """

    def __init__(self) -> None:
        self._stalls: list[tuple[float, float]] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="lag probe", daemon=True)

    def __enter__(self) -> LagProbe:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        before = time.monotonic()
        while not self._stop.wait(_TICK):
            now = time.monotonic()
            if now - before - _TICK > _ORDINARY_LAG:
                self._stalls.append((before, now))
            before = now

    def stalled(self, start: float, end: float) -> float:
        """How long the machine stood still between two moments (seconds)."""
        return sum(max(0.0, min(end, last) - max(start, first)) for first, last in list(self._stalls))

    @property
    def worst(self) -> float:
        """The longest stall (seconds)."""
        return max((last - first for first, last in self._stalls), default=0.0)
