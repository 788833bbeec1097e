"""Tests of how a worker is set up."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from support.workers import Calls

from beanpool import Job, PoolManager
from beanpool.worker import Backoff, Worker


@pytest.fixture
def pool() -> PoolManager:
    # Nothing is opened.
    return PoolManager("127.0.0.1:1")


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"threads": 0}, ValueError),
        ({"threads": "8"}, TypeError),
        ({"grace": -1}, ValueError),
        ({"retry": 5}, TypeError),
        ({"batch": 0}, ValueError),
        ({"batch": "always"}, ValueError),
        ({"max_deliveries": 0}, ValueError),
        ({"max_jobs": 0}, ValueError),
        ({"max_time": 0}, ValueError),
        ({"max_memory": 1.5}, TypeError),
        ({"order": "random"}, ValueError),
        ({"breaker": 10}, TypeError),
        ({"heartbeat_file": 7}, TypeError),
        ({"keep_alive": 1}, TypeError),
    ],
)
def test_an_option_that_cannot_be_is_refused(
    pool: PoolManager, options: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        Worker(pool, **options)
    with pytest.raises(error):
        dataclasses.replace(Worker(pool).settings, **options)


def test_a_pool_is_needed() -> None:
    with pytest.raises(TypeError, match="pool must be a PoolManager, not str"):
        Worker("localhost")  # type: ignore[arg-type]  # That is the test.


def test_a_decorated_function_stays_what_it_is(pool: PoolManager) -> None:
    worker = Worker(pool)

    @worker.task("mail", concurrency=2)
    def send(job: Job) -> str:
        return "sent"

    assert send.__name__ == "send"
    assert worker.tubes == ("mail",)
    with pytest.raises(ValueError, match="tube mail has a handler already: "):
        worker.add("mail", Calls())


def test_it_can_be_configured_until_it_is_started(pool: PoolManager) -> None:
    worker = Worker(pool, threads=2)
    for tube in ("a", "b", "c"):
        worker.add(tube, Calls())
    worker.configure(dataclasses.replace(worker.settings, threads=3, retry=Backoff(tries=1)), tubes=["c", "a"])
    assert worker.tubes == ("c", "a")
    assert (worker.settings.threads, worker.settings.retry.tries) == (3, 1)
    with pytest.raises(ValueError, match="tube d has no handler; there are: c, a"):
        worker.configure(tubes=["d"])
    with pytest.raises(TypeError, match="settings must be a Settings, not int"):
        worker.configure(3)  # type: ignore[arg-type]  # That is the test.


def test_it_needs_a_tube_and_runs_once(pool: PoolManager) -> None:
    worker = Worker(pool, max_time=0.01)
    with pytest.raises(RuntimeError, match="not started"):
        worker.join()
    with pytest.raises(ValueError, match="no tube has a handler"):
        worker.run()
    worker.add("mail", Calls())
    with pool:
        assert worker.run() == 0
        for again in (worker.run, worker.start, lambda: worker.add("b", Calls()), worker.configure):
            with pytest.raises(RuntimeError, match="was started before"):
                again()
