"""Threads that put, on all cores: one shared pool or producer against a private greenstalk client for each."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator

from benchmarks.bench import Bench
from benchmarks.measuring import Contender, Timings, interleaved
from benchmarks.peers import AIOSTALK, GREENSTALK, NOT_INSTALLED, PEERS, PYSTALK, PYSTALKD, Client, installed
from benchmarks.plots import Lines
from benchmarks.raw import BODY, PUT, connect
from benchmarks.result import Goal, Result, Table, speed_table
from support.servers import BeanstalkdServer

from beanpool import PoolManager

POOL = "beanpool, one PoolManager"
PRODUCER = "beanpool, one producer"
AWAITED = "beanpool, one producer, each put awaited"
THREADS = 8
BUSY_MICROSECONDS = (0, 2, 4, 6)
SIZES = (1, 2, 4, 8, 16, 32)
PUTS = 4000
ROUNDS = 12
ROUNDS_OF_ALL_SIZES = 6

Work = Callable[[int, int], None]
"""Puts some jobs: which thread it is, and how many jobs."""


def private(name: str) -> str:
    """How the tables call a client for each thread."""
    return f"{name}, a client for each thread"


def in_threads(threads: int, work: Work) -> Callable[[int], None]:
    """Do `work` in so many threads at once, each its share; returns when all are done."""

    def run(count: int) -> None:
        failed: list[BaseException] = []

        def one(number: int) -> None:
            try:
                work(number, count // threads + (number < count % threads))
            except BaseException as error:
                failed.append(error)

        running = [threading.Thread(target=one, args=(number,)) for number in range(threads)]
        for thread in running:
            thread.start()
        for thread in running:
            thread.join()
        if failed:
            raise failed[0]

    return run


@contextlib.contextmanager
def shared(pool: PoolManager[bytes]) -> Iterator[dict[str, Work]]:
    """The three ways of one pool that all threads share."""
    with pool, pool.producer() as producer:

        def single_puts(_: int, count: int) -> None:
            put = pool.put
            for _ in range(count):
                put(BODY)

        def buffered_puts(_: int, count: int) -> None:
            put = producer.put
            for future in [put(BODY) for _ in range(count)]:
                future.result()

        def awaited_puts(_: int, count: int) -> None:
            for _ in range(count):
                producer.put(BODY).result()

        yield {POOL: single_puts, PRODUCER: buffered_puts, AWAITED: awaited_puts}


def _own(clients: list[Client]) -> Work:
    return lambda number, count: clients[number].puts(count)


def _loops_per_microsecond() -> float:
    count = 1_000_000
    started = time.perf_counter()
    _busy(count)
    return count / ((time.perf_counter() - started) * 1e6)


def _busy(loops: int) -> None:
    for _ in range(loops):
        pass


def _busy_puts(sockets: list[socket.socket], loops: int) -> Work:
    def work(number: int, count: int) -> None:
        send, receive = sockets[number].send, sockets[number].recv
        for _ in range(count):
            _busy(loops)
            send(PUT)
            receive(4096)

    return work


def _price_of_python(bench: Bench, servers: list[BeanstalkdServer]) -> Table:
    """What a client's own time does to threads: raw sockets, and so much Python between two puts."""
    rate = _loops_per_microsecond()
    drain = bench.drain_all(servers)
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(connect(servers[0])) for _ in range(THREADS)]
        names = {f"{busy} µs": round(busy * rate) for busy in BUSY_MICROSECONDS}
        contenders = [
            Contender(name, in_threads(THREADS, _busy_puts(sockets, loops)), clean_up=drain)
            for name, loops in names.items()
        ]
        timings = interleaved(contenders, bench.rounds(ROUNDS), bench.operations(PUTS))
    first = next(iter(names))
    rows = [[name, str(timings.speed(name, first)), f"{timings.rate(name):,.0f}"] for name in names]
    caption = "A raw socket for each thread, and a loop of Python before each put, which stands in for a client:"
    return Table(["Python for each put", f"speed, {first} = 1 (quartiles)", "puts per second"], rows, caption)


def eight_threads(bench: Bench) -> Result:
    """Eight threads: every way, next to every client that threads can use."""
    yardstick = private(GREENSTALK)
    servers = bench.servers(1)
    drain = bench.drain_all(servers)
    missing = {AIOSTALK: "an event loop, no threads"}
    with contextlib.ExitStack() as stack:
        contenders = []
        for name in (GREENSTALK, PYSTALK, PYSTALKD):
            if installed(name):
                clients = [stack.enter_context(contextlib.closing(PEERS[name](servers[0]))) for _ in range(THREADS)]
                contenders.append(Contender(private(name), in_threads(THREADS, _own(clients)), clean_up=drain))
            else:
                missing[private(name)] = NOT_INSTALLED
        ways = stack.enter_context(shared(PoolManager(servers[0].address, encoding=None)))
        contenders += [
            Contender(name, in_threads(THREADS, work), clean_up=drain, share=0.1 if name == AWAITED else 1.0)
            for name, work in ways.items()
        ]
        timings = interleaved(contenders, bench.rounds(ROUNDS), bench.operations(PUTS))

    def goal(what: str, name: str, target: float) -> Goal:
        if yardstick not in timings:
            return Goal(what, yardstick, target, None, remark=f"{GREENSTALK} is {NOT_INSTALLED}")
        return Goal(what, yardstick, target, timings.speed(name, yardstick))

    of = yardstick if yardstick in timings else POOL
    return Result(
        f"{THREADS} threads that put, all cores",
        [speed_table(timings, of, missing, unit="puts per second"), _price_of_python(bench, servers)],
        [
            goal(f"buffered producer, {THREADS} threads, all cores", PRODUCER, 2.0),
            goal(f"{THREADS} threads, one PoolManager, single puts, all cores", POOL, 1.0),
        ],
    )


def one_to_many_threads(bench: Bench) -> Result:
    """1 to 32 threads."""
    yardstick = private(GREENSTALK)
    servers = bench.servers(1)
    drain = bench.drain_all(servers)
    by_size: dict[int, Timings] = {}
    with contextlib.ExitStack() as stack:
        ways: dict[str, Work] = {}
        if installed(GREENSTALK):
            ways[yardstick] = _own(
                [stack.enter_context(contextlib.closing(PEERS[GREENSTALK](servers[0]))) for _ in range(max(SIZES))]
            )
        pool = PoolManager(servers[0].address, encoding=None, max_connections=max(SIZES))
        ways.update(stack.enter_context(shared(pool)))
        del ways[AWAITED]
        for size in SIZES:
            contenders = [Contender(name, in_threads(size, work), clean_up=drain) for name, work in ways.items()]
            by_size[size] = interleaved(contenders, bench.rounds(ROUNDS_OF_ALL_SIZES), bench.operations(PUTS))
    of = yardstick if yardstick in ways else POOL
    others = [name for name in ways if name != of]
    rows = [
        [
            str(size),
            *(str(timings.speed(name, of)) for name in others),
            *(f"{timings.rate(name):,.0f}" for name in (of, *others)),
        ]
        for size, timings in by_size.items()
    ]
    short = {yardstick: GREENSTALK, POOL: "PoolManager", PRODUCER: "producer"}
    head = ["threads", *(f"{short[name]}: speed, {short[of]} = 1 (quartiles)" for name in others)]
    head += [f"{short[name]} (per second)" for name in (of, *others)]
    places = [str(size) for size in SIZES]
    series = {name: [by_size[size].rate(name) for size in SIZES] for name in (*others, of)}
    return Result(
        "1 to 32 threads that put, all cores",
        [Table(head, rows, f"Puts; {GREENSTALK} has a client for each thread, the others one object for all threads.")],
        plots=[Lines("threads", "Threads that put, all cores", "threads", "puts per second", places, series)],
    )
