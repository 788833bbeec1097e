"""A lazy future is a Future in everything, whenever it is looked at."""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import random
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future, InvalidStateError

import pytest
from support.threads import background, run_together
from support.waiting import wait_until, within

from beanpool.put.future import LazyFuture


@pytest.fixture
def many_switches() -> Iterator[None]:
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(usual)


def running() -> LazyFuture[int]:
    promise: LazyFuture[int] = LazyFuture()
    assert promise.set_running_or_notify_cancel()
    return promise


def waited_for(promise: LazyFuture[int]) -> bool:
    return bool(promise.sleepers)


def test_has_every_attribute_of_a_future() -> None:
    assert isinstance(LazyFuture(), Future)
    assert all(hasattr(LazyFuture(), name) for name in vars(Future()))


def test_the_result_is_there_for_who_comes_later() -> None:
    promise = running()
    assert promise.running()
    assert not promise.done()
    promise.set_result(7)
    assert promise.done()
    assert (promise.result(), promise.result(0), promise.exception(0)) == (7, 7, None)
    assert not promise.cancel()
    with pytest.raises(InvalidStateError):
        promise.set_result(8)
    assert promise.result() == 7
    assert "finished returned int" in repr(promise)


def test_an_error_is_raised() -> None:
    promise = running()
    promise.set_exception(ValueError("bad"))
    assert promise.done()
    with pytest.raises(ValueError, match="bad"):
        promise.result()
    assert isinstance(promise.exception(), ValueError)


@pytest.mark.parametrize("started", [False, True])
def test_a_wait_ends_with_the_result_or_in_time(started: bool) -> None:
    promise: LazyFuture[int] = running() if started else LazyFuture()
    with pytest.raises(concurrent.futures.TimeoutError):
        promise.result(0.01)
    with pytest.raises(concurrent.futures.TimeoutError):
        promise.exception(0)
    waiting = background(promise.result)
    wait_until(lambda: waited_for(promise), "the thread to wait")
    if not started:
        assert promise.set_running_or_notify_cancel()
    promise.set_result(7)
    assert waiting.result(5) == 7


def _as_futures(promise: LazyFuture[int]) -> list[Future[int]]:
    return [promise]


WAYS: dict[str, Callable[[LazyFuture[int]], object]] = {
    "result": lambda promise: promise.result(5),
    "exception": lambda promise: promise.exception(5),
    "wait": lambda promise: concurrent.futures.wait([promise], 5),
    "as_completed": lambda promise: list(concurrent.futures.as_completed(_as_futures(promise), 5)),
}


@pytest.mark.parametrize("way", WAYS)
def test_who_waits_for_what_is_not_started_says_so(way: str) -> None:
    hurried = threading.Event()
    promise: LazyFuture[int] = LazyFuture(hurried.set)
    waiting = background(lambda: WAYS[way](promise))
    assert hurried.wait(5)
    promise.set_running_or_notify_cancel()
    promise.set_result(7)
    waiting.result(5)


def test_who_does_not_wait_hurries_nobody() -> None:
    hurried: list[None] = []
    promise: LazyFuture[int] = LazyFuture(lambda: hurried.append(None))
    promise.add_done_callback(lambda _: None)
    assert not promise.done()
    assert not promise.running()
    assert "pending" in repr(promise)
    promise.set_running_or_notify_cancel()
    waiting = background(lambda: promise.result(5))
    wait_until(lambda: waited_for(promise), "the thread to wait")
    promise.set_result(7)
    assert waiting.result(5) == 7
    other: LazyFuture[int] = LazyFuture(lambda: hurried.append(None))
    assert other.cancel()
    assert not hurried


def test_a_wait_that_was_in_vain_leaves_nothing() -> None:
    promise = running()
    for _ in range(3):
        with pytest.raises(concurrent.futures.TimeoutError):
            promise.result(0)
    assert not promise.sleepers


@pytest.mark.parametrize("times", [1, 5])
def test_all_who_sleep_are_woken(times: int) -> None:
    promise = running()
    waiting = [background(lambda: promise.result(5)) for _ in range(times)]
    wait_until(lambda: len(promise.sleepers) == times, "all threads to wait")
    promise.set_result(7)
    assert [thread.result(5) for thread in waiting] == [7] * times


def test_cancel_before_it_runs() -> None:
    promise: LazyFuture[int] = LazyFuture()
    waiting = background(promise.result)
    wait_until(lambda: waited_for(promise), "the thread to wait")
    assert promise.cancel()
    assert promise.cancelled()
    assert promise.done()
    assert isinstance(waiting.error(5), CancelledError)
    assert not promise.set_running_or_notify_cancel()
    with pytest.raises(CancelledError):
        promise.result()


def test_no_cancel_while_it_runs() -> None:
    promise = running()
    assert not promise.cancel()
    promise.set_result(7)
    assert promise.result() == 7


def test_callbacks_are_called_once() -> None:
    early, late = running(), running()
    called: list[int] = []
    early.add_done_callback(lambda future: called.append(future.result()))
    early.set_result(1)
    late.set_result(2)
    late.add_done_callback(lambda future: called.append(future.result()))
    assert called == [1, 2]


def test_wait_and_as_completed() -> None:
    promises = [running() for _ in range(10)]
    promises[0].set_result(0)
    done, _ = concurrent.futures.wait(promises, return_when=concurrent.futures.FIRST_COMPLETED)
    assert done == {promises[0]}
    waiting = background(lambda: concurrent.futures.wait(promises))
    futures: list[Future[int]] = [*promises]
    collecting = background(lambda: [future.result() for future in concurrent.futures.as_completed(futures)])
    wait_until(lambda: all(len(promise._waiters) == 2 for promise in promises[1:]), "both threads to wait")
    for number in range(1, 10):
        promises[number].set_result(number)
    assert waiting.result(5).done == set(promises)
    assert collecting.result(5) == list(range(10))


def test_wrapped_for_asyncio() -> None:
    async def main() -> list[int]:
        early, late = running(), running()
        early.set_result(1)
        wrapped = [asyncio.wrap_future(early), asyncio.wrap_future(late)]
        threading.Timer(0.01, late.set_result, (2,)).start()
        return await asyncio.wait_for(asyncio.gather(*wrapped), 5)

    assert asyncio.run(main()) == [1, 2]


@pytest.mark.usefixtures("many_switches")
def test_any_interleaving() -> None:
    """Threads look at, wait for and cancel promises in every way while another one starts and finishes them."""
    promises: list[LazyFuture[int]] = [LazyFuture() for _ in range(3000)]
    called: list[int] = []

    def finish() -> int:
        for number, promise in enumerate(promises):
            if promise.set_running_or_notify_cancel():
                if number % 7:
                    promise.set_result(number)
                else:
                    promise.set_exception(KeyError(number))
        return 0

    def look(seed: int) -> int:
        chance = random.Random(seed)
        ways: list[Callable[[int, LazyFuture[int]], object]] = [
            lambda _, promise: promise.done(),
            lambda _, promise: promise.cancel(),
            lambda number, promise: promise.add_done_callback(lambda _: called.append(number)),
            lambda _, promise: concurrent.futures.wait([promise, promises[0]], 5),
            lambda _, promise: promise.exception(5),
        ]
        added = 0
        for number, promise in enumerate(promises):
            way = chance.randrange(len(ways))
            added += way == 2
            try:
                ways[way](number, promise)
                assert promise.result(5) == number
                assert number % 7
            except CancelledError:
                assert promise.cancelled()
            except KeyError:
                assert number % 7 == 0
        return added

    with within(30, "all threads", slack=0):
        looking = [lambda seed=seed: look(seed) for seed in range(6)]
        _, *added = run_together(finish, *looking, timeout=30)
    assert all(promise.done() for promise in promises)
    assert len(called) == sum(added)


@pytest.mark.usefixtures("many_switches")
def test_a_start_and_a_cancel_have_one_winner() -> None:
    for _ in range(2000):
        promise: LazyFuture[int] = LazyFuture()
        barrier = threading.Barrier(2)

        def decide(way: Callable[[], bool], barrier: threading.Barrier = barrier) -> bool:
            barrier.wait(5)
            return way()

        started, cancelled = run_together(
            functools.partial(decide, promise.set_running_or_notify_cancel), functools.partial(decide, promise.cancel)
        )
        assert started != cancelled
