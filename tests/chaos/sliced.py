"""A plugin of pytest that puts every beanstalkd of a run behind a slicer: one byte at a time, in both directions.

``PYTHONPATH=tests pytest -p chaos.sliced tests/functional/connection`` runs tests that know nothing of it. What a test
sees as the server's address leads through the slicer; its control connection does not.
"""

from __future__ import annotations

from typing import Any

import pytest
import support.servers
from chaos.proxies import STREAMS, Link, Toxiproxy, Truth
from support.servers import BeanstalkdServer

from beanpool.testing.raw_client import RawClient, Target

_proxy: list[Toxiproxy] = []


class SlicedServer(BeanstalkdServer):
    """A beanstalkd on 127.0.0.1 behind a slicer. Others, on Unix sockets and ::1, are as they were."""

    def __init__(self, **options: Any) -> None:
        self._link: Link | None = None
        self._own_port = 0
        super().__init__(**options)

    def _choose_port(self) -> None:
        super()._choose_port()
        if self.host == "127.0.0.1":
            self._link = _proxy[0].link(self.host, self._own_port)
            for stream in STREAMS:
                self._link.add("slicer", stream, average_size=1, size_variation=0, delay=1)
            self._link.down()

    @property
    def port(self) -> int:
        return self._own_port if self._link is None else self._link.port

    @port.setter
    def port(self, port: int) -> None:
        self._own_port = port

    @property
    def target(self) -> Target:
        return (self.host, self._own_port) if self.path is None else self.path

    def raw(self, timeout: float = 5.0) -> RawClient:
        if self._link is None:
            return super().raw(timeout)
        client = Truth(self, self._link.address)
        client.timeout = timeout
        self._clients.append(client)
        return client

    def _bind(self, port: int) -> Any:
        return super()._bind(self._own_port if port else 0)

    def _command(self) -> list[str]:
        command = super()._command()
        if self.path is None:
            command[command.index("-p") + 1] = str(self._own_port)
        return command

    def start(self, *, wait: bool = True) -> None:
        super().start(wait=wait)
        if self._link is not None:
            self._link.up()

    def _end(self, number: Any) -> None:
        if self._link is not None:
            self._link.down()
        super()._end(number)

    def stop(self) -> None:
        super().stop()
        if self._link is not None:
            self._link.remove()
            self._link = None


@pytest.hookimpl(tryfirst=True)
def pytest_sessionstart() -> None:
    _proxy.append(Toxiproxy())
    _proxy[0].start()


def pytest_unconfigure() -> None:
    while _proxy:
        _proxy.pop().stop()


# What the conftest imports afterwards, and what its factory makes.
support.servers.BeanstalkdServer = SlicedServer  # type: ignore[misc]  # a subclass takes its place
