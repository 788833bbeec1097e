"""pystalk's pool: what beanpool's is for."""

from __future__ import annotations

import time
from typing import Any

from peers.opened import url_of

from beanpool import NoServerAvailable, PoolManager
from pystalk.client import BeanstalkClient

NoMoreClients = NoServerAvailable
_get_time = time.monotonic


class ProductionPool:
    def __init__(self, clients: list[BeanstalkClient], **_: Any) -> None:
        self._there = PoolManager([url_of(client.host, client.port) for client in clients])

    @classmethod
    def from_uris(cls, uris: list[str]) -> ProductionPool:
        pool = cls.__new__(cls)
        pool._there = PoolManager(uris)
        return pool

    def __del__(self) -> None:
        # It has no end of its own.
        self._there.close(0)

    def put_job_into(self, tube: str, data: str | bytes, pri: int = 65536, delay: int = 0, ttr: int = 120) -> Any:
        return b"INSERTED", self._there.put(data, pri, delay, ttr, tube=tube)
