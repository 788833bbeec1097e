"""A Channel and its deadlines: silence, trickles, and peers that do not read."""

from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING, Any

import pytest
from support.scripted import expect, reset, send, send_bytewise, stall
from support.servers import BeanstalkdServer
from support.waiting import within

from beanpool.errors import CommandTimeout, ConnectionFailed, Phase
from beanpool.net.channel import Channel
from beanpool.protocol.commands import DELETE, PUT, RESERVE_WITH_TIMEOUT, encode_put
from beanpool.protocol.replies import Reply

if TYPE_CHECKING:
    from conftest import StartScripted
from support.channels import (
    DELETE_REQUEST,
    HUGE,
    PUT_REQUEST,
    RESERVE_REQUEST,
    Connect,
    after,
    assert_closed,
    put,
    soon,
)


class WokenLate(socket.socket):
    """A socket whose thread is left alone by the system for a while."""

    def send(self, *args: Any) -> int:
        sent = super().send(*args)
        time.sleep(0.3)
        return sent


class TestTimeouts:
    def test_what_comes_of_a_busy_machine_is_no_silence_of_the_server(self, scripted_server: StartScripted) -> None:
        server = scripted_server([expect(PUT_REQUEST), stall()])
        with WokenLate() as sock:
            sock.connect((server.host, server.port))
            with pytest.raises(CommandTimeout) as caught:
                put(Channel(sock, server.address), 0.01)
        assert caught.value.waited is not None
        assert caught.value.waited < 0.1

    def test_silence(self, scripted_server: StartScripted, connect: Connect) -> None:
        server = scripted_server([expect(PUT_REQUEST), stall()])
        channel = connect(server)
        with within(0.1), pytest.raises(CommandTimeout) as caught:
            put(channel, 0.1)
        error = caught.value
        assert (error.server, error.phase, error.may_have_taken_effect) == (server.address, Phase.WAITING, True)
        assert str(error) == (
            f"{server.address}: the time for put ran out while waiting for the reply; "
            "whether it took effect is not known"
        )
        assert_closed(channel, "ran out while waiting for the reply")

    def test_a_deadline_that_is_over_sends_nothing_and_spoils_nothing(
        self, scripted_server: StartScripted, connect: Connect
    ) -> None:
        server = scripted_server([expect(PUT_REQUEST), send(b"INSERTED 7\r\n")])
        channel = connect(server)
        with pytest.raises(CommandTimeout, match="it was not executed") as caught:
            channel.exchange(DELETE, DELETE_REQUEST, time.monotonic() - 0.001)
        assert (caught.value.phase, caught.value.may_have_taken_effect) == (Phase.SENDING, False)
        assert put(channel) == Reply("INSERTED", 7)
        assert server.received() == PUT_REQUEST

    def test_a_server_that_does_not_read(self, scripted_server: StartScripted, connect: Connect) -> None:
        server = scripted_server([stall()])
        channel = connect(server)
        request = encode_put(b"s" * HUGE, 0, 0, 120)
        with within(0.2, slack=0.4), pytest.raises(CommandTimeout) as caught:
            channel.exchange(PUT, request, soon(0.2))
        error = caught.value
        assert (error.server, error.phase, error.may_have_taken_effect) == (server.address, Phase.SENDING, False)
        assert str(error).endswith(": the time for put ran out while sending the command; it was not executed")
        assert_closed(channel, "while sending the command")

    def test_a_server_that_reads_a_part(self, scripted_server: StartScripted, connect: Connect) -> None:
        server = scripted_server([expect(b"put 0 0 120 "), reset()])
        channel = connect(server)
        with pytest.raises(
            ConnectionFailed,
            match=r"the connection broke while put was being sent \(.+\); the command was not executed",
        ) as caught:
            channel.exchange(PUT, encode_put(b"s" * HUGE, 0, 0, 120), soon())
        assert (caught.value.phase, caught.value.may_have_taken_effect) == (Phase.SENDING, False)
        assert_closed(channel, "while put was being sent")

    def test_a_slow_reader_gets_all_of_it(self, scripted_server: StartScripted, connect: Connect) -> None:
        size = 8_000_000
        head = b"put 0 0 120 %d\r\n" % size
        pieces = [lambda connection: connection.read(size // 40) and None, after(0.005)] * 40
        server = scripted_server([expect(head), *pieces, expect(b"\r\n"), send(b"INSERTED 7\r\n")])
        channel = connect(server)
        assert channel.exchange(PUT, encode_put(b"s" * size, 0, 0, 120), soon()) == Reply("INSERTED", 7)

    def test_a_trickle_ends_at_the_deadline(self, scripted_server: StartScripted, connect: Connect) -> None:
        server = scripted_server([expect(PUT_REQUEST), send_bytewise(b"INSERTED 1234567890\r\n", pause=0.05)])
        channel = connect(server)
        with within(0.2, slack=0.5), pytest.raises(CommandTimeout) as caught:
            put(channel, 0.2)
        assert (caught.value.phase, caught.value.may_have_taken_effect) == (Phase.WAITING, True)
        assert_closed(channel, "waiting for the reply")

    def test_a_body_that_trickles_ends_at_the_deadline(self, scripted_server: StartScripted, connect: Connect) -> None:
        server = scripted_server(
            [expect(RESERVE_REQUEST), send(b"RESERVED 1 100\r\n"), send_bytewise(b"x" * 100, pause=0.05)]
        )
        channel = connect(server)
        with within(0.2, slack=0.5), pytest.raises(CommandTimeout):
            channel.exchange(RESERVE_WITH_TIMEOUT, RESERVE_REQUEST, soon(0.2))

    def test_a_first_byte_at_the_last_moment_gains_no_time(
        self, scripted_server: StartScripted, connect: Connect
    ) -> None:
        server = scripted_server([expect(PUT_REQUEST), after(0.45), send(b"I"), stall()])
        channel = connect(server)
        with within(0.5, slack=0.35), pytest.raises(CommandTimeout):
            put(channel, 0.5)

    def test_a_short_deadline_does_not_cut_a_later_one_short(
        self, scripted_server: StartScripted, connect: Connect
    ) -> None:
        reply = send(b"INSERTED 7\r\n")
        server = scripted_server([expect(PUT_REQUEST), reply, expect(PUT_REQUEST), after(0.3), reply])
        channel = connect(server)
        assert put(channel, 0.15) == Reply("INSERTED", 7)
        assert put(channel, 5) == Reply("INSERTED", 7)

    def test_a_long_deadline_does_not_stretch_a_later_one(
        self, scripted_server: StartScripted, connect: Connect
    ) -> None:
        server = scripted_server([expect(PUT_REQUEST), send(b"INSERTED 7\r\n"), expect(PUT_REQUEST), stall()])
        channel = connect(server)
        assert put(channel, 60) == Reply("INSERTED", 7)
        with within(0.05), pytest.raises(CommandTimeout):
            put(channel, 0.05)

    def test_a_timeout_of_years_is_one(self, beanstalkd: BeanstalkdServer, connect: Connect) -> None:
        channel = connect(beanstalkd)
        assert put(channel, 1e300) == Reply("INSERTED", 1)
        assert list(channel.exchange_many([(PUT, PUT_REQUEST)], 1e300)) == [Reply("INSERTED", 2)]

    def test_a_pipeline_in_silence(self, scripted_server: StartScripted, connect: Connect) -> None:
        server = scripted_server([expect(PUT_REQUEST), send(b"INSERTED 7\r\n"), stall()])
        channel = connect(server)
        replies = channel.exchange_many([(PUT, PUT_REQUEST)] * 3, 0.1)
        assert next(replies) == Reply("INSERTED", 7)
        with within(0.1), pytest.raises(CommandTimeout) as caught:
            next(replies)
        assert (caught.value.phase, caught.value.may_have_taken_effect) == (Phase.WAITING, True)
        assert channel.in_flight == 2
        assert_closed(channel, "waiting for the reply")

    def test_a_pipeline_that_makes_progress_may_take_longer(
        self, scripted_server: StartScripted, connect: Connect
    ) -> None:
        steps = [after(0.1), send(b"INSERTED 7\r\n")] * 5
        channel = connect(scripted_server([expect(PUT_REQUEST * 5), *steps]))
        assert list(channel.exchange_many([(PUT, PUT_REQUEST)] * 5, 0.3)) == [Reply("INSERTED", 7)] * 5

    def test_a_reply_that_trickles_within_a_pipeline_is_no_progress(
        self, scripted_server: StartScripted, connect: Connect
    ) -> None:
        trickle = send_bytewise(b"INSERTED 1234567890\r\n", pause=0.05)
        channel = connect(scripted_server([expect(PUT_REQUEST * 2), send(b"INSERTED 7\r\n"), trickle]))
        replies = channel.exchange_many([(PUT, PUT_REQUEST)] * 2, 0.2)
        assert next(replies) == Reply("INSERTED", 7)
        with within(0.2, slack=0.5), pytest.raises(CommandTimeout):
            next(replies)
