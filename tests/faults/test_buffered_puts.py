"""Interrupts in the threads that use a producer: what they put is in or not, and everybody else goes on."""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest
from faults.interrupting import Interrupt, at_every_place
from support.servers import BeanstalkdServer

from beanpool import JobId, PoolManager
from beanpool.put.producer import Producer


class Cancelled(BaseException):
    """A framework's way to stop a thread."""


@pytest.fixture(autouse=True)
def quiet_finalizers(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is raised in a finalizer, of a thread's object too, is reported, not propagated: here that is no news."""
    monkeypatch.setattr("sys.unraisablehook", lambda _: None)


@pytest.mark.parametrize("kind", [KeyboardInterrupt, Cancelled])
@pytest.mark.parametrize("max_batch", [1, 2, 500])
def test_put(beanstalkd: BeanstalkdServer, kind: type[BaseException], max_batch: int) -> None:
    with PoolManager(beanstalkd.url, timeout=5) as pool, pool.producer(linger=0.001, max_batch=max_batch) as producer:

        def check(where: str) -> None:
            assert isinstance(producer.put("canary").result(5), JobId), where
            producer.flush(5)
            canaries = [job.body for job in beanstalkd.control.drain_jobs("default")].count(b"canary")
            assert canaries == 1, where

        assert at_every_place(lambda: lambda: producer.put("body"), check, kind) > 15


@pytest.mark.parametrize("use", [lambda producer: producer.flush(5), lambda producer: producer.put("x").result(5)])
def test_what_waits(beanstalkd: BeanstalkdServer, use: Callable[[Producer], object]) -> None:
    with PoolManager(beanstalkd.url, timeout=5) as pool, pool.producer(linger=0.001) as producer:

        def check(where: str) -> None:
            assert isinstance(producer.put("canary").result(5), JobId), where
            producer.flush(5)

        assert at_every_place(lambda: functools.partial(use, producer), check, KeyboardInterrupt) > 5


def test_close(beanstalkd: BeanstalkdServer) -> None:
    with PoolManager(beanstalkd.url, timeout=5) as pool:
        place = 0
        while True:
            producer = pool.producer(linger=60)
            future = producer.put("x")
            interrupt = Interrupt(place, KeyboardInterrupt())
            try:
                interrupt.run(producer.close)
            except KeyboardInterrupt:
                producer.close(5)
            assert isinstance(future.result(0), JobId), interrupt.where
            if not interrupt.happened:
                break
            place += 1
    assert place > 5
