"""A Channel that is driven by readiness."""

from __future__ import annotations

import random
import select
import socket
import threading
import time
from typing import TYPE_CHECKING

import pytest
from support.scripted import Step, close, expect, reset, send, send_bytewise, stall, wait_for
from support.servers import BeanstalkdServer, ServerFactory
from support.waiting import wait_until, within

from beanpool.errors import ConnectionFailed, UnexpectedResponse
from beanpool.net import readiness
from beanpool.net.channel import ChannelState
from beanpool.protocol.commands import (
    PEEK,
    PUT,
    RESERVE_WITH_TIMEOUT,
    STATS,
    WATCH,
    encode_job,
    encode_put,
    encode_reserve_with_timeout,
    encode_tube,
)
from beanpool.protocol.replies import Reply

if TYPE_CHECKING:
    from conftest import StartScripted
from support.channels import HUGE, RESERVE_REQUEST, RESERVED, Connect, assert_closed, soon


class TestReadiness:
    def test_replies_are_picked_up_when_they_are_there(self, scripted_server: StartScripted, connect: Connect) -> None:
        request = encode_tube(WATCH, "a") + RESERVE_REQUEST
        now = threading.Event()
        server = scripted_server(
            [expect(request), send(b"WATCHING 2\r\nRESERVED 1 5\r\nhe"), wait_for(now), send(b"llo\r\n")]
        )
        channel = connect(server)
        channel.begin(request, [WATCH, RESERVE_WITH_TIMEOUT])
        assert (channel.due, channel.state) == (2, ChannelState.IN_COMMAND)
        assert select.select([channel], [], [], 5)[0]
        assert channel.pick_up() == Reply("WATCHING", 2)
        assert channel.due == 1
        assert channel.pick_up() is None
        now.set()
        assert channel.pick_up(soon()) == Reply("RESERVED", 1, b"hello")
        assert (channel.due, channel.state) == (0, ChannelState.IN_STEP)

    def test_a_reply_byte_by_byte(self, scripted_server: StartScripted, connect: Connect) -> None:
        server = scripted_server([expect(RESERVE_REQUEST), send_bytewise(RESERVED, pause=0.001)])
        channel = connect(server)
        channel.begin(RESERVE_REQUEST, [RESERVE_WITH_TIMEOUT])
        rounds = 0
        while (reply := channel.pick_up()) is None:
            assert select.select([channel], [], [], 5)[0]
            rounds += 1
        assert reply == Reply("RESERVED", 1, b"hello")
        assert rounds > 1

    def test_a_wait_that_ends_leaves_the_command_in_flight(
        self, scripted_server: StartScripted, connect: Connect
    ) -> None:
        now = threading.Event()
        server = scripted_server([expect(RESERVE_REQUEST), send(b"RESERVED"), wait_for(now), send(RESERVED[8:])])
        channel = connect(server)
        channel.begin(RESERVE_REQUEST, [RESERVE_WITH_TIMEOUT])
        with within(0.05):
            assert channel.pick_up(soon(0.05)) is None
        assert (channel.due, channel.state) == (1, ChannelState.IN_COMMAND)
        assert channel.pick_up(time.monotonic() - 1) is None
        now.set()
        assert channel.pick_up(soon()) == Reply("RESERVED", 1, b"hello")

    @pytest.mark.parametrize("blocking", [False, True])
    def test_a_request_that_does_not_fit_into_the_buffers_goes_out_while_replies_come_in(
        self, beanstalkd: BeanstalkdServer, connect: Connect, blocking: bool
    ) -> None:
        channel = connect(beanstalkd)
        channel._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
        count = 5_000
        with within(0.5, "sending what fits"):
            channel.begin(b"".join(encode_tube(WATCH, f"a-tube-of-many-{n}") for n in range(count)), [WATCH] * count)
        assert channel.wants_write
        # Another one waits behind what is left of the first.
        channel.begin(RESERVE_REQUEST, [RESERVE_WITH_TIMEOUT])
        replies = []
        while channel.due:
            reply = channel.pick_up(soon() if blocking else None)
            if reply is not None:
                replies.append(reply)
            else:
                assert select.select([channel], [channel] if channel.wants_write else [], [], 5)[:2] != ([], [])
        assert replies == [*(Reply("WATCHING", n + 2) for n in range(count)), Reply("TIMED_OUT")]
        assert not channel.wants_write
        assert channel.state is ChannelState.IN_STEP

    def test_a_server_that_reads_nothing_holds_nobody_up(
        self, scripted_server: StartScripted, connect: Connect
    ) -> None:
        channel = connect(scripted_server([stall()]))
        with within(0):
            channel.begin(b"x" * HUGE, [STATS])
            assert channel.pick_up() is None
        with within(0.05):
            assert channel.pick_up(soon(0.05)) is None
        assert channel.wants_write

    def test_a_server_that_replies_before_it_reads_on_is_read_from(
        self, beanstalkd_factory: ServerFactory, connect: Connect
    ) -> None:
        server = beanstalkd_factory(max_job_size=1_000_000)
        channel = connect(server, narrow=True)
        body = random.randbytes(1_000_000)
        channel.post(PUT, encode_put(body, 0, 0, 120) * 3, 3)
        inserted: list[int] = []
        while channel.due:
            assert readiness.wait_for(channel, write=channel.wants_write, seconds=5)
            for run in channel.collect_inserted():
                assert not isinstance(run, Reply)
                inserted += run
        # Requests that fit into no buffer, each with a reply that fits into none.
        count = 100_000
        channel.begin(encode_job(PEEK, inserted[0]) * count, [PEEK] * count)
        assert channel.wants_write
        found = 0
        while channel.due and found < 20:
            reply = channel.pick_up(soon())
            assert reply == Reply("FOUND", inserted[0], body)
            found += 1

    def test_what_was_not_sent_of_a_request_that_is_too_large_is_known(
        self, scripted_server: StartScripted, connect: Connect
    ) -> None:
        ready = threading.Event()
        server = scripted_server([wait_for(ready), reset()])
        channel = connect(server)
        size = HUGE // 4
        channel.post(PUT, b"x" * HUGE, 4)
        sent = HUGE - channel.unsent
        assert 0 < sent < HUGE
        ready.set()
        with pytest.raises(ConnectionFailed):
            while channel.due:
                assert readiness.wait_for(channel, write=channel.wants_write, seconds=5)
                list(channel.collect_inserted())
        assert channel.closed
        # The reset ends it wherever it was; what counts is that the books are still there.
        assert (HUGE - channel.unsent) // size < 4

    @pytest.mark.parametrize(
        ("answer", "kind", "why"),
        [
            (send(b"RESERVED 1 5\r\nhel"), ConnectionFailed, "the server closed the connection"),
            (send(b"TIMED_OUT\r\nTIMED_OUT\r\n"), ConnectionFailed, "the server sent bytes that answer no command"),
            (send(b"INSERTED 5\r\n"), UnexpectedResponse, "answered reserve-with-timeout with INSERTED"),
        ],
        ids=["cut", "too-much", "wrong"],
    )
    def test_a_broken_reply(
        self,
        scripted_server: StartScripted,
        connect: Connect,
        answer: Step,
        kind: type[ConnectionFailed | UnexpectedResponse],
        why: str,
    ) -> None:
        server = scripted_server([expect(RESERVE_REQUEST), answer, close()])
        channel = connect(server)
        channel.begin(RESERVE_REQUEST, [RESERVE_WITH_TIMEOUT])
        with pytest.raises(kind) as caught:
            channel.pick_up(soon())
        assert isinstance(caught.value, ConnectionFailed | UnexpectedResponse)
        assert caught.value.may_have_taken_effect
        assert_closed(channel, why)

    def test_a_cancelled_reserve_is_read_to_its_end(self, beanstalkd: BeanstalkdServer, connect: Connect) -> None:
        channel = connect(beanstalkd)
        request = encode_reserve_with_timeout(30)
        channel.begin(request, [RESERVE_WITH_TIMEOUT])
        wait_until(lambda: beanstalkd.control.counter("current-waiting") == 1, "the server to have a waiter")
        assert not channel.at_end()
        channel.half_close()
        assert channel.closed
        assert channel.closed_because == "its reserve was cancelled"
        wait_until(channel.at_end, "the server to close its side")
        assert beanstalkd.control.counter("current-waiting") == 0
        assert channel.at_end()

    def test_a_job_that_raced_into_a_cancelled_reserve_goes_back(
        self, beanstalkd: BeanstalkdServer, connect: Connect
    ) -> None:
        channel = connect(beanstalkd)
        channel.begin(encode_reserve_with_timeout(30), [RESERVE_WITH_TIMEOUT])
        wait_until(lambda: beanstalkd.control.counter("current-waiting") == 1, "the server to have a waiter")
        job = beanstalkd.control.put(b"hello")
        channel.half_close()
        wait_until(channel.at_end, "the server to close its side")
        assert beanstalkd.control.state(job) == "ready"
