"""Deletes of jobs that are done: those of a batch go together."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from beanpool.connection import Job

LATEST = 0.25
"""How long the first one may wait for others (seconds)."""

_monotonic = time.monotonic


class Done(NamedTuple):
    """A job whose handler has returned."""

    job: Job
    seconds: float
    """How long the handler ran."""


class Deletes:
    """The deletes that one thread has collected. They are made by that thread, or, when they are due, by a `Flusher`.

    :param delete: deletes jobs of a tube; it raises nothing.
    """

    __slots__ = ("_delete", "_due", "_flusher", "_jobs", "_lock", "_tube")

    def __init__(self, delete: Callable[[str, Sequence[Done]], None], flusher: Flusher) -> None:
        self._delete = delete
        self._flusher = flusher
        self._lock = threading.Lock()
        self._jobs: list[Done] = []
        self._tube = ""
        self._due = 0.0

    def add(self, tube: str, done: Done) -> None:
        """Delete it soon. Those before it are of the same tube, or were deleted."""
        with self._lock:
            self._jobs.append(done)
            self._tube = tube
            if len(self._jobs) > 1:
                return
            self._due = _monotonic() + LATEST
        self._flusher.remind(self, self._due)

    def flush(self, at: float | None = None) -> None:
        """Delete them now, or only if they are due at that time (monotonic seconds)."""
        with self._lock:
            if not self._jobs or (at is not None and at < self._due):
                return
            tube, jobs, self._jobs = self._tube, self._jobs, []
        self._delete(tube, jobs)


class Flusher:
    """A thread that makes the deletes that are due while their own threads are busy with a job.

    :param name: of the thread.
    """

    def __init__(self, name: str) -> None:
        self._reminders: queue.SimpleQueue[tuple[Deletes, float] | None] = queue.SimpleQueue()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self, timeout: float) -> None:
        """Let the thread make all that it was told of at once, for so long (seconds), and end."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._reminders.put(None)
            self._thread.join(timeout)

    def remind(self, deletes: Deletes, due: float) -> None:
        """Make these when they are due (monotonic seconds)."""
        self._reminders.put((deletes, due))

    def _run(self) -> None:
        # All have the same time to wait, so they come in the order in which they are due.
        while (reminder := self._reminders.get()) is not None:
            deletes, due = reminder
            self._stopping.wait(max(0.0, due - _monotonic()))
            deletes.flush(due)
