"""When kept jobs are touched: never later than a third of their TTR, and those of a group together."""

from __future__ import annotations

import math
import sys

from hypothesis import given, settings
from hypothesis import strategies as st

from beanpool.policy import YOUNG, TouchSchedule

Jobs = TouchSchedule[str, str]


def schedule(**due_at: float) -> Jobs:
    """Items of group ``g``, each due for the first time."""
    jobs = Jobs()
    for item, moment in due_at.items():
        jobs.add(item, "g", moment)
    return jobs


class TestOneGroup:
    def test_the_ttr_is_asked_for_once(self) -> None:
        jobs = schedule(a=10.0)
        assert (jobs.next_at, jobs.due(9.9), jobs.due(10.0)) == (10.0, [], ["g"])
        assert jobs.begin("g", 10.0, 9) == [("a", True)]
        jobs.end("g", {"a": 6.0}, [], 10.0, 10.1)
        assert jobs.next_at == 12.0
        assert jobs.begin("g", 12.0, 9) == [("a", False)]
        jobs.end("g", {"a": None}, [], 12.0, 12.0)
        assert jobs.next_at == 14.0

    def test_it_is_asked_for_again_if_it_was_not_told(self) -> None:
        jobs = schedule(a=10.0)
        jobs.begin("g", 10.0, 9)
        jobs.end("g", {"a": None}, [], 10.0, 10.0)
        assert jobs.next_at == 10.0 + YOUNG
        assert jobs.begin("g", jobs.next_at, 9) == [("a", True)]

    def test_a_group_that_is_in_use_is_not_due(self) -> None:
        jobs = schedule(a=10.0, b=10.0)
        jobs.begin("g", 10.0, 9)
        assert (jobs.due(99.0), jobs.next_at) == ([], math.inf)
        jobs.postpone("g", 20.0)
        assert (jobs.due(19.9), jobs.next_at, jobs.due(20.0)) == ([], 20.0, ["g"])

    def test_those_that_are_nearly_due_go_along(self) -> None:
        jobs = schedule(a=10.0, b=10.05, c=10.5)
        assert [item for item, _ in jobs.begin("g", 10.0, 9)] == ["a", "b"]
        jobs.end("g", {"a": 30.0, "b": 3.0}, [], 10.0, 10.0)
        assert [item for item, _ in jobs.begin("g", 10.5, 9)] == ["c", "b"]
        jobs.end("g", {"b": None, "c": 30.0}, [], 10.5, 10.5)
        assert jobs.next_at == 11.5

    def test_no_more_go_together_than_may(self) -> None:
        jobs = schedule(a=10.0, b=9.0, c=9.5)
        assert [item for item, _ in jobs.begin("g", 10.0, 2)] == ["b", "c"]
        jobs.end("g", {"b": 3.0, "c": 3.0}, [], 10.0, 10.0)
        assert jobs.due(10.0) == ["g"]
        assert jobs.begin("g", 10.0, 2) == [("a", True)]

    def test_those_that_could_not_be_touched_are_due_as_before(self) -> None:
        jobs = schedule(a=10.0, b=10.05, c=20.0)
        jobs.begin("g", 10.0, 9)
        jobs.add("b", "g", 30.0)
        jobs.postpone("g", 10.2)
        assert (jobs.due(10.1), jobs.next_at) == ([], 10.2)
        assert jobs.begin("g", 10.2, 9) == [("a", True)]
        jobs.end("g", {"a": 90.0}, [], 10.2, 10.2)
        assert jobs.next_at == 20.0

    def test_what_was_not_touched_is_tried_again_soon(self) -> None:
        jobs = schedule(a=10.0)
        jobs.begin("g", 10.0, 9)
        jobs.end("g", {}, ["a"], 10.0, 10.0)
        assert jobs.next_at == 10.0 + YOUNG

    def test_what_is_dropped_is_forgotten(self) -> None:
        jobs = schedule(a=10.0, b=11.0)
        jobs.begin("g", 12.0, 9)
        jobs.drop("a")
        jobs.drop("a")
        jobs.drop("nobody")
        jobs.end("g", {"a": 3.0, "b": 3.0}, ["a"], 12.0, 12.0)
        assert ("a" in jobs, len(jobs), jobs.items("g"), jobs.next_at) == (False, 1, ["b"], 13.0)
        assert jobs.has("g")
        jobs.drop("b")
        assert not jobs.has("g")
        assert (len(jobs), jobs.items("g"), jobs.due(99.0), jobs.begin("g", 99.0, 9)) == (0, [], [], [])
        jobs.end("g", {"b": 3.0}, [], 99.0, 99.0)
        jobs.postpone("g", 99.0)
        assert jobs.next_at == math.inf

    def test_one_that_changes_its_group(self) -> None:
        jobs = schedule(a=10.0)
        jobs.add("a", "h", 20.0)
        assert (jobs.due(99.0), jobs.items("g"), jobs.items("h")) == (["h"], [], ["a"])


def test_a_round_costs_what_is_touched_and_not_what_is_kept() -> None:
    jobs = TouchSchedule[int, str]()
    for number in range(5000):
        jobs.add(number, "g", 1000.0 + number)
    for number in range(10):
        jobs.add(number, "g", 10.0)
    calls = 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        assert jobs.due(jobs.next_at) == ["g"]
        found = jobs.begin("g", 10.0, 256)
        jobs.end("g", {item: 6.0 for item, _ in found}, [], 10.0, 10.0)
    finally:
        sys.setprofile(before)
    assert [item for item, _ in found] == list(range(10))
    assert jobs.next_at == 12.0
    assert calls < 1000


@settings(max_examples=100, deadline=None)
@given(
    ttrs=st.dictionaries(st.integers(0, 30), st.sampled_from([1.0, 2.0, 7.0, 60.0]), min_size=1),
    groups=st.integers(1, 4),
    most=st.integers(1, 10),
    delays=st.lists(st.floats(0.0, 0.05), min_size=1, max_size=20),
)
def test_nothing_is_touched_too_late_or_much_too_often(
    ttrs: dict[int, float], groups: int, most: int, delays: list[float]
) -> None:
    jobs = TouchSchedule[int, int]()
    touched_at = dict.fromkeys(ttrs, 0.0)
    counts = dict.fromkeys(ttrs, 0)
    for item in ttrs:
        jobs.add(item, item % groups, YOUNG)
    now, turns = 0.0, 0
    while now < 20.0:
        now = max(now, jobs.next_at) + delays[turns % len(delays)]
        turns += 1
        for group in jobs.due(now):
            found = jobs.begin(group, now, most)
            assert found
            for item, asks in found:
                assert asks == (counts[item] == 0)
                # Others may have come before it, some at a time.
                late = 0.06 * (len(ttrs) / most + 1)
                assert now - touched_at[item] <= (YOUNG if asks else ttrs[item] / 3) + late
                assert asks or now - touched_at[item] >= ttrs[item] / 6 - 1e-9
                touched_at[item] = now
                counts[item] += 1
            jobs.end(group, {item: ttrs[item] if asks else None for item, asks in found}, [], now, now)
    assert min(counts.values()) > 0
