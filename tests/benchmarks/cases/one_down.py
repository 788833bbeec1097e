"""Batches while one of three servers is down: what is left of their speed."""

from __future__ import annotations

import contextlib
import itertools
import socket
from collections.abc import Callable, Iterator

from benchmarks.bench import Bench
from benchmarks.measuring import Contender, interleaved
from benchmarks.raw import BODY
from benchmarks.result import Goal, Result, Table
from support.delay_line import DelayLine

from beanpool import PoolManager, Put

SERVERS = 3
ROUND_TRIP = 0.002
"""How far away the servers are (seconds): what is put one by one waits so long for each."""
JOBS = 6000
ROUNDS = 10
WAYS = ("put_many", "put_many, keys", "producer", "producer, keys")
LEAST = 0.6

Puts = Callable[[int], None]


def batches_with_one_down(bench: Bench) -> Result:
    """``put_many`` and a producer: three servers up, and the same with one of them down."""
    contenders = []
    with bench.pinned(SERVERS) as servers, contextlib.ExitStack() as stack:
        lines = [stack.enter_context(DelayLine(server.host, server.port, ROUND_TRIP)) for server in servers]
        dead = stack.enter_context(_nobody_listens())
        up, down = [line.address for line in lines], [dead, *(line.address for line in lines[1:])]
        for addresses, state, used in ((up, "all up", servers), (down, "one down", servers[1:])):
            pool = stack.enter_context(PoolManager(addresses, encoding=None))
            contenders += [
                Contender(_name(way, state), run, clean_up=bench.drain_all(used))
                for way, run in _ways(pool, stack).items()
            ]
        timings = interleaved(contenders, bench.rounds(ROUNDS), bench.operations(JOBS))
    ratios = {way: timings.speed(_name(way, "one down"), _name(way, "all up")) for way in WAYS}
    rows = [
        [way, str(ratios[way]), *(f"{timings.rate(_name(way, state)):,.0f}" for state in ("all up", "one down"))]
        for way in WAYS
    ]
    head = ["way", "speed with one down, all up = 1 (quartiles)", "puts per second, all up", "one down"]
    title = f"Batches while one of {SERVERS} servers is down, {ROUND_TRIP * 1000:g} ms away"
    goals = [Goal(f"{way}, one of {SERVERS} servers down", "the same with all up", LEAST, ratios[way]) for way in WAYS]
    return Result(title, [Table(head, rows)], goals)


def _name(way: str, state: str) -> str:
    return f"{way}, {state}"


def _ways(pool: PoolManager[bytes], stack: contextlib.ExitStack) -> dict[str, Puts]:
    producer = stack.enter_context(pool.producer())

    def puts_of(keys: Callable[[], Iterator[str | None]]) -> tuple[Puts, Puts]:
        def in_one_call(count: int) -> None:
            failed = [
                o for o in pool.put_many([Put(BODY, key=k) for k in _some(count, keys())]) if isinstance(o, Exception)
            ]
            if failed:
                raise failed[0]

        def buffered(count: int) -> None:
            for future in [producer.put(BODY, key=key) for key in _some(count, keys())]:
                future.result()

        return in_one_call, buffered

    without, without_buffered = puts_of(lambda: itertools.repeat(None))
    keyed, keyed_buffered = puts_of(lambda: (f"user:{number}" for number in itertools.count()))
    return dict(zip(WAYS, (without, keyed, without_buffered, keyed_buffered), strict=True))


def _some(count: int, keys: Iterator[str | None]) -> Iterator[str | None]:
    return itertools.islice(keys, count)


@contextlib.contextmanager
def _nobody_listens() -> Iterator[str]:
    """An address that refuses connections, and that nobody else gets."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{holder.getsockname()[1]}"
