"""A beanstalkd client of a few lines that shares no code with beanpool: the truth for assertions."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterable
from types import TracebackType
from typing import BinaryIO, NamedTuple, Self

Target = tuple[str, int] | str

_STATES = ("ready", "delayed", "buried")


class StoredJob(NamedTuple):
    """A job as a server holds it."""

    id: int
    body: bytes
    state: str = ""
    tube: str = ""


class UnexpectedReply(RuntimeError):
    """The server answered something else than the helper needs."""

    def __init__(self, command: bytes, reply: bytes) -> None:
        super().__init__(f"{command[:80]!r} was answered with {reply[:80]!r}")
        self.reply = reply


class RawClient:
    """One connection, opened at the first command and again at the first one after a failure.

    Any thread may use it: a command and its reply are one step under a lock. Every failure on the
    wire is an ``OSError`` (``TimeoutError`` for silence) and closes the connection.

    :param target: ``(host, port)``, or the path of a Unix socket.
    :param timeout: seconds for connecting and for each piece of a reply.
    """

    def __init__(self, target: Target, timeout: float = 5.0) -> None:
        self.target = target
        self.timeout = timeout
        self._lock = threading.RLock()
        self._socket: socket.socket | None = None
        self._reader: BinaryIO | None = None

    @property
    def address(self) -> str:
        """The server's address, written as beanpool writes it."""
        if isinstance(self.target, str):
            return f"unix:{self.target}"
        host, port = self.target
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def open(self) -> Self:
        """Connect now, for a test that counts descriptors or connections."""
        with self._lock:
            self._stream()
        return self

    def close(self) -> None:
        """Close the connection; the jobs that it reserved become ready."""
        with self._lock:
            if self._reader is not None:
                self._reader.close()
                self._reader = None
            if self._socket is not None:
                self._socket.close()
                self._socket = None

    def _stream(self) -> tuple[socket.socket, BinaryIO]:
        if self._socket is None or self._reader is None:
            if isinstance(self.target, str):
                connected = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
                connected.settimeout(self.timeout)
                try:
                    connected.connect(self.target)
                except BaseException:
                    connected.close()
                    raise
            else:
                connected = socket.create_connection(self.target, self.timeout)
                connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._socket = connected
            self._reader = connected.makefile("rb")
        return self._socket, self._reader

    def _exchange(self, request: bytes, replies: int = 1) -> list[tuple[bytes, bytes | None]]:
        with self._lock:
            try:
                stream, reader = self._stream()
                stream.sendall(request)
                return [self._read_reply(reader) for _ in range(replies)]
            except BaseException:
                self.close()
                raise

    def _read_reply(self, reader: BinaryIO) -> tuple[bytes, bytes | None]:
        line = reader.readline()
        if not line.endswith(b"\r\n"):
            raise ConnectionResetError(f"{self.address} closed the connection instead of answering")
        line = line[:-2]
        words = line.split(b" ")
        if words[0] not in (b"OK", b"FOUND", b"RESERVED"):
            return line, None
        size = int(words[-1])
        data = reader.read(size + 2)
        if len(data) != size + 2:
            raise ConnectionResetError(f"{self.address} closed the connection within a reply")
        return line, data[:-2]

    @staticmethod
    def _encode(line: bytes | str, body: bytes | None) -> bytes:
        head = line.encode() if isinstance(line, str) else line
        return head + b"\r\n" if body is None else head + b"\r\n" + body + b"\r\n"

    def command(self, line: bytes | str, body: bytes | None = None) -> bytes:
        """Send one command and return its whole reply as it came, without the last CRLF.

        Nothing is checked on the way out, so it also sends what no client should.
        """
        [(head, data)] = self._exchange(self._encode(line, body))
        return head if data is None else head + b"\r\n" + data

    def data(self, line: bytes | str) -> bytes | None:
        """Send one command and return the data of its reply; None for ``NOT_FOUND``."""
        [(head, data)] = self._exchange(self._encode(line, None))
        if head == b"NOT_FOUND":
            return None
        if data is None:
            raise UnexpectedReply(self._encode(line, None), head)
        return data

    def _checked(self, line: str, expected: bytes, body: bytes | None = None) -> list[bytes]:
        [(head, _)] = self._exchange(self._encode(line, body))
        words = head.split(b" ")
        if words[0] != expected:
            raise UnexpectedReply(line.encode(), head)
        return words

    def stats(self) -> dict[str, str]:
        """``stats``: every value is text, without its quotes."""
        return _fields(self.data("stats") or b"")

    def stats_tube(self, tube: str) -> dict[str, str]:
        """``stats-tube``: every value is text. Raises ``LookupError`` when there is no such tube."""
        data = self.data(f"stats-tube {tube}")
        if data is None:
            raise LookupError(f"{self.address} has no tube {tube!r}")
        return _fields(data)

    def stats_job(self, job_id: int) -> dict[str, str] | None:
        """``stats-job``: every value is text; None when there is no such job."""
        data = self.data(f"stats-job {job_id}")
        return None if data is None else _fields(data)

    def counter(self, name: str, tube: str | None = None) -> int:
        """One number of ``stats``, or of ``stats-tube`` (0 when there is no such tube)."""
        if tube is None:
            return int(self.stats()[name])
        data = self.data(f"stats-tube {tube}")
        return 0 if data is None else int(_fields(data)[name])

    def other_connections(self) -> int:
        """How many connections the server has, not counting this one."""
        return self.counter("current-connections") - 1

    def tubes(self) -> list[str]:
        """``list-tubes``."""
        data = self.data("list-tubes") or b""
        return [line[2:] for line in data.decode().splitlines() if line.startswith("- ")]

    def put(self, body: bytes, tube: str = "default", *, priority: int = 2**31, delay: int = 0, ttr: int = 120) -> int:
        """Put a job and return its id (this connection then uses that tube)."""
        with self._lock:
            self._checked(f"use {tube}", b"USING")
            return int(self._checked(f"put {priority} {delay} {ttr} {len(body)}", b"INSERTED", body)[1])

    def watch_only(self, *tubes: str) -> None:
        """Watch exactly these tubes on this connection."""
        with self._lock:
            for tube in tubes:
                self._checked(f"watch {tube}", b"WATCHING")
            data = self.data("list-tubes-watched") or b""
            watched = [line[2:] for line in data.decode().splitlines() if line.startswith("- ")]
            for tube in set(watched) - set(tubes):
                self._checked(f"ignore {tube}", b"WATCHING")

    def reserve(self, timeout: int = 0) -> StoredJob | None:
        """``reserve-with-timeout`` on this connection; None for ``TIMED_OUT`` (`timeout` in seconds)."""
        [(head, data)] = self._exchange(self._encode(f"reserve-with-timeout {timeout}", None))
        if head == b"TIMED_OUT":
            return None
        if data is None:
            raise UnexpectedReply(b"reserve-with-timeout", head)
        return StoredJob(int(head.split(b" ")[1]), data, "reserved")

    def peek(self, job_id: int) -> bytes | None:
        """The body of the job, in whatever state it is (reserved by anyone included); None if there is none."""
        return self.data(f"peek {job_id}")

    def state(self, job_id: int) -> str | None:
        """``ready``, ``delayed``, ``reserved`` or ``buried``; None when there is no such job."""
        fields = self.stats_job(job_id)
        return None if fields is None else fields["state"]

    def delete(self, job_id: int) -> bool:
        """``delete``: whether the server had such a job to delete."""
        [(head, _)] = self._exchange(self._encode(f"delete {job_id}", None))
        if head not in (b"DELETED", b"NOT_FOUND"):
            raise UnexpectedReply(b"delete", head)
        return head == b"DELETED"

    def drain_jobs(self, tube: str = "default") -> list[StoredJob]:
        """Delete the tube's ready, delayed and buried jobs and return them, in that order.

        Jobs that a connection has reserved stay where they are.
        """
        found: list[StoredJob] = []
        with self._lock:
            self._checked(f"use {tube}", b"USING")
            for state in _STATES:
                peek = f"peek-{state}\r\n".encode()
                [(head, data)] = self._exchange(peek)
                while data is not None:
                    job_id = int(head.split(b" ")[1])
                    [(deleted, _), (head, next_data)] = self._exchange(f"delete {job_id}\r\n".encode() + peek, 2)
                    # A worker that still runs may have reserved it in between: then the job is not ours to report.
                    if deleted == b"DELETED":
                        found.append(StoredJob(job_id, data, state, tube))
                    data = next_data
        return found

    def drain_all(self) -> list[StoredJob]:
        """:meth:`drain_jobs` of every tube that the server has."""
        return [job for tube in self.tubes() for job in self.drain_jobs(tube)]


def close_all(clients: Iterable[RawClient]) -> None:
    """Close every client, whatever the others do."""
    with contextlib.ExitStack() as stack:
        for client in clients:
            stack.callback(client.close)


def _fields(text: bytes) -> dict[str, str]:
    fields = {}
    for line in text.decode().splitlines():
        name, colon, value = line.partition(":")
        if colon:
            fields[name] = value.strip().removeprefix('"').removesuffix('"')
    return fields
