"""How long it takes from ``kill -9`` of a server until a put has succeeded."""

from __future__ import annotations

import contextlib
import importlib
import logging
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from benchmarks.bench import Bench
from benchmarks.measuring import Timings
from benchmarks.peers import AIOSTALK, GREENSTALK, NOT_INSTALLED, PYSTALK, PYSTALKD, installed
from benchmarks.raw import BODY
from benchmarks.result import Result, Table
from support.servers import BeanstalkdServer, ServerFactory

from beanpool import PoolManager

SERVERS = 3
ROUNDS = 20
ROUNDS_OF_OUTAGES = 8
OUTAGE = 1.0
"""How long the only server is away (seconds)."""
ORDINARY = "beanpool, all servers up"
KEY = "beanpool, the key's server killed"
TURN = "beanpool, no key, the slowest of a put to each server"
PYSTALK_TURN = "pystalk ProductionPool, the slowest of a put to each server"
ONLY = f"beanpool, the only server killed, and back after {OUTAGE:g} s: from its first answer"


def first_put_after_kill(bench: Bench) -> Result:
    """One of three servers dies between two puts; and the only one, while a put waits for it."""
    timings = Timings()
    factory = ServerFactory()
    try:
        servers = factory.cluster(SERVERS)
        for turn in range(bench.rounds(ROUNDS)):
            victim = servers[turn % SERVERS]
            _kill_owner(servers, victim, timings)
            victim.restart()
            with PoolManager([server.address for server in servers]) as pool:
                timings.add(TURN, _slowest_after_kill(pool.put, victim))
            victim.restart()
            if installed(PYSTALK):
                with _pystalk_pool(servers) as put:
                    timings.add(PYSTALK_TURN, _slowest_after_kill(put, victim))
                victim.restart()
        for _ in range(bench.rounds(ROUNDS_OF_OUTAGES)):
            timings.add(ONLY, _outage(servers[0], min(OUTAGE, OUTAGE * bench.effort.operations)))
    finally:
        factory.stop()
    rows = [
        [
            name,
            _ratio(timings, name),
            f"{statistics.median(seconds) * 1000:.2f}",
            f"{max(seconds) * 1000:.2f}",
        ]
        for name, seconds in timings.seconds.items()
    ]
    if not installed(PYSTALK):
        rows.append([PYSTALK_TURN, NOT_INSTALLED, "", ""])
    rows.append(["pystalk ProductionPool, the only server killed", "raises NoMoreClients", "", ""])
    rows += [[name, "one server only: the error is the caller's", "", ""] for name in (GREENSTALK, PYSTALKD, AIOSTALK)]
    head = ["put", "time, an ordinary put = 1 (medians)", "median (ms)", "worst (ms)"]
    return Result("First successful put after kill -9", [Table(head, rows)])


def _ratio(timings: Timings, name: str) -> str:
    if name == ONLY:
        return "a pause, no work"
    return "1" if name == ORDINARY else f"{timings.median(name) / timings.median(ORDINARY):.1f}"


def _kill_owner(servers: list[BeanstalkdServer], victim: BeanstalkdServer, timings: Timings) -> None:
    with PoolManager([server.address for server in servers]) as pool:
        key = _key_of(pool, victim)
        _warm_up(pool.put)
        timings.add(ORDINARY, _seconds(lambda: pool.put(BODY, key=key)))
        victim.kill()
        timings.add(KEY, _seconds(lambda: pool.put(BODY, key=key)))


def _key_of(pool: PoolManager, server: BeanstalkdServer) -> str:
    return next(key for key in map(str, range(10_000)) if pool.route(key)[0] == server.address)


def _warm_up(put: Callable[..., object]) -> None:
    for _ in range(3 * SERVERS):
        put(BODY)


def _seconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def _slowest_after_kill(put: Callable[..., object], victim: BeanstalkdServer) -> float:
    _warm_up(put)
    victim.kill()
    return max(_seconds(lambda: put(BODY)) for _ in range(SERVERS))


@contextlib.contextmanager
def _pystalk_pool(servers: list[BeanstalkdServer]) -> Iterator[Callable[..., object]]:
    pystalk: Any = importlib.import_module("pystalk")
    clients = [pystalk.BeanstalkClient(server.host, server.port, socket_timeout=5) for server in servers]
    logging.getLogger("pystalk.ProductionPool").addHandler(logging.NullHandler())
    logging.getLogger("pystalk.ProductionPool").propagate = False
    try:
        yield pystalk.ProductionPool(clients).put_job
    finally:
        for client in clients:
            client.close()


def _outage(server: BeanstalkdServer, seconds: float) -> float:
    """Kill the only server of a pool, put meanwhile, start it again; from its first answer to the end of the put."""
    done: list[float] = []
    with PoolManager(server.address, timeout=60) as pool:
        pool.put(BODY)
        server.kill()

        def put() -> None:
            pool.put(BODY)
            done.append(time.perf_counter())

        thread = threading.Thread(target=put)
        thread.start()
        time.sleep(seconds)
        server.start()
        ready = time.perf_counter()
        thread.join()
    # The put may be there before the one who asks whether the server answers.
    return max(0.0, done[0] - ready)
