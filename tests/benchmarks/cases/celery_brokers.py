"""Celery with beanstalkd as its broker, next to Redis."""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import logging
import threading
from collections.abc import Iterator

from benchmarks.bench import Bench
from benchmarks.measuring import Contender, Timings, interleaved
from benchmarks.result import Result, Table, speed_table
from support.redis_server import RedisServer, find_redis

TITLE = "Celery: tasks sent, and worked on"
REDIS = "Redis"
ONE, THREE = "beanpool, 1 server", "beanpool, 3 servers"
THREADS = 8
TASKS = 1000
ROUNDS = 4


def tasks(bench: Bench) -> Result:
    """Empty tasks, 8 threads in one process: all of the time is Celery's, the broker's and the servers'."""
    if importlib.util.find_spec("celery") is None:
        return Result(TITLE, [Table(["broker", "why it is not measured"], [["all", "celery is not installed"]])])
    from beanpool.contrib.kombu import register

    register()
    missing: dict[str, str] = {}
    with contextlib.ExitStack() as stack:
        addresses = [server.address for server in bench.servers(3)]
        urls = {ONE: f"beanstalk://{addresses[0]}", THREE: "beanstalk://" + ",".join(addresses)}
        if find_redis() is None or importlib.util.find_spec("redis") is None:
            missing[REDIS] = "not installed"
        else:
            urls[REDIS] = stack.enter_context(RedisServer()).url
        stack.enter_context(_quiet())
        sent, worked = _measure(bench, urls)
    of = REDIS if REDIS in urls else ONE
    caption = "%s, on all cores, tasks with one number:"
    return Result(
        TITLE,
        [
            speed_table(sent, of, missing, caption % "One thread sends"),
            speed_table(worked, of, missing, caption % f"{THREADS} threads of one process work"),
        ],
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    logger = logging.getLogger("celery")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)


class _Application:
    """One broker with its tasks, and the worker that is started for a slice."""

    def __init__(self, name: str, url: str) -> None:
        from celery import Celery

        self.app = Celery(name, broker=url, set_as_current=False)
        self.app.conf.update(task_ignore_result=True, broker_connection_retry_on_startup=True)
        self._numbers = itertools.count(1)
        self._wanted = 0
        self._done = threading.Event()
        self._gate = threading.Event()
        self._at_gate = threading.Semaphore(0)
        self._worker = contextlib.ExitStack()

        def work(number: int) -> None:
            if next(self._numbers) == self._wanted:
                self._done.set()

        def wait() -> None:
            self._at_gate.release()
            self._gate.wait()

        self._work = self.app.task(work, name="work", shared=False)
        self._wait = self.app.task(wait, name="wait", shared=False)

    def send(self, count: int) -> None:
        for number in range(count):
            self._work.delay(number)

    def prepare(self, count: int) -> None:
        """Start a worker, whose threads all wait until its tasks are there."""
        from celery.contrib.testing.worker import start_worker

        self._gate.clear()
        self._done.clear()
        self._numbers, self._wanted = itertools.count(1), count
        self._worker.enter_context(
            start_worker(
                self.app,
                pool="threads",
                concurrency=THREADS,
                perform_ping_check=False,
                shutdown_timeout=60,
                loglevel=50,
            )
        )
        for _ in range(THREADS):
            self._wait.delay()
        for _ in range(THREADS):
            if not self._at_gate.acquire(timeout=60):
                raise RuntimeError("the worker did not begin")
        self.send(count)

    def work(self, count: int) -> None:
        self._gate.set()
        if not self._done.wait(120):
            raise RuntimeError("not all tasks were worked on")

    def stop(self, count: int) -> None:
        self._worker.close()

    def purge(self, count: int) -> None:
        self.app.control.purge()

    def close(self) -> None:
        self.app.pool.force_close_all()
        self.app.close()


def _measure(bench: Bench, urls: dict[str, str]) -> tuple[Timings, Timings]:
    applications = {name: _Application(name, url) for name, url in urls.items()}
    rounds, count = bench.rounds(ROUNDS), bench.operations(TASKS)
    try:
        sent = interleaved(
            [Contender(name, each.send, clean_up=each.purge) for name, each in applications.items()], rounds, count
        )
        worked = interleaved(
            [Contender(name, each.work, each.prepare, each.stop) for name, each in applications.items()], rounds, count
        )
    finally:
        for each in applications.values():
            each.close()
    return sent, worked
