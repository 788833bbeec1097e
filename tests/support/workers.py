"""Workers for tests: they end with the block, whatever their handlers do."""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from beanpool import Job
from beanpool.events import Event
from beanpool.worker import Worker

E = TypeVar("E", bound=Event)


@contextlib.contextmanager
def running(worker: Worker) -> Iterator[Worker]:
    """A worker that is started, and stopped at once at the end."""
    worker.start()
    try:
        yield worker
    finally:
        worker.stop(0)
        worker.join()


class Events:
    """What a worker told."""

    def __init__(self, worker: Worker) -> None:
        self._events: list[Event] = []
        worker.add_listener(self._events.append)

    def of(self, kind: type[E]) -> list[E]:
        """Those of one kind."""
        return [event for event in list(self._events) if isinstance(event, kind)]


class Gate:
    """A handler that waits until it is let go, and knows how often it was called and by how many at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open = threading.Event()
        self.bodies: list[Any] = []
        self.inside = 0
        self.most = 0

    def __call__(self, job: Job) -> None:
        with self._lock:
            self.bodies.append(job.body)
            self.inside += 1
            self.most = max(self.most, self.inside)
        self._open.wait()
        with self._lock:
            self.inside -= 1

    def __enter__(self) -> Gate:
        return self

    def __exit__(self, *_: object) -> None:
        self.open()

    def open(self) -> None:
        """Let all go."""
        self._open.set()


class Calls:
    """Counts the calls of a handler by body, and passes them on.

    :param then: is called with each job and how often its body came.
    """

    def __init__(self, then: Callable[[Job, int], object] = lambda job, count: None) -> None:
        self._lock = threading.Lock()
        self._then = then
        self.counts: Counter[Any] = Counter()

    def __call__(self, job: Job) -> None:
        with self._lock:
            self.counts[job.body] += 1
            count = self.counts[job.body]
        self._then(job, count)

    @property
    def total(self) -> int:
        """How many there were."""
        with self._lock:
            return self.counts.total()
