"""What ends a command of a Channel in its middle."""

from __future__ import annotations

import select
import signal
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import pytest
from support.scripted import answering, expect, stall
from support.threads import background
from support.waiting import wait_until, within

from beanpool.errors import ConnectionFailed
from beanpool.net.channel import Channel
from beanpool.protocol.commands import PUT, RESERVE_WITH_TIMEOUT
from beanpool.protocol.replies import Reply

if TYPE_CHECKING:
    from conftest import StartScripted
from support.channels import PUT_REQUEST, RESERVE_REQUEST, Connect, assert_closed, put, soon


class Faulty:
    """A socket, or a view of it, of which a call raises before or after the kernel has carried it out (not a look)."""

    def __init__(self, real: socket.SocketType, call: str, error: BaseException, *, afterwards: bool) -> None:
        self._real = real
        self._call = call
        self._error = error
        self._afterwards = afterwards

    def __getattr__(self, name: str) -> Any:
        real = getattr(self._real, name)
        if name != self._call:
            return real

        def call(*arguments: Any) -> Any:
            if arguments[-1] == socket.MSG_PEEK:
                return real(*arguments)
            if self._afterwards:
                real(*arguments)
            raise self._error

        return call


def break_call(channel: Channel, call: str, error: BaseException, *, afterwards: bool = False) -> None:
    channel._socket = cast("Any", Faulty(channel._socket, call, error, afterwards=afterwards))
    channel._patient = cast("Any", Faulty(channel._patient, call, error, afterwards=afterwards))


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
    @pytest.mark.parametrize("call", ["send", "recv", "settimeout"])
    @pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(1), MemoryError()], ids=repr)
    def test_whatever_is_raised_in_mid_command_closes_the_channel(
        self, scripted_server: StartScripted, connect: Connect, call: str, error: BaseException, afterwards: bool
    ) -> None:
        server = scripted_server(answering({"put": b"INSERTED 7\r\n"}), default=answering({"put": b"INSERTED 7\r\n"}))
        uses: list[Callable[[Channel], object]] = [
            put,
            lambda channel: list(channel.exchange_many([(PUT, PUT_REQUEST)] * 3, 5)),
        ]
        if call != "settimeout":
            uses += [begin_and_pick_up, begin_and_await]
        for use in uses:
            channel = connect(server)
            break_call(channel, call, error, afterwards=afterwards)
            with pytest.raises(type(error)):
                use(channel)
            assert_closed(channel, f"{type(error).__name__} in mid-command")

    @pytest.mark.parametrize("call", ["send", "recv", "settimeout"])
    def test_an_error_of_the_system_is_a_connection_failed(
        self, scripted_server: StartScripted, connect: Connect, call: str
    ) -> None:
        server = scripted_server(default=answering({"put": b"INSERTED 7\r\n"}))
        uses: list[Callable[[Channel], object]] = [
            put,
            lambda channel: list(channel.exchange_many([(PUT, PUT_REQUEST)] * 3, 5)),
        ]
        if call != "settimeout":
            uses.append(begin_and_pick_up)
        for use in uses:
            channel = connect(server)
            break_call(channel, call, OSError(9, "Bad file descriptor"))
            with pytest.raises(ConnectionFailed, match="Bad file descriptor") as caught:
                use(channel)
            # A pipeline is sent before the time for its replies is set.
            assert caught.value.may_have_taken_effect == (call == "recv" or (call == "settimeout" and use is not put))
            assert_closed(channel, "Bad file descriptor")

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
