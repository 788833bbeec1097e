"""What the threads of one worker have in common."""

from __future__ import annotations

import dataclasses
import enum
import queue
import threading
import time
from collections.abc import Iterable, Mapping
from typing import Any

from beanpool.manager import PoolManager
from beanpool.worker.deletes import Flusher
from beanpool.worker.drained import Drained
from beanpool.worker.finisher import Finisher
from beanpool.worker.places import Places, Rule, Seat
from beanpool.worker.settings import Settings
from beanpool.worker.task import Duty

_monotonic = time.monotonic


class Notice(enum.Enum):
    """What the supervisor is told."""

    DRAINED = "there is nothing left to do"
    EXHAUSTED = "as many jobs were taken as may be"
    CLOSED = "the pool was closed"
    LOOK = "look at what the threads do"
    ENDED = "a thread has ended"


@dataclasses.dataclass(frozen=True, slots=True)
class Stop:
    """The supervisor is asked to end the worker."""

    grace: float
    """How long running jobs may take (seconds)."""


class Crew:
    """The pool, the duties and the places that all threads share.

    :ivar mailbox: what the supervisor reads; a signal handler may write to it at any time.
    """

    def __init__(self, pool: PoolManager[Any], duties: Mapping[str, Duty], settings: Settings, name: str) -> None:
        self.pool = pool
        self.duties = duties
        self.settings = settings
        self.name = name
        self.mailbox: queue.SimpleQueue[Notice | Stop] = queue.SimpleQueue()
        self.stopping = False
        """Whether no more jobs are taken."""
        self.next_look = 0.0
        """When the supervisor looks at what the threads do again (monotonic seconds)."""
        self.kept = pool.keep(())
        """Keeps the jobs alive that have been worked on for a moment."""
        self.finisher = Finisher(pool.name, self._outage)
        self.flusher = Flusher(f"{name}-deletes")
        self.drained: Drained | None = None
        """Tells the supervisor when there is nothing left to do, for a worker that stops then."""
        if settings.stop_when_empty:
            taken, tell = lambda: self.finisher.tally["taken"], lambda: self.mailbox.put(Notice.DRAINED)
            self.drained = Drained(pool, duties, taken, tell, f"{name}-drained")
        rules = [Rule(duty.tube, duty.concurrency, duty.breaker) for duty in duties.values()]
        self._places = Places(rules, settings.max_jobs)
        self._lock = threading.Lock()
        # Where there is nothing to decide no lock is taken: threads with short jobs would queue up for it.
        self._free = None if self._places.rule else (tuple(duties), None)

    # Places: decided under the lock, and told outside of it.

    def enter(self, seat: Seat) -> tuple[tuple[str, ...], float | None]:
        """Begin or go on with a wait; returns the tubes to wait for, and for how long (seconds; None: until told)."""
        if self._free is not None:
            return self._free
        now = _monotonic()
        with self._lock:
            wish = self._places.enter(seat, now)
        return wish.tubes, None if wish.until is None else max(0.0, wish.until - now)

    def give_up(self, seat: Seat) -> None:
        """End a wait for good."""
        with self._lock:
            told = self._places.give_up(seat)
        _wake(told)

    def took(self, seat: Seat, tube: str) -> None:
        """End a wait with a job."""
        if self._free is not None:
            return
        with self._lock:
            told = self._places.took(seat, tube)
        _wake(told)

    def more(self, wanted: int) -> int:
        """How many jobs more a batch may ask for, of those that it would like to have."""
        if self._free is not None:
            return wanted
        with self._lock:
            return self._places.more(wanted)

    def took_more(self, granted: int, taken: int) -> None:
        """So many of them were there."""
        if self._free is not None:
            return
        with self._lock:
            told = self._places.took_more(granted, taken)
        _wake(told)

    def done(self, seat: Seat) -> None:
        """Its jobs are no longer in hand."""
        if self._free is not None:
            return
        with self._lock:
            told = self._places.done(seat)
            exhausted = self._places.exhausted
        _wake(told)
        if exhausted:
            self.mailbox.put(Notice.EXHAUSTED)

    def succeeded(self, tube: str) -> None:
        """A handler has not failed."""
        with self._lock:
            told = self._places.succeeded(tube)
        _wake(told)

    def _outage(self, duty: Duty) -> float | None:
        now = _monotonic()
        with self._lock:
            told = self._places.failed(duty.tube, now)
            outage = self._places.outage(duty.tube, now)
        _wake(told)
        return outage

    def left_alone(self, tube: str) -> bool:
        """Whether no job of it should be begun now."""
        with self._lock:
            return bool(self._places.outage(tube, _monotonic()))

    # The supervisor.

    def look_at(self, at: float) -> None:
        """Have the supervisor look then, at the latest (monotonic seconds)."""
        if at < self.next_look:
            self.mailbox.put(Notice.LOOK)


def _wake(seats: Iterable[Seat]) -> None:
    for seat in seats:
        seat.wake()
