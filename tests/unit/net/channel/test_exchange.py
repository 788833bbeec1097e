"""One command and its reply: it goes to the command that asked, or the channel is closed and says why."""

from __future__ import annotations

import random
import select
import threading
import time
from typing import TYPE_CHECKING

import pytest
from support.scripted import Step, close, expect, half_close, reset, send, send_bytewise, stall, wait_for, with_data
from support.servers import BeanstalkdServer

from beanpool.errors import CommandTimeout, ConnectionFailed, Phase, UnexpectedResponse
from beanpool.net.channel import ChannelState
from beanpool.protocol.commands import DELETE, PUT, RESERVE_WITH_TIMEOUT, USE, encode_tube
from beanpool.protocol.replies import Reply

if TYPE_CHECKING:
    from conftest import StartScripted
from support.channels import (
    DELETE_REQUEST,
    PUT_REQUEST,
    RESERVE_REQUEST,
    RESERVED,
    Connect,
    assert_closed,
    idle,
    put,
    soon,
)


class TestExchange:
    def test_a_reply_comes_back(self, scripted_server: StartScripted, connect: Connect) -> None:
        server = scripted_server(
            [expect(PUT_REQUEST), send(b"INSERTED 7\r\n"), expect(RESERVE_REQUEST), send(RESERVED)]
        )
        channel = connect(server)
        assert put(channel) == Reply("INSERTED", 7)
        assert channel.exchange(RESERVE_WITH_TIMEOUT, RESERVE_REQUEST, soon()) == Reply("RESERVED", 1, b"hello")
        assert channel.state is ChannelState.IN_STEP
        assert channel.closed_because == ""

    def test_a_reply_in_single_bytes_comes_back(self, scripted_server: StartScripted, connect: Connect) -> None:
        server = scripted_server([expect(RESERVE_REQUEST), send_bytewise(RESERVED)])
        channel = connect(server)
        assert channel.exchange(RESERVE_WITH_TIMEOUT, RESERVE_REQUEST, soon()) == Reply("RESERVED", 1, b"hello")
        assert channel.state is ChannelState.IN_STEP

    def test_a_large_reply_comes_back(self, scripted_server: StartScripted, connect: Connect) -> None:
        body = random.randbytes(3_000_000)
        server = scripted_server([expect(RESERVE_REQUEST), send(with_data(b"RESERVED 1", body))])
        channel = connect(server)
        assert channel.exchange(RESERVE_WITH_TIMEOUT, RESERVE_REQUEST, soon()) == Reply("RESERVED", 1, body)
        assert channel.state is ChannelState.IN_STEP

    # A reset before the first byte may already be seen by the connect.
    @pytest.mark.parametrize(("first", "end"), [(0, close()), (1, reset())], ids=["fin", "rst"])
    def test_a_request_cut_anywhere_fails(
        self, scripted_server: StartScripted, connect: Connect, first: int, end: Step
    ) -> None:
        cuts = range(first, len(PUT_REQUEST) + 1)
        server = scripted_server(*([expect(PUT_REQUEST[:cut]), end] for cut in cuts))
        for _ in cuts:
            channel = connect(server)
            with pytest.raises(ConnectionFailed, match="put") as caught:
                put(channel)
            # Only what the kernel has accepted in full may be carried out.
            assert caught.value.may_have_taken_effect == (caught.value.phase is Phase.WAITING)
            assert caught.value.phase in (Phase.WAITING, Phase.SENDING)
            assert caught.value.server == server.address
            assert_closed(channel, str(caught.value))

    @pytest.mark.parametrize("end", [close(), reset(), half_close()], ids=["fin", "rst", "half-close"])
    def test_a_reply_cut_anywhere_fails(self, scripted_server: StartScripted, connect: Connect, end: Step) -> None:
        cuts = range(len(RESERVED))
        server = scripted_server(*([expect(RESERVE_REQUEST), send(RESERVED[:cut]), end] for cut in cuts))
        for _ in cuts:
            channel = connect(server)
            with pytest.raises(
                ConnectionFailed, match=r"no reply to reserve-with-timeout \(.+\); whether it took effect is not known"
            ) as caught:
                channel.exchange(RESERVE_WITH_TIMEOUT, RESERVE_REQUEST, soon())
            assert not isinstance(caught.value, CommandTimeout)
            assert caught.value.may_have_taken_effect
            assert caught.value.phase is Phase.WAITING
            assert "hello" not in str(caught.value)
            assert_closed(channel, str(caught.value))

    def test_a_reply_that_the_command_cannot_have_closes_the_channel(
        self, scripted_server: StartScripted, connect: Connect
    ) -> None:
        server = scripted_server([expect(PUT_REQUEST), send(b"DELETED\r\n")])
        channel = connect(server)
        with pytest.raises(UnexpectedResponse, match="answered put with DELETED in a form or place") as caught:
            put(channel)
        assert caught.value.may_have_taken_effect
        assert_closed(channel, "answered put with DELETED")

    def test_bytes_after_a_reply_close_the_channel(self, scripted_server: StartScripted, connect: Connect) -> None:
        server = scripted_server([expect(PUT_REQUEST), send(b"INSERTED 7\r\nDELETED\r\n")])
        channel = connect(server)
        assert put(channel) == Reply("INSERTED", 7)
        assert_closed(channel, "the server sent bytes that answer no command")
        assert server.received() == PUT_REQUEST

    @pytest.mark.parametrize(
        ("unasked", "why"),
        [
            (send(b"DELETED\r\n"), "the server sent bytes that answer no command"),
            (send(b"\0"), "the server sent bytes that answer no command"),
            (close(), "the server closed it"),
            (half_close(), "the server closed it"),
            (reset(), "ConnectionResetError"),
        ],
        ids=["reply", "byte", "fin", "half-close", "rst"],
    )
    def test_what_comes_unasked_is_found_before_the_next_command(
        self, scripted_server: StartScripted, connect: Connect, unasked: Step, why: str
    ) -> None:
        now = threading.Event()
        server = scripted_server([expect(PUT_REQUEST), send(b"INSERTED 7\r\n"), wait_for(now), unasked])
        channel = connect(server)
        put(channel)
        now.set()
        assert select.select([channel], [], [], 5)[0]
        idle(channel)
        with pytest.raises(ConnectionFailed, match="delete was not sent, the connection is closed: ") as caught:
            channel.exchange(DELETE, DELETE_REQUEST, soon())
        assert why in str(caught.value)
        assert not caught.value.may_have_taken_effect
        assert_closed(channel, why)
        assert server.received() == PUT_REQUEST

    def test_an_idle_channel_that_is_well_goes_on(self, beanstalkd: BeanstalkdServer, connect: Connect) -> None:
        channel = connect(beanstalkd)
        assert put(channel) == Reply("INSERTED", 1)
        idle(channel)
        assert put(channel) == Reply("INSERTED", 2)
        idle(channel)
        assert channel.check_quiet()
        assert time.monotonic() - channel.used_at < 0.01

    def test_an_interrupted_command_leaves_nothing_to_the_next_one(
        self, scripted_server: StartScripted, connect: Connect
    ) -> None:
        # An interrupt can come between any two steps of exchange(), even after its last one in a handler.
        channel = connect(scripted_server([stall()]))
        channel.state = ChannelState.IN_COMMAND
        assert not channel.check_quiet()
        with pytest.raises(ConnectionFailed, match="the command before was interrupted in its middle"):
            put(channel)
        assert_closed(channel, "the command before was interrupted in its middle")

    def test_closing_is_final_and_keeps_the_first_reason(self, beanstalkd: BeanstalkdServer, connect: Connect) -> None:
        channel = connect(beanstalkd)
        channel.close("the first reason")
        channel.close("the second reason")
        channel.half_close()
        channel.interrupt()
        assert not channel.check_quiet()
        assert_closed(channel, "the first reason")


class TestRefusals:
    @pytest.mark.parametrize("status", ["EXPECTED_CRLF", "BAD_FORMAT", "UNKNOWN_COMMAND", "INTERNAL_ERROR"])
    def test_after_which_the_channel_is_out_of_step(
        self, scripted_server: StartScripted, connect: Connect, status: str
    ) -> None:
        channel = connect(scripted_server([expect(PUT_REQUEST), send(status.encode() + b"\r\n")]))
        error = channel.refuse(PUT, put(channel))
        assert error.args == ("put", status, [])
        assert_closed(channel, f"the server answered {status} to put")

    @pytest.mark.parametrize("status", ["JOB_TOO_BIG", "DRAINING", "OUT_OF_MEMORY"])
    def test_after_which_it_is_not(self, scripted_server: StartScripted, connect: Connect, status: str) -> None:
        channel = connect(
            scripted_server(
                [expect(PUT_REQUEST), send(status.encode() + b"\r\n"), expect(PUT_REQUEST), send(b"BURIED 7\r\n")]
            )
        )
        assert channel.refuse(PUT, put(channel)).args == ("put", status, [])
        assert channel.refuse(PUT, put(channel)).args == ("put", "BURIED", ["7"])
        assert channel.state is ChannelState.IN_STEP

    def test_bad_format_leaves_commands_without_a_body_in_step(
        self, scripted_server: StartScripted, connect: Connect
    ) -> None:
        request = encode_tube(USE, "a")
        channel = connect(
            scripted_server([expect(request), send(b"BAD_FORMAT\r\n"), expect(PUT_REQUEST), send(b"BURIED 7\r\n")])
        )
        assert channel.refuse(USE, channel.exchange(USE, request, soon())).args == ("use", "BAD_FORMAT", [])
        assert put(channel) == Reply("BURIED", 7)
