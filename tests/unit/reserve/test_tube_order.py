"""In which order tubes are asked."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beanpool.reserve.tube_order import Demand, TubeOrder, check_order, demand

names = st.lists(st.sampled_from("abcdefgh"), min_size=2, unique=True).map(tuple)


def test_without_an_order_all_are_asked_at_once() -> None:
    order = TubeOrder(("a", "b"), "any")
    assert order.groups == (("a", "b"),)
    order.served(0)
    assert order.ranking() == [0]
    assert order.number(("a", "b")) == order.number(("b", "a")) == 0


@given(names, st.lists(st.integers(0, 7)))
def test_a_strict_order_is_that_of_the_names(tubes: tuple[str, ...], served: list[int]) -> None:
    order = TubeOrder(tubes, "strict")
    for number in served:
        order.served(number % len(tubes))
    assert [order.groups[number] for number in order.ranking()] == [(tube,) for tube in tubes]


@given(names, st.lists(st.sets(st.integers(0, 7), min_size=1), min_size=1))
def test_in_turns_nobody_waits_for_more_than_one_job_of_each_other(
    tubes: tuple[str, ...], rounds: list[set[int]]
) -> None:
    """Whichever tubes have jobs in each round."""
    order = TubeOrder(tubes, "fair")
    waited = dict.fromkeys(range(len(tubes)), 0)
    for numbers in rounds:
        ready = {number % len(tubes) for number in numbers}
        ranking = order.ranking()
        assert sorted(ranking) == list(range(len(tubes)))
        first = next(number for number in ranking if number in ready)
        order.served(first)
        for number in waited:
            waited[number] = waited[number] + 1 if number in ready and number != first else 0
            assert waited[number] < len(tubes)


def test_the_group_is_known_by_what_is_watched() -> None:
    order = TubeOrder(("b", "a", "b"), "strict")
    assert order.groups == (("b",), ("a",))
    assert [order.number(group) for group in order.groups] == [0, 1]


def test_who_asks_for_the_same_has_the_same_demand() -> None:
    assert demand(("a",), "strict", "") == demand(("a",), "any", "") == ("a",)
    assert demand(("a", "b"), "strict", "") == Demand(("a", "b"), "strict", "")
    assert demand(("a",), "fair", "q1:11300") == Demand(("a",), "any", "q1:11300")


@pytest.mark.parametrize("wrong", ["", "Any", "random", None, 1])
def test_no_other_order(wrong: str) -> None:
    with pytest.raises(ValueError, match="order must be one of 'any', 'fair', 'strict'"):
        check_order(wrong)
