"""``beanpool bench``: how many jobs each second the servers take and give, as this machine sees them."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import secrets
import threading
import time
from collections.abc import Callable, Iterator

from beanpool import BeanpoolError, Job, JobId, PoolManager, admin
from beanpool.cli.exits import Exit
from beanpool.cli.pool import open_pool
from beanpool.cli.screen import say_table
from beanpool.cli.tables import count
from beanpool.cli.terminal import complain, say, to_json

# Servers keep jobs in memory.
_MOST_JOBS = 200_000
_MOST_BYTES = 256 << 20

Step = Callable[[], int]
"""Does a part of the work; returns with how many jobs, or 0 if there is no more to do."""


@dataclasses.dataclass(frozen=True, slots=True)
class Result:
    """One measurement.

    :ivar jobs: how many were done.
    :ivar seconds: how long that took.
    :ivar median: of a call (seconds).
    :ivar slowest: of a hundred calls, the slowest but one: the 99th percentile (seconds).
    """

    what: str
    jobs: int
    seconds: float
    median: float
    slowest: float

    @property
    def rate(self) -> float:
        """Jobs each second."""
        return self.jobs / self.seconds if self.seconds else 0.0


def run(arguments: argparse.Namespace) -> int:
    """Measure, and leave nothing behind."""
    tube = f"beanpool-bench-{secrets.token_hex(8)}"
    with open_pool(arguments, max_connections=max(32, 2 * arguments.threads)) as pool:
        pool.wait()
        with _cleared(pool, tube):
            results = []
            for result in _measure(pool, tube, arguments):
                results.append(result)
                if arguments.json:
                    say(to_json(dataclasses.asdict(result) | {"rate": round(result.rate, 1)}))
        silent = [status.address for status in pool.servers if status.state == "down"]
    if not arguments.json:
        rows = [["", "jobs/s", "jobs", "median", "99%"]]
        for result in results:
            times = [f"{value * 1000:.3f} ms" for value in (result.median, result.slowest)]
            rows.append([result.what, count(round(result.rate)), count(result.jobs), *times])
        say_table(rows)
    for server in silent:
        complain(f"{server} is down, and took no part")
    return Exit.INCOMPLETE if silent else Exit.OK


@contextlib.contextmanager
def _cleared(pool: PoolManager[bytes], tube: str) -> Iterator[None]:
    try:
        yield
    finally:
        counters = pool.get_stats_by_server()
        outcomes = admin.clear(pool, tube)
        for server, outcome in outcomes.items():
            # Where no connection was ever made, nothing was put.
            met = counters[server]["connections_num"] > counters[server]["connections_errors"]
            if outcome.error is not None and met:
                complain(f"{server} may have jobs left in tube {tube}", f"beanpool clear {tube}")


def _measure(pool: PoolManager[bytes], tube: str, arguments: argparse.Namespace) -> Iterator[Result]:
    body = b"x" * arguments.size
    most = min(_MOST_JOBS, _MOST_BYTES // max(1, arguments.size))
    batch = min(arguments.batch, max(1, most // arguments.threads))
    budget = _Budget(most)

    def put() -> int:
        taken = budget.take(1)
        if taken:
            pool.put(body, tube=tube)
        return taken

    def put_many() -> int:
        taken = budget.take(batch)
        return _stored(pool.put_many([body] * taken, tube=tube))

    def reserve() -> int:
        job = pool.reserve(0, tubes=tube)
        if job is None:
            return 0
        job.delete()
        return 1

    def reserve_many() -> int:
        jobs: list[Job[bytes]] = pool.reserve_many(batch, 0, tubes=tube)
        for error in pool.delete_many(jobs):
            if error is not None:
                raise error
        return len(jobs)

    how = arguments.seconds, arguments.threads
    yield _timed("put", put, *how)
    yield _timed("reserve, delete", reserve, *how)
    yield _timed(f"put_many {batch}", put_many, *how)
    yield _timed(f"reserve_many, delete_many {batch}", reserve_many, *how)


def _stored(outcomes: list[JobId | Exception]) -> int:
    for outcome in outcomes:
        if isinstance(outcome, Exception):
            raise outcome
    return len(outcomes)


class _Budget:
    """How many jobs may still be put, in all threads."""

    def __init__(self, most: int) -> None:
        self._left = most
        self._lock = threading.Lock()

    def take(self, wanted: int) -> int:
        """Take up to so many."""
        with self._lock:
            taken = min(wanted, self._left)
            self._left -= taken
            return taken


def _timed(what: str, step: Step, seconds: float, threads: int) -> Result:
    """Repeat a step in threads until the time is over, or there is no more to do."""
    times: list[float] = []
    jobs: list[int] = []
    failures: list[BeanpoolError] = []
    began = time.perf_counter()
    end = began + seconds
    ended = threading.Event()

    def work() -> None:
        try:
            while (before := time.perf_counter()) < end and not ended.is_set():
                done = step()
                if not done:
                    return
                times.append(time.perf_counter() - before)
                jobs.append(done)
        except BeanpoolError as error:
            failures.append(error)
            ended.set()

    workers = [threading.Thread(target=work, name=f"beanpool-bench-{number}") for number in range(threads)]
    try:
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    finally:
        # Also after Ctrl-C: the tube is cleared then, and must stay so.
        ended.set()
        for worker in workers:
            if worker.ident is not None:
                worker.join()
    took = time.perf_counter() - began
    if failures:
        raise failures[0]
    times.sort()
    if not times:
        return Result(what, 0, took, 0.0, 0.0)
    return Result(what, sum(jobs), took, times[len(times) // 2], times[len(times) * 99 // 100])
