"""Producers, workers and somebody who looks at the statistics, for as long as wanted."""

from __future__ import annotations

import collections
import random
import threading
import time
from collections.abc import Callable, Iterator

from chaos.watchdog import HUNG_AFTER, Watchdog
from support.ledger import Ledger

from beanpool import Job, JobId, JobLost, NoServerAvailable, OnAmbiguous, PoolManager, PoolTimeout, PutAmbiguous
from beanpool.errors import BeanpoolError

DEADLINE = 1.0
"""Of every call but a reserve (seconds)."""
RESERVE_FOR = 0.5
_SOURCE_TAKES = 0.2
"""How long the slow source of a batch makes it wait, in all (seconds)."""


class Traffic:
    """Producers, workers and somebody who looks at the statistics, all on one pool."""

    def __init__(self, pool: PoolManager, ledger: Ledger, watchdog: Watchdog, seed: int, pause: float) -> None:
        self.pool = pool
        self.ledger = ledger
        self._watchdog = watchdog
        self._seed = seed
        self._pause = pause
        self.errors: list[BaseException] = []
        """What escaped that no caller has to expect."""
        self.outcomes: collections.Counter[str] = collections.Counter()
        self._lock = threading.Lock()
        self._stop_producing = threading.Event()
        self._stop_working = threading.Event()
        self._threads: list[threading.Thread] = []

    def start(self, producers: int, workers: int) -> None:
        """Start all threads."""
        loops = [(self._produce, self._stop_producing)] * producers + [(self._work, self._stop_working)] * workers
        for number, (turn, stop) in enumerate([*loops, (self._look, self._stop_producing)]):
            thread = threading.Thread(
                target=self._loop, args=(turn, stop, random.Random(f"{self._seed} {number}")), name=f"soak {number}"
            )
            thread.daemon = True
            self._threads.append(thread)
            thread.start()

    def _loop(self, turn: Callable[[random.Random], None], stop: threading.Event, rng: random.Random) -> None:
        while not stop.is_set():
            try:
                turn(rng)
            except BaseException as error:
                self.errors.append(error)
                if len(self.errors) > 20:
                    return

    def _note(self, outcome: str) -> None:
        with self._lock:
            self.outcomes[outcome] += 1

    def _produce(self, rng: random.Random) -> None:
        if self._stop_producing.wait(self._pause * rng.uniform(0.5, 1.5)):
            return
        key = str(rng.randrange(50)) if rng.random() < 0.5 else None
        on_ambiguous: OnAmbiguous = "resend" if rng.random() < 0.8 else "raise"
        if rng.random() < 0.02:
            bodies = self.ledger.tokens(rng.randint(1, 60), size=100)
            source = bodies if rng.random() < 0.5 else _slowly(bodies, rng)
            # Two timeouts after the last put that was stored; in a batch of this size, those come early.
            batch = self._watchdog.timed(
                "put_many",
                2 * DEADLINE + _SOURCE_TAKES,
                lambda: self.pool.put_many(source, key=key, on_ambiguous=on_ambiguous),
            )
            for body, one in zip(bodies, batch, strict=True):
                self._book(body, one)
            return
        body = self.ledger.token(rng.choices((0, 200, 2000, 20_000), (60, 30, 9, 1))[0])
        outcome: JobId | Exception
        try:
            outcome = self._watchdog.timed(
                "put", DEADLINE, lambda: self.pool.put(body, key=key, on_ambiguous=on_ambiguous)
            )
        except BeanpoolError as error:
            outcome = error
        self._book(body, outcome)

    def _book(self, body: bytes, outcome: JobId | Exception) -> None:
        if isinstance(outcome, JobId):
            self.ledger.acked(body, outcome.server, outcome, outcome.maybe_duplicate)
            self._note("put, maybe twice" if outcome.maybe_duplicate else "put")
        elif isinstance(outcome, PutAmbiguous):
            self.ledger.ambiguous(body, max(1, len(outcome.attempts)))
            self._note("put ambiguous")
        elif isinstance(outcome, NoServerAvailable | PoolTimeout):
            self.ledger.refused(body, outcome)
            self._note("put refused")
        else:
            raise outcome

    def _work(self, rng: random.Random) -> None:
        if rng.random() < 0.05:
            self._work_on_many(rng.randint(2, 40))
            return
        try:
            job = self._watchdog.timed("reserve", RESERVE_FOR, lambda: self.pool.reserve(RESERVE_FOR))
        except NoServerAvailable:
            self._note("no server to reserve from")
            return
        if job is None:
            return
        self.ledger.delivered(job.data, job.server, job.id)
        try:
            self._finish(job, rng)
        except JobLost as error:
            self.ledger.delete_failed(job.data, error)
            self._note("job lost")

    def _work_on_many(self, limit: int) -> None:
        timed = self._watchdog.timed
        try:
            jobs = timed("reserve_many", RESERVE_FOR, lambda: self.pool.reserve_many(limit, RESERVE_FOR))
        except NoServerAvailable:
            self._note("no server to reserve from")
            return
        for job in jobs:
            self.ledger.delivered(job.data, job.server, job.id)
        # A server has its time, and what it leaves over has as much again.
        outcomes = timed("delete_many", 2 * DEADLINE, lambda: self.pool.delete_many(jobs))
        for job, outcome in zip(jobs, outcomes, strict=True):
            if outcome is None:
                self.ledger.deleted(job.data)
                self._note("deleted")
            elif isinstance(outcome, JobLost):
                self.ledger.delete_failed(job.data, outcome)
                self._note("job lost")
            else:
                raise outcome

    def _finish(self, job: Job, rng: random.Random) -> None:
        timed = self._watchdog.timed
        if rng.random() < 0.1:
            time.sleep(rng.uniform(0.0, 0.1))
            timed("touch", DEADLINE, job.touch)
        fate = rng.random()
        if fate < 0.02:
            timed("release", DEADLINE, job.release)
            self._note("released")
        elif fate < 0.03:
            # The job is dropped with the last reference to it, and given back.
            self._note("dropped")
        else:
            timed("delete", DEADLINE, job.delete)
            self.ledger.deleted(job.data)
            self._note("deleted")

    def _look(self, rng: random.Random) -> None:
        if self._stop_producing.wait(0.5):
            return
        answers = self._watchdog.timed("stats", DEADLINE, self.pool.stats_by_server)
        assert len(answers) == len(self.pool.servers)
        for answer in answers.values():
            assert isinstance(answer, dict | BeanpoolError)

    def stop_producing(self) -> None:
        """No more puts."""
        self._stop_producing.set()

    def stop(self) -> list[str]:
        """End; returns the names of threads that do not."""
        self._stop_producing.set()
        self._stop_working.set()
        end = time.monotonic() + HUNG_AFTER + DEADLINE
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))
        return [thread.name for thread in self._threads if thread.is_alive()]


def _slowly(bodies: list[bytes], rng: random.Random) -> Iterator[bytes]:
    """All of them, with pauses at some."""
    pauses = rng.choices(range(len(bodies)), k=5)
    for number, body in enumerate(bodies):
        yield body
        time.sleep(pauses.count(number) * _SOURCE_TAKES / 5)
