"""One command after another: a connection against the raw loop and other clients, and a pool of three servers."""

from __future__ import annotations

import contextlib
import importlib
import itertools
from collections.abc import Callable, Iterator
from typing import Any

from benchmarks.bench import Bench
from benchmarks.measuring import Contender, interleaved
from benchmarks.peers import AIOSTALK, GREENSTALK, NOT_INSTALLED, PEERS, PYSTALK, PYSTALKD, Beanpool, Client, installed
from benchmarks.plots import bars
from benchmarks.raw import BODY, RawLoop
from benchmarks.result import Goal, Result, Table, speed_table
from benchmarks.steps import STEPS
from support.servers import BeanstalkdServer

from beanpool import PoolManager

RAW = "raw socket loop"
CONNECTION = "beanpool Connection"
POOL = "beanpool PoolManager"
PYSTALK_POOL = "pystalk ProductionPool"
SERVERS = 3
ROUNDS = 50
PUTS = 1500
RESERVES = 800
NO_CLUSTER = "one server only"


@contextlib.contextmanager
def clients(server: BeanstalkdServer) -> Iterator[dict[str, Client]]:
    """The raw loop, beanpool's connection, and every peer that is installed, all connected."""
    with contextlib.ExitStack() as stack:
        found: dict[str, Client] = {RAW: RawLoop([server]), CONNECTION: Beanpool(server)}
        found.update((name, make(server)) for name, make in PEERS.items() if installed(name))
        for client in found.values():
            stack.callback(client.close)
        yield found


def not_installed() -> dict[str, str]:
    """The peers that there is nothing of."""
    return {name: NOT_INSTALLED for name in PEERS if not installed(name)}


def connection_put(bench: Bench) -> Result:
    """``put`` of a connection."""
    with bench.pinned(1) as servers, clients(servers[0]) as found:
        timings = interleaved(
            [Contender(name, client.puts, clean_up=bench.drain_all(servers)) for name, client in found.items()],
            bench.rounds(ROUNDS),
            bench.operations(PUTS),
        )
    ratio = timings.speed(CONNECTION, RAW)
    return Result(
        "Connection: put",
        [speed_table(timings, RAW, not_installed(), unit="puts per second")],
        [Goal("Connection.put", RAW, 0.90, ratio)],
        [bars("connection-put", f"put, {RAW} = 1", timings, RAW)],
    )


def put_step_by_step(bench: Bench) -> Result:
    """What each promise of a ``put`` costs, and what a connection's and a pool's layers cost on top of it."""
    with bench.pinned(1) as servers, contextlib.ExitStack() as stack:
        drain = bench.drain_all(servers)
        raw = stack.enter_context(contextlib.closing(RawLoop(servers)))
        contenders = [Contender(RAW, raw.puts, clean_up=drain)]
        for name, step in STEPS.items():
            client = stack.enter_context(contextlib.closing(step(servers[0])))
            contenders.append(Contender(name, _repeat(client.put), clean_up=drain))
        beanpool = stack.enter_context(contextlib.closing(Beanpool(servers[0])))
        contenders.append(Contender(f"{CONNECTION}.put", beanpool.puts, clean_up=drain))
        pool = stack.enter_context(PoolManager(servers[0].address, encoding=None))
        contenders.append(Contender(f"{POOL}.put", _repeat(pool.put), clean_up=drain))
        timings = interleaved(contenders, bench.rounds(ROUNDS), bench.operations(PUTS))
    rows = [[RAW, "1", f"{timings.median(RAW) * 1e6:.1f}", ""]]
    rows += [
        [
            name,
            str(timings.speed(name, RAW)),
            f"{timings.median(name) * 1e6:.1f}",
            f"{(timings.median(name) - timings.median(RAW)) * 1e6:.1f}",
        ]
        for name in timings.seconds
        if name != RAW
    ]
    head = ["what is done", f"speed, {RAW} = 1 (quartiles)", "µs", "on top of the raw loop (µs)"]
    return Result("A put, step by step", [Table(head, rows)])


def _repeat(put: Callable[[bytes], object]) -> Callable[[int], None]:
    def puts(count: int) -> None:
        for _ in range(count):
            put(BODY)

    return puts


def connection_reserve_delete(bench: Bench) -> Result:
    """``reserve`` and ``delete`` of a connection."""
    with bench.pinned(1) as servers, clients(servers[0]) as found:
        timings = interleaved(
            [
                Contender(name, client.reserves, bench.fill(servers), bench.drain_the_rest(servers))
                for name, client in found.items()
            ],
            bench.rounds(ROUNDS),
            bench.operations(RESERVES),
        )
    return Result(
        "Connection: reserve and delete",
        [speed_table(timings, RAW, not_installed(), unit="jobs per second")],
        [Goal("Connection.reserve and delete", RAW, 0.90, timings.speed(CONNECTION, RAW))],
        [bars("connection-reserve-delete", f"reserve and delete, {RAW} = 1", timings, RAW)],
    )


def pool_put_keyless(bench: Bench) -> Result:
    """``put`` of a pool over three servers, spread."""
    return _pool_put(bench, "PoolManager: put, no key, three servers", None, 0.80)


def pool_put_key(bench: Bench) -> Result:
    """``put`` of a pool over three servers, a new key each time."""
    keys = (f"user:{number}" for number in itertools.count())
    return _pool_put(bench, "PoolManager: put with a key, three servers", keys, 0.75)


def _pool_put(bench: Bench, title: str, keys: Iterator[str] | None, target: float) -> Result:
    everywhere = f"{RAW}, the 3 servers in turn"
    with bench.pinned(SERVERS) as servers, contextlib.ExitStack() as stack:
        pool = stack.enter_context(PoolManager([server.address for server in servers], encoding=None))
        loops = {RAW: RawLoop(servers[:1]), everywhere: RawLoop(servers)}

        def put_with_keys(count: int) -> None:
            put = pool.put
            for key in itertools.islice(keys or (), count):
                put(BODY, key=key)

        contenders = [Contender(name, loop.puts, clean_up=bench.drain_all(servers)) for name, loop in loops.items()]
        run = _repeat(pool.put) if keys is None else put_with_keys
        contenders.append(Contender(POOL, run, clean_up=bench.drain_all(servers)))
        missing = dict.fromkeys((GREENSTALK, PYSTALKD, AIOSTALK), NO_CLUSTER)
        if keys is not None:
            missing[PYSTALK_POOL] = "no keys"
        elif installed(PYSTALK):
            contenders.append(Contender(PYSTALK_POOL, _pystalk_puts(servers, stack), clean_up=bench.drain_all(servers)))
        else:
            missing[PYSTALK_POOL] = NOT_INSTALLED
        for loop in loops.values():
            stack.callback(loop.close)
        timings = interleaved(contenders, bench.rounds(ROUNDS), bench.operations(PUTS))
    what = f"PoolManager.put {'without' if keys is None else 'with a'} key, 3 servers"
    return Result(
        title,
        [speed_table(timings, RAW, missing, unit="puts per second")],
        [Goal(what, RAW, target, timings.speed(POOL, RAW))],
    )


def _pystalk_puts(servers: list[BeanstalkdServer], stack: contextlib.ExitStack) -> Callable[[int], None]:
    pystalk: Any = importlib.import_module("pystalk")
    members = [pystalk.BeanstalkClient(server.host, server.port) for server in servers]
    for member in members:
        stack.callback(member.close)
    return _repeat(pystalk.ProductionPool(members).put_job)


def pool_reserve_delete(bench: Bench) -> Result:
    """``reserve`` and ``delete`` of a pool over three servers that all have jobs."""
    everywhere = f"{RAW}, the 3 servers in turn"
    on_one = f"{POOL}, 1 server"
    on_all = f"{POOL}, 3 servers"
    with bench.pinned(SERVERS) as servers, contextlib.ExitStack() as stack:
        loops = {RAW: servers[:1], everywhere: servers}
        pools = {on_one: servers[:1], on_all: servers}
        contenders = []
        for name, used in loops.items():
            loop = RawLoop(used)
            stack.callback(loop.close)
            contenders.append(Contender(name, loop.reserves, bench.fill(used), bench.drain_the_rest(used)))
        for name, used in pools.items():
            pool = stack.enter_context(PoolManager([server.address for server in used], encoding=None))
            contenders.append(Contender(name, _pool_reserves(pool), bench.fill(used), bench.drain_the_rest(used)))
        timings = interleaved(contenders, bench.rounds(ROUNDS), bench.operations(RESERVES))
    missing = dict.fromkeys((GREENSTALK, PYSTALKD, AIOSTALK), NO_CLUSTER)
    missing[PYSTALK_POOL] = "only puts"
    return Result(
        "PoolManager: reserve and delete",
        [speed_table(timings, RAW, missing, unit="jobs per second")],
        [Goal("PoolManager.reserve and delete, 3 servers", RAW, 0.75, timings.speed(on_all, RAW))],
    )


def _pool_reserves(pool: PoolManager[bytes]) -> Callable[[int], None]:
    def reserves(count: int) -> None:
        reserve = pool.reserve
        for _ in range(count):
            job = reserve(0)
            assert job is not None
            _ = job.body
            job.delete()

    return reserves
