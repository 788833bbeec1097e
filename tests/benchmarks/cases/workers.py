"""A worker, next to loops around the pool's verbs: what its promises cost a job."""

from __future__ import annotations

import itertools
import threading
import time
from collections import defaultdict
from collections.abc import Callable

from benchmarks.bench import Bench
from benchmarks.measuring import Contender, Timings, interleaved
from benchmarks.raw import BODY
from benchmarks.result import Goal, Result, Table

from beanpool import Job, PoolManager
from beanpool.worker import Worker

LOOP = "loop: reserve, call, delete"
BATCH_LOOP = "loop: reserve_many, call, delete_many"
WORKER = "Worker"
AUTO = 'Worker, batch="auto"'
THREADS = (1, 4, 8)
SERVERS = 3
JOBS = 6000
ROUNDS = 12
BATCH = 100
# So that no server is empty before the end.
MORE = 300

Run = Callable[[PoolManager[bytes], int, int], None]
"""Works off jobs: the pool, in how many threads, and how many jobs."""


def _handle(job: Job[bytes]) -> None:
    pass


class _Share:
    """What is left to do, for several threads."""

    def __init__(self, jobs: int) -> None:
        self._left = jobs
        self._lock = threading.Lock()

    def take(self, most: int) -> int:
        """Take up to so many."""
        with self._lock:
            taken = min(most, self._left)
            self._left -= taken
            return taken


def _in_threads(threads: int, jobs: int, size: int, work: Callable[[int], None]) -> None:
    share = _Share(jobs)

    def one() -> None:
        while count := share.take(size):
            work(count)

    running = [threading.Thread(target=one) for _ in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()


def _loop(pool: PoolManager[bytes], threads: int, jobs: int) -> None:
    def work(count: int) -> None:
        job = pool.reserve(10)
        if job is not None:
            _handle(job)
            job.delete()

    _in_threads(threads, jobs, 1, work)


def _batch_loop(pool: PoolManager[bytes], threads: int, jobs: int) -> None:
    def work(count: int) -> None:
        while count:
            taken = pool.reserve_many(count, 10)
            for job in taken:
                _handle(job)
            pool.delete_many(taken)
            count -= len(taken)

    _in_threads(threads, jobs, BATCH, work)


def _work_off(worker: Worker, jobs: int) -> None:
    numbers = itertools.count(1)

    def handle(job: Job) -> None:
        # One step of C: no lock that threads could queue up for.
        if next(numbers) == jobs:
            worker.stop()

    worker.add("default", handle)
    worker.run()


def _worker(pool: PoolManager[bytes], threads: int, jobs: int) -> None:
    _work_off(Worker(pool, threads=threads), jobs)


def _auto(pool: PoolManager[bytes], threads: int, jobs: int) -> None:
    _work_off(Worker(pool, threads=threads, batch="auto"), jobs)


RUNS: dict[str, Run] = {LOOP: _loop, WORKER: _worker, BATCH_LOOP: _batch_loop, AUTO: _auto}
GOALS = {WORKER: (LOOP, 0.85), AUTO: (BATCH_LOOP, 0.7)}


def empty_handlers(bench: Bench) -> Result:
    """Jobs whose handler does nothing: all of the time is the worker's."""
    rows: list[list[str]] = []
    goals: list[Goal] = []
    for threads in THREADS:
        timings, cpu = _measure(bench, threads)
        for name in RUNS:
            of, target = GOALS.get(name, (name, 0.0))
            speed = timings.speed(name, of)
            ratio = "1" if of == name else str(speed)
            rows.append([str(threads), name, ratio, f"{timings.rate(name):,.0f}", f"{cpu[name] * 1e6:.0f}"])
            if target:
                goals.append(Goal(f"{name}, {threads} threads, empty handlers", of, target, speed))
    caption = (
        f"{SERVERS} servers, {JOBS} jobs a round, on all cores; each worker next to its loop (batches of {BATCH}):"
    )
    head = ["threads", "", "speed, its loop = 1 (quartiles)", "jobs per second", "µs of processor per job"]
    return Result("A worker with empty handlers", [Table(head, rows, caption)], goals)


def _measure(bench: Bench, threads: int) -> tuple[Timings, dict[str, float]]:
    servers = bench.servers(SERVERS)
    seconds: dict[str, float] = defaultdict(float)
    done: dict[str, int] = defaultdict(int)
    with PoolManager([server.address for server in servers], encoding=None) as pool:

        def timed(name: str) -> Callable[[int], None]:
            def run(count: int) -> None:
                started = time.process_time()
                RUNS[name](pool, threads, count)
                seconds[name] += time.process_time() - started
                done[name] += count

            return run

        def fill(count: int) -> None:
            pool.put_many(itertools.repeat(BODY, count + MORE))

        def drain(count: int) -> None:
            while jobs := pool.reserve_many(1000, 0):
                pool.delete_many(jobs)

        contenders = [Contender(name, timed(name), fill, drain) for name in RUNS]
        timings = interleaved(contenders, bench.rounds(ROUNDS), bench.operations(JOBS))
    return timings, {name: seconds[name] / done[name] for name in RUNS}
