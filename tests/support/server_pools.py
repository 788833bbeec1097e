"""The pool of one server, and what tests ask of it."""

from __future__ import annotations

import contextlib
import select
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from beanpool import BeanpoolError, PoolManager, PoolTimeout
from beanpool.net.address import Address
from beanpool.protocol.commands import TOUCH, encode_job
from beanpool.protocol.identity import Identity
from beanpool.server.connection_pool import ConnectionPool
from beanpool.server.pooled_connection import PooledConnection
from support.inside import inside
from support.waiting import wait_until

LONG = 5.0


class Owner:
    """Stands for the member that a pool belongs to, and writes down what it is told."""

    def __init__(self) -> None:
        self.generation = 0
        self.instances: list[str] = []
        self.reports: list[BeanpoolError] = []
        self.closings: list[str] = []
        self.times_starved = 0
        self.pool: ConnectionPool | None = None

    def learn(self, identity: Identity, round_trip: float) -> int:
        if self.instances and self.instances[-1] != identity.instance:
            self.generation += 1
            if self.pool is not None:
                self.pool.pruning.start_generation(self.generation)
        if identity.instance not in self.instances:
            self.instances.append(identity.instance)
        return self.generation

    def report(self, error: BeanpoolError, generation: int, began: float) -> None:
        self.reports.append(error)

    def fair_time(self, round_trips: int) -> float:
        return 0.0

    def starved(self) -> None:
        self.times_starved += 1

    def connected(self, seconds: float, error: Exception | None) -> None:
        pass

    def opened(self, connection: PooledConnection) -> None:
        pass

    def closed(self, connection: PooledConnection, because: str) -> None:
        self.closings.append(because)


@contextmanager
def connections_of(
    host: str, port: int, max_connections: int = 3, *, timeout: float = LONG, connect_timeout: float = LONG
) -> Iterator[tuple[ConnectionPool, Owner]]:
    owner = Owner()
    pool = owner.pool = ConnectionPool(
        Address(host, port),
        max_connections=max_connections,
        connect_timeout=connect_timeout,
        timeout=timeout,
        encoding="utf-8",
        owner=owner,
    )
    try:
        yield pool, owner
    finally:
        now = time.monotonic()
        pool.close(now, now)


@contextmanager
def all_in_use(manager: PoolManager) -> Iterator[None]:
    """Check out all connections to a manager's first server that a command can have; they come back at the end."""
    pool = inside(manager).connections_of(0)
    held: list[PooledConnection] = []
    try:
        with contextlib.suppress(PoolTimeout):
            while True:
                held.append(pool.acquire(time.monotonic() + (0.05 if held else LONG)))
        yield
    finally:
        for connection in held:
            pool.checkin(connection)


def soon() -> float:
    return time.monotonic() + LONG


def waiting(pool: ConnectionPool) -> int:
    return pool.stats()["requests_waiting"]


def ask(connection: PooledConnection, jid: int = 7) -> str:
    """A round trip: touch a job, which is not reserved there; returns the status of the reply."""
    deadline = time.monotonic() + connection.timeout
    return connection.channel.exchange(TOUCH, encode_job(TOUCH, jid), deadline).status


def wait_for_pause(connections: Iterable[PooledConnection]) -> None:
    """Until then a connection passes for alive without a look at it."""
    last = max(connection.channel.used_at for connection in connections)
    wait_until(lambda: time.monotonic() > last + 0.02, "a pause in the traffic")


def readable(connection: PooledConnection) -> bool:
    return bool(select.select([connection], [], [], 0)[0])
