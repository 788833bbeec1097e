"""Tests of when the deletes of a batch are made."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from typing import cast

import pytest
from support.waiting import wait_until

from beanpool import Job
from beanpool.worker.deletes import LATEST, Deletes, Done, Flusher


class Deleted:
    """What was deleted, and when."""

    def __init__(self) -> None:
        self.batches: list[tuple[float, str, list[object]]] = []

    def __call__(self, tube: str, jobs: Sequence[Done]) -> None:
        self.batches.append((time.monotonic(), tube, [done.job for done in jobs]))


@pytest.fixture
def flusher() -> Iterator[Flusher]:
    made = Flusher("beanpool-test-flusher")
    made.start()
    yield made
    made.stop(10)


def done(name: str) -> Done:
    return Done(cast(Job, name), 0.0)


def test_they_go_together_at_the_end_of_a_batch(flusher: Flusher) -> None:
    deleted = Deleted()
    deletes = Deletes(deleted, flusher)
    for name in "abc":
        deletes.add("mail", done(name))
    assert not deleted.batches
    deletes.flush()
    deletes.flush()
    [(_, tube, jobs)] = deleted.batches
    assert (tube, jobs) == ("mail", ["a", "b", "c"])


def test_they_are_made_in_time_while_their_thread_is_busy(flusher: Flusher) -> None:
    deleted = Deleted()
    deletes = Deletes(deleted, flusher)
    # What was flushed and collected anew is due later.
    deletes.add("mail", done("before"))
    deletes.flush()
    started = time.monotonic()
    deletes.add("mail", done("a"))
    deletes.add("mail", done("b"))
    wait_until(lambda: len(deleted.batches) == 2, "deletes by the other thread")
    at, _, jobs = deleted.batches[1]
    assert jobs == ["a", "b"]
    assert at >= started + LATEST


def test_they_are_made_at_once_when_the_other_thread_is_to_end(flusher: Flusher) -> None:
    deleted = Deleted()
    deletes = [Deletes(deleted, flusher) for _ in range(2)]
    started = time.monotonic()
    for one in deletes:
        one.add("mail", done("a"))
    flusher.stop(10)
    assert [jobs for _, _, jobs in deleted.batches] == [["a"], ["a"]]
    assert time.monotonic() < started + LATEST


def test_those_of_a_silent_server_hold_up_no_others(flusher: Flusher) -> None:
    silent, answers, others = threading.Event(), threading.Event(), Deleted()

    def delete_in_vain(tube: str, jobs: Sequence[Done]) -> None:
        silent.set()
        answers.wait(20)

    try:
        held_up = Deletes(delete_in_vain, flusher)
        held_up.add("mail", done("a"))
        assert silent.wait(20)
        Deletes(others, flusher).add("mail", done("b"))
        wait_until(lambda: len(others.batches) == 1, "the deletes of another server")
        # Nor at the end.
        Deletes(others, flusher).add("mail", done("c"))
        flusher.stop(0.1)
        wait_until(lambda: len(others.batches) == 2, "the last deletes")
    finally:
        answers.set()


def test_who_is_about_to_close_connections_waits_for_deletes_that_are_made(flusher: Flusher) -> None:
    began, go_on, ended = threading.Event(), threading.Event(), threading.Event()

    def delete(tube: str, jobs: Sequence[Done]) -> None:
        began.set()
        go_on.wait(20)
        ended.set()

    deletes = Deletes(delete, flusher)
    deletes.add("mail", done("a"))
    assert began.wait(20)
    deletes.flush()
    assert not ended.is_set()
    threading.Timer(0.05, go_on.set).start()
    deletes.flush(wait=True)
    assert ended.is_set()
