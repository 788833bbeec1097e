"""Tests of when a tube is left alone, and for how long."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beanpool.worker import Breaker
from beanpool.worker.breaker import CLOSED


def test_it_opens_after_so_many_failures_and_stays_open_ever_longer() -> None:
    breaker = Breaker(after=3, base=1, cap=5)
    circuit, opened = CLOSED, []
    now = 100.0
    for _ in range(2):
        circuit = circuit.failed(breaker, now)
        assert not circuit.is_open
    for _ in range(5):
        circuit = circuit.failed(breaker, now)
        assert circuit.is_open
        opened.append(circuit.until - now)
        now = circuit.until
    assert opened == [1, 2, 4, 5, 5]


def test_a_job_that_was_taken_before_it_opened_tells_nothing_new() -> None:
    breaker = Breaker(after=1, base=2, cap=60)
    circuit = CLOSED.failed(breaker, 10.0)
    assert circuit.failed(breaker, 11.9) is circuit
    assert circuit.failed(breaker, 12.0).openings == 2


@given(after=st.integers(1, 50), threads=st.integers(1, 50))
def test_no_more_fail_before_it_opens_than_it_allows_or_were_in_hand_before(after: int, threads: int) -> None:
    breaker = Breaker(after=after)
    circuit, in_hand, failures = CLOSED, threads, 0
    while not circuit.is_open:
        circuit = circuit.failed(breaker, 0.0)
        failures += 1
        in_hand -= 1
        while not circuit.is_open and in_hand < threads and in_hand < circuit.room(breaker):
            in_hand += 1
        assert in_hand or circuit.is_open
    assert failures + in_hand <= max(after, threads)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"after": 0}, ValueError),
        ({"base": 0}, ValueError),
        ({"cap": None}, TypeError),
        ({"base": 2, "cap": 1}, ValueError),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        Breaker(**options)
