"""The jobs that one thread has in hand: whose they are, the thread's or already their servers' again."""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Iterable

from beanpool.connection import Job

YOUNG = 0.25
"""How long a job is in hand before it is kept alive (seconds): most are finished before. No TTR is shorter than 1."""


class Hand:
    """The jobs of one thread, which works on them one after another while another thread may take all of them away."""

    __slots__ = ("_at_work", "_jobs", "_lock", "_withdrawn", "began", "kept", "tube", "until")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._jobs: deque[Job] = deque()
        self._at_work: Job | None = None
        self._withdrawn = False
        self.tube = ""
        self.began = -math.inf
        """When the handler that runs was called (monotonic seconds)."""
        self.until: float | None = None
        """How long a job that is worked on alone is to be kept alive (monotonic seconds); None for as long as it runs.
        """
        self.kept = True
        """Whether somebody keeps it alive, or nobody is to."""

    def begin(self, tube: str, job: Job, now: float, until: float | None, *, kept: bool) -> bool:
        """Work on this one, and have no others; false if all were withdrawn."""
        with self._lock:
            if self._withdrawn:
                return False
            self.tube = tube
            self._at_work = job
            self.began = now
            self.until = until
            self.kept = kept
            return True

    def old_job(self, now: float) -> Job | None:
        """The job that is worked on alone, if it is old enough to be kept alive. From then on it counts as kept."""
        with self._lock:
            if self.kept or self._at_work is None or now < self.began + YOUNG:
                return None
            self.kept = True
            return self._at_work

    def has(self, job: Job) -> bool:
        """Whether it is worked on."""
        with self._lock:
            return self._at_work is job

    @property
    def due(self) -> float:
        """When to look for an :meth:`old_job` (monotonic seconds). Also where the last job is no longer worked on: the
        next one may be.
        """
        return self.began + YOUNG

    def take(self, tube: str, jobs: Iterable[Job]) -> None:
        """Have these too."""
        with self._lock:
            self.tube = tube
            self._jobs.extend(jobs)

    def next(self, now: float) -> Job | None:
        """The next job to work on; None if there is no other, or all were withdrawn. Others keep it alive."""
        with self._lock:
            if self._withdrawn or not self._jobs:
                return None
            self._at_work = job = self._jobs.popleft()
            self.began = now
            self.kept = True
            return job

    def settle(self) -> bool:
        """The handler has ended: true if its job is the thread's to finish, false if it was withdrawn meanwhile."""
        with self._lock:
            self._at_work = None
            return not self._withdrawn

    def rest(self) -> list[Job]:
        """Take those that were not worked on out of the hand."""
        with self._lock:
            jobs = list(self._jobs)
            self._jobs.clear()
            return jobs

    def withdraw(self) -> tuple[Job | None, list[Job]]:
        """Take all of them from the thread, for good: the one that is worked on, and the rest."""
        with self._lock:
            self._withdrawn = True
            at_work, self._at_work = self._at_work, None
            jobs = list(self._jobs)
            self._jobs.clear()
            return at_work, jobs
