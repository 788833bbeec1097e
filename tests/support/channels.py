"""A Channel's requests, and what tests of it ask again and again."""

from __future__ import annotations

import threading
import time
from typing import Protocol

import pytest

from beanpool.errors import CommandTimeout, ConnectionFailed, Phase
from beanpool.net.channel import Channel, ChannelState
from beanpool.protocol.commands import DELETE, PUT, encode_job, encode_put, encode_reserve_with_timeout
from beanpool.protocol.replies import Reply
from support.scripted import ScriptedServer, Step
from support.servers import BeanstalkdServer
from support.waiting import wait_until

PUT_REQUEST = encode_put(b"hello", 0, 0, 120)
RESERVE_REQUEST = encode_reserve_with_timeout(0)
RESERVED = b"RESERVED 1 5\r\nhello\r\n"
DELETE_REQUEST = encode_job(DELETE, 1)
# More than any kernel buffers for a peer that does not read.
HUGE = 24 * 1024 * 1024


class Connect(Protocol):
    """The type of the fixture ``connect``; a `narrow` channel has small buffers on its side."""

    def __call__(self, server: ScriptedServer | BeanstalkdServer, *, narrow: bool = ...) -> Channel: ...


def soon(seconds: float = 5.0) -> float:
    return time.monotonic() + seconds


def put(channel: Channel, seconds: float = 5.0) -> Reply:
    return channel.exchange(PUT, PUT_REQUEST, soon(seconds))


def after(seconds: float) -> Step:
    """Step: the server takes its time."""
    return lambda connection: threading.Event().wait(seconds) and None


def idle(channel: Channel) -> None:
    """Return once the channel no longer takes it for granted that its socket is fine."""
    wait_until(lambda: time.monotonic() - channel.used_at > 0.011, "the channel to be idle")


def assert_closed(channel: Channel, why: str) -> None:
    """The channel is closed, its reason holds `why`, and so does the error of the next command, which is not sent."""
    assert channel.state is ChannelState.CLOSED
    assert channel.closed
    assert channel.fileno() == -1
    assert why in channel.closed_because
    for attempt in (
        lambda: channel.exchange(DELETE, DELETE_REQUEST, soon()),
        lambda: list(channel.exchange_many([(DELETE, DELETE_REQUEST)], 5)),
    ):
        with pytest.raises(ConnectionFailed) as caught:
            attempt()
        error = caught.value
        assert not isinstance(error, CommandTimeout)
        assert (error.server, error.phase, error.may_have_taken_effect) == (channel.server, Phase.CLOSED, False)
        assert str(error).startswith(f"{channel.server}: delete was not sent, the connection is closed: ")
        assert channel.closed_because in str(error)
    assert channel.in_flight == 0
