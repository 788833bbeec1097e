"""A Redis server, for what is measured beside it."""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile

from beanpool.testing.failures import ServerFailed
from beanpool.testing.service import Service
from support.waiting import wait_until


def find_redis() -> str | None:
    """The path of the redis-server program."""
    return shutil.which("redis-server")


class RedisServer(Service):
    """It keeps everything in memory, as a beanstalkd without ``-b`` does.

    :raises ServerFailed: if there is no redis-server.
    """

    def __init__(self) -> None:
        binary = find_redis()
        if binary is None:
            raise ServerFailed("redis-server was not found: apt-get install redis-server")
        self._binary = binary
        self._folder = tempfile.TemporaryDirectory(prefix="beanpool-redis-")
        self._process: subprocess.Popen[bytes] | None = None
        self.port = 0

    @property
    def pid(self) -> int:
        """Its process."""
        assert self._process is not None
        return self._process.pid

    @property
    def url(self) -> str:
        """Its URL."""
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Start it on a port that is free; return when it answers."""
        with socket.socket() as bound:
            bound.bind(("127.0.0.1", 0))
            self.port = bound.getsockname()[1]
        options = {"bind": "127.0.0.1", "port": str(self.port), "save": "", "appendonly": "no"}
        arguments = [part for name, value in options.items() for part in (f"--{name}", value)]
        self._process = subprocess.Popen(
            [self._binary, *arguments], cwd=self._folder.name, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        wait_until(self._answers, "an answer of redis-server")

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), 1) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(16).startswith(b"+PONG")
        except OSError:
            return False

    def stop(self) -> None:
        """End it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)
            self._process = None
        self._folder.cleanup()
