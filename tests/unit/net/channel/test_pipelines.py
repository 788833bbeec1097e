"""Many commands on a Channel in one go."""

from __future__ import annotations

import itertools
import random
import select
import threading
from typing import TYPE_CHECKING, Any

import pytest
from support.scripted import close, expect, reset, send, stall
from support.servers import BeanstalkdServer, ServerFactory
from support.threads import background

from beanpool.errors import CommandTimeout, ConnectionFailed, Phase, UnexpectedResponse
from beanpool.net import channel as channel_module
from beanpool.net.channel import ChannelState
from beanpool.protocol.commands import PEEK, PUT, Command, encode_job, encode_put
from beanpool.protocol.replies import Reply

if TYPE_CHECKING:
    from conftest import StartScripted
from support.channels import HUGE, PUT_REQUEST, Connect, assert_closed, put, soon


class TestPipelines:
    def test_100_000_puts_come_through(self, beanstalkd: BeanstalkdServer, connect: Connect) -> None:
        count = 100_000
        channel = connect(beanstalkd)
        request = encode_put(b"x", 2**31, 0, 120)

        def run() -> int:
            replies = channel.exchange_many(itertools.repeat((PUT, request), count), 5)
            return sum(reply.number == expected for expected, reply in enumerate(replies, 1))

        assert background(run).result(60) == count
        assert channel.state is ChannelState.IN_STEP
        assert beanstalkd.control.counter("current-jobs-ready") == count

    def test_large_bodies_both_ways_do_not_dead_lock(
        self, beanstalkd_factory: ServerFactory, connect: Connect, rng: random.Random
    ) -> None:
        server = beanstalkd_factory(max_job_size=8_000_000)
        channel = connect(server)
        body = random.randbytes(8_000_000)
        assert channel.exchange(PUT, encode_put(body, 0, 0, 120), soon()) == Reply("INSERTED", 1)
        requests: list[tuple[Command, bytes]] = []
        expected: list[Reply] = []
        for number in range(2, 12):
            requests += [(PUT, encode_put(body[:size], 0, 0, 120)) for size in (0, 30_000, 3_000_000)]
            expected += [Reply("INSERTED", 3 * number + offset - 4) for offset in range(3)]
            requests += [(PEEK, encode_job(PEEK, 1))] * 3
            expected += [Reply("FOUND", 1, body)] * 3
        replies = background(lambda: list(channel.exchange_many(requests, 5))).result(60)
        assert replies == expected
        assert channel.state is ChannelState.IN_STEP

    @pytest.mark.parametrize("narrow", [False, True], ids=["wide", "narrow"])
    def test_requests_of_any_size_do_not_dead_lock(
        self, beanstalkd_factory: ServerFactory, connect: Connect, rng: random.Random, narrow: bool
    ) -> None:
        server = beanstalkd_factory(max_job_size=200_000)
        channel = connect(server, narrow=narrow)
        window = 32 * 1024
        sizes = [0, 10, 100, window // 4, window // 2 - 50, window // 2, window - 50, window, window + 1, 200_000]
        for _ in range(2 if narrow else 20):
            requests = [(PUT, encode_put(b"x" * rng.choice(sizes), 0, 0, 120)) for _ in range(30)]
            replies = background(lambda: list(channel.exchange_many(requests, 5))).result(10)  # noqa: B023
            assert [reply.status for reply in replies] == ["INSERTED"] * 30

    def test_replies_that_fit_into_no_buffer_are_read_while_requests_are_sent(
        self, beanstalkd: BeanstalkdServer, connect: Connect
    ) -> None:
        channel = connect(beanstalkd, narrow=True)
        assert channel.exchange(PUT, encode_put(b"x" * 65_535, 0, 0, 120), soon()).number == 1
        # 2,000 of them are on their way at a time: more than the server reads before its replies are read.
        requests = [(PEEK, encode_job(PEEK, 1))] * 2200
        replies = background(lambda: sum(len(reply.body) for reply in channel.exchange_many(requests, 5))).result(60)
        assert replies == 2200 * 65_535

    def test_what_is_in_flight_is_bounded(self, scripted_server: StartScripted, connect: Connect) -> None:
        request = encode_put(b"x" * 1000, 0, 0, 120)
        server = scripted_server()
        received = threading.Event()

        def serve(connection: Any) -> None:
            largest = answered = 0
            while answered < 100:
                ready, _, _ = select.select([connection._socket], [], [], 0.03)
                if ready:
                    connection._fill()
                    largest = max(largest, len(connection.received) - answered * len(request))
                else:
                    # The client sends no more: it waits for a reply.
                    connection.send(b"INSERTED 1\r\n" * 8)
                    answered += 8
            assert largest <= 32 * 1024
            received.set()

        server = scripted_server(serve)
        channel = connect(server)
        assert len(list(channel.exchange_many([(PUT, request)] * 104, 5))) == 104
        assert received.wait(5)

    def test_no_commands_send_nothing(self, scripted_server: StartScripted, connect: Connect) -> None:
        server = scripted_server([expect(PUT_REQUEST), send(b"INSERTED 7\r\n")])
        channel = connect(server)
        assert list(channel.exchange_many([], 5)) == []
        assert put(channel) == Reply("INSERTED", 7)

    def test_replies_before_the_cut_are_kept_and_the_rest_is_counted(
        self, scripted_server: StartScripted, connect: Connect
    ) -> None:
        total = 5
        for answered in range(total):
            for end in (close(), reset()):
                server = scripted_server([expect(PUT_REQUEST * total), send(b"INSERTED 7\r\n" * answered), end])
                channel = connect(server)
                replies: list[Reply] = []
                with pytest.raises(ConnectionFailed) as caught:
                    replies.extend(channel.exchange_many([(PUT, PUT_REQUEST)] * total, 5))
                assert caught.value.may_have_taken_effect
                assert (channel.state, channel.in_flight) == (ChannelState.CLOSED, total - answered)

    @pytest.mark.parametrize("bad", [b"DELETED\r\n", b"INSERTED -1\r\n", b"\0" * 600])
    def test_a_bad_reply_among_good_ones(self, scripted_server: StartScripted, connect: Connect, bad: bytes) -> None:
        server = scripted_server([expect(PUT_REQUEST * 4), send(b"INSERTED 7\r\n" + bad)])
        channel = connect(server)
        replies = channel.exchange_many([(PUT, PUT_REQUEST)] * 4, 5)
        assert next(replies) == Reply("INSERTED", 7)
        with pytest.raises(UnexpectedResponse):
            next(replies)
        assert channel.in_flight == 3
        assert_closed(channel, "answered put with ")

    def test_what_lies_beyond_the_window_was_not_sent(self, scripted_server: StartScripted, connect: Connect) -> None:
        request = encode_put(b"x" * 10_000, 0, 0, 120)
        server = scripted_server([expect(request * 3), close()])
        channel = connect(server)
        with pytest.raises(ConnectionFailed):
            list(channel.exchange_many([(PUT, request)] * 1000, 5))
        assert channel.in_flight == 3
        assert server.received() == request * 3

    def test_a_command_that_was_sent_in_part_does_not_count(
        self, scripted_server: StartScripted, connect: Connect
    ) -> None:
        server = scripted_server([stall()])
        channel = connect(server)
        with pytest.raises(CommandTimeout) as caught:
            list(channel.exchange_many([(PUT, encode_put(b"x" * HUGE, 0, 0, 120)), (PUT, PUT_REQUEST)], 0.1))
        assert caught.value.phase is Phase.SENDING
        assert channel.in_flight == 0
        assert_closed(channel, "while sending the command")

    def test_a_command_that_was_sent_in_part_when_its_time_is_up_does_not_count(
        self, scripted_server: StartScripted, connect: Connect
    ) -> None:
        """As on a machine that stood still while it was being sent."""
        server = scripted_server([stall()])
        with pytest.raises(CommandTimeout) as caught:
            list(connect(server).exchange_many([(PUT, encode_put(b"x" * HUGE, 0, 0, 120))], -1))
        assert caught.value.phase is Phase.SENDING

    def test_commands_sent_with_one_that_was_sent_in_part_count(
        self, scripted_server: StartScripted, connect: Connect, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(channel_module, "_WINDOW", 2 * HUGE)
        server = scripted_server([stall()])
        channel = connect(server)
        requests = [(PUT, PUT_REQUEST), (PUT, PUT_REQUEST), (PUT, encode_put(b"x" * HUGE, 0, 0, 120))]
        with pytest.raises(CommandTimeout):
            list(channel.exchange_many(requests, 0.1))
        assert channel.in_flight == 2

    def test_a_pipeline_left_in_its_middle_closes_the_channel(
        self, scripted_server: StartScripted, connect: Connect
    ) -> None:
        server = scripted_server([expect(PUT_REQUEST * 2), send(b"INSERTED 7\r\nINSERTED 8\r\n")])
        channel = connect(server)
        replies = channel.exchange_many([(PUT, PUT_REQUEST)] * 2, 5)
        next(replies)
        replies.close()  # type: ignore[attr-defined]  # It is a generator.
        assert_closed(channel, "a pipeline was left in its middle")

    def test_bytes_after_the_last_reply_close_the_channel(
        self, scripted_server: StartScripted, connect: Connect
    ) -> None:
        server = scripted_server([expect(PUT_REQUEST * 2), send(b"INSERTED 7\r\nINSERTED 8\r\nINSERTED 9\r\n")])
        channel = connect(server)
        assert [reply.number for reply in channel.exchange_many([(PUT, PUT_REQUEST)] * 2, 5)] == [7, 8]
        assert_closed(channel, "the server sent bytes that answer no command")

    def test_what_came_unasked_is_found_before_anything_is_sent(
        self, scripted_server: StartScripted, connect: Connect
    ) -> None:
        server = scripted_server([send(b"INSERTED 6\r\n")])
        channel = connect(server)
        assert select.select([channel], [], [], 5)[0]
        with pytest.raises(ConnectionFailed, match="put was not sent"):
            list(channel.exchange_many([(PUT, PUT_REQUEST)], 5))
        assert (channel.in_flight, server.received()) == (0, b"")

    def test_a_channel_closed_by_a_refusal_stays_closed(self, scripted_server: StartScripted, connect: Connect) -> None:
        server = scripted_server(*([expect(PUT_REQUEST * 2), send(b"INSERTED 7\r\nINTERNAL_ERROR\r\n")],) * 2)
        for refused_at in (1, 2):
            channel = connect(server)
            replies = channel.exchange_many([(PUT, PUT_REQUEST)] * 2, 5)
            for number, reply in zip(range(1, 3), replies, strict=False):
                if number == refused_at:
                    channel.refuse(PUT, reply._replace(status="INTERNAL_ERROR"))
                    break
            if refused_at == 2:
                assert next(replies, None) is None
            else:
                with pytest.raises(ConnectionFailed, match="the server answered INTERNAL_ERROR to put"):
                    next(replies)
                assert channel.in_flight == 1
            assert_closed(channel, "the server answered INTERNAL_ERROR to put")
