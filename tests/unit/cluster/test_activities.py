"""What is under way in a monitor: each activity is ended exactly once, and by its own errors alone."""

from __future__ import annotations

import selectors
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest
from support.records import Records

from beanpool.cluster.activities import Activities
from beanpool.errors import ConnectionFailed, Phase
from beanpool.telemetry.log import ErrorLog

BROKEN = ConnectionFailed("q1: the connection broke", server="q1", phase=Phase.CLOSED)


class Scripted:
    """An activity whose steps go as the test says, and that notes how it was ended."""

    doing = "the check of q1"
    wants_write = False

    def __init__(self, **steps: Any) -> None:
        self.steps = steps
        self.ends: list[object] = []
        self.late_at = time.monotonic() + 3600
        self.near, self.far = socket.socketpair()
        self.near.setblocking(False)

    def _take(self, step: str) -> bool:
        result = self.steps.get(step, False)
        if isinstance(result, BaseException):
            raise result
        return bool(result() if callable(result) else result)

    def descriptor(self) -> int:
        if self.near.fileno() < 0:
            raise BROKEN
        return self.near.fileno()

    def begin(self) -> bool:
        return self._take("begin")

    def ready(self) -> bool:
        return self._take("ready")

    def late(self) -> bool:
        return self._take("late")

    def end(self, error: BaseException | None) -> None:
        self.ends.append(error)
        self._take("end")

    def abort(self, because: str) -> None:
        self.ends.append(because)
        self._take("abort")

    def close(self) -> None:
        self.near.close()
        self.far.close()


class Loop:
    """A selector and what is under way with it."""

    def __init__(self) -> None:
        self.selector = selectors.DefaultSelector()
        self.activities = Activities(self.selector, ErrorLog("p"))
        self.all: list[Scripted] = []

    def begin(self, **steps: Any) -> Scripted:
        activity = Scripted(**steps)
        self.all.append(activity)
        self.activities.begin(activity)
        return activity

    def turn(self) -> None:
        for key, _ in self.selector.select(0):
            self.activities.ready(key.data)

    @property
    def watched(self) -> set[object]:
        return {key.data for key in self.selector.get_map().values()}


@pytest.fixture
def loop() -> Iterator[Loop]:
    loop = Loop()
    yield loop
    loop.selector.close()
    for activity in loop.all:
        activity.close()


def test_one_goes_on_whenever_it_is_ready_and_ends_when_all_is_done(loop: Loop) -> None:
    replies = iter([False, True])
    one, other = loop.begin(ready=lambda: next(replies)), loop.begin()
    loop.turn()
    one.far.send(b"x")
    loop.turn()
    assert (one.ends, loop.watched) == ([], {one, other})
    loop.turn()
    assert (one.ends, other.ends, loop.watched) == ([None], [], {other})


def test_its_connection_is_no_longer_watched_when_it_ends(loop: Loop, unforeseen: Records) -> None:
    watched: list[set[object]] = []
    for step in ({"ready": True}, {"ready": BROKEN}, {"ready": ValueError()}):
        one = loop.begin(**step, end=lambda: watched.append(loop.watched), abort=lambda: watched.append(loop.watched))
        one.far.send(b"x")
        loop.turn()
    assert watched == [set()] * 3
    assert unforeseen.take()


@pytest.mark.parametrize("step", ["begin", "ready", "late"])
def test_an_error_of_the_connection_ends_it(loop: Loop, step: str, unforeseen: Records) -> None:
    one = loop.begin(**{step: BROKEN})
    one.far.send(b"x")
    loop.turn()
    loop.activities.give_up_late(one.late_at)
    assert (one.ends, loop.watched) == ([BROKEN], set())


@pytest.mark.parametrize("step", ["begin", "ready", "late"])
@pytest.mark.parametrize("error", [ValueError(), SystemExit(1)])
def test_an_unexpected_error_aborts_it_and_no_other(
    loop: Loop, step: str, error: BaseException, unforeseen: Records
) -> None:
    other = loop.begin(ready=True)
    one = loop.begin(**{step: error})
    one.far.send(b"x")
    loop.turn()
    loop.activities.give_up_late(one.late_at)
    assert (one.ends, other.ends) == ([f"the check of q1 failed: {type(error).__name__}"], [])
    other.far.send(b"x")
    loop.turn()
    assert (other.ends, loop.watched) == ([None], set())
    [record] = unforeseen.take()
    assert record.getMessage() == "pool p: the check of q1 failed unexpectedly"


@pytest.mark.parametrize("how", [{"ready": True}, {"ready": BROKEN}, {"ready": ValueError()}])
def test_an_end_that_fails_is_not_tried_again(loop: Loop, how: dict[str, Any], unforeseen: Records) -> None:
    one = loop.begin(**how, end=KeyError(), abort=KeyError())
    one.far.send(b"x")
    loop.turn()
    loop.activities.give_up_late(one.late_at)
    loop.activities.abort_all("the pool was closed")
    assert (len(one.ends), loop.watched) == (1, set())
    assert len(unforeseen.take()) == 1


def test_one_that_has_got_on_is_late_later(loop: Loop) -> None:
    one = loop.begin(late=True)
    late_at = one.late_at
    one.late_at += 10
    loop.activities.give_up_late(late_at)
    assert (one.ends, loop.activities.next_moment) == ([], one.late_at)
    loop.activities.give_up_late(one.late_at)
    assert one.ends == [None]


def test_the_end_of_one_whose_descriptor_was_closed_leaves_the_next_of_that_number_watched(loop: Loop) -> None:
    one = loop.begin(late=BROKEN)
    number = one.near.fileno()
    one.close()
    other = loop.begin(ready=True)
    assert other.near.fileno() == number
    other.late_at += 10
    loop.activities.give_up_late(one.late_at)
    assert (one.ends, other.ends, loop.watched) == ([BROKEN], [], {other})
    other.far.send(b"x")
    loop.turn()
    assert other.ends == [None]


def test_one_whose_connection_another_thread_has_closed_ends_by_that(loop: Loop) -> None:
    one = loop.begin(begin=lambda: loop.all[0].close())
    assert (one.ends, loop.watched) == ([BROKEN], set())
