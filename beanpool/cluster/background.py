"""A thread of its own for what callers should not wait for.

The thread waits in a queue that is written in C. Handing it a task wakes it, but does not let go of Python's lock:
it runs as soon as the caller waits for something anyway. A pipe to a thread that waits in a selector costs the caller
the whole task, for writing to it lets that thread go first. Where the system can be told that the thread is in no
hurry, it is: else it may take the caller's core at once, only to find that Python's lock is taken.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import os
import queue
import sys
import threading
import time
from collections.abc import Callable

from beanpool.runtime import Lock, is_mine
from beanpool.telemetry import ErrorLog

Task = Callable[[], None]
_Entry = tuple[float, int, Task]
"""When a task is due (monotonic seconds; 0 for at once), its number, and the task."""

_numbers = itertools.count()


class BackgroundExecutor:
    """Runs tasks one after the other, in a daemon thread that starts with the first need."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._queue: queue.SimpleQueue[_Entry | None] = queue.SimpleQueue()
        # What the thread has taken out of the queue, and is not due yet.
        self._later: list[_Entry] = []
        self._thread: threading.Thread | None = None
        self._stopped = False
        self._lock = Lock()

    def start(self) -> None:
        """Start the thread, unless it runs or was stopped."""
        if is_mine(self._lock):
            # A signal handler has come in between: it is just being started, or stopped.
            return
        with self._lock:
            if self._thread is not None or self._stopped:
                return
            # It knows the queue alone: what it has nothing to do for may be collected.
            thread = threading.Thread(
                target=_run,
                args=(self._queue, self._later, ErrorLog(self._name)),
                name=f"beanpool-background-{self._name}",
                daemon=True,
            )
            try:
                thread.start()
            except RuntimeError:
                # At interpreter shutdown no thread can start: each task is then run by who submits it.
                return
            self._thread = thread

    def submit(self, task: Task) -> None:
        """Run this in the thread, at once; here, if there is none."""
        if not self.submit_at(0.0, task):
            task()

    def submit_at(self, moment: float, task: Task) -> bool:
        """Run this in the thread at that moment (monotonic seconds), or when it is stopped.

        :returns: false, and nothing is done, if there is no thread.
        """
        if self._thread is None or self._stopped:
            return False
        self._queue.put((moment, next(_numbers), task))
        return True

    def stop(self, timeout: float) -> None:
        """Do what is left, without waiting for its moment, end the thread, and wait for it, but not for longer than
        `timeout` (seconds). Idempotent."""
        with self._lock:
            self._stopped = True
            thread = self._thread
        # Also where none is known: an interrupt may have come when one had just been started.
        self._queue.put(None)
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout)

    def leave_to_parent(self) -> None:
        """In a forked child, which has none of the parent's threads: let go of what was left for later."""
        self._later.clear()

    def abandon(self) -> None:
        """End the thread. For finalizers: takes no lock, does no I/O."""
        self._stopped = True
        self._queue.put(None)


def _run(tasks: queue.SimpleQueue[_Entry | None], later: list[_Entry], error_log: ErrorLog) -> None:
    _be_patient()
    while (task := _next(tasks, later)) is not None:
        with error_log.catching("a task"):
            task()
        # Nothing that keeps the pool alive may be held while waiting.
        del task
    while later:
        with error_log.catching("a task"):
            later.pop()[2]()
    # For another one, of which nobody knows.
    tasks.put(None)


def _next(tasks: queue.SimpleQueue[_Entry | None], later: list[_Entry]) -> Task | None:
    """Wait until a task is due; None if there will be no more."""
    while True:
        remaining = later[0][0] - time.monotonic() if later else None
        if remaining is not None and remaining <= 0:
            return heapq.heappop(later)[2]
        try:
            entry = tasks.get(timeout=remaining)
        except queue.Empty:
            continue
        if entry is None:
            return None
        if not entry[0]:
            return entry[2]
        heapq.heappush(later, entry)


def _be_patient() -> None:
    """Let the calling thread run, once it is woken, when its core is free; it gets no less of the core by that."""
    if sys.platform == "linux":
        # Not if somebody has chosen otherwise for the whole program. Some sandboxes do not even let it ask.
        with contextlib.suppress(OSError):
            if os.sched_getscheduler(0) == os.SCHED_OTHER:
                os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
