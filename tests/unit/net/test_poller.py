"""Each armed descriptor is told of once, whatever becomes of it."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from collections.abc import Callable, Iterator

import pytest

from beanpool.net import poller
from beanpool.net.poller import Poller, SelectorPoller, new_poller

KINDS: list[Callable[[], Poller]] = [SelectorPoller]
if sys.platform == "linux":
    KINDS.append(poller.EpollPoller)


@pytest.fixture(params=KINDS, ids=lambda kind: kind.__name__)
def waiting(request: pytest.FixtureRequest) -> Iterator[Poller]:
    made: Poller = request.param()
    with contextlib.closing(made):
        yield made


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    one, other = socket.socketpair()
    with one, other:
        yield one, other


Pair = tuple[socket.socket, socket.socket]


def told(waiting: Poller) -> list[int]:
    return [descriptor for descriptor, _ in waiting.wait(0)]


def test_it_is_told_of_once(waiting: Poller, pair: Pair) -> None:
    waiting.arm(pair[0].fileno(), write=False)
    assert told(waiting) == []
    pair[1].send(b"x")
    assert [descriptor for descriptor, _ in waiting.wait(None)] == [pair[0].fileno()]
    assert told(waiting) == []
    pair[1].send(b"more")
    pair[1].close()
    assert told(waiting) == []


def test_it_can_be_armed_again_for_what_is_still_there(waiting: Poller, pair: Pair) -> None:
    pair[1].send(b"x")
    for _ in range(3):
        waiting.arm(pair[0].fileno(), write=False)
        assert told(waiting) == [pair[0].fileno()]
        assert told(waiting) == []


def test_it_may_be_armed_twice_and_for_something_else(waiting: Poller, pair: Pair) -> None:
    descriptor = pair[0].fileno()
    waiting.arm(descriptor, write=False)
    waiting.arm(descriptor, write=True)
    assert told(waiting) == [descriptor]
    waiting.arm(descriptor, write=True)
    waiting.arm(descriptor, write=False)
    assert told(waiting) == []


def test_what_is_disarmed_is_not_told_of(waiting: Poller, pair: Pair) -> None:
    waiting.arm(pair[0].fileno(), write=False)
    pair[1].send(b"x")
    for _ in range(2):
        waiting.disarm(pair[0].fileno())
        assert told(waiting) == []


def test_disarming_what_is_closed_or_was_never_armed_does_no_harm(waiting: Poller, pair: Pair) -> None:
    descriptor = pair[0].fileno()
    waiting.disarm(descriptor)
    waiting.arm(descriptor, write=False)
    pair[0].close()
    waiting.disarm(descriptor)
    waiting.disarm(descriptor)
    assert told(waiting) == []


def test_the_number_of_a_closed_one_can_be_armed_for_another(waiting: Poller, pair: Pair) -> None:
    """One that was told of, and one that was armed when it was closed."""
    for was_ready in (True, False):
        old, peer = socket.socketpair()
        descriptor = old.fileno()
        waiting.arm(descriptor, write=False)
        if was_ready:
            peer.send(b"x")
            assert told(waiting) == [descriptor]
        old.close()
        os.dup2(pair[0].fileno(), descriptor)
        with socket.socket(fileno=descriptor), peer:
            waiting.arm(descriptor, write=False)
            assert told(waiting) == []
            pair[1].send(b"y")
            assert told(waiting) == [descriptor]
            pair[0].recv(1)


def test_the_other_side_has_closed_it(waiting: Poller, pair: Pair) -> None:
    waiting.arm(pair[0].fileno(), write=False)
    pair[1].close()
    assert told(waiting) == [pair[0].fileno()]


def test_the_best_one_of_the_platform() -> None:
    with contextlib.closing(new_poller()) as best:
        assert type(best) is KINDS[-1]
