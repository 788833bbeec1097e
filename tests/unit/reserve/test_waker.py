"""Wakers, and the calls that they end."""

from __future__ import annotations

import gc

import pytest

from beanpool import Waker
from beanpool.reserve.waker import Interruption, check_waker


class Call:
    """A call that waits, and counts how often it was interrupted."""

    interrupted = 0

    def interrupt(self) -> None:
        self.interrupted += 1


def test_one_that_is_set_has_ended_the_call() -> None:
    waker, other = Waker(), Waker()
    interruption = Interruption(other, waker)
    assert not interruption.came
    waker.set()
    assert waker.is_set()
    assert interruption.came
    assert Interruption(waker).came


def test_one_that_was_cleared_has_ended_the_calls_that_had_begun() -> None:
    waker = Waker()
    waker.set()
    waker.clear()
    interruption = Interruption(waker)
    assert not interruption.came, "it was set before"
    waker.set()
    waker.clear()
    assert interruption.came
    assert not waker.is_set()


def test_who_waits_is_interrupted_and_who_waits_no_longer_is_not() -> None:
    waker = Waker()
    calls = [Call(), Call(), Call()]
    interruptions = [Interruption(waker) for _ in calls]
    for call, interruption in zip(calls, interruptions, strict=True):
        interruption.attach(call)
    interruptions[1].detach(calls[1])
    interruptions[1].detach(calls[1])
    waker.set()
    assert [call.interrupted for call in calls] == [1, 0, 1]


def test_who_comes_too_late_is_interrupted_at_once() -> None:
    waker, call = Waker(), Call()
    interruption = Interruption(waker)
    waker.set()
    waker.clear()
    interruption.attach(call)
    assert call.interrupted == 1


def test_what_an_interrupt_has_left_is_not_kept() -> None:
    waker, call = Waker(), Call()
    Interruption(waker).attach(call)
    del call
    gc.collect()
    waker.set()
    assert [ref() for ref in waker._waiting.values()] == [None]


def test_a_waker_that_is_set_within_the_wake_of_another() -> None:
    """As a signal handler may do at any line."""
    waker, second = Waker(), Call()

    class Nested(Call):
        def interrupt(self) -> None:
            super().interrupt()
            if self.interrupted == 1:
                waker.set()

    first = Nested()
    interruption = Interruption(waker)
    interruption.attach(first)
    interruption.attach(second)
    waker.set()
    assert (first.interrupted, second.interrupted) == (2, 2)


@pytest.mark.parametrize("wrong", [True, "waker", object(), Waker])
def test_nothing_else_is_a_waker(wrong: object) -> None:
    with pytest.raises(TypeError, match=r"waker must be a beanpool\.Waker"):
        check_waker(wrong)
