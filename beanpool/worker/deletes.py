"""Deletes of jobs that are done: those of a batch go together."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
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

    __slots__ = ("_delete", "_due", "_flusher", "_jobs", "_lock", "_made", "_making", "_tube")

    def __init__(self, delete: Callable[[str, Sequence[Done]], None], flusher: Flusher) -> None:
        self._delete = delete
        self._flusher = flusher
        self._lock = threading.Lock()
        self._made = threading.Condition(self._lock)
        self._making = 0
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

    def is_due(self, at: float) -> bool:
        """Whether there are some that are due at that time (monotonic seconds)."""
        with self._lock:
            return bool(self._jobs) and at >= self._due

    def flush(self, *, wait: bool = False) -> None:
        """Delete them now.

        :param wait: also wait for those that another thread makes already: their connections must not be closed.
        """
        with self._lock:
            tube, jobs, self._jobs = self._tube, self._jobs, []
            self._making += bool(jobs)
        if jobs:
            try:
                self._delete(tube, jobs)
            finally:
                with self._lock:
                    self._making -= 1
                    self._made.notify_all()
        if wait:
            with self._lock:
                self._made.wait_for(lambda: not self._making)


class Flusher:
    """Makes the deletes that are due while their own threads are busy with a job, in threads of its own.

    While one thread makes some, another one waits for the next: so those of a server that is far or silent hold up no
    others.

    :param name: of the threads.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._reminders: queue.SimpleQueue[tuple[Deletes, float] | None] = queue.SimpleQueue()
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._waiting = 0
        """How many threads make no deletes."""

    def start(self) -> None:
        """Start the first thread."""
        with self._lock:
            self._add_thread()

    def stop(self, timeout: float) -> None:
        """Let the threads make all that they were told of at once, for so long (seconds), and end."""
        end = _monotonic() + timeout
        self._stopping.set()
        self._reminders.put(None)
        for thread in self._all_threads():
            thread.join(max(0.0, end - _monotonic()))

    def remind(self, deletes: Deletes, due: float) -> None:
        """Make these when they are due (monotonic seconds)."""
        self._reminders.put((deletes, due))

    def _all_threads(self) -> Iterator[threading.Thread]:
        """Those, too, that are started while this goes on."""
        number = 0
        while True:
            with self._lock:
                if number >= len(self._threads):
                    return
                thread = self._threads[number]
            yield thread
            number += 1

    def _add_thread(self) -> None:
        thread = threading.Thread(target=self._run, name=self._name, daemon=True)
        thread.start()
        self._threads.append(thread)
        self._waiting += 1

    def _run(self) -> None:
        # All have the same time to wait, so they come in the order in which they are due.
        while (reminder := self._reminders.get()) is not None:
            deletes, due = reminder
            self._stopping.wait(max(0.0, due - _monotonic()))
            if deletes.is_due(due):
                self._flush(deletes)
        # For the next one.
        self._reminders.put(None)

    def _flush(self, deletes: Deletes) -> None:
        with self._lock:
            self._waiting -= 1
            if not self._waiting:
                # Where none can be started, what is due next waits for this one.
                with contextlib.suppress(RuntimeError):
                    self._add_thread()
        try:
            deletes.flush()
        finally:
            with self._lock:
                self._waiting += 1
