"""Celery with beanstalkd as its broker, next to Redis."""

from __future__ import annotations

import contextlib
import threading

from benchmarks.bench import Bench
from benchmarks.brokers import THREADS, Application, compare
from benchmarks.result import Result

TASKS = 1000
ROUNDS = 4


def tasks(bench: Bench) -> Result:
    """Empty tasks, 8 threads in one process: all of the time is Celery's, the broker's and the servers'."""
    return compare(bench, "Celery: tasks sent, and worked on", "celery", "tasks", ROUNDS, TASKS, _Application)


class _Application(Application):
    def __init__(self, name: str, url: str) -> None:
        from celery import Celery

        from beanpool.contrib.kombu import register

        super().__init__()
        register()
        self.app = Celery(name, broker=url, set_as_current=False)
        self.app.conf.update(task_ignore_result=True, broker_connection_retry_on_startup=True)
        self._gate = threading.Event()
        self._at_gate = threading.Semaphore(0)
        self._worker = contextlib.ExitStack()

        def work(number: int) -> None:
            self.one_done()

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
        self.expect(count)
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
        self.await_all()

    def stop(self, count: int) -> None:
        self._worker.close()

    def empty(self, count: int) -> None:
        self.app.control.purge()

    def close(self) -> None:
        self.app.pool.force_close_all()
        self.app.close()
