"""A plugin of pytest that lets embedded servers take the place of every beanstalkd of a run.

``PYTHONPATH=tests pytest -p testing.on_embedded tests/functional/connection`` runs tests that know nothing of it. Tests
that start no server are deselected, for they would say nothing new. A test that asks for what only a process has is
left out: a write-ahead log, a Unix socket, limits of descriptors and memory, arguments, a process id, or a log. So is
one that is about so many commands that the embedded server would take most of the run's time.
"""

from __future__ import annotations

from typing import Any, NoReturn, Self

import pytest
import support.servers
from support.servers import BeanstalkdServer

from beanpool.testing import EmbeddedServer
from beanpool.testing.embedded.server import DEFAULT_MAX_JOB_SIZE
from beanpool.testing.raw_client import RawClient, close_all

_OPTIONS_OF_A_PROCESS = ("unix", "wal", "args", "nofile", "address_space", "binary")

# Tests that say nothing about an embedded server, by their names.
_REASONS = {
    # It stops the process whose id is in the statistics, which would be this one.
    "test_a_frozen_server_does_not_delay_the_end": "only a process has it: signals",
    **dict.fromkeys(
        (
            "test_100_000_puts_come_through",
            "test_a_job_of_the_last_of_10_000",
            "test_a_set_up_is_linear",
        ),
        "it takes ten thousand commands and more, and is about the client",
    ),
}


class AcceptedClient(RawClient):
    """Is accepted when it is open: the server's descriptors are this process's too, and some tests count them."""

    def open(self) -> Self:
        super().open()
        self.command("ping")
        return self


def needs_a_process(what: str) -> NoReturn:
    """Leave the test out."""
    pytest.skip(f"only a process has it: {what}")


class EmbeddedBeanstalkd(BeanstalkdServer):
    """What a test knows of a BeanstalkdServer, and an embedded server behind it."""

    def __init__(self, *, host: str = "127.0.0.1", max_job_size: int | None = None, **options: Any) -> None:
        for option in _OPTIONS_OF_A_PROCESS:
            if options.get(option):
                needs_a_process(option)
        self._embedded = EmbeddedServer(host, max_job_size=max_job_size or DEFAULT_MAX_JOB_SIZE)
        self.host, self.port = self._embedded.host, self._embedded.port
        self.path = None
        self.wal_dir = None
        self.max_job_size = max_job_size
        self._clients = []
        self.control = self.raw()

    @property
    def running(self) -> bool:
        return self._embedded.running

    @property
    def pid(self) -> int:
        needs_a_process("pid")

    @property
    def log(self) -> str:
        needs_a_process("log")

    def start(self, *, wait: bool = True) -> None:
        self._embedded.start()

    def raw(self, timeout: float = 5.0) -> RawClient:
        client = AcceptedClient(self.target, timeout)
        self._clients.append(client)
        return client

    def wait_ready(self, timeout: float = 5.0) -> None:
        assert self.running

    def kill(self) -> None:
        close_all(self._clients)
        self._embedded.kill()

    def terminate(self) -> None:
        self.kill()

    def restart(self) -> None:
        self.kill()
        self.start()

    def freeze(self) -> None:
        self._embedded.freeze()

    def thaw(self) -> None:
        if self.running:
            self._embedded.thaw()

    def drain(self) -> None:
        self._embedded.drain()

    def stop(self) -> None:
        close_all(self._clients)
        self._embedded.stop()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    without = [item for item in items if "beanstalkd_factory" not in getattr(item, "fixturenames", ())]
    items[:] = [item for item in items if item not in without]
    config.hook.pytest_deselected(items=without)
    for item in items:
        if item.name in _REASONS:
            item.add_marker(pytest.mark.skip(reason=_REASONS[item.name]))


# What the conftest imports afterwards, and what its factory makes.
support.servers.BeanstalkdServer = EmbeddedBeanstalkd  # type: ignore[misc]  # a subclass takes its place
