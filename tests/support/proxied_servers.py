"""Servers behind a proxy in the place of near ones, for tests that know nothing of it."""

from __future__ import annotations

import abc
import contextlib
from typing import Any, Protocol

import pytest

from beanpool.testing.raw_client import RawClient
from support.servers import BeanstalkdServer, ShortWay


class Line(Protocol):
    """The proxy."""

    host: str
    port: int

    @property
    def address(self) -> str:
        """What beanpool knows the server by."""

    def down(self) -> None:
        """Close all connections and refuse new ones."""

    def up(self) -> None:
        """Take connections again."""

    def close(self) -> None:
        """End it."""


class ServerBehindProxy(BeanstalkdServer):
    """What a test knows of a BeanstalkdServer, and one behind a proxy.

    Tests see it at the address of the proxy; what they ask of it by its ``control`` or ``raw()`` takes the short way.
    """

    @abc.abstractmethod
    def open_line(self, server: BeanstalkdServer) -> Line:
        """Put the proxy before this server."""

    def __init__(self, **options: Any) -> None:
        if options.get("unix"):
            pytest.skip("a proxy leads to a port")
        self._near = BeanstalkdServer(**options)
        try:
            self._line = self.open_line(self._near)
        except BaseException:
            self._near.stop()
            raise
        self._line.down()
        self.host, self.port = self._line.host, self._line.port
        self.binary = self._near.binary
        self.path = None
        self.wal_dir = self._near.wal_dir
        self.max_job_size = self._near.max_job_size
        self._clients = []
        self.control = self.raw()

    @property
    def running(self) -> bool:
        return self._near.running

    @property
    def pid(self) -> int:
        return self._near.pid

    @property
    def log(self) -> str:
        return self._near.log

    def raw(self, timeout: float = 5.0) -> RawClient:
        client = ShortWay(self._near, self._line.address, timeout)
        self._near._clients.append(client)
        return client

    def start(self, *, wait: bool = True) -> None:
        self._near.start(wait=wait)
        self._line.up()

    def wait_ready(self, timeout: float = 5.0) -> None:
        self._near.wait_ready(timeout)

    def kill(self) -> None:
        self._line.down()
        self._near.kill()

    def terminate(self) -> None:
        self._line.down()
        self._near.terminate()

    def restart(self) -> None:
        self.kill()
        self.start()

    def freeze(self) -> None:
        self._near.freeze()

    def thaw(self) -> None:
        self._near.thaw()

    def drain(self) -> None:
        self._near.drain()

    def stop(self) -> None:
        with contextlib.closing(self._line):
            self._near.stop()
