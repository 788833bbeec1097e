"""The servers of :mod:`beanpool.testing.beanstalkd` for tests, and what a test does where there is none."""

from __future__ import annotations

import contextlib
import functools
import os
import socket
from collections.abc import Sequence
from typing import TypedDict, Unpack

import pytest

from beanpool.testing.beanstalkd import (
    BeanstalkdServer,
    beanstalkd_version,
    find_beanstalkd,
    no_beanstalkd,
    takes_listening_socket,
)
from beanpool.testing.raw_client import RawClient

# Tests import them from here.
__all__ = [
    "BeanstalkdServer",
    "ServerFactory",
    "ServerOptions",
    "ShortWay",
    "beanstalkd_version",
    "find_beanstalkd",
    "have_ipv6",
    "no_beanstalkd",
    "require_beanstalkd",
    "takes_listening_socket",
]


class ShortWay(RawClient):
    """A connection past a server's proxy. It says that it is at the proxy's address, as all does that beanpool says."""

    def __init__(self, server: BeanstalkdServer, address: str, timeout: float = 5.0) -> None:
        super().__init__(server.target, timeout)
        self._address = address

    @property
    def address(self) -> str:
        """The address by which beanpool knows the server."""
        return self._address


class ServerOptions(TypedDict, total=False):
    """The keyword arguments of :class:`BeanstalkdServer`."""

    host: str
    unix: bool
    wal: bool
    merge_log: bool
    max_job_size: int | None
    args: Sequence[str]
    nofile: int | None
    address_space: int | None
    binary: str | None


class ServerFactory:
    """Starts servers and stops them all at the end; the fixture ``beanstalkd_factory`` is one."""

    def __init__(self, server: type[BeanstalkdServer] = BeanstalkdServer) -> None:
        self.servers: list[BeanstalkdServer] = []
        self._server = server

    def __call__(self, **options: Unpack[ServerOptions]) -> BeanstalkdServer:
        """A started server with these options."""
        server = self._server(**options)
        self.servers.append(server)
        server.start()
        return server

    def cluster(self, count: int, **options: Unpack[ServerOptions]) -> list[BeanstalkdServer]:
        """`count` started servers with the same options."""
        return [self(**options) for _ in range(count)]

    def stop(self) -> None:
        """Stop every server that this factory started."""
        with contextlib.ExitStack() as stack:
            while self.servers:
                stack.callback(self.servers.pop().stop)


def require_beanstalkd() -> str:
    """:func:`find_beanstalkd`, or skip the test; with ``BEANPOOL_REQUIRE_SERVERS=1``, fail it."""
    binary = find_beanstalkd()
    if binary is not None:
        return binary
    if os.environ.get("BEANPOOL_REQUIRE_SERVERS", "") not in ("", "0"):
        pytest.fail(no_beanstalkd(), pytrace=False)
    pytest.skip(no_beanstalkd())


@functools.cache
def have_ipv6() -> bool:
    """Whether ``::1`` can be bound here."""
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True
