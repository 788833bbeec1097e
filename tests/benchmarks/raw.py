"""The yardsticks: a socket and nothing else. They check nothing, and so bound what any client can reach."""

from __future__ import annotations

import socket
from collections.abc import Sequence

from support.servers import BeanstalkdServer

BODY = b"x" * 100
PUT = b"put 0 0 60 %d\r\n%s\r\n" % (len(BODY), BODY)
RESERVE = b"reserve-with-timeout 0\r\n"
WINDOW = 500
"""Commands that are sent at once in a pipeline; more of them are not faster."""
_READ_SIZE = 262_144


def connect(server: BeanstalkdServer) -> socket.socket:
    """A socket as a client would make it."""
    sock = socket.create_connection((server.host, server.port))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


class RawLoop:
    """One command per round trip, on the servers in turn."""

    def __init__(self, servers: Sequence[BeanstalkdServer]) -> None:
        self._sockets = [connect(server) for server in servers]

    def puts(self, count: int) -> None:
        """Put so many jobs."""
        if len(self._sockets) == 1:
            send, receive = self._sockets[0].send, self._sockets[0].recv
            for _ in range(count):
                send(PUT)
                receive(4096)
            return
        pairs = [(sock.send, sock.recv) for sock in self._sockets]
        for number in range(count):
            send, receive = pairs[number % len(pairs)]
            send(PUT)
            receive(4096)

    def reserves(self, count: int) -> None:
        """Reserve and delete so many jobs."""
        pairs = [(sock.send, sock.recv) for sock in self._sockets]
        for number in range(count):
            send, receive = pairs[number % len(pairs)]
            send(RESERVE)
            send(b"delete %s\r\n" % receive(4096).split(b" ", 2)[1])
            receive(4096)

    def close(self) -> None:
        """Close the sockets."""
        for sock in self._sockets:
            sock.close()


class RawPipeline:
    """Many commands per round trip, on one server, which always has the next ones before it has answered the last."""

    def __init__(self, server: BeanstalkdServer) -> None:
        self._socket = connect(server)

    def _receive(self) -> bytes:
        received = self._socket.recv(_READ_SIZE)
        if not received:
            raise ConnectionResetError("the server closed the connection")
        return received

    def _lines(self, count: int) -> list[bytes]:
        """So many lines of reply (a body is one too), and nothing behind them."""
        received = self._receive()
        lines = received.count(b"\n")
        if lines < count:
            parts = [received]
            while lines < count:
                parts.append(self._receive())
                lines += parts[-1].count(b"\n")
            received = b"".join(parts)
        return received.split(b"\r\n")

    def puts(self, count: int) -> None:
        """Put so many jobs."""
        full = PUT * WINDOW
        sent = answered = 0
        while answered < count:
            while sent < count and sent - answered <= WINDOW:
                size = min(WINDOW, count - sent)
                self._socket.sendall(full if size == WINDOW else PUT * size)
                sent += size
            answered += self._receive().count(b"\n")

    def reserves(self, count: int) -> None:
        """Reserve and delete so many jobs; there must be that many."""
        deletes: list[bytes] = []
        left = count
        while left or deletes:
            size = min(WINDOW, left)
            self._socket.sendall(b"".join(deletes) + RESERVE * size)
            heads = self._lines(len(deletes) + 2 * size)[len(deletes) : len(deletes) + 2 * size : 2]
            deletes = [b"delete %s\r\n" % head.split(b" ", 2)[1] for head in heads]
            left -= size

    def drain(self) -> int:
        """Reserve and delete whatever is ready in the tube ``default``; returns how many jobs that were."""
        drained, size = 0, 8
        while True:
            self._socket.sendall(RESERVE * size)
            received = b""
            # A job's reply has a second line, its body.
            while received.count(b"\n") < size + received.count(b"RESERVED "):
                received += self._receive()
            ids = [line.split(b" ")[1] for line in received.split(b"\r\n") if line.startswith(b"RESERVED ")]
            if ids:
                self._socket.sendall(b"".join([b"delete %s\r\n" % jid for jid in ids]))
                self._lines(len(ids))
            drained += len(ids)
            if len(ids) < size:
                return drained
            size = min(2 * size, WINDOW)

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()
