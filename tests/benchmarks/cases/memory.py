"""What an idle connection takes of the client's memory."""

from __future__ import annotations

import contextlib
import gc
import tracemalloc
from collections.abc import Callable

from benchmarks.bench import Bench
from benchmarks.cases.single_commands import CONNECTION, RAW, not_installed
from benchmarks.peers import GREENSTALK, PEERS, Beanpool, Client, installed
from benchmarks.raw import BODY, RawLoop
from benchmarks.result import Result, Table
from support.servers import BeanstalkdServer

from beanpool import PoolManager

CONNECTIONS = 200
POOLED = "beanpool PoolManager, each pooled connection"


def idle_connection(bench: Bench) -> Result:
    """Python's memory, traced, for connections that have put, reserved and deleted a job and do nothing."""
    count = bench.operations(CONNECTIONS)
    server = bench.servers(1)[0]
    makers: dict[str, Callable[[BeanstalkdServer], Client]] = {RAW: lambda server: RawLoop([server])}
    makers[CONNECTION] = Beanpool
    makers.update((name, make) for name, make in PEERS.items() if installed(name))
    tracemalloc.start()
    try:
        taken = {name: _single(make, server, count) for name, make in makers.items()}
        taken[POOLED] = _pooled(server, count)
    finally:
        tracemalloc.stop()
    of = GREENSTALK if GREENSTALK in taken else RAW
    rows = [
        [name, "1" if name == of else f"{size / taken[of]:.2f}", f"{size / 1024:.1f}"]
        for name, size in sorted(taken.items(), key=lambda item: item[1])
    ]
    rows += [[name, why, ""] for name, why in not_installed().items()]
    return Result("Memory of an idle connection", [Table(["client", f"memory, {of} = 1", "KiB"], rows)])


def _single(make: Callable[[BeanstalkdServer], Client], server: BeanstalkdServer, count: int) -> float:
    with contextlib.ExitStack() as stack:

        def used() -> Client:
            client = stack.enter_context(contextlib.closing(make(server)))
            client.puts(1)
            client.reserves(1)
            return client

        # What the first one brings with it, such as modules, is not any connection's.
        clients = [used()]
        before = _traced()
        clients += [used() for _ in range(count)]
        return (_traced() - before) / count


def _pooled(server: BeanstalkdServer, count: int) -> float:
    with PoolManager(server.address, max_connections=count + 1, encoding=None) as pool:
        _use(pool, 1)
        before = _traced()
        # While a job is not finished its connection is taken: so many jobs open so many connections.
        _use(pool, count + 1)
        idle = pool.servers[0].idle
        if idle != count + 1:
            raise RuntimeError(f"{idle} connections are idle, and {count + 1} should be")
        return (_traced() - before) / count


def _use(pool: PoolManager[bytes], count: int) -> None:
    for _ in range(count):
        pool.put(BODY)
    jobs = [pool.reserve(0) for _ in range(count)]
    for job in jobs:
        assert job is not None
        job.delete()


def _traced() -> int:
    gc.collect()
    return tracemalloc.get_traced_memory()[0]
