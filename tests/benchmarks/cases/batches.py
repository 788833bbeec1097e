"""Many jobs at once, against the raw pipeline; the other clients have no batches."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

from benchmarks.bench import Bench
from benchmarks.measuring import Contender, interleaved
from benchmarks.peers import AIOSTALK, GREENSTALK, NOT_INSTALLED, PEERS, PYSTALK, PYSTALKD, Client, installed
from benchmarks.plots import bars
from benchmarks.raw import BODY, RawPipeline
from benchmarks.result import Goal, Result, speed_table
from support.servers import BeanstalkdServer

from beanpool import Connection, PoolManager

RAW = "raw pipelined"
NO_BATCHES = "no batches"
ONE_AT_A_TIME = f"{GREENSTALK}, one at a time ({NO_BATCHES})"
BATCH = 500
"""Jobs that a worker takes and deletes together."""
JOBS = 10_000
ROUNDS = 12


def put_many(bench: Bench) -> Result:
    """``put_many`` of a pool, and a pipeline of a connection."""
    on_one, on_all = "beanpool put_many", "beanpool put_many, 3 servers"
    pipeline = "beanpool Connection.pipeline"
    with bench.pinned(3) as servers, contextlib.ExitStack() as stack:
        first = servers[:1]
        raw = stack.enter_context(contextlib.closing(RawPipeline(first[0])))
        connection = stack.enter_context(Connection(first[0].host, first[0].port, encoding=None))

        def through_pipeline(count: int) -> None:
            with connection.pipeline() as commands:
                put = commands.put
                for _ in range(count):
                    put(BODY)

        contenders = [
            Contender(RAW, raw.puts, clean_up=bench.drain_all(first)),
            Contender(pipeline, through_pipeline, clean_up=bench.drain_all(first)),
        ]
        for name, used in {on_one: first, on_all: servers}.items():
            pool = stack.enter_context(PoolManager([server.address for server in used], encoding=None))
            contenders.append(Contender(name, _put_many(pool), clean_up=bench.drain_all(used)))
        contenders += [
            Contender(name, client.puts, clean_up=bench.drain_all(first))
            for name, client in _one_at_a_time(first[0], stack).items()
        ]
        timings = interleaved(contenders, bench.rounds(ROUNDS), bench.operations(JOBS))
    return Result(
        "Batches: put_many of 10,000",
        [speed_table(timings, RAW, _missing(), unit="puts per second")],
        [Goal("put_many of 10,000", RAW, 0.90, timings.speed(on_one, RAW))],
        [bars("put-many", f"put_many of 10,000, {RAW} = 1", timings, RAW)],
    )


def reserve_delete_many(bench: Bench) -> Result:
    """``reserve_many`` and ``delete_many`` of a pool."""
    on_one, on_all = "beanpool reserve_many, delete_many", "beanpool reserve_many, delete_many, 3 servers"
    missing = _missing()
    with bench.pinned(3) as servers, contextlib.ExitStack() as stack:
        first = servers[:1]
        raw = stack.enter_context(contextlib.closing(RawPipeline(first[0])))
        contenders = [Contender(RAW, raw.reserves, bench.fill(first), bench.drain_the_rest(first))]
        for name, used in {on_one: first, on_all: servers}.items():
            pool = stack.enter_context(PoolManager([server.address for server in used], encoding=None))
            if hasattr(pool, "reserve_many"):
                contenders.append(Contender(name, _reserve_many(pool), bench.fill(used), bench.drain_the_rest(used)))
            else:
                missing[name] = "not there yet"
        contenders += [
            Contender(name, client.reserves, bench.fill(first), bench.drain_the_rest(first))
            for name, client in _one_at_a_time(first[0], stack).items()
        ]
        timings = interleaved(contenders, bench.rounds(ROUNDS), bench.operations(JOBS))
    measured = timings.speed(on_one, RAW) if on_one in timings else None
    return Result(
        f"Batches: reserve_many({BATCH}) and delete_many, 10,000 jobs",
        [speed_table(timings, RAW, missing, unit="jobs per second")],
        [Goal("reserve_many and delete_many", RAW, 0.80, measured, remark=missing.get(on_one, ""))],
    )


def _put_many(pool: PoolManager[bytes]) -> Callable[[int], None]:
    def puts(count: int) -> None:
        pool.put_many([BODY] * count)

    return puts


def _reserve_many(pool: Any) -> Callable[[int], None]:
    def reserves(count: int) -> None:
        left = count
        while left:
            jobs = pool.reserve_many(min(BATCH, left), 0)
            for job in jobs:
                _ = job.body
            failed = [outcome for outcome in pool.delete_many(jobs) if isinstance(outcome, BaseException)]
            if failed or not jobs:
                raise RuntimeError(f"{left} of {count} jobs were left: {failed[:1]}")
            left -= len(jobs)

    return reserves


def _one_at_a_time(server: BeanstalkdServer, stack: contextlib.ExitStack) -> dict[str, Client]:
    if not installed(GREENSTALK):
        return {}
    return {ONE_AT_A_TIME: stack.enter_context(contextlib.closing(PEERS[GREENSTALK](server)))}


def _missing() -> dict[str, str]:
    missing = dict.fromkeys((PYSTALK, PYSTALKD, AIOSTALK), NO_BATCHES)
    if not installed(GREENSTALK):
        missing[ONE_AT_A_TIME] = NOT_INSTALLED
    return missing
