"""Telling a machine that stood still, or was busy with something else, from a library that did."""

from __future__ import annotations

import collections
import contextlib
import os
import threading
import time

_TICK = 0.01
# What a machine with more threads than cores does all the time is no stall.
_ORDINARY_LAG = 0.03
_SAMPLED_EVERY = 0.05
_KEPT_SAMPLES = 1200
_THREADS = "/proc/self/task"


def waited_for_a_core() -> dict[int, float]:
    """How long each thread was ready to run, and had no core, since it was started (seconds).

    Those of this process, and the first one of each of its children: servers, and programs that a test runs. Empty
    where the system does not tell.
    """
    found = {}
    with contextlib.suppress(OSError):
        for name in os.listdir(_THREADS):
            # Some end meanwhile.
            with contextlib.suppress(OSError):
                with open(f"{_THREADS}/{name}/children") as file:
                    children = [f"/proc/{child}" for child in file.read().split()]
                for place in (f"{_THREADS}/{name}", *children):
                    with contextlib.suppress(OSError, IndexError), open(f"{place}/schedstat") as file:
                        found[int(place.rpartition("/")[2])] = int(file.read().split()[1]) / 1e9
    return found


def longest_wait(before: dict[int, float], after: dict[int, float]) -> float:
    """How long the thread that waited most for a core did so between two looks (seconds)."""
    return max((after[thread] - before.get(thread, 0.0) for thread in after), default=0.0)


class LagProbe:
    """Notices when the machine, not the library, was slow: how late a thread wakes up from a moment's sleep, and how
    long the threads of this process waited for a core.

    A call is excused for exactly what lies within it, and for nothing else.
    """

    def __init__(self) -> None:
        self._stalls: list[tuple[float, float]] = []
        self._samples: collections.deque[tuple[float, dict[int, float]]] = collections.deque(maxlen=_KEPT_SAMPLES)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="lag probe", daemon=True)

    def __enter__(self) -> LagProbe:
        self._sample()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        before = sampled = time.monotonic()
        while not self._stop.wait(_TICK):
            now = time.monotonic()
            if now - before - _TICK > _ORDINARY_LAG:
                self._stalls.append((before, now))
            if now - sampled >= _SAMPLED_EVERY:
                self._sample()
                sampled = now
            before = now

    def _sample(self) -> None:
        self._samples.append((time.monotonic(), waited_for_a_core()))

    def stalled(self, start: float, end: float) -> float:
        """How long the machine kept the library waiting between two moments (seconds)."""
        slept = sum(max(0.0, min(end, last) - max(start, first)) for first, last in list(self._stalls))
        # What is shorter than the time between two samples is not told apart from what was before and after.
        return max(slept, self._without_a_core(start, end)) if end - start >= _SAMPLED_EVERY else slept

    def _without_a_core(self, start: float, end: float) -> float:
        """How long the thread that waited most for a core did so, by the samples around the two moments."""
        if self._samples[-1][0] < end:
            self._sample()
        samples = list(self._samples)
        before = max((sample for sample in samples if sample[0] <= start), default=samples[0], key=_moment)[1]
        last = min((sample for sample in samples if sample[0] >= end), default=samples[-1], key=_moment)[0]
        # What has ended meanwhile counts as it was seen last.
        after = {
            thread: waited for moment, seen in samples if start < moment <= last for thread, waited in seen.items()
        }
        return min(longest_wait(before, after), end - start)

    @property
    def worst(self) -> float:
        """The longest stall (seconds)."""
        return max((last - first for first, last in self._stalls), default=0.0)


def _moment(sample: tuple[float, dict[int, float]]) -> float:
    return sample[0]
