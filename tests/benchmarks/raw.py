"""The yardsticks: a socket and nothing else. They check nothing, and so bound what any client can reach."""

from __future__ import annotations

import socket
from collections.abc import Sequence

from support.servers import BeanstalkdServer

BODY = b"x" * 100
PUT = b"put 0 0 60 %d\r\n%s\r\n" % (len(BODY), BODY)
RESERVE = b"reserve-with-timeout 0\r\n"
WINDOW = 200
"""Commands that are sent at once in a pipeline."""


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
    """Many commands per round trip, on one server."""

    def __init__(self, server: BeanstalkdServer) -> None:
        self._socket = connect(server)

    def _lines(self, count: int) -> list[bytes]:
        """So many lines of reply (a body is one too)."""
        received = self._socket.recv(65536)
        lines = received.count(b"\n")
        if lines < count:
            parts = [received]
            while lines < count:
                received = self._socket.recv(65536)
                if not received:
                    raise ConnectionResetError("the server closed the connection")
                parts.append(received)
                lines += received.count(b"\n")
            received = b"".join(parts)
        return received.split(b"\r\n")

    def puts(self, count: int) -> None:
        """Put so many jobs."""
        full = PUT * WINDOW
        for first in range(0, count, WINDOW):
            size = min(WINDOW, count - first)
            self._socket.sendall(full if size == WINDOW else PUT * size)
            self._lines(size)

    def reserves(self, count: int) -> None:
        """Reserve and delete so many jobs; there must be that many."""
        full = RESERVE * WINDOW
        for first in range(0, count, WINDOW):
            size = min(WINDOW, count - first)
            self._socket.sendall(full if size == WINDOW else RESERVE * size)
            heads = self._lines(2 * size)[: 2 * size : 2]
            self._socket.sendall(b"".join([b"delete %s\r\n" % head.split(b" ", 2)[1] for head in heads]))
            self._lines(size)

    def drain(self) -> int:
        """Reserve and delete whatever is ready in the tube ``default``; returns how many jobs that were."""
        drained, size = 0, 8
        while True:
            self._socket.sendall(RESERVE * size)
            received = b""
            # A job's reply has a second line, its body.
            while received.count(b"\n") < size + received.count(b"RESERVED "):
                received += self._socket.recv(65536)
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
