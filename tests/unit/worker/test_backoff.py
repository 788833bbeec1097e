"""Tests of how long a job waits for its next try."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beanpool.worker import Backoff


def test_a_wait_is_twice_the_one_before_up_to_the_cap() -> None:
    backoff = Backoff(base=3, cap=40, jitter=False)
    assert [backoff.delay(tries) for tries in range(1, 8)] == [3, 6, 12, 24, 40, 40, 40]


@given(
    base=st.floats(0, 1000),
    more=st.floats(0, 1000),
    tries=st.integers(1, 2**32 - 1),
    part=st.floats(0, 1, exclude_max=True),
)
def test_a_jittered_wait_is_a_whole_number_of_seconds_and_at_least_the_half(
    base: float, more: float, tries: int, part: float
) -> None:
    backoff = Backoff(base=base, cap=base + more)
    whole = Backoff(base=base, cap=base + more, jitter=False).delay(tries)
    delay = backoff.delay(tries, lambda: part)
    assert isinstance(delay, int)
    assert whole / 2 <= delay + 0.5
    assert delay <= whole


def test_those_that_failed_together_do_not_come_back_together() -> None:
    assert len({Backoff(base=100).delay(1) for _ in range(100)}) > 10


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"tries": 0}, ValueError),
        ({"tries": 1.5}, TypeError),
        ({"base": -1}, ValueError),
        ({"cap": "x"}, TypeError),
        ({"base": 10, "cap": 5}, ValueError),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        Backoff(**options)
