"""A source of items that makes a batch wait: meanwhile, what it gave before is sent."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Any, Generic, TypeVar

from beanpool.runtime import ReentrantEvent

Item = TypeVar("Item")

# A source that has not given the next item after this time makes the batch wait (seconds).
_PATIENCE = 0.005
_LONGEST_PAUSE = 1.0


class SlowSource(Generic[Item]):
    """Reads a source in the calling thread. While it waits for an item, another thread sees to what was read before.

    The two never work at the same time: who does has the lock, which the caller lets go of while the source is at work.

    :param source: whatever can be iterated over.
    :param meanwhile: is called while the source takes its time, again and again, ever more rarely; returns whether
        anything is left to be done. It must not wait for long.
    :param rested: is called when the source goes on, with the time that it took (seconds).
    """

    def __init__(self, source: Iterable[Item], meanwhile: Callable[[], bool], rested: Callable[[float], None]) -> None:
        self._source = source
        self._meanwhile = meanwhile
        self._rested = rested
        self._lock = threading.Lock()
        self._woken = ReentrantEvent()
        self._thread: threading.Thread | None = None
        self._ended = False
        # How many items were read, for the other thread to see whether the source goes on; and how many were when it
        # last looked.
        self._reads = 0
        self._seen = 0
        self._pause = _PATIENCE
        self._waits_since = 0.0
        self._asleep = False
        self._failure: BaseException | None = None

    def __enter__(self) -> SlowSource[Item]:
        thread = threading.Thread(
            target=_watch,
            # The thread must not keep the source alive, and must hear of its end.
            args=(weakref.ref(self, lambda _, woken=self._woken: woken.set()), self._woken),  # type: ignore[misc]
            name="beanpool-slow-source",
            daemon=True,
        )
        try:
            thread.start()
        except RuntimeError:
            # No thread can be started: every item goes out before the next one is asked for.
            return self
        self._thread = thread
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ended = True
        self._woken.set()
        if self._thread is not None:
            self._thread.join()

    def __iter__(self) -> Iterator[Item]:
        iterator, lock = iter(self._source), self._lock
        end = object()
        while True:
            if self._thread is None:
                self._meanwhile()
            # The other way round: the batch works within, the source without.
            item = next(iterator, end)
            with lock:
                self._reads += 1
                if self._waits_since:
                    self._go_on()
                if item is end:
                    # While it has the lock: what comes after the last item is the batch's alone.
                    self._ended = True
                    return
                yield item  # type: ignore[misc]  # It is no mark of the end.

    def _go_on(self) -> None:
        self._rested(time.monotonic() - self._waits_since)
        self._waits_since = 0.0
        if self._asleep:
            self._asleep = False
            self._woken.set()
        if self._failure is not None:
            raise self._failure

    def look(self) -> float | None:
        """In the other thread: do what is to be done; returns after which time to look again (seconds), if at all."""
        if self._reads != self._seen:
            self._seen, self._pause = self._reads, _PATIENCE
            return _PATIENCE
        if not self._lock.acquire(blocking=False):
            return _PATIENCE
        try:
            if self._reads != self._seen or self._ended:
                return _PATIENCE
            self._waits_since = self._waits_since or time.monotonic() - self._pause
            self._pause = min(2 * self._pause, _LONGEST_PAUSE)
            if self._failure is None and self._meanwhile():
                return self._pause
            self._asleep = True
        except BaseException as error:  # It is the batch's: raised in its own thread.
            self._failure = error
            self._asleep = True
        finally:
            self._lock.release()
        return None


def _watch(source: weakref.ref[SlowSource[Any]], woken: threading.Event) -> None:
    pause: float | None = _PATIENCE
    while True:
        woken.wait(pause)
        woken.clear()
        watched = source()
        # Nobody may have said that it is over, after an interrupt at a bad line.
        if watched is None or watched._ended:
            return
        pause = watched.look()
        # Nothing that keeps the batch alive may be held while waiting.
        del watched
