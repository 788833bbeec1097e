"""A thread of its own for what callers should not wait for.

The thread waits in a queue that is written in C. Handing it a task wakes it, but does not let go of Python's lock:
it runs as soon as the caller waits for something anyway. A pipe to a thread that waits in a selector costs the caller
the whole task, for writing to it lets that thread go first. Where the system can be told that the thread is in no
hurry, it is: else it may take the caller's core at once, only to find that Python's lock is taken.
"""

from __future__ import annotations

import contextlib
import os
import queue
import sys
import threading
from collections.abc import Callable

from beanpool.runtime import Lock, is_mine
from beanpool.telemetry import ErrorLog

Task = Callable[[], None]


class BackgroundExecutor:
    """Runs tasks one after the other, in a daemon thread that starts with the first need."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._queue: queue.SimpleQueue[Task | None] = queue.SimpleQueue()
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
                args=(self._queue, ErrorLog(self._name)),
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
        if self._thread is None or self._stopped:
            task()
        else:
            self._queue.put(task)

    def stop(self, timeout: float) -> None:
        """Do what is left, end the thread, and wait for it, but not for longer than `timeout` (seconds). Idempotent."""
        with self._lock:
            self._stopped = True
            thread = self._thread
        # Also where none is known: an interrupt may have come when one had just been started.
        self._queue.put(None)
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout)

    def abandon(self) -> None:
        """End the thread. For finalizers: takes no lock, does no I/O."""
        self._stopped = True
        self._queue.put(None)


def _run(tasks: queue.SimpleQueue[Task | None], error_log: ErrorLog) -> None:
    _be_patient()
    while (task := tasks.get()) is not None:
        with error_log.catching("a task"):
            task()
        # Nothing that keeps the pool alive may be held while waiting.
        del task
    # For another one, of which nobody knows.
    tasks.put(None)


def _be_patient() -> None:
    """Let the calling thread run, once it is woken, when its core is free; it gets no less of the core by that."""
    if sys.platform == "linux":
        # Not if somebody has chosen otherwise for the whole program. Some sandboxes do not even let it ask.
        with contextlib.suppress(OSError):
            if os.sched_getscheduler(0) == os.SCHED_OTHER:
                os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
