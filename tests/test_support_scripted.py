"""A scripted server plays its scripts, and tells what did not go by them."""

from __future__ import annotations

import socket
import threading
from typing import TYPE_CHECKING

import pytest
from support.processes import assert_baseline, thread_names
from support.raw_client import RawClient
from support.scripted import (
    ScriptedConnection,
    ScriptedServer,
    ScriptMismatch,
    answering,
    close,
    expect,
    expect_line,
    half_close,
    reset,
    send,
    send_bytewise,
    stall,
    stats_reply,
    wait_for,
    with_data,
)
from support.waiting import wait_until, within

if TYPE_CHECKING:
    from conftest import StartScripted


def connect(server: ScriptedServer) -> socket.socket:
    return socket.create_connection((server.host, server.port), 5.0)


class TestScripted:
    def test_steps_and_records(self, scripted_server: StartScripted) -> None:
        server = scripted_server([expect_line(b"use a"), send(b"USING a\r\n"), expect(b"xy"), close()])
        with connect(server) as client:
            client.sendall(b"use a\r\nxy")
            assert client.makefile("rb").read() == b"USING a\r\n"
        assert server.received() == b"use a\r\nxy"
        assert server.accepts == 1

    def test_a_callable_is_a_script(self, scripted_server: StartScripted) -> None:
        def echo(connection: ScriptedConnection) -> None:
            connection.send(connection.read_line().upper() + connection.read(1))
            connection.close()

        server = scripted_server(echo)
        with connect(server) as client:
            client.sendall(b"hello\r\n!!")
            assert client.makefile("rb").read() == b"HELLO!"

    def test_connections_play_their_scripts_and_then_the_default(self, scripted_server: StartScripted) -> None:
        server = scripted_server([send(b"1"), close()], [send(b"2"), close()], default=[send(b"more"), close()])
        seen = []
        for _ in range(4):
            with connect(server) as client:
                seen.append(client.makefile("rb").read())
        assert seen == [b"1", b"2", b"more", b"more"]
        assert server.wait_accepts(4).number == 3

    def test_a_mismatch_resets_and_is_reported(self, scripted_server: StartScripted) -> None:
        server = scripted_server([expect_line(b"stats")])
        with connect(server) as client:
            client.sendall(b"quit\r\n")
            with pytest.raises(ConnectionResetError):
                client.recv(1)
        server.stop()
        with pytest.raises(ScriptMismatch, match="expected the line b'stats', got b'quit'"):
            server.check()
        server._errors.clear()

    def test_after_its_script_a_connection_stays_open_and_is_recorded(self, scripted_server: StartScripted) -> None:
        server = scripted_server([send(b"hello")])
        with connect(server) as client:
            assert client.recv(5) == b"hello"
            client.sendall(b"still there")
            connection = server.wait_accepts(1)
            wait_until(lambda: connection.received == b"still there", "the bytes")
            assert not connection.closed.is_set()
        assert connection.closed.wait(5)

    def test_close_is_orderly_even_with_unread_input(self, scripted_server: StartScripted) -> None:
        ready = threading.Event()
        server = scripted_server([wait_for(ready), send(b"bye"), close()])
        with connect(server) as client:
            client.sendall(b"unread")
            ready.set()
            assert client.makefile("rb").read() == b"bye"

    def test_reset(self, scripted_server: StartScripted) -> None:
        server = scripted_server([expect(b"x"), reset()])
        with connect(server) as client:
            client.sendall(b"x")
            with pytest.raises(ConnectionResetError):
                client.recv(1)

    def test_half_close(self, scripted_server: StartScripted) -> None:
        server = scripted_server([half_close(), expect(b"still taken")])
        with connect(server) as client:
            assert client.recv(1) == b""
            client.sendall(b"still taken")
            wait_until(lambda: server.received() == b"still taken", "the bytes")

    def test_bytewise(self, scripted_server: StartScripted) -> None:
        server = scripted_server([send_bytewise(b"INSERTED 1\r\n", 0.001), close()])
        with connect(server) as client:
            assert client.makefile("rb").read() == b"INSERTED 1\r\n"

    def test_a_stalling_connection_reads_nothing_and_ends_with_the_server(self, scripted_server: StartScripted) -> None:
        server = scripted_server(stall())
        with connect(server) as client:
            client.sendall(b"lost words")
            assert server.wait_accepts(1).received == b""
            with within(2.0):
                server.stop()
            assert server.received() in (b"", b"lost words")
        with pytest.raises(ConnectionRefusedError):
            connect(server)
        assert not thread_names("scripted")

    def test_answering_by_command(self, scripted_server: StartScripted) -> None:
        bodies = []

        def put(connection: ScriptedConnection, line: bytes, body: bytes) -> bytes:
            bodies.append(body)
            return b"INSERTED %d\r\n" % len(bodies)

        server = scripted_server(
            answering({"put": put, "stats": stats_reply(), "peek": with_data(b"FOUND 7", b"seven"), "quit": b""})
        )
        with RawClient((server.host, server.port)) as client:
            assert client.command(b"put 1 0 60 6", b"a\r\nput") == b"INSERTED 1"
            assert client.stats()["id"] == "0123456789abcdef"
            assert client.stats()["version"] == "1.12"
            assert client.peek(7) == b"seven"
            assert client.command(b"reserve-job 5") == b"UNKNOWN_COMMAND"
        assert bodies == [b"a\r\nput"]

    def test_nothing_is_left_of_a_server(self, scripted_server: StartScripted) -> None:
        with assert_baseline():
            server = scripted_server(stall(), default=stall())
            clients = [connect(server) for _ in range(5)]
            server.wait_accepts(5)
            for client in clients:
                client.close()
            server.stop()
            server.stop()
