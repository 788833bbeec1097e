"""One socket: a reply goes to the command that asked, in time, or the channel is closed and says why."""

from __future__ import annotations

import itertools
import random
import select
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, cast

import pytest
from support.processes import assert_baseline, run_python
from support.scripted import (
    ScriptedServer,
    Step,
    answering,
    close,
    expect,
    half_close,
    reset,
    send,
    send_bytewise,
    stall,
    wait_for,
    with_data,
)
from support.servers import BeanstalkdServer, ServerFactory
from support.threads import background
from support.waiting import wait_until, within

from beanpool import channel as channel_module
from beanpool.channel import Channel, ChannelState
from beanpool.errors import CommandTimeout, ConnectionFailed, Phase, UnexpectedResponse
from beanpool.protocol.commands import (
    DELETE,
    PEEK,
    PUT,
    RESERVE_WITH_TIMEOUT,
    STATS,
    USE,
    WATCH,
    Command,
    encode_bare,
    encode_job,
    encode_put,
    encode_reserve_with_timeout,
    encode_tube,
)
from beanpool.protocol.replies import Reply

if TYPE_CHECKING:
    from conftest import StartScripted

PUT_REQUEST = encode_put(b"hello", 0, 0, 120)
RESERVE_REQUEST = encode_reserve_with_timeout(0)
RESERVED = b"RESERVED 1 5\r\nhello\r\n"
DELETE_REQUEST = encode_job(DELETE, 1)
# More than any kernel buffers for a peer that does not read.
HUGE = 24 * 1024 * 1024

Connect = Callable[[ScriptedServer | BeanstalkdServer], Channel]


@pytest.fixture
def connect() -> Iterator[Connect]:
    """Call it with a server for a channel to it; all are closed after the test."""
    channels: list[Channel] = []

    def open_channel(server: ScriptedServer | BeanstalkdServer) -> Channel:
        sock = socket.create_connection((server.host, server.port), 5)
        sock.settimeout(None)
        channels.append(Channel(sock, server.address))
        return channels[-1]

    yield open_channel
    for channel in channels:
        channel.close("the test is over")


@pytest.fixture(params=[True, False], ids=["kernel-timeouts", "python-timeouts"])
def both_kinds_of_timeout(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the kernel has no usable SO_RCVTIMEO, Python's own timeouts do the same."""
    if not request.param:
        monkeypatch.setattr(channel_module, "_HAS_KERNEL_TIMEOUTS", False)
        monkeypatch.setattr(channel_module, "_DONT_WAIT", 0)


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


@pytest.mark.usefixtures("both_kinds_of_timeout")
class TestTimeouts:
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


LOOK = socket.MSG_PEEK | socket.MSG_DONTWAIT


class Faulty:
    """A socket with a call that raises, before or after the kernel has carried it out; looking ahead is left alone."""

    def __init__(self, real: socket.socket, call: str, error: BaseException, *, afterwards: bool) -> None:
        self._real = real
        self._call = call
        self._error = error
        self._afterwards = afterwards

    def __getattr__(self, name: str) -> Any:
        real = getattr(self._real, name)
        if name != self._call:
            return real

        def call(*arguments: Any) -> Any:
            if arguments[-1] == LOOK:
                return real(*arguments)
            if self._afterwards:
                real(*arguments)
            raise self._error

        return call


def break_call(channel: Channel, call: str, error: BaseException, *, afterwards: bool = False) -> None:
    faulty = Faulty(channel._socket, call, error, afterwards=afterwards)
    channel._socket = cast("socket.socket", faulty)


def begin_and_pick_up(channel: Channel) -> Reply | None:
    channel.begin(PUT_REQUEST, [PUT])
    assert select.select([channel], [], [], 5)[0]
    return channel.pick_up()


def begin_and_await(channel: Channel) -> Reply | None:
    channel.begin(PUT_REQUEST, [PUT])
    return channel.pick_up(soon())


class TestInterrupts:
    def test_ctrl_c_while_waiting_closes_the_channel(self, scripted_server: StartScripted, connect: Connect) -> None:
        server = scripted_server([expect(RESERVE_REQUEST), stall()])
        channel = connect(server)

        def interrupt(number: int, frame: object) -> None:
            raise KeyboardInterrupt

        before = signal.signal(signal.SIGALRM, interrupt)
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            with within(0.05), pytest.raises(KeyboardInterrupt):
                channel.exchange(RESERVE_WITH_TIMEOUT, RESERVE_REQUEST, soon())
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        assert_closed(channel, "KeyboardInterrupt in mid-command")

    @pytest.mark.parametrize("afterwards", [False, True])
    @pytest.mark.parametrize("call", ["send", "recv", "setsockopt"])
    @pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(1), MemoryError()], ids=repr)
    def test_whatever_is_raised_in_mid_command_closes_the_channel(
        self, scripted_server: StartScripted, connect: Connect, call: str, error: BaseException, afterwards: bool
    ) -> None:
        server = scripted_server(answering({"put": b"INSERTED 7\r\n"}), default=answering({"put": b"INSERTED 7\r\n"}))
        uses: list[Callable[[Channel], object]] = [
            put,
            lambda channel: list(channel.exchange_many([(PUT, PUT_REQUEST)] * 3, 5)),
        ]
        if call != "setsockopt":
            uses += [begin_and_pick_up, begin_and_await]
        for use in uses:
            channel = connect(server)
            break_call(channel, call, error, afterwards=afterwards)
            with pytest.raises(type(error)):
                use(channel)
            assert_closed(channel, f"{type(error).__name__} in mid-command")

    @pytest.mark.parametrize("call", ["send", "recv", "setsockopt"])
    def test_an_error_of_the_system_is_a_connection_failed(
        self, scripted_server: StartScripted, connect: Connect, call: str
    ) -> None:
        server = scripted_server(default=answering({"put": b"INSERTED 7\r\n"}))
        uses: list[Callable[[Channel], object]] = [
            put,
            lambda channel: list(channel.exchange_many([(PUT, PUT_REQUEST)] * 3, 5)),
        ]
        if call != "setsockopt":
            uses.append(begin_and_pick_up)
        for use in uses:
            channel = connect(server)
            break_call(channel, call, OSError(9, "Bad file descriptor"))
            with pytest.raises(ConnectionFailed, match="Bad file descriptor") as caught:
                use(channel)
            assert caught.value.may_have_taken_effect == (call == "recv")
            assert_closed(channel, "Bad file descriptor")

    @pytest.mark.usefixtures("both_kinds_of_timeout")
    def test_another_thread_can_end_a_wait(self, scripted_server: StartScripted, connect: Connect) -> None:
        server = scripted_server([expect(RESERVE_REQUEST), stall()])
        channel = connect(server)
        call = background(lambda: channel.exchange(RESERVE_WITH_TIMEOUT, RESERVE_REQUEST, soon(30)))
        wait_until(lambda: server.accepts and server.received() == RESERVE_REQUEST, "the request to arrive")
        channel.interrupt()
        error = call.error(2)
        assert isinstance(error, ConnectionFailed)
        assert error.may_have_taken_effect
        assert_closed(channel, "no reply to reserve-with-timeout")


class TestPipelines:
    def test_300_000_puts_come_through(self, beanstalkd: BeanstalkdServer, connect: Connect) -> None:
        count = 300_000
        channel = connect(beanstalkd)
        request = encode_put(b"x", 2**31, 0, 120)

        def run() -> int:
            replies = channel.exchange_many(itertools.repeat((PUT, request), count), 5)
            return sum(reply.number == expected for expected, reply in enumerate(replies, 1))

        assert background(run).result(30) == count
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
        replies = background(lambda: list(channel.exchange_many(requests, 5))).result(20)
        assert replies == expected
        assert channel.state is ChannelState.IN_STEP

    def test_requests_of_any_size_do_not_dead_lock(
        self, beanstalkd_factory: ServerFactory, connect: Connect, rng: random.Random
    ) -> None:
        server = beanstalkd_factory(max_job_size=200_000)
        channel = connect(server)
        window = 32 * 1024
        sizes = [0, 10, 100, window // 4, window // 2 - 50, window // 2, window - 50, window, window + 1, 200_000]
        for _ in range(20):
            requests = [(PUT, encode_put(b"x" * rng.choice(sizes), 0, 0, 120)) for _ in range(30)]
            replies = background(lambda: list(channel.exchange_many(requests, 5))).result(10)  # noqa: B023
            assert [reply.status for reply in replies] == ["INSERTED"] * 30

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

    @pytest.mark.usefixtures("both_kinds_of_timeout")
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

    def test_commands_that_do_not_fit_are_an_error(self, scripted_server: StartScripted, connect: Connect) -> None:
        channel = connect(scripted_server([stall()]))
        with within(0), pytest.raises(ConnectionFailed, match="takes no more commands, its buffers are full") as caught:
            channel.begin(b"x" * HUGE, [STATS])
        assert not caught.value.may_have_taken_effect
        assert_closed(channel, "its buffers are full")

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


FORKED = """
import os, socket, sys, time
from beanpool.channel import Channel
from beanpool.errors import ConnectionFailed
from beanpool.protocol.commands import PUT, RESERVE_WITH_TIMEOUT, encode_put, encode_reserve_with_timeout

def connect():
    return Channel(socket.create_connection(("127.0.0.1", int(sys.argv[1]))), "q1:11300")

idle, waiting = connect(), connect()
request = encode_put(b"hello", 0, 0, 120)
assert idle.exchange(PUT, request, time.monotonic() + 5).number == 7
waiting.begin(encode_reserve_with_timeout(5), [RESERVE_WITH_TIMEOUT])
child = os.fork()
if child == 0:
    for channel in (idle, waiting):
        assert channel.closed and channel.fileno() == -1
        channel.interrupt()
        channel.half_close()
        channel.close("the child is done")
        try:
            channel.exchange(PUT, request, time.monotonic() + 5)
        except ConnectionFailed as error:
            assert not error.may_have_taken_effect
            assert "it belongs to the parent process" in str(error), error
        else:
            raise AssertionError("the child has used the parent's socket")
    del idle, waiting, channel
    sys.exit(17)
_, status = os.waitpid(child, 0)
assert os.waitstatus_to_exitcode(status) == 17
assert waiting.pick_up(time.monotonic() + 5).number == 3
assert idle.exchange(PUT, request, time.monotonic() + 5).number == 8
print("done")
"""


def test_a_forked_child_leaves_the_sockets_to_its_parent(scripted_server: StartScripted) -> None:
    waiting = encode_reserve_with_timeout(5)
    used_again = threading.Event()

    def release(connection: Any) -> None:
        used_again.set()

    server = scripted_server(
        [expect(PUT_REQUEST), send(b"INSERTED 7\r\n"), expect(PUT_REQUEST), release, send(b"INSERTED 8\r\n")],
        [expect(waiting), after(0.3), send(b"RESERVED 3 0\r\n\r\n")],
    )
    ended = run_python(FORKED, str(server.port))
    assert (ended.stdout, ended.stderr, ended.returncode) == ("done\n", "", 0)
    assert used_again.is_set()
    assert server.received(0) == PUT_REQUEST * 2
    assert server.received(1) == waiting


def test_a_dropped_channel_closes_its_socket(beanstalkd: BeanstalkdServer) -> None:
    beanstalkd.control.open()
    with assert_baseline():
        sock = socket.create_connection((beanstalkd.host, beanstalkd.port), 5)
        channel = Channel(sock, beanstalkd.address)
        assert channel.exchange(STATS, encode_bare(STATS), soon()).status == "OK"
        del channel, sock
    wait_until(lambda: beanstalkd.control.other_connections() == 0, "the server to see it closed")
