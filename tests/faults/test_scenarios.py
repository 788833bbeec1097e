"""The parts that only decide, as tables of events on a clock that the table moves: no socket, no thread, no waiting."""

from __future__ import annotations

import dataclasses
import errno
import itertools
import math
import random
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import tenacity
from support.threads import background

from beanpool.errors import (
    BeanpoolError,
    CommandFailed,
    CommandTimeout,
    ConnectionFailed,
    Draining,
    JobTooBig,
    OutOfMemory,
    Phase,
    PoolClosed,
    PoolTimeout,
    UnexpectedResponse,
)
from beanpool.policy.health import (
    FIRST_BACKOFF,
    Failure,
    Health,
    ServerState,
    answered,
    failed,
    refused_to_store,
    rested,
    worked,
)
from beanpool.policy.put_outcome import may_be_stored
from beanpool.policy.retry import RetryBudget, RetryPolicy
from beanpool.protocol.identity import Identity
from beanpool.server.member import classify

OLD = Identity("aaaa", "1.12", False, 65535)
NEW = Identity("bbbb", "1.12", False, 65535)
DRAINS = Identity("aaaa", "1.12", True, 65535)
LONGEST = 10.0


class Step(NamedTuple):
    """Something that is seen of a server, and what is believed afterwards."""

    at: float
    event: str
    state: str
    expected: dict[str, Any]


def apply(health: Health, step: Step) -> Health:
    """One event, in the words of the tables."""
    kind, _, detail = step.event.partition(" ")
    if kind == "answered":
        return answered(health, {"old": OLD, "new": NEW, "draining": DRAINS}[detail], 0.001, step.at)
    if kind == "worked":
        return worked(health, step.at, step.at)
    if kind == "rested":
        return rested(health, step.at)
    if kind == "DRAINING":
        return refused_to_store(health, draining=True, until=math.inf, error="DRAINING")
    if kind == "OUT_OF_MEMORY":
        return refused_to_store(health, draining=False, until=step.at + 1, error="OUT_OF_MEMORY")
    generation = health.generation - 1 if detail == "of an older generation" else health.generation
    return failed(health, Failure[kind], kind, generation, step.at, step.at, longest=LONGEST, jitter=1.0)


HEALTH: dict[str, list[Step]] = {
    "one silence is suspicious, a second one is the end": [
        Step(1, "answered old", "up", {"generation": 0, "since": 0.0}),
        Step(5, "SILENT", "suspect", {"generation": 0, "since": 5, "retry_at": 5, "failures": 1}),
        Step(6, "SILENT", "down", {"generation": 1, "since": 6, "retry_at": 6 + 2 * FIRST_BACKOFF, "failures": 2}),
        Step(7, "SILENT", "down", {"generation": 1, "since": 6, "retry_at": 7 + 4 * FIRST_BACKOFF, "failures": 3}),
        Step(8, "answered old", "up", {"generation": 1, "since": 8, "retry_at": 0.0}),
    ],
    "a refused connect is the end at once": [
        Step(1, "answered old", "up", {}),
        Step(5, "REFUSED", "down", {"generation": 1, "retry_at": 5 + FIRST_BACKOFF}),
    ],
    "one broken connection may be that connection's": [
        Step(5, "BROKEN", "suspect", {"retry_at": 5}),
        Step(5.1, "worked", "up", {"since": 5.1, "retry_at": 0.0}),
    ],
    "what is no beanstalkd is asked rarely": [
        Step(5, "VIOLATED", "down", {"retry_at": 5 + LONGEST}),
    ],
    "errors of connections from before an outage are old news": [
        Step(5, "REFUSED", "down", {"generation": 1}),
        Step(6, "answered old", "up", {"generation": 1}),
        Step(6.1, "SILENT of an older generation", "up", {"generation": 1, "failures": 1}),
        Step(6.2, "REFUSED of an older generation", "up", {"generation": 1, "failures": 1}),
        Step(6.3, "VIOLATED of an older generation", "up", {"generation": 1}),
        Step(6.4, "BROKEN", "suspect", {"generation": 1, "failures": 2}),
    ],
    "another process: a generation more, and its draining is over": [
        Step(1, "answered draining", "up", {"draining": True, "generation": 0}),
        Step(2, "answered old", "up", {"draining": True, "generation": 0}),
        Step(3, "answered new", "up", {"draining": False, "generation": 1}),
    ],
    "a refusal with DRAINING counts as much as the statistics": [
        Step(1, "answered old", "up", {"draining": False}),
        Step(2, "DRAINING", "up", {"draining": True}),
        Step(3, "worked", "up", {"draining": True}),
        Step(4, "answered old", "up", {"draining": True}),
        Step(5, "REFUSED", "down", {"draining": True}),
        Step(6, "answered new", "up", {"draining": False}),
    ],
    "out of memory: no puts for a while, and no doubt of its life": [
        Step(1, "answered old", "up", {}),
        Step(2, "OUT_OF_MEMORY", "up", {"rests_until": 3, "draining": False, "generation": 0, "failures": 0}),
        Step(2.9, "rested", "up", {"rests_until": 3}),
        Step(3, "rested", "up", {"rests_until": 0.0}),
    ],
    "who flaps is tried ever more rarely, who stays up is forgiven": [
        Step(1, "REFUSED", "down", {"failures": 1, "retry_at": 1 + FIRST_BACKOFF}),
        Step(2, "worked", "up", {"failures": 1}),
        Step(3, "REFUSED", "down", {"failures": 2, "retry_at": 3 + 2 * FIRST_BACKOFF}),
        Step(4, "worked", "up", {"failures": 2}),
        Step(5, "REFUSED", "down", {"failures": 3, "retry_at": 5 + 4 * FIRST_BACKOFF}),
        Step(6, "worked", "up", {"failures": 3}),
        Step(17, "worked", "up", {"failures": 0}),
        Step(18, "REFUSED", "down", {"failures": 1, "retry_at": 18 + FIRST_BACKOFF}),
    ],
}


@pytest.mark.parametrize("name", HEALTH)
def test_health(name: str) -> None:
    health = Health()
    for step in HEALTH[name]:
        before = health
        health = apply(health, step)
        fields = dataclasses.asdict(health)
        assert health.state.value == step.state, step
        assert {field: fields[field] for field in step.expected} == step.expected, step
        assert health.generation >= before.generation
        # Down is never without a reason, and never without a next try.
        assert health.state is not ServerState.DOWN or (health.last_error and health.retry_at > step.at)


def test_nothing_changes_where_nothing_is_new() -> None:
    # The owner tells listeners, and sorts its servers anew, only if the object is another one.
    up = worked(Health(), 1.0, 1.0)
    assert worked(up, 2.0, 2.0) is up
    assert failed(up, Failure.REFUSED, "x", up.generation - 1, 2.0, 2.0, longest=LONGEST, jitter=0.5) is up
    assert rested(up, 2.0).rests_until == 0


def test_the_back_off_grows_is_bounded_and_fully_jittered() -> None:
    for failures in range(1, 40):
        health = Health(failures=failures - 1, state=ServerState.DOWN)
        waits = [
            failed(health, Failure.REFUSED, "x", 0, 100.0, 100.0, longest=LONGEST, jitter=jitter / 100).retry_at - 100.0
            for jitter in range(101)
        ]
        ceiling = min(LONGEST, FIRST_BACKOFF * 2 ** (failures - 1))
        assert max(waits) == pytest.approx(ceiling)
        # From next to nothing to all of it: an outage must not line up those who wait for its end.
        assert min(waits) <= 0.05 + 1e-9
        assert all(later >= earlier - 1e-9 for earlier, later in itertools.pairwise(waits))


def test_any_order_of_events_keeps_the_rules() -> None:
    rng = random.Random(7)
    words = [*(failure.name for failure in Failure), "answered old", "answered new", "worked", "rested", "DRAINING"]
    for _ in range(300):
        health, now = Health(), 0.0
        for _ in range(40):
            now += rng.random() * 3
            before, event = health, rng.choice(words)
            health = apply(health, Step(now, event, "", {}))
            assert health.generation - before.generation in (0, 1)
            assert health.state is not ServerState.SUSPECT or before.state is not ServerState.DOWN
            if event.startswith(("answered", "worked")):
                assert health.state is ServerState.UP
            if before.draining and not health.draining:
                assert health.identity != before.identity


SERVER = "q1:11300"


def _connection(phase: Phase, sent: bool = False) -> ConnectionFailed:
    return ConnectionFailed("x", server=SERVER, phase=phase, may_have_taken_effect=sent)


def _timeout(phase: Phase, sent: bool = False) -> CommandTimeout:
    return CommandTimeout("x", server=SERVER, phase=phase, may_have_taken_effect=sent)


# What an attempt ended with, whether the job may be stored, and what it says of the server.
OUTCOMES: list[tuple[BeanpoolError, bool, Failure | None]] = [
    (_connection(Phase.RESOLVING), False, Failure.REFUSED),
    (_connection(Phase.CONNECTING), False, Failure.REFUSED),
    (_connection(Phase.HANDSHAKE), False, Failure.BROKEN),
    (_connection(Phase.SENDING), False, Failure.BROKEN),
    (_connection(Phase.WAITING, sent=True), True, Failure.BROKEN),
    (_connection(Phase.CLOSED), False, Failure.BROKEN),
    (_timeout(Phase.RESOLVING), False, Failure.SILENT),
    (_timeout(Phase.CONNECTING), False, Failure.SILENT),
    (_timeout(Phase.HANDSHAKE), False, Failure.SILENT),
    (_timeout(Phase.SENDING), False, Failure.SILENT),
    (_timeout(Phase.WAITING, sent=True), True, Failure.SILENT),
    (UnexpectedResponse("x", server=SERVER), True, Failure.VIOLATED),
    (UnexpectedResponse("x", server=SERVER, may_have_taken_effect=False), False, Failure.VIOLATED),
    (Draining("put", "DRAINING", []), False, None),
    (OutOfMemory("put", "OUT_OF_MEMORY", []), False, None),
    (JobTooBig("put", "JOB_TOO_BIG", []), False, None),
    (CommandFailed("put", "BAD_FORMAT", []), False, None),
    (CommandFailed("put", "UNKNOWN_COMMAND", []), False, None),
    (CommandFailed("put", "EXPECTED_CRLF", []), False, None),
    (CommandFailed("put", "INTERNAL_ERROR", []), True, None),
    (PoolTimeout("x"), False, None),
    (PoolClosed("x"), False, None),
]


@pytest.mark.parametrize(("error", "stored", "failure"), OUTCOMES, ids=lambda value: repr(value)[:60])
def test_put_outcomes_by_phase(error: BeanpoolError, stored: bool, failure: Failure | None) -> None:
    assert may_be_stored(error) is stored
    if isinstance(error, ConnectionFailed | UnexpectedResponse):
        assert classify(error) is failure


@pytest.mark.parametrize("number", ["EMFILE", "ENFILE", "ENOBUFS", "ENOMEM"])
def test_our_own_limits_say_nothing_of_a_server(number: str) -> None:
    error = _connection(Phase.CONNECTING)
    error.__cause__ = OSError(getattr(errno, number), "ours")
    assert classify(error) is None


# Successes so far, and whether a retry is allowed.
BUDGET: dict[str, list[tuple[int, bool]]] = {
    "ten in a row at the start": [(0, True)] * 10 + [(0, False)] * 3,
    "one more for ten successes": [(0, True)] * 10 + [(5, False), (9, False), (10, True), (10, False), (20, True)],
    "never more than ten saved up": [(10_000, True)] * 10 + [(10_000, False)],
    "a counter that falls takes nothing away": [(100, True)] * 10 + [(100, False), (0, False), (10, True)],
}


@pytest.mark.parametrize("name", BUDGET)
def test_retry_budget(name: str) -> None:
    successes = 0
    budget = RetryBudget(lambda: successes, clock=lambda: 0.0)
    for index, (known, allowed) in enumerate(BUDGET[name]):
        successes = known
        assert budget.take() is allowed, index


def test_an_empty_retry_budget_fills_by_itself_and_faster_where_retries_succeed() -> None:
    now, comebacks = 0.0, 0
    budget = RetryBudget(lambda: 0, lambda: comebacks, lambda: now)

    def taken() -> int:
        return sum(budget.take() for _ in range(100))

    assert taken() == 10
    now = 2.5
    assert taken() == 2, "one with every second"
    now = 3.0
    assert taken() == 1
    comebacks += 1
    assert taken() == 1, "a server has come back"
    waves: list[int] = []
    for _ in range(5):
        now += 1 if not waves else 0
        waves.append(taken())
        for _ in range(waves[-1]):
            budget.repay()
    assert waves == [1, 2, 4, 8, 10]


def test_who_waits_for_the_retry_budget_gets_what_others_bring_in() -> None:
    budget = RetryBudget(lambda: 0, clock=time.monotonic)
    assert all(budget.take() for _ in range(10))
    calls = [background(lambda: budget.take(time.monotonic() + 30)) for _ in range(3)]
    for _ in range(2):
        budget.repay()
    assert [call.result(5) for call in calls] == [True] * 3
    waiting = [background(lambda: budget.take(time.monotonic() + 600)) for _ in range(20)]
    budget.end()
    allowed = [call.result(5) for call in waiting]
    assert not all(allowed)


def test_the_retry_budget_bounds_any_load() -> None:
    # Each call fails at first: what is repeated is a tenth of what succeeded, and ten.
    successes = taken = 0
    budget = RetryBudget(lambda: successes, clock=lambda: 0.0)
    rng = random.Random(1)
    for _ in range(5000):
        if rng.random() < 0.5:
            successes += 1
        else:
            taken += budget.take()
        assert taken <= 10 + successes * 0.1 + 1e-9


class Clock:
    """Time that only moves when somebody sleeps."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        self.slept: list[float] = []
        monkeypatch.setattr("time.monotonic", lambda: self.now)

    def event(self) -> threading.Event:
        """An event whose wait moves the clock."""
        event = threading.Event()

        def wait(timeout: float | None = None) -> bool:
            assert timeout is not None
            self.slept.append(timeout)
            self.now += timeout
            return event.is_set()

        event.wait = wait  # type: ignore[method-assign]  # The clock is virtual.
        return event


class Unlucky(Exception):
    """What is worth another try."""


def _always_fails(clock: Clock) -> Callable[[], int]:
    def attempt() -> int:
        clock.now += 0.001
        raise Unlucky

    return attempt


def test_retries_end_before_the_deadline_and_are_jittered(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    waits: list[float] = []
    for seconds in (0.2, 1.0, 5.0):
        deadline = clock.now + seconds
        with pytest.raises(Unlucky):
            RetryPolicy().run(
                _always_fails(clock), Unlucky, deadline, clock.event(), lambda wait, error: waits.append(wait)
            )
        # But for the last attempt, which takes a millisecond.
        assert clock.now <= deadline + 0.001 + 1e-6
    assert waits == clock.slept
    assert all(0 <= wait <= 2.0 for wait in waits)
    assert len({round(wait, 6) for wait in waits}) > len(waits) * 0.8


def test_users_replace_when_to_stop_and_how_long_to_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    policy = RetryPolicy([tenacity.stop_after_attempt(3), tenacity.wait_fixed(0.5)])
    with pytest.raises(Unlucky):
        policy.run(_always_fails(clock), Unlucky, clock.now + 100, clock.event(), lambda *_: None)
    assert clock.slept == [0.5, 0.5]
    deadline = clock.now + 0.6
    with pytest.raises(Unlucky):
        policy.run(_always_fails(clock), Unlucky, deadline, clock.event(), lambda *_: None)
    # The deadline is stronger: it cuts the last wait, which may end early, and not the call.
    assert clock.slept == [0.5, 0.5, 0.5, pytest.approx(0.098)]
    assert clock.now <= deadline


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, ValueError, BeanpoolError])
def test_only_what_is_listed_is_retried(error: type[BaseException], monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    calls = 0

    def attempt() -> int:
        nonlocal calls
        calls += 1
        raise error

    with pytest.raises(error):
        RetryPolicy().run(attempt, Unlucky, clock.now + 10, clock.event(), lambda *_: None)
    assert calls == 1


def test_a_closing_pool_ends_the_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    closing = clock.event()

    def close(wait: float, error: BaseException | None) -> None:
        closing.set()

    with pytest.raises(Unlucky):
        RetryPolicy().run(_always_fails(clock), Unlucky, clock.now + 10, closing, close)
    assert len(clock.slept) == 1


@pytest.mark.parametrize("wrong", [3, "often", [tenacity.wait_fixed(1), "x"], tenacity.retry_always])
def test_a_policy_of_anything_else_is_refused(wrong: object) -> None:
    with pytest.raises(TypeError):
        RetryPolicy(wrong)  # type: ignore[arg-type]  # That is what is refused.
