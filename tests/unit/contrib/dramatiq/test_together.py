"""Jobs that threads finish at the same time on one connection."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from support.threads import Background, background
from support.waiting import wait_until

pytest.importorskip("dramatiq")

from beanpool.contrib.dramatiq.together import FinishedTogether


class Server:
    """Finishes what it is told to, once it may; remembers what came together."""

    def __init__(self) -> None:
        self.may = threading.Semaphore(0)
        self.rounds: list[list[Any]] = []
        self.error: BaseException | None = None

    def one(self, job: Any) -> None:
        self.many([job])

    def many(self, jobs: Sequence[Any]) -> list[Exception | None]:
        self.rounds.append([job.name for job in jobs])
        self.may.acquire()
        error, self.error = self.error, None
        if error is not None:
            raise error
        return [LookupError(job.name) if job.name == "unknown" else None for job in jobs]


def job(name: str, connection: str = "first") -> Any:
    return SimpleNamespace(name=name, connection=connection)


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def finish(server: Server) -> FinishedTogether:
    return FinishedTogether(server.one, server.many)


def follow(finish: FinishedTogether, count: Callable[[], int], *jobs: Any) -> list[Background[None]]:
    """Ask for these one after the other, while somebody is at work on their connection."""
    calls = []
    for number, one in enumerate(jobs, 1):
        calls.append(background(lambda one=one: finish(one), f"call {number}"))  # type: ignore[misc]  # mypy, of a default.
        wait_until(lambda number=number: count() == number, "it to wait")  # type: ignore[misc]  # The same.
    return calls


def test_those_that_come_meanwhile_go_together(server: Server, finish: FinishedTogether) -> None:
    first = background(lambda: finish(job("a")))
    wait_until(lambda: server.rounds == [["a"]], "the first to be under way")
    others = follow(finish, lambda: len(finish._waiting["first"]), job("b"), job("unknown"), job("c"))
    elsewhere = background(lambda: finish(job("d", "second")))
    wait_until(lambda: server.rounds == [["a"], ["d"]], "that of the other connection, which waits for nobody")
    server.may.release(3)
    for call in (first, elsewhere, others[0], others[2]):
        call.result()
    with pytest.raises(LookupError, match="unknown"):
        others[1].result()
    assert server.rounds == [["a"], ["d"], ["b", "unknown", "c"]]
    assert not finish._waiting


def test_an_error_of_the_round_is_that_of_all(server: Server, finish: FinishedTogether) -> None:
    first = background(lambda: finish(job("a")))
    wait_until(lambda: server.rounds == [["a"]], "the first to be under way")
    others = follow(finish, lambda: len(finish._waiting["first"]), job("b"), job("c"))
    server.may.release()
    first.result()
    wait_until(lambda: len(server.rounds) == 2, "the others to be under way")
    server.error = ValueError("closed")
    server.may.release()
    assert [str(call.error()) for call in others] == ["closed", "closed"]


def test_whoever_is_interrupted_leaves_the_others_to_one_of_them(server: Server, finish: FinishedTogether) -> None:
    first = background(lambda: finish(job("a")))
    wait_until(lambda: server.rounds == [["a"]], "the first to be under way")
    others = follow(finish, lambda: len(finish._waiting["first"]), job("b"), job("c"), job("d"))
    server.error = KeyboardInterrupt()
    server.may.release()
    assert isinstance(first.error(), KeyboardInterrupt)
    wait_until(lambda: len(server.rounds) == 2, "the next to lead")
    server.error = KeyboardInterrupt()
    server.may.release(2)
    assert isinstance(others[0].error(), KeyboardInterrupt)
    others[1].result()
    others[2].result()
    assert server.rounds == [["a"], ["b", "c", "d"], ["c", "d"]]
