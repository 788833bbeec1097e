"""Other clients, each behind the same few verbs. What is not installed is left out, and the tables say so."""

from __future__ import annotations

import asyncio
import importlib
import importlib.metadata
import importlib.util
from collections.abc import Callable
from typing import Any, Protocol

from benchmarks.raw import BODY
from support.servers import BeanstalkdServer

from beanpool import Connection


class Client(Protocol):
    """One connection to one server."""

    def puts(self, count: int) -> None:
        """Put so many jobs, one after another."""

    def reserves(self, count: int) -> None:
        """Reserve, look at and delete so many jobs, one after another."""

    def close(self) -> None:
        """Close the connection."""


class Blocking:
    """A client whose calls block. Its own methods are called in the loops, with nothing in between.

    :cvar PUT: the name of the method that puts.
    :cvar RESERVE: the name of the one that reserves; a job then deletes itself.
    """

    PUT = "put"
    RESERVE = "reserve"

    def __init__(self, client: Any) -> None:
        self._client = client
        self.close: Callable[[], None] = client.close

    def puts(self, count: int) -> None:
        """One after another."""
        put = getattr(self._client, self.PUT)
        for _ in range(count):
            put(BODY)

    def reserves(self, count: int) -> None:
        """One after another."""
        reserve = getattr(self._client, self.RESERVE)
        for _ in range(count):
            job = reserve(0)
            _ = job.body
            job.delete()


class Beanpool(Blocking):
    """``beanpool.Connection``."""

    def __init__(self, server: BeanstalkdServer) -> None:
        super().__init__(Connection(server.host, server.port, encoding=None))


class Pystalkd(Blocking):
    """``pystalkd.Beanstalkd.Connection``."""

    PUT = "put_bytes"
    RESERVE = "reserve_bytes"

    def __init__(self, server: BeanstalkdServer) -> None:
        super().__init__(importlib.import_module("pystalkd.Beanstalkd").Connection(server.host, server.port))


class Greenstalk(Blocking):
    """``greenstalk.Client``, which deletes jobs itself."""

    def __init__(self, server: BeanstalkdServer) -> None:
        super().__init__(importlib.import_module("greenstalk").Client((server.host, server.port), encoding=None))

    def reserves(self, count: int) -> None:
        """One after another."""
        reserve, delete = self._client.reserve, self._client.delete
        for _ in range(count):
            job = reserve(0)
            _ = job.body
            delete(job)


class Pystalk(Blocking):
    """``pystalk.BeanstalkClient``, which deletes jobs by their ids."""

    PUT = "put_job"

    def __init__(self, server: BeanstalkdServer) -> None:
        super().__init__(importlib.import_module("pystalk").BeanstalkClient(server.host, server.port))

    def reserves(self, count: int) -> None:
        """One after another."""
        reserve, delete = self._client.reserve_job, self._client.delete_job
        for _ in range(count):
            job = reserve(0)
            _ = job.job_data
            delete(job.job_id)


class Aiostalk:
    """``aiostalk.Client``, in an event loop of its own that runs while it works."""

    def __init__(self, server: BeanstalkdServer) -> None:
        self._runner = asyncio.Runner()
        self._client: Any = importlib.import_module("aiostalk").Client((server.host, server.port), encoding=None)
        self._runner.run(self._client.connect())

    def puts(self, count: int) -> None:
        """One after another."""

        async def work() -> None:
            put = self._client.put
            for _ in range(count):
                await put(BODY)

        self._runner.run(work())

    def reserves(self, count: int) -> None:
        """One after another."""

        async def work() -> None:
            reserve, delete = self._client.reserve, self._client.delete
            for _ in range(count):
                job = await reserve(0)
                _ = job.body
                await delete(job)

        self._runner.run(work())

    def close(self) -> None:
        """Close the connection and the loop."""
        self._runner.run(self._client.close())
        self._runner.close()


GREENSTALK = "greenstalk"
PYSTALK = "pystalk"
PYSTALKD = "pystalkd"
AIOSTALK = "aiostalk"

PEERS: dict[str, Callable[[BeanstalkdServer], Client]] = {
    GREENSTALK: Greenstalk,
    PYSTALK: Pystalk,
    PYSTALKD: Pystalkd,
    AIOSTALK: Aiostalk,
}
NOT_INSTALLED = "not installed"


def installed(name: str) -> bool:
    """Whether this peer can be imported."""
    return importlib.util.find_spec(name) is not None


def versions() -> dict[str, str]:
    """The version of every peer that is installed."""
    return {name: importlib.metadata.version(name) for name in PEERS if installed(name)}
