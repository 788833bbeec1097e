"""Tests of how many jobs are taken at once."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beanpool.worker.batch import LEAST, MOST, Batches


def after(seconds: float, jobs: int = 100) -> Batches:
    batch = Batches("auto")
    for _ in range(jobs):
        batch.ran(1, seconds)
    return batch


@pytest.mark.parametrize(
    ("seconds", "size"), [(0.0, MOST), (1e-5, MOST), (0.001, 100), (0.005, LEAST), (0.0051, 1), (1.0, 1)]
)
def test_short_jobs_come_in_batches_of_a_tenth_of_a_second(seconds: float, size: int) -> None:
    assert after(seconds).size == pytest.approx(size, abs=1 if size not in (1, LEAST, MOST) else 0)


def test_the_first_jobs_come_one_by_one() -> None:
    assert Batches("auto").size == 1
    assert after(0.0, 9).size == 1


def test_a_slow_job_counts_at_once_and_is_forgotten_in_time() -> None:
    batch = after(1e-5)
    batch.ran(1, 1.0)
    assert batch.size == 1
    for _ in range(40):
        batch.ran(1, 1e-5)
    assert batch.size > 1


@given(st.lists(st.tuples(st.integers(1, MOST), st.floats(0, 100))))
def test_a_size_is_one_or_worth_it(runs: list[tuple[int, float]]) -> None:
    batch = Batches("auto")
    for jobs, seconds in runs:
        batch.ran(jobs, seconds)
        assert batch.size == 1 or LEAST <= batch.size <= MOST


def test_a_given_size_is_kept_whatever_handlers_take() -> None:
    batch = Batches(7)
    batch.ran(1, 100.0)
    assert batch.next() == 7


def test_where_nothing_more_came_it_is_asked_for_ever_more_rarely_until_something_comes() -> None:
    batch = Batches(50)
    asked = []
    for number in range(60):
        if batch.next() > 1:
            asked.append(number)
            batch.came(0)
    assert asked == [0, 2, 5, 10, 19, 36, 53]
    while batch.next() == 1:
        pass
    batch.came(3)
    assert [batch.next() for _ in range(3)] == [50, 50, 50]
