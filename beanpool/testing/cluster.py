"""Servers for a test: beanstalkd where there is one, embedded servers where there is none."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import TracebackType
from typing import Protocol, Self, overload

from beanpool.testing.beanstalkd import BeanstalkdServer, find_beanstalkd
from beanpool.testing.embedded.server import DEFAULT_MAX_JOB_SIZE, EmbeddedServer


class LocalServer(Protocol):
    """What a test can do with a server of either kind.

    :ivar host: the loopback address.
    :ivar port: the port, which it keeps while it is down.
    """

    host: str
    port: int

    @property
    def address(self) -> str:
        """``127.0.0.1:4711``."""

    @property
    def url(self) -> str:
        """``beanstalk://127.0.0.1:4711``."""

    @property
    def running(self) -> bool:
        """Whether it lives (a frozen one does)."""

    def start(self) -> None:
        """Start it again after :meth:`kill`."""

    def kill(self) -> None:
        """End it without a warning: its jobs are gone, but for those in a write-ahead log, and connects are refused."""

    def restart(self) -> None:
        """:meth:`kill` and :meth:`start`."""

    def freeze(self) -> None:
        """Let it stand still: connects go on succeeding, nothing is answered."""

    def thaw(self) -> None:
        """Let it go on."""

    def drain(self) -> None:
        """Let it take no new jobs until the next restart."""

    def stop(self) -> None:
        """End it for good."""


def new_server(*, max_job_size: int | None = None, embedded: bool | None = None, wal: bool = False) -> LocalServer:
    """A server that is not started yet.

    :param max_job_size: bytes; None for beanstalkd's own default.
    :param embedded: whether it is an embedded one; None for an embedded one only where there is no beanstalkd, and no
        write-ahead log is asked for.
    :param wal: whether it keeps a write-ahead log (``-b``): what it has acknowledged is there again after ``kill`` and
        ``start``. An embedded one has none.
    :raises NoBeanstalkd: if it is not to be an embedded one, and there is no beanstalkd.
    :raises ValueError: for an embedded one with a write-ahead log.
    """
    if embedded and wal:
        raise ValueError("an embedded server keeps no write-ahead log: leave out embedded=True, or wal=True")
    if embedded is None:
        embedded = not wal and find_beanstalkd() is None
    if embedded:
        return EmbeddedServer(max_job_size=DEFAULT_MAX_JOB_SIZE if max_job_size is None else max_job_size)
    return BeanstalkdServer(max_job_size=max_job_size, wal=wal)


class Cluster:
    """Several servers, numbered from 0. As a context manager it starts them and, at the end, stops them.

    :param count: how many.
    :param max_job_size: bytes, of each of them.
    :param embedded: see :func:`new_server`.
    :param wal: whether each of them keeps a write-ahead log.
    """

    def __init__(
        self, count: int = 3, *, max_job_size: int | None = None, embedded: bool | None = None, wal: bool = False
    ) -> None:
        self.servers: list[LocalServer] = []
        try:
            for _ in range(count):
                self.servers.append(new_server(max_job_size=max_job_size, embedded=embedded, wal=wal))
        except BaseException:
            self.stop()
            raise

    def __enter__(self) -> Self:
        try:
            for server in self.servers:
                server.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def __len__(self) -> int:
        return len(self.servers)

    def __iter__(self) -> Iterator[LocalServer]:
        return iter(self.servers)

    @overload
    def __getitem__(self, number: int) -> LocalServer: ...
    @overload
    def __getitem__(self, number: slice) -> list[LocalServer]: ...
    def __getitem__(self, number: int | slice) -> LocalServer | list[LocalServer]:
        return self.servers[number]

    @property
    def addresses(self) -> list[str]:
        """The servers' addresses, as ``PoolManager`` takes them."""
        return [server.address for server in self.servers]

    @property
    def url(self) -> str:
        """All servers in one URL, as ``PoolManager`` takes it."""
        return "beanstalk://" + ",".join(self.addresses)

    def kill(self, number: int) -> None:
        """End a server without a warning: its jobs are gone, but for those in a log, and connects are refused."""
        self.servers[number].kill()

    def start(self, number: int) -> None:
        """Start a killed server again, at the same address."""
        self.servers[number].start()

    def restart(self, number: int) -> None:
        """:meth:`kill` and :meth:`start`: another process, as far as a client can tell, with the jobs of its log."""
        self.servers[number].restart()

    def freeze(self, number: int) -> None:
        """Let a server stand still: connects go on succeeding, nothing is answered."""
        self.servers[number].freeze()

    def thaw(self, number: int) -> None:
        """Let a frozen server go on."""
        self.servers[number].thaw()

    def drain(self, number: int) -> None:
        """Let a server take no new jobs until its next restart."""
        self.servers[number].drain()

    def stop(self) -> None:
        """End all of them for good."""
        with contextlib.ExitStack() as stack:
            for server in self.servers:
                stack.callback(server.stop)
