"""The demo's producers, and its worker: threads on one pool."""

from __future__ import annotations

import random
import threading
import time
import traceback
from collections.abc import Callable

from beanpool import BeanpoolError, Job, PoolClosed, PoolManager
from beanpool.cli.demo.ledger import Ledger
from beanpool.events import Event
from beanpool.worker import JobBuried, JobLost, JobRetried, Worker

PRODUCERS = 2
WORKERS = 4
# Puts per second and producer, and seconds of work per job: a little more than the workers can do, so that there is a
# queue to see, and a queue on the server that dies.
RATE = 250.0
WORK = 0.009
CUSTOMERS = 1000
TTR = 30
_JOIN_LIMIT = 5.0


class Workload:
    """Two producers put jobs with keys at a steady rate; a worker with four threads takes them.

    :ivar failures: tracebacks of threads that ended with an error that is none of the pool's.
    """

    def __init__(self, pool: PoolManager, ledger: Ledger, seed: int) -> None:
        self.failures: list[str] = []
        self._pool = pool
        self._ledger = ledger
        self._seed = seed
        self._closing_time = threading.Event()
        self._finished = threading.Event()
        self._producers = [self._thread(f"producer-{number}", self._produce) for number in range(1, PRODUCERS + 1)]
        self._worker = Worker(pool, threads=WORKERS, grace=_JOIN_LIMIT)
        self._worker.add(pool.using(), self._work)
        self._worker.add_listener(self._note)

    @property
    def producing(self) -> bool:
        """Whether a producer is still at work."""
        return any(thread.is_alive() for thread in self._producers)

    def start(self) -> None:
        """Start all threads."""
        self._worker.start()
        for thread in self._producers:
            thread.start()

    def stop_producing(self) -> None:
        """Let the producers end after the put that they are in; the worker goes on, now as fast as it can."""
        self._closing_time.set()

    def stop(self) -> None:
        """Let all threads end; those that wait for a server end when the pool is closed."""
        self._closing_time.set()
        self._finished.set()
        self._worker.stop()

    def join(self) -> None:
        """Wait until all threads have ended; one that does not is a failure."""
        deadline = time.monotonic() + _JOIN_LIMIT
        for thread in self._producers:
            if thread.ident is None:
                continue
            thread.join(max(0.0, deadline - time.monotonic()))
            if thread.is_alive():
                self.failures.append(f"{thread.name} did not end")
        if self._worker.join(max(0.0, deadline - time.monotonic())) is None:
            self.failures.append("the worker did not end")

    def _thread(self, name: str, target: Callable[[str], None]) -> threading.Thread:
        def run() -> None:
            try:
                target(name)
            except PoolClosed:
                pass
            except Exception:
                self.failures.append(f"{name} failed: {traceback.format_exc()}")

        # Daemons: a thread that hangs is reported, and must not keep the process alive after that.
        return threading.Thread(target=run, name=name, daemon=True)

    def _produce(self, name: str) -> None:
        choice = random.Random(f"{self._seed}/{name}")
        due = time.monotonic()
        number = 0
        while not self._closing_time.wait(max(0.0, due - time.monotonic())):
            number += 1
            self._put(f"{name}/{number}", f"customer-{choice.randrange(CUSTOMERS)}")
            # After a put that took long, the pace is made up for, but not more than a second of it.
            due = max(due + 1 / RATE, time.monotonic() - 1.0)

    def _put(self, token: str, key: str) -> None:
        started = time.monotonic()
        try:
            stored = self._pool.put(token, ttr=TTR, key=key)
        except PoolClosed:
            raise
        except BeanpoolError:
            self._ledger.put_refused()
            return
        took = time.monotonic() - started
        self._ledger.put_acknowledged(token, stored.server, took, maybe_duplicate=stored.maybe_duplicate)

    def _work(self, job: Job) -> None:
        if not self._closing_time.is_set():
            self._finished.wait(WORK)
        self._ledger.delivered(job.data.decode(), job.server)

    def _note(self, event: Event) -> None:
        if isinstance(event, JobLost):
            # With its server, as a rule: it is delivered again if the delete was not carried out.
            self._ledger.reservation_lost()
        elif isinstance(event, JobRetried | JobBuried) and event.error is not None:
            self.failures.append(f"a handler failed: {''.join(traceback.format_exception(event.error))}")
