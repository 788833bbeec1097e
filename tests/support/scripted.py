"""A TCP server that plays scripts, for what real servers cannot be made to do.

A script is a step or a sequence of steps, and a step is any callable that takes the
:class:`ScriptedConnection`. The functions of this module make the usual steps::

    with ScriptedServer([expect_line(b"stats"), send(b"OK 99999999999\\r\\n"), stall()]) as server:
        ...
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import struct
import threading
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Self, TypeAlias

from support.waiting import wait_until


class ScriptMismatch(AssertionError):
    """The client sent something else than the script expects."""


class PeerClosed(Exception):
    """The client closed the connection, or the server was stopped, in the middle of a script."""


class ScriptedConnection:
    """One accepted connection, and what a script may do with it. All bytes that arrive are in ``received``."""

    def __init__(self, accepted: socket.socket, number: int, stopping: threading.Event) -> None:
        self.number = number
        self.closed = threading.Event()
        """Set when this side is done with the connection, or the client has closed it and that was read."""
        self._socket = accepted
        self._stopping = stopping
        self._received = bytearray()
        self._taken = 0
        accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    @property
    def received(self) -> bytes:
        """Everything that was read from the client so far."""
        return bytes(self._received)

    def _fill(self) -> None:
        try:
            piece = self._socket.recv(65536)
        except OSError as error:
            raise PeerClosed(f"connection {self.number}: {error}") from None
        if not piece:
            raise PeerClosed(f"connection {self.number} was closed by the client")
        self._received += piece

    def read(self, size: int) -> bytes:
        """Read exactly `size` bytes."""
        while len(self._received) - self._taken < size:
            self._fill()
        start, self._taken = self._taken, self._taken + size
        return bytes(self._received[start : self._taken])

    def read_line(self) -> bytes:
        """Read up to CRLF; the line is returned without it."""
        while (end := self._received.find(b"\r\n", self._taken)) < 0:
            self._fill()
        start, self._taken = self._taken, end + 2
        return bytes(self._received[start:end])

    def expect(self, data: bytes) -> None:
        """Read as many bytes as `data` has; anything else than `data` fails the test."""
        got = self.read(len(data))
        if got != data:
            raise ScriptMismatch(f"connection {self.number}: expected {data!r}, got {got!r}")

    def expect_line(self, line: bytes | None = None) -> bytes:
        """Read a line; with `line` (without CRLF), anything else fails the test."""
        got = self.read_line()
        if line is not None and got != line:
            raise ScriptMismatch(f"connection {self.number}: expected the line {line!r}, got {got!r}")
        return got

    def read_until_closed(self) -> None:
        """Record what comes until the client closes its side."""
        with contextlib.suppress(PeerClosed):
            while True:
                self._fill()
        self._taken = len(self._received)

    def send(self, data: bytes) -> None:
        """Send all of `data`."""
        try:
            self._socket.sendall(data)
        except OSError as error:
            raise PeerClosed(f"connection {self.number}: {error}") from None

    def send_bytewise(self, data: bytes, pause: float = 0.0) -> None:
        """Send `data` in segments of one byte, `pause` seconds apart."""
        for index in range(len(data)):
            self.send(data[index : index + 1])
            if pause and self._stopping.wait(pause):
                raise PeerClosed(f"connection {self.number}: the server was stopped")

    def wait(self, event: threading.Event) -> None:
        """Do nothing until the test sets `event` (or stops the server)."""
        while not event.wait(0.01):
            if self._stopping.is_set():
                raise PeerClosed(f"connection {self.number}: the server was stopped")

    def stall(self) -> None:
        """Neither read nor write until the server is stopped; the connection stays open."""
        self._stopping.wait()

    def half_close(self) -> None:
        """Send FIN: the client reads end-of-file, and can still send."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Close in an orderly way: the client reads end-of-file, not a reset."""
        # Closing with unread input makes the kernel send a reset instead of FIN.
        with contextlib.suppress(OSError, PeerClosed):
            self._socket.setblocking(False)
            while True:
                self._fill()
        self._socket.close()
        self.closed.set()

    def reset(self) -> None:
        """Close with RST."""
        with contextlib.suppress(OSError):
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._socket.close()
        self.closed.set()

    def _interrupt(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)


Step: TypeAlias = Callable[[ScriptedConnection], object]
Script: TypeAlias = Step | Sequence[Step]
Answer: TypeAlias = bytes | Callable[[ScriptedConnection, bytes, bytes], bytes | None]


def expect(data: bytes) -> Step:
    """Step: :meth:`ScriptedConnection.expect`."""
    return lambda connection: connection.expect(data)


def expect_line(line: bytes | None = None) -> Step:
    """Step: :meth:`ScriptedConnection.expect_line`."""
    return lambda connection: connection.expect_line(line)


def send(data: bytes) -> Step:
    """Step: :meth:`ScriptedConnection.send`."""
    return lambda connection: connection.send(data)


def send_bytewise(data: bytes, pause: float = 0.0) -> Step:
    """Step: :meth:`ScriptedConnection.send_bytewise`."""
    return lambda connection: connection.send_bytewise(data, pause)


def wait_for(event: threading.Event) -> Step:
    """Step: :meth:`ScriptedConnection.wait`."""
    return lambda connection: connection.wait(event)


def stall() -> Step:
    """Step: :meth:`ScriptedConnection.stall`."""
    return lambda connection: connection.stall()


def half_close() -> Step:
    """Step: :meth:`ScriptedConnection.half_close`."""
    return lambda connection: connection.half_close()


def close() -> Step:
    """Step: :meth:`ScriptedConnection.close`."""
    return lambda connection: connection.close()


def reset() -> Step:
    """Step: :meth:`ScriptedConnection.reset`."""
    return lambda connection: connection.reset()


def with_data(head: bytes, data: bytes) -> bytes:
    """A reply with data: ``with_data(b"OK", b"---\\n")`` is ``b"OK 4\\r\\n---\\n\\r\\n"``."""
    return b"%s %d\r\n%s\r\n" % (head, len(data), data)


def stats_reply(fields: Mapping[str, object] | None = None) -> bytes:
    """An ``OK`` reply with these fields; the ones of a healthy server of version 1.12 are the default."""
    values = (
        {"pid": 1, "version": '"1.12"', "max-job-size": 65535, "draining": "false", "id": "0123456789abcdef"}
        if fields is None
        else fields
    )
    text = "---\n" + "".join(f"{name}: {value}\n" for name, value in values.items())
    return with_data(b"OK", text.encode())


def answering(answers: Mapping[str, Answer], *, otherwise: Answer = b"UNKNOWN_COMMAND\r\n") -> Step:
    """Step: answer each command by its name until the client closes.

    An answer is the bytes to send, or a function of (connection, line, body) that returns them, or
    returns None to send nothing. ``put`` has its body read before the answer is sent.
    """

    def serve(connection: ScriptedConnection) -> None:
        while True:
            line = connection.read_line()
            words = line.split(b" ")
            body = connection.read(int(words[4]) + 2)[:-2] if words[0] == b"put" and len(words) == 5 else b""
            answer = answers.get(words[0].decode("ascii", "replace"), otherwise)
            reply = answer(connection, line, body) if callable(answer) else answer
            if reply is not None:
                connection.send(reply)

    return serve


class ScriptedServer:
    """Listens on 127.0.0.1 from its construction until ``stop()``; every connection has its own daemon thread.

    The first connection plays the first script, the second one the second, and all further ones play
    `default`. A script that has ended leaves the connection open and records what still comes. A
    mismatch resets the connection and is raised by ``check()``, which the end of the ``with`` block calls.
    """

    def __init__(self, *scripts: Script, default: Script = ScriptedConnection.close) -> None:
        self._scripts = scripts
        self._default = default
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._errors: list[BaseException] = []
        self.connections: list[ScriptedConnection] = []
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=128)
        self._waker, self._woken = socket.socketpair()
        self.host = "127.0.0.1"
        self.port: int = self._listening.getsockname()[1]
        self._acceptor = threading.Thread(target=self._accept, name=f"scripted server {self.port}", daemon=True)
        self._acceptor.start()

    @property
    def address(self) -> str:
        """The address as beanpool writes it."""
        return f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        """The address as a URL."""
        return f"beanstalk://{self.address}"

    @property
    def accepts(self) -> int:
        """How many connections were accepted."""
        return len(self.connections)

    def received(self, number: int = 0) -> bytes:
        """Every byte that came on connection `number`, counted from 0."""
        return self.connections[number].received

    def wait_accepts(self, count: int, timeout: float = 5.0) -> ScriptedConnection:
        """Wait until `count` connections were accepted; return the last of those."""
        wait_until(lambda: self.accepts >= count, f"{count} connections to {self.address}", timeout)
        return self.connections[count - 1]

    def check(self) -> None:
        """Raise the first error of a script, if any."""
        with self._lock:
            if self._errors:
                raise self._errors[0]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        if kind is None:
            self.check()

    def stop(self) -> None:
        """Refuse connections, close all that are open, and end the threads."""
        self._stopping.set()
        if self._waker.fileno() >= 0:
            self._waker.send(b"x")
        self._acceptor.join(5.0)
        with self._lock:
            threads, connections = list(self._threads), list(self.connections)
        for connection in connections:
            connection._interrupt()
        for thread in threads:
            thread.join(5.0)
            if thread.is_alive():
                raise AssertionError(f"{thread.name} does not end")
        for channel in (self._listening, self._waker, self._woken):
            channel.close()

    def _accept(self) -> None:
        self._listening.setblocking(False)
        with selectors.DefaultSelector() as selector:
            selector.register(self._listening, selectors.EVENT_READ)
            selector.register(self._woken, selectors.EVENT_READ)
            while not self._stopping.is_set():
                selector.select()
                if self._stopping.is_set():
                    break
                with contextlib.suppress(BlockingIOError, ConnectionAbortedError):
                    self._take(self._listening.accept()[0])
        self._listening.close()

    def _take(self, accepted: socket.socket) -> None:
        accepted.setblocking(True)
        with self._lock:
            number = len(self.connections)
            connection = ScriptedConnection(accepted, number, self._stopping)
            script = self._scripts[number] if number < len(self._scripts) else self._default
            thread = threading.Thread(
                target=self._play, args=(connection, script), name=f"scripted {self.port} #{number}", daemon=True
            )
            self._threads.append(thread)
            self.connections.append(connection)
        thread.start()

    def _play(self, connection: ScriptedConnection, script: Script) -> None:
        try:
            for step in [script] if callable(script) else script:
                step(connection)
            if not connection.closed.is_set():
                connection.read_until_closed()
        except PeerClosed:
            pass
        except BaseException as error:  # check() raises it in the test.
            with self._lock:
                self._errors.append(error)
            connection.reset()
        finally:
            if not connection.closed.is_set():
                connection.close()
