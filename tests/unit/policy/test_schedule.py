"""What is due next: a heap that says what a list that is sorted anew each time would say."""

from __future__ import annotations

import gc
import math

import hypothesis.strategies as st
from hypothesis import given

from beanpool.policy.schedule import Schedule


class Thing:
    """Something to be looked at."""


_MOMENTS = st.integers(0, 20).map(float)
_STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("plan"), st.integers(0, 4), _MOMENTS),
        st.tuples(st.just("hasten"), st.integers(0, 4), _MOMENTS),
        st.tuples(st.just("drop"), st.integers(0, 4), _MOMENTS),
        st.tuples(st.just("take"), st.just(0), _MOMENTS),
    ),
    max_size=40,
)


@given(_STEPS)
def test_it_does_what_a_plain_table_would_do(steps: list[tuple[str, int, float]]) -> None:
    things = [Thing() for _ in range(5)]
    schedule: Schedule[Thing] = Schedule()
    table: dict[Thing, float] = {}
    for step, number, moment in steps:
        thing = things[number]
        if step == "plan":
            schedule.plan(thing, moment)
            table[thing] = moment
        elif step == "hasten":
            schedule.hasten(thing, moment)
            table[thing] = min(moment, table.get(thing, math.inf))
        elif step == "drop":
            schedule.drop(thing)
            table.pop(thing, None)
        else:
            taken = schedule.take(moment)
            due = {thing: at for thing, at in table.items() if at <= moment}
            assert set(taken) == set(due)
            assert len(taken) == len(due)
            assert [due[thing] for thing in taken] == sorted(due.values())
            for thing in taken:
                del table[thing]
        assert schedule.next_moment == min(table.values(), default=math.inf)
        assert len(schedule) == len(table)
        assert [thing in schedule for thing in things] == [thing in table for thing in things]


def test_what_is_planned_anew_for_ever_takes_no_more_memory() -> None:
    schedule: Schedule[Thing] = Schedule()
    things = [Thing() for _ in range(10)]
    for number in range(10_000):
        schedule.plan(things[number % 10], 1_000_000.0 - number)
    assert len(schedule._heap) < 200
    assert schedule.take(2_000_000.0)[0] is things[9]


def test_it_keeps_nothing_alive() -> None:
    schedule: Schedule[Thing] = Schedule()
    schedule.plan(Thing(), 1.0)
    gc.collect()
    assert schedule.next_moment == math.inf
    assert schedule.take(5.0) == []
