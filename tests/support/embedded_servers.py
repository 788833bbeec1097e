"""Embedded servers in the place of beanstalkd, for tests that know nothing of it.

A test that asks for what only a process has is skipped: a write-ahead log, a Unix socket, limits of descriptors and
memory, arguments, a process id, or a log.
"""

from __future__ import annotations

from typing import Any, NoReturn, Self

import pytest

from beanpool.testing import EmbeddedServer
from beanpool.testing.embedded.server import DEFAULT_MAX_JOB_SIZE
from beanpool.testing.raw_client import RawClient, close_all
from support.servers import BeanstalkdServer

_OPTIONS_OF_A_PROCESS = ("unix", "wal", "args", "nofile", "address_space", "binary")

# Tests that say nothing about an embedded server.
NOT_EMBEDDED = {
    "test_a_frozen_server_does_not_delay_the_end",
    "test_a_heartbeat_beside_workers_that_delete_in_batches",
    "test_a_job_of_the_last_of_10_000",
    "test_a_set_up_is_linear",
    "test_a_stream_that_nobody_could_hold",
    "test_kills_and_restarts_lose_nothing_that_was_acknowledged",
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
