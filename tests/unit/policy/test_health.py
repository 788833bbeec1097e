"""What is believed about a server, step by step: scenarios as tables, and what holds for every history."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beanpool.policy.health import (
    Failure,
    Health,
    ServerState,
    answered,
    failed,
    patience,
    refused_to_store,
    rested,
    worked,
)
from beanpool.protocol.identity import Identity

LONGEST = 10.0

Event = Callable[[Health, float], Health]


def process(instance: str, draining: bool = False) -> Identity:
    return Identity(instance, "1.12", draining, 65535)


def answers(instance: str = "first", draining: bool = False, *, after: float = 0.001) -> Event:
    """A handshake or a probe was answered by this process, so long after it was sent (seconds)."""
    return lambda health, now: answered(health, process(instance, draining), after, now)


def works(*, asked: float = 0.0) -> Event:
    """A command was answered that was sent so long ago (seconds)."""
    return lambda health, now: worked(health, now, now - asked)


def fails(failure: Failure, *, generation: int | None = None, jitter: float = 1.0, began: float = 0.0) -> Event:
    """It failed, on a connection of this generation (None for the current one), in what began so long ago (seconds)."""
    return lambda health, now: failed(
        health,
        failure,
        f"it was {failure.name}",
        health.generation if generation is None else generation,
        now - began,
        now,
        longest=LONGEST,
        jitter=jitter,
    )


def drains() -> Event:
    return lambda health, now: refused_to_store(health, draining=True, until=now + 1, error="draining")


def is_out_of_memory(rest: float) -> Event:
    return lambda health, now: refused_to_store(health, draining=False, until=now + rest, error="out of memory")


def time_passes() -> Event:
    return rested


REFUSED, BROKEN, SILENT, VIOLATED = Failure.REFUSED, Failure.BROKEN, Failure.SILENT, Failure.VIOLATED
UP, SUSPECT, DOWN = ServerState.UP, ServerState.SUSPECT, ServerState.DOWN

Step = tuple[float, Event, dict[str, Any]]

# Each step: when it happens (seconds from the start), what happens, and what is believed afterwards.
SCENARIOS: dict[str, list[Step]] = {
    "a handshake tells who it is": [
        (1, answers("first"), {"state": UP, "identity": process("first"), "round_trip": 0.001, "generation": 0}),
    ],
    "who refuses a connection is down at once": [
        (1, fails(REFUSED), {"state": DOWN, "since": 1, "generation": 1, "failures": 1, "retry_at": 1.25}),
    ],
    "what is no beanstalkd is down at once, and probed rarely": [
        (1, fails(VIOLATED), {"state": DOWN, "generation": 1, "retry_at": 1 + LONGEST}),
    ],
    "one broken connection makes a suspect, whose connections stay": [
        (1, fails(BROKEN), {"state": SUSPECT, "since": 1, "generation": 0, "failures": 1, "retry_at": 1}),
    ],
    "one silence makes a suspect too": [
        (1, fails(SILENT), {"state": SUSPECT, "generation": 0, "last_error": "it was SILENT"}),
    ],
    "a suspect that answers is up": [
        (1, fails(BROKEN), {"state": SUSPECT}),
        (2, answers("first"), {"state": UP, "since": 2, "retry_at": 0, "generation": 0}),
    ],
    "a suspect that carries out a command is up": [
        (1, fails(SILENT), {"state": SUSPECT}),
        (2, works(), {"state": UP, "since": 2}),
    ],
    "a suspect that fails again is down": [
        (1, fails(BROKEN), {"state": SUSPECT}),
        (1.5, fails(SILENT), {"state": DOWN, "since": 1.5, "generation": 1, "failures": 2, "retry_at": 2}),
    ],
    "probes that fail leave it down since then, and come ever more rarely": [
        (0, fails(REFUSED), {"state": DOWN, "generation": 1, "retry_at": 0.25}),
        (1, fails(REFUSED), {"state": DOWN, "since": 0, "generation": 1, "retry_at": 1.5}),
        (2, fails(SILENT), {"state": DOWN, "since": 0, "generation": 1, "retry_at": 3}),
        (4, fails(REFUSED), {"state": DOWN, "since": 0, "generation": 1, "retry_at": 6}),
        (8, fails(REFUSED), {"failures": 5, "retry_at": 12}),
        (16, fails(REFUSED), {"failures": 6, "retry_at": 24}),
        (32, fails(REFUSED), {"failures": 7, "retry_at": 32 + LONGEST}),
        (64, fails(REFUSED), {"failures": 8, "retry_at": 64 + LONGEST}),
    ],
    "the back-off is jittered, and never none": [
        (0, fails(REFUSED, jitter=0.5), {"retry_at": 0.125}),
        (1, fails(REFUSED, jitter=0.0), {"retry_at": 1.05}),
    ],
    "a server that returns is up, and its idle connections from before are worth nothing": [
        (0, answers("first"), {"generation": 0}),
        (1, fails(REFUSED), {"state": DOWN, "generation": 1}),
        (2, answers("first"), {"state": UP, "since": 2, "retry_at": 0, "generation": 1}),
    ],
    "an error of an old connection says nothing of the server of now": [
        (0, fails(REFUSED), {"state": DOWN, "generation": 1}),
        (1, answers("first"), {"state": UP}),
        (2, fails(BROKEN, generation=0), {"state": UP, "failures": 1, "since": 1}),
        (3, fails(REFUSED, generation=0), {"state": UP, "failures": 1}),
    ],
    "a reply that came before the end does not hide it": [
        (1, answers(), {"state": UP, "generation": 0}),
        (5, fails(BROKEN), {"state": SUSPECT}),
        (5.1, works(asked=0.2), {"state": SUSPECT, "since": 5}),
        (5.2, fails(REFUSED), {"state": DOWN, "since": 5.2, "generation": 1}),
        (5.3, works(asked=0.2), {"state": DOWN, "since": 5.2}),
        (5.4, answers(after=0.3), {"state": DOWN, "since": 5.2, "generation": 1, "round_trip": 0.3}),
        (5.5, answers(after=0.2), {"state": UP, "since": 5.5, "generation": 1}),
    ],
    "what breaks all connections at once is no second failure": [
        (5, fails(BROKEN, began=1), {"state": SUSPECT, "failures": 1}),
        (5.1, fails(BROKEN, began=0.2), {"state": SUSPECT, "failures": 1}),
        (5.2, answers(after=0.1), {"state": UP}),
        (5.3, fails(BROKEN, began=0.4), {"state": UP, "failures": 1}),
        (5.4, fails(BROKEN, began=0.1), {"state": SUSPECT, "failures": 2}),
    ],
    "a suspect that breaks what is tried then, or is silent to whoever asked, is down": [
        (5, fails(BROKEN), {"state": SUSPECT}),
        (5.1, fails(BROKEN, began=0.05), {"state": DOWN}),
        (6, answers(), {"state": UP}),
        (7, fails(SILENT, began=2), {"state": UP}),
        (8, fails(SILENT, began=0.5), {"state": SUSPECT}),
        (8.1, fails(SILENT, began=0.6), {"state": DOWN}),
    ],
    "a connect that was refused before the return is old news; what is no beanstalkd is not": [
        (1, fails(REFUSED), {"state": DOWN, "generation": 1}),
        (2, answers(), {"state": UP, "since": 2}),
        (2.1, fails(REFUSED, began=0.2), {"state": UP, "failures": 1}),
        (2.2, fails(REFUSED, began=0.1), {"state": DOWN, "failures": 2}),
        (3, answers(), {"state": UP}),
        (3.1, fails(VIOLATED, began=0.5), {"state": DOWN}),
    ],
    "a server that flaps is probed ever more rarely": [
        (0, fails(REFUSED), {"retry_at": 0.25}),
        (1, answers("first"), {"state": UP, "failures": 1}),
        (2, fails(REFUSED), {"state": DOWN, "failures": 2, "retry_at": 2.5}),
        (3, answers("first"), {"state": UP}),
        (4, works(), {"failures": 2}),
        (5, fails(REFUSED), {"failures": 3, "retry_at": 6}),
    ],
    "what stays up for ten seconds is forgiven": [
        (0, fails(REFUSED), {"failures": 1}),
        (1, answers("first"), {"failures": 1}),
        (11, works(), {"failures": 1}),
        (11.5, works(), {"state": UP, "failures": 0, "since": 1}),
        (12, fails(REFUSED), {"failures": 1, "retry_at": 12.25}),
    ],
    "another process at the same address": [
        (0, answers("first"), {"generation": 0}),
        (1, answers("second"), {"state": UP, "generation": 1, "identity": process("second")}),
        (2, answers("second"), {"generation": 1}),
    ],
    "a process that does not say who it is is no other one": [
        (0, answers("first"), {"generation": 0}),
        (1, answers(""), {"generation": 0}),
        (2, answers("first"), {"generation": 0}),
    ],
    "draining has no end within a process": [
        (0, answers("first"), {"draining": False}),
        (1, drains(), {"draining": True, "state": UP, "last_error": "draining"}),
        # 1.10 does not say so in its statistics.
        (2, answers("first", draining=False), {"draining": True}),
        (3, works(), {"draining": True}),
        (4, fails(REFUSED), {"state": DOWN, "draining": True}),
        (5, answers("first"), {"state": UP, "draining": True}),
    ],
    "a restart ends draining": [
        (0, answers("first", draining=True), {"draining": True}),
        (1, answers("second"), {"draining": False, "generation": 1}),
    ],
    "a restart into draining": [
        (0, answers("first"), {"draining": False}),
        (1, answers("second", draining=True), {"draining": True}),
    ],
    "who was out of memory gets puts again after a rest": [
        (0, is_out_of_memory(1.5), {"state": UP, "rests_until": 1.5, "draining": False, "last_error": "out of memory"}),
        (1, time_passes(), {"rests_until": 1.5}),
        (1.5, time_passes(), {"rests_until": 0}),
        (2, time_passes(), {"rests_until": 0}),
    ],
}


@pytest.mark.parametrize("steps", SCENARIOS.values(), ids=SCENARIOS.keys())
def test_scenario(steps: list[Step]) -> None:
    health = Health(since=0.0)
    for number, (now, event, expected) in enumerate(steps):
        health = event(health, now)
        believed = {name: getattr(health, name) for name in expected}
        assert believed == pytest.approx(expected), f"after step {number}, at {now} s"


def test_nothing_new_is_the_same_object() -> None:
    """What has not changed needs no new topology."""
    health = Health(since=0.0)
    assert worked(health, 100.0, 99.0) is health
    assert fails(REFUSED, generation=-1)(health, 1.0) is health
    assert rested(Health(rests_until=9.0), 8.9).rests_until == 9.0


INSTANCES = ("first", "second", "third", "")
EVENTS: st.SearchStrategy[Event] = st.one_of(
    st.builds(answers, st.sampled_from(INSTANCES), st.booleans()),
    st.builds(works),
    st.builds(
        fails,
        st.sampled_from(Failure),
        generation=st.one_of(st.none(), st.integers(0, 3)),
        jitter=st.floats(0, 1),
    ),
    st.builds(drains),
    st.builds(is_out_of_memory, st.floats(0.1, 5)),
    st.builds(time_passes),
)
HISTORIES = st.lists(st.tuples(st.floats(0, 20), EVENTS), max_size=30)


def play(history: list[tuple[float, Event]], health: Health | None = None) -> list[tuple[float, Health]]:
    """What is believed before the first event and after each one."""
    now = 0.0
    health = health or Health(since=now)
    believed = [(now, health)]
    for pause, event in history:
        now += pause
        health = event(health, now)
        believed.append((now, health))
    return believed


@given(HISTORIES)
def test_invariants_of_every_history(history: list[tuple[float, Event]]) -> None:
    believed = play(history)
    for (_, before), (now, after) in itertools.pairwise(believed):
        went_down = after.state is DOWN and before.state is not DOWN
        known, seen = before.identity, after.identity
        another = bool(known and seen and known.instance and seen.instance and known.instance != seen.instance)
        # Connections are given up when, and only when, nothing that they know can be true any more.
        assert after.generation == before.generation + went_down + (another and not after.alternates)
        assert after.alternates or not before.alternates, "several processes behind an address are not forgotten"
        assert (after.since == now) if after.state is not before.state else (after.since == before.since)
        if before.draining and not after.draining:
            assert another, "draining ended within a process"
        if after.state is UP:
            assert after.retry_at == 0.0
        elif after.retry_at != before.retry_at:
            assert now <= after.retry_at <= now + LONGEST
        if went_down:
            assert after.failures > before.failures
        assert after.failures >= before.failures or after.failures == 0


@given(HISTORIES, st.sampled_from(Failure), st.floats(0, 1))
def test_whatever_was_before_two_failures_are_an_outage_and_one_answer_ends_it(
    history: list[tuple[float, Event]], failure: Failure, jitter: float
) -> None:
    now, health = play(history)[-1]
    once = fails(failure, jitter=jitter)(health, now)
    assert once.state is not UP
    twice = fails(failure, jitter=jitter)(once, now + 1)
    assert twice.state is DOWN
    assert now + 1 < twice.retry_at <= now + 1 + LONGEST, (
        "it is never left without a probe to come, nor probed in a loop"
    )
    assert answers("third")(twice, now + 2).state is UP
    assert works()(twice, now + 2).state is UP


@given(HISTORIES, st.sampled_from(Failure))
def test_errors_of_older_connections_change_nothing(history: list[tuple[float, Event]], failure: Failure) -> None:
    now, health = play(history)[-1]
    assert fails(failure, generation=health.generation - 1)(health, now) is health


@given(HISTORIES, st.floats(0.01, 1))
def test_the_back_off_only_grows_until_its_longest(history: list[tuple[float, Event]], jitter: float) -> None:
    now, health = play(history)[-1]
    health = dataclasses.replace(health, state=DOWN)
    pauses = []
    for _ in range(12):
        health = fails(REFUSED, jitter=jitter)(health, now)
        pauses.append(round(health.retry_at - now, 6))
    assert pauses == sorted(pauses)
    assert pauses[-1] == pytest.approx(max(0.05, LONGEST * jitter), abs=1e-6)


@pytest.mark.parametrize(
    ("round_trips", "timeout", "shortest", "longest"),
    [
        # Nothing is known: a quarter of a second, or as long as the pool's callers wait.
        ([], 5.0, 0.25, 0.25),
        ([], 0.3, 0.1, 0.1),
        # On a loopback several round trips are nothing: no hiccup makes a suspect.
        ([0.0002] * 9, 5.0, 0.25, 0.25),
        # Far away: several round trips, however little the pool has time for more than one.
        ([0.3] * 20, 5.0, 0.9, 1.7),
        ([0.3] * 20, 1.0, 0.45, 0.45),
        ([2.0] * 20, 5.0, 3.0, 3.0),
        # One that is sometimes late is given that time too, and is not held to its best day.
        ([0.1, 0.6] * 20, 60.0, 1.0, 2.0),
        ([0.0002] * 20 + [0.3], 5.0, 0.25, 0.5),
    ],
)
def test_how_long_a_silence_must_be_to_say_something(
    round_trips: list[float], timeout: float, shortest: float, longest: float
) -> None:
    health = Health()
    for round_trip in round_trips:
        health = answered(health, process("first"), round_trip, 0.0)
    assert shortest - 1e-9 <= patience(health, timeout) <= longest + 1e-9


@given(st.lists(st.floats(1e-5, 10), min_size=30, max_size=60), st.floats(0.01, 100))
def test_no_silence_shorter_than_a_usual_round_trip_says_anything(round_trips: list[float], timeout: float) -> None:
    health = Health()
    for round_trip in round_trips:
        health = answered(health, process("first"), round_trip, 0.0)
    assert min(round_trips) <= health.usual + 1e-9
    assert health.usual <= max(round_trips) + 1e-9
    assert patience(health, timeout) > health.usual


@pytest.mark.parametrize(
    ("answers_of", "alternates"),
    [
        ("aaaa", False),
        ("abcdef", False),
        # The last word of a process may be heard after the first one of its successor.
        ("abab"[:3], False),
        ("aabbab", True),
        ("abab", True),
        ("abcabc", True),
        ("abcdaed", True),
        ("abacaadaeaf", True),
        # Without an id nobody can tell.
        ("a.a.a", False),
    ],
)
def test_processes_that_answer_in_turn_are_told_from_restarts(answers_of: str, alternates: bool) -> None:
    health = Health()
    for name in answers_of:
        health = answered(health, process(name.replace(".", "")), 0.001, 0.0)
    assert health.alternates is alternates


def test_once_several_processes_are_known_none_of_them_is_taken_for_gone() -> None:
    health = Health()
    for name in "abab":
        health = answered(health, process(name), 0.001, 0.0)
    generation = health.generation
    for name in "abbaba":
        health = answered(health, process(name), 0.001, 0.0)
    assert health.generation == generation
