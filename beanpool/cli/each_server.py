"""Asking all servers at once what the pool has no question for."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from beanpool import BeanpoolError, Connection, PoolManager

Answer = TypeVar("Answer")


def on_each_server(
    pool: PoolManager[bytes],
    ask: Callable[[str, Connection[bytes]], Answer],
    servers: Iterable[str] | None = None,
    *,
    timeout: float | None = None,
) -> dict[str, Answer | BeanpoolError]:
    """What `ask` returns for each server, or the error that it had there, by address; a thread each.

    :param ask: is called with the server's address and a connection to it.
    :param servers: the addresses; None for all.
    :param timeout: the longest that a server may be silent (seconds); None for the pool's.
    """
    addresses = [status.address for status in pool.servers] if servers is None else list(servers)

    def one(address: str) -> Answer | BeanpoolError:
        try:
            with pool.connection(address, timeout=timeout) as connection:
                return ask(address, connection)
        except BeanpoolError as error:
            return error

    if not addresses:
        return {}
    with ThreadPoolExecutor(len(addresses), thread_name_prefix="beanpool-ask") as executor:
        return dict(zip(addresses, executor.map(one, addresses), strict=True))


def round_trip(connection: Connection[bytes]) -> float:
    """How long a server takes to answer on a connection that is there already (seconds)."""
    # The first question would be the making of the connection, too.
    connection.ping()
    began = time.perf_counter()
    connection.ping()
    return time.perf_counter() - began
