"""A source that makes a batch wait: what is done meanwhile, and by whom."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterator

import pytest
from support.processes import thread_names
from support.threads import background
from support.waiting import wait_until

from beanpool.put.slow_source import SlowSource


class Batch:
    """What reads a source: it counts, and notices two threads at once."""

    def __init__(self) -> None:
        self.read: list[int] = []
        self.done: list[int] = []
        self.busy = True
        self.rested = 0.0
        self.looks = 0
        self._at_work = threading.Lock()

    def meanwhile(self) -> bool:
        assert self._at_work.acquire(blocking=False)
        self.looks += 1
        self.done = list(self.read)
        self._at_work.release()
        return self.busy

    def rest(self, seconds: float) -> None:
        self.rested += seconds

    def run(self, source: Iterator[int]) -> None:
        with SlowSource(source, self.meanwhile, self.rest) as items:
            for item in items:
                assert self._at_work.acquire(blocking=False)
                self.read.append(item)
                self._at_work.release()


def until(condition: Callable[[], object]) -> None:
    wait_until(condition, "what is done meanwhile")


def test_whatever_it_gave_is_done_while_it_waits() -> None:
    batch = Batch()

    def source() -> Iterator[int]:
        for number in range(30):
            yield number
            if number % 10 == 9:
                until(lambda number=number: batch.done == list(range(number + 1)))  # type: ignore[misc]

    batch.run(source())
    assert batch.read == list(range(30))
    assert batch.rested > 0


def test_it_is_looked_after_until_nothing_is_left_and_then_left_alone() -> None:
    batch = Batch()
    looks = []

    def source() -> Iterator[int]:
        yield 0
        until(lambda: batch.looks >= 3)
        batch.busy = False
        looked = batch.looks
        until(lambda: batch.looks > looked)
        looks.append(batch.looks)
        threading.Event().wait(0.1)
        looks.append(batch.looks)
        yield 1
        until(lambda: batch.done == [0, 1])

    batch.run(source())
    assert looks[0] == looks[1]


def test_the_two_are_never_at_work_together() -> None:
    batch = Batch()

    def source() -> Iterator[int]:
        for number in range(20_000):
            if number % 4_000 == 0:
                until(lambda looks=batch.looks: batch.looks > looks)  # type: ignore[misc]
            yield number

    batch.run(source())
    assert len(batch.read) == 20_000


def test_after_its_end_the_batch_is_alone() -> None:
    batch = Batch()
    with SlowSource(iter([1, 2]), batch.meanwhile, batch.rest) as items:
        batch.read += items
        looks = batch.looks
        threading.Event().wait(0.05)
        assert batch.looks == looks


def test_what_goes_wrong_meanwhile_is_raised_where_the_source_is_read() -> None:
    batch = Batch()
    given = threading.Event()

    def fail() -> bool:
        # On a busy machine the first item may take its time, too.
        if not given.is_set():
            return True
        batch.looks += 1
        raise RuntimeError("meanwhile")

    def source() -> Iterator[int]:
        yield 0
        given.set()
        until(lambda: batch.looks)
        yield 1

    with pytest.raises(RuntimeError, match="meanwhile"), SlowSource(source(), fail, batch.rest) as items:
        batch.read += items
    assert batch.read == [0]


def test_where_no_thread_can_be_started_nothing_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    batch = Batch()
    seen = []

    def source() -> Iterator[int]:
        for number in range(3):
            seen.append(list(batch.done))
            yield number

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        batch.run(source())
    assert batch.read == [0, 1, 2]
    assert seen == [[], [0], [0, 1]]


@pytest.mark.parametrize("end", ["its end", "an error", "nobody reads on"])
def test_the_thread_ends_with_it(end: str) -> None:
    def source() -> Iterator[int]:
        yield 0
        if end == "an error":
            raise KeyboardInterrupt
        yield 1

    batch = Batch()
    if end == "its end":
        batch.run(source())
    elif end == "an error":
        with pytest.raises(KeyboardInterrupt):
            batch.run(source())
    else:
        # As after an interrupt at the first line of the block: nobody says that it is over.
        left = SlowSource(source(), batch.meanwhile, batch.rest)
        left.__enter__()
        del left
        gc.collect()
    wait_until(lambda: not thread_names("beanpool-slow-source"), "the thread to end")


def test_another_thread_may_close_what_is_read() -> None:
    batch = Batch()
    call = background(lambda: batch.run(iter(range(1000))))
    call.result(5)
    assert len(batch.read) == 1000
