"""What tests of many jobs ask of a pool and of its servers."""

from __future__ import annotations

import functools
import socket
from collections.abc import Iterable

from beanpool import JobId, PoolManager
from beanpool.server.pooled_connection import PooledConnection
from support.servers import BeanstalkdServer
from support.waiting import wait_until


def fill(server: BeanstalkdServer, count: int, tube: str = "default") -> None:
    for number in range(count):
        server.control.put(b"%d" % number, tube)


def reserved(*servers: BeanstalkdServer) -> int:
    return sum(server.control.counter("current-jobs-reserved") for server in servers)


def ready(*servers: BeanstalkdServer) -> int:
    return sum(server.control.counter("current-jobs-ready") for server in servers)


def wait_for_waiters(*servers: BeanstalkdServer) -> None:
    """Return once somebody waits for a job at each of them."""
    for server in servers:
        wait_until(functools.partial(server.control.counter, "current-waiting"), f"a waiter at {server.address}")


def leased(pool: PoolManager) -> int:
    return sum(status.leased for status in pool.servers)


def cut(connection: object) -> None:
    """Let the connection break, as by a network that fails."""
    assert isinstance(connection, PooledConnection)
    with socket.socket(fileno=connection.fileno()) as shared:
        shared.shutdown(socket.SHUT_RDWR)
        shared.detach()


def stored_in(outcomes: Iterable[object]) -> list[JobId]:
    """The ids of puts of which none may have failed."""
    everything = list(outcomes)
    assert [outcome for outcome in everything if not isinstance(outcome, JobId)] == []
    return [outcome for outcome in everything if isinstance(outcome, JobId)]


def key_for(number: int) -> str:
    """One of many keys, which belong to all servers."""
    return f"key {number}"
