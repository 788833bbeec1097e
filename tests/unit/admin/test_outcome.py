"""Sums of outcomes, and what callers name."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from beanpool import NotFound, Waker
from beanpool.admin import Outcome, Progress, total
from beanpool.admin.outcome import Tally, check_states, stop_test
from beanpool.admin.quota import Quota


def test_a_sum_has_one_of_the_errors_and_the_longest_time() -> None:
    error = NotFound("delete", "NOT_FOUND", [])
    outcomes = {"a": Outcome(1, 2, 3, 4, None, 0.5), "b": Outcome(10, 20, 30, 40, error, 0.25)}
    assert total(outcomes) == Outcome(11, 22, 33, 44, error, 0.5)
    assert total({}) == Outcome()
    assert Progress("a", 10, outcomes["a"]).handled == 8


def test_the_first_error_is_the_cause_and_keeps_no_frames() -> None:
    tally, first = Tally(), NotFound("delete", "NOT_FOUND", [])
    try:
        raise first
    except NotFound as error:
        tally.fail(error)
    tally.fail(NotFound("stats-job", "NOT_FOUND", []))
    assert tally.outcome().error is first
    assert first.__traceback__ is None


@pytest.mark.parametrize(
    ("states", "expected"),
    [("buried", ("buried",)), (["buried", "ready", "buried"], ("ready", "buried")), ({"delayed"}, ("delayed",))],
    ids=str,
)
def test_states_have_a_fixed_order(states: Any, expected: tuple[str, ...]) -> None:
    assert check_states(states) == expected


def test_what_stops() -> None:
    waker = Waker()
    stopped = stop_test(waker)
    assert not stopped()
    waker.set()
    assert stopped()
    assert not stop_test(None)()
    assert stop_test(lambda: True)()


def test_a_quota_is_shared_to_the_last() -> None:
    quota, taken = Quota(1000), list[int]()
    threads = [threading.Thread(target=lambda: taken.extend(quota.take(3) for _ in range(100))) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(taken) == 1000
    assert quota.take(1) == 0
    assert Quota(None).take(5) == 5
