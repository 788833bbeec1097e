"""The same bytes to an embedded server and to a real one, and every reply and statistic compared."""

from __future__ import annotations

import contextlib
import re
import socket
import time
from collections.abc import Callable, Iterable
from typing import Self

from support.servers import BeanstalkdServer, beanstalkd_version, require_beanstalkd

from beanpool.testing import EmbeddedServer

PATIENCE = 10.0

# What time, chance and the process decide.
_UNCOMPARED = {"age", "time-left", "pause-time-left", "uptime", "rusage-utime", "rusage-stime", "pid"}


class Peer:
    """One connection to one of the servers: bytes out, whole replies in."""

    def __init__(self, target: tuple[str, int]) -> None:
        self._socket = socket.create_connection(target, PATIENCE)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._unread = bytearray()
        self.ended = False

    def send(self, data: bytes) -> None:
        """Send; that the server has closed the connection is for the replies to tell."""
        self._socket.settimeout(PATIENCE)
        with contextlib.suppress(ConnectionError):
            self._socket.sendall(data)

    def half_close(self) -> None:
        """Send no more."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self._socket.close()

    def here(self) -> list[bytes]:
        """The whole replies that have come."""
        return self._replies(until=lambda count: False, timeout=0.0)

    def next(self, count: int) -> list[bytes]:
        """The next `count` replies, waiting for them; fewer if the server closes the connection or is silent."""
        return self._replies(until=lambda found: found >= count, timeout=PATIENCE)

    def rest(self) -> list[bytes]:
        """All replies until the server closes the connection."""
        replies = self._replies(until=lambda count: False, timeout=PATIENCE)
        assert self.ended, f"the connection was not closed; so far: {replies}"
        return replies

    def _replies(self, until: Callable[[int], bool], timeout: float) -> list[bytes]:
        found: list[bytes] = []
        end = time.monotonic() + timeout
        while True:
            while (reply := self._take()) is not None:
                found.append(reply)
            if until(len(found)) or self.ended:
                return found
            self._socket.settimeout(max(0.0, end - time.monotonic()))
            try:
                data = self._socket.recv(65536)
            except (BlockingIOError, TimeoutError):
                return found
            except ConnectionError:
                data = b""
            self.ended = not data
            self._unread += data

    def _take(self) -> bytes | None:
        line, ending, rest = bytes(self._unread).partition(b"\r\n")
        if not ending:
            return None
        size = 0
        if line.startswith((b"OK ", b"FOUND ", b"RESERVED ")):
            data = int(line.split()[-1]) + 2
            if len(rest) < data:
                return None
            size = data
        reply = line + ending + rest[:size]
        del self._unread[: len(reply)]
        return reply


def comparable(reply: bytes) -> bytes:
    """The reply without what may differ: of a statistics document, times, process ids and the server's own id."""
    head, _, document = reply.partition(b"\r\n")
    if not head.startswith(b"OK "):
        return reply
    lines = document.decode().splitlines()
    kept = [line for line in lines if line.partition(":")[0] not in _UNCOMPARED]
    return "\n".join(line for line in kept if not re.fullmatch(r"id: [0-9a-f]{16}", line)).encode()


class Pair:
    """The same connection to both servers.

    :ivar unanswered: how many of the commands that were sent wait for their reply.
    :ivar reserved: the ids of the jobs that it was given.
    """

    def __init__(self, embedded: Peer, real: Peer) -> None:
        self.embedded = embedded
        self.real = real
        self.unanswered = 0
        self.reserved: list[int] = []

    @property
    def peers(self) -> tuple[Peer, Peer]:
        return self.embedded, self.real

    def send(self, data: bytes) -> None:
        for peer in self.peers:
            peer.send(data)

    def close(self) -> None:
        for peer in self.peers:
            peer.close()


class SideBySide:
    """One embedded server, one real one of the same version, and a control connection to both."""

    def __init__(self, *, max_job_size: int = 65535) -> None:
        binary = require_beanstalkd()
        # Newer ones speak like the newest that the embedded server knows.
        version = "1.12" if beanstalkd_version(binary).startswith("1.12") else "1.13"
        self._real = BeanstalkdServer(binary=binary, max_job_size=max_job_size)
        self._embedded = EmbeddedServer(max_job_size=max_job_size, version=version)
        self.pairs: list[Pair] = []
        self.job_ids: list[int] = []
        self.tubes: list[str] = []
        self.compared = 0

    def __enter__(self) -> Self:
        self._real.start()
        self._embedded.start()
        # The helper that waited for the real server has asked it for statistics before us; so that both count the same:
        real = self._peer(self._real)
        helpers = int(re.findall(rb"total-connections: (\d+)", self._ask(real, b"stats"))[0]) - 1
        for _ in range(helpers):
            with contextlib.closing(self._peer(self._embedded)) as helper:
                self._ask(helper, b"stats")
        embedded = self._peer(self._embedded)
        self._ask(embedded, b"stats")
        self._control = Pair(embedded, real)
        return self

    def __exit__(self, *_: object) -> None:
        for pair in (*self.pairs, self._control):
            pair.close()
        self._embedded.stop()
        self._real.stop()

    @staticmethod
    def _peer(server: EmbeddedServer | BeanstalkdServer) -> Peer:
        return Peer((server.host, server.port))

    @staticmethod
    def _ask(peer: Peer, command: bytes) -> bytes:
        peer.send(command + b"\r\n")
        [reply] = peer.next(1)
        return reply

    def open(self) -> Pair:
        """Another connection to both."""
        pair = Pair(self._peer(self._embedded), self._peer(self._real))
        self.pairs.append(pair)
        self.compare()
        return pair

    def say(self, pair: Pair, *commands: bytes) -> list[bytes]:
        """Send commands in one piece to both servers and compare what comes of it everywhere; return their replies."""
        pair.send(b"".join(commands))
        pair.unanswered += len(commands)
        return self.compare()[pair]

    def finish(self, pair: Pair) -> list[bytes]:
        """Half-close a connection and compare everything up to its end."""
        for peer in pair.peers:
            peer.half_close()
        ours, theirs = (list(map(comparable, peer.rest())) for peer in pair.peers)
        assert ours == theirs
        self._forget(pair)
        return ours

    def hang_up(self, pair: Pair) -> None:
        """Close a connection without a word."""
        self._forget(pair)

    def _forget(self, pair: Pair) -> None:
        pair.close()
        self.pairs.remove(pair)
        self.compare(rounds=6)

    def compare(self, rounds: int = 2) -> dict[Pair, list[bytes]]:
        """Compare what has come on every connection, and the statistics of everything; return the replies.

        :param rounds: round trips before that, at least. A server does one thing for each connection per round.
        """
        # What waits behind a reserve that ends is carried out too, one command after the other.
        for _ in range(rounds + 2 * sum(pair.unanswered for pair in self.pairs)):
            # A command that there is not is not counted either: no statistics show it.
            self._control_replies(b"ping\r\n")
        found = {}
        for pair in list(self.pairs):
            ours = list(map(comparable, pair.embedded.here()))
            theirs = list(map(comparable, pair.real.next(len(ours))))
            theirs += map(comparable, pair.real.here())
            assert ours == theirs, (ours, theirs)
            if pair.embedded.ended:
                assert pair.real.rest() == []
                pair.close()
                self.pairs.remove(pair)
            pair.unanswered -= len(ours)
            found[pair] = ours
            self._note(pair, ours)
        self._compare_statistics()
        self.compared += sum(map(len, found.values()))
        return found

    def _note(self, pair: Pair, replies: Iterable[bytes]) -> None:
        for reply in replies:
            if given := re.match(rb"(INSERTED|RESERVED) (\d+)", reply):
                (self.job_ids if given[1] == b"INSERTED" else pair.reserved).append(int(given[2]))

    def _compare_statistics(self) -> None:
        [ours, theirs] = self._control_replies(b"list-tubes\r\n")
        assert ours == theirs
        self.tubes = re.findall(r"^- (.+)$", ours[0].decode(), re.MULTILINE)
        queries = ["stats", *(f"stats-tube {tube}" for tube in self.tubes), *(f"stats-job {id}" for id in self.job_ids)]
        ours, theirs = self._control_replies("".join(f"{query}\r\n" for query in queries).encode())
        for query, our, their in zip(queries, ours, theirs, strict=True):
            assert comparable(our) == comparable(their), (query, our, their)
        of_jobs = ours[len(ours) - len(self.job_ids) :]
        self.job_ids = [id for id, reply in zip(self.job_ids, of_jobs, strict=True) if reply != b"NOT_FOUND\r\n"]

    def _control_replies(self, request: bytes) -> list[list[bytes]]:
        self._control.send(request)
        count = request.count(b"\r\n")
        replies = [peer.next(count) for peer in self._control.peers]
        assert list(map(len, replies)) == [count, count]
        return replies
