"""Tests of which thread may take jobs of which tubes: limits hold, and nobody is forgotten."""

from __future__ import annotations

import functools
import itertools
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from beanpool.worker import Breaker
from beanpool.worker.places import Places, Rule, Seat

LIMIT = 2


class Told:
    """Seats whose wait was ended."""

    def __init__(self, names: str) -> None:
        self.names: list[str] = []
        self.seats = {name: Seat(functools.partial(self.names.append, name)) for name in names}

    def wake(self, seats: list[Seat]) -> None:
        for seat in seats:
            seat.wake()


def test_who_waits_has_a_place_and_a_freed_one_is_told_to_who_waits_longest_without() -> None:
    places, told = Places([Rule("a", LIMIT), Rule("b")]), Told("uvwx")
    u, v, w, x = told.seats.values()
    assert [places.enter(seat, 0.0).tubes for seat in (u, v, w, x)] == [("a", "b"), ("a", "b"), ("b",), ("b",)]
    # Its job is of b: the place in a is free at once.
    told.wake(places.took(u, "b"))
    assert told.names == ["w"]
    assert places.enter(w, 0.0).tubes == ("b", "a")
    # With a job of a in hand the place stays taken.
    told.wake(places.took(v, "a"))
    assert told.names == ["w"]
    told.wake(places.done(v))
    assert told.names == ["w", "x"]


def test_a_place_that_was_told_to_one_who_has_got_a_job_meanwhile_is_told_to_the_next() -> None:
    places, told = Places([Rule("a", 1), Rule("b")]), Told("uvw")
    u, v, w = told.seats.values()
    for seat in (u, v, w):
        places.enter(seat, 0.0)
    told.wake(places.took(u, "a"))
    told.wake(places.done(u))
    assert told.names == ["v"]
    told.wake(places.took(v, "b"))
    assert told.names == ["v", "w"]


def test_an_open_circuit_lets_one_try_when_it_is_time_and_all_when_that_succeeds() -> None:
    places, told = Places([Rule("a", breaker=Breaker(after=1, base=5))]), Told("uvw")
    u, v, w = told.seats.values()
    places.enter(v, 0.0)
    places.enter(u, 0.0)
    places.took(u, "a")
    told.wake(places.failed("a", 0.0))
    assert told.names == ["v"]
    places.done(u)
    assert places.outage("a", 1.0) == 4.0
    wish = places.enter(v, 1.0)
    assert (wish.tubes, wish.until) == ((), 5.0)
    assert [places.enter(seat, 5.0).tubes for seat in (v, u, w)] == [("a",), (), ()]
    places.took(v, "a")
    told.names.clear()
    told.wake(places.succeeded("a"))
    assert told.names == ["u", "w"]
    assert places.outage("a", 5.0) is None
    assert [places.enter(seat, 5.0).tubes for seat in (u, w)] == [("a",), ("a",)]


def test_no_more_jobs_are_asked_for_than_may_be_taken() -> None:
    places, told = Places([Rule("a")], jobs=3), Told("uvwx")
    u, v, w, x = told.seats.values()
    assert [places.enter(seat, 0.0).tubes for seat in (u, v, w, x)] == [("a",), ("a",), ("a",), ()]
    told.wake(places.took(u, "a"))
    assert places.more(10) == 0
    told.wake(places.give_up(v))
    assert told.names == ["x"]
    places.took(w, "a")
    assert places.more(10) == 1
    assert places.enter(x, 0.0).tubes == ()
    assert not places.exhausted
    told.wake(places.took_more(1, 0))
    assert told.names == ["x", "x"]
    assert not places.exhausted
    assert places.enter(x, 0.0).tubes == ("a",)
    assert not places.exhausted
    places.took(x, "a")
    assert places.exhausted


class Threads(RuleBasedStateMachine):
    """Threads that wait, get jobs, finish them, fail, and stop, in any order."""

    SEATS = 5
    TUBES = ("free", "narrow", "fragile", "both")

    @initialize(jobs=st.one_of(st.none(), st.integers(1, 30)))
    def begin(self, jobs: int | None) -> None:
        breaker = Breaker(after=3, base=4, cap=30)
        self.now = 0.0
        self.jobs = jobs
        self.had = 0
        self.places = Places(
            [
                Rule("free"),
                Rule("narrow", LIMIT),
                Rule("fragile", breaker=breaker),
                Rule("both", LIMIT, breaker),
            ],
            jobs,
        )
        self.woken: dict[Seat, None] = {}
        self.seats = [Seat(lambda: None) for _ in range(self.SEATS)]
        self.waits: dict[Seat, Any] = {}
        self.works: dict[Seat, str] = {}

    def wake(self, seats: list[Seat]) -> None:
        assert all(seat in self.waits for seat in seats)
        self.woken.update(dict.fromkeys(seats))

    def enter(self, seat: Seat) -> None:
        self.woken.pop(seat, None)
        self.waits[seat] = self.places.enter(seat, self.now)

    @precondition(lambda self: len(self.waits) + len(self.works) < self.SEATS)
    @rule()
    def wait(self) -> None:
        self.enter(next(seat for seat in self.seats if seat not in self.waits and seat not in self.works))

    @precondition(lambda self: self.woken)
    @rule()
    def look_again(self) -> None:
        self.enter(next(iter(self.woken)))

    @precondition(lambda self: self.woken)
    @rule()
    def all_look_again(self) -> None:
        for rounds in itertools.count():
            assert rounds <= self.SEATS, "they wake each other for ever"
            if not self.woken:
                return
            self.enter(next(iter(self.woken)))

    @precondition(lambda self: any(wish.tubes for wish in self.waits.values()))
    @rule(data=st.data())
    def get_a_job(self, data: st.DataObject) -> None:
        seat = data.draw(
            st.sampled_from([seat for seat in self.seats if seat in self.waits and self.waits[seat].tubes])
        )
        tube = data.draw(st.sampled_from(self.waits.pop(seat).tubes))
        self.woken.pop(seat, None)
        self.works[seat] = tube
        self.had += 1
        self.wake(self.places.took(seat, tube))

    @precondition(lambda self: self.works)
    @rule(data=st.data(), well=st.booleans())
    def finish(self, data: st.DataObject, well: bool) -> None:
        seat = data.draw(st.sampled_from([seat for seat in self.seats if seat in self.works]))
        tube = self.works.pop(seat)
        self.wake(self.places.succeeded(tube) if well else self.places.failed(tube, self.now))
        self.wake(self.places.done(seat))

    @precondition(lambda self: self.waits)
    @rule()
    def stop_waiting(self) -> None:
        seat = next(iter(self.waits))
        self.waits.pop(seat)
        self.woken.pop(seat, None)
        self.wake(self.places.give_up(seat))

    @rule(seconds=st.floats(0.5, 40))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        for seat, wish in list(self.waits.items()):
            if wish.until is not None and wish.until <= self.now:
                self.enter(seat)

    @invariant()
    def limits_hold(self) -> None:
        for tube in ("narrow", "both"):
            # Whoever was told to look again is about to, and gets no place by looking.
            taken = sum(tube in wish.tubes for wish in self.waits.values())
            assert taken + sum(name == tube for name in self.works.values()) <= LIMIT
        if self.jobs is not None:
            assert self.had <= self.jobs

    @invariant()
    def nobody_is_forgotten(self) -> None:
        for tube, known in self.places._tubes.items():
            without = [seat for seat, wish in self.waits.items() if tube not in wish.tubes]
            if not known.has_room(self.now) or (self.jobs is not None and self.had >= self.jobs):
                continue
            asked_for = self.had + sum(bool(wish.tubes) for wish in self.waits.values())
            could = [seat for seat in without if self.waits[seat].tubes or self.jobs is None or asked_for < self.jobs]
            assert not could or any(seat in self.woken for seat in could), f"{tube} has room, and nobody is told"


Threads.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestThreads = Threads.TestCase
