"""Jobs that are finished for those who do not wait for it."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from support.waiting import wait_until

pytest.importorskip("kombu")

from beanpool.contrib.kombu.finishing import End, Finisher


class Pool:
    """Releases what it is told to, once it may."""

    def __init__(self) -> None:
        self.may = threading.Semaphore(0)
        self.rounds: list[tuple[int, list[str]]] = []
        self.error: Exception | None = None

    def release_many(self, jobs: Sequence[Any], delay: int) -> list[Exception | None]:
        self.rounds.append((delay, [job.name for job in jobs]))
        self.may.acquire()
        if self.error is not None:
            raise self.error
        return [None for _ in jobs]


@pytest.fixture
def pool() -> Pool:
    return Pool()


@pytest.fixture
def finisher(pool: Pool) -> Iterator[Finisher]:
    made: Any = Finisher
    finisher: Finisher = made(pool)
    yield finisher
    pool.may.release(100)
    finisher.close()


def job(name: str, server: str = "first") -> Any:
    return SimpleNamespace(name=name, server=server)


def test_those_of_a_server_that_come_meanwhile_go_together(pool: Pool, finisher: Finisher) -> None:
    ends: list[Exception | None] = []
    for name, delay in (("a", 0), ("b", 0), ("c", 7), ("d", 0)):
        finisher.finish(job(name), End("release", delay), ends.append)
    finisher.finish(job("e", "second"), End("release"), ends.append)
    assert pool.rounds == [(0, ["a"]), (0, ["e"])]
    pool.may.release(10)
    wait_until(lambda: len(ends) == 5, "all to be done")
    assert pool.rounds[2:] == [(0, ["b", "d"]), (7, ["c"])]
    assert ends == [None] * 5


def test_who_waits_is_told_and_an_error_stops_nobody(pool: Pool, finisher: Finisher) -> None:
    ends: list[Exception | None] = []
    pool.may.release(10)
    pool.error = RuntimeError("on purpose")
    finisher.finish(job("a"), End("release"), ends.append, wait=True)
    assert ends == [pool.error]
    pool.error = None
    finisher.finish(job("b"), End("release"), ends.append, wait=True)
    assert ends[1:] == [None]


def test_where_there_is_no_thread_the_caller_does_it(pool: Pool, finisher: Finisher) -> None:
    ends: list[Exception | None] = []
    pool.may.release(10)
    # As at the end of the interpreter.
    finisher.close()
    finisher.finish(job("a"), End("release"), ends.append)
    assert ends == [None]
