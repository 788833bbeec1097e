"""pystalkd's module, as thin as it can be."""

from __future__ import annotations

import contextlib
import datetime
import os
from collections.abc import Iterator
from typing import Any

from peers.opened import opened, url_of

from beanpool import CommandFailed, SocketError

__all__ = ["CommandFailed", "SocketError"]

DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = int(os.environ.get("BEANPOOL_PEER_PORT", "11300"))


class _JobOfBytes:
    """A job whose body is not decoded."""

    def __init__(self, job: Any) -> None:
        self._job = job
        self.body: bytes = job.data

    def __getattr__(self, name: str) -> Any:
        return getattr(self._job, name)


class Connection:
    def __init__(self, host: str = DEFAULT_HOST, port: int = DEFAULT_PORT, parse_yaml: bool = True) -> None:
        self._there = opened(url_of(host, port), parse_yaml=parse_yaml)
        self.parse_yaml = parse_yaml

    def __getattr__(self, name: str) -> Any:
        return getattr(self._there, name)

    def put(self, body: Any, **numbers: Any) -> Any:
        ttr = numbers.get("ttr")
        if isinstance(ttr, datetime.timedelta):
            numbers["ttr"] = ttr.total_seconds()
        return self._there.put(body, **numbers)

    put_bytes = put

    def reserve_bytes(self, timeout: int | None = None) -> Any:
        job = self._there.reserve(timeout)
        return job and _JobOfBytes(job)

    @contextlib.contextmanager
    def temporary_use(self, tube: str) -> Iterator[None]:
        before = self._there.using()
        self._there.use(tube)
        yield
        self._there.use(before)

    @contextlib.contextmanager
    def temporary_watch(self, tube: str) -> Iterator[None]:
        self._there.watch(tube)
        yield
        self._there.ignore(tube)
