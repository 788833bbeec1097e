"""What a put costs in a cluster of 2, and of 200 servers."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable

from benchmarks.bench import Bench
from benchmarks.measuring import Contender, interleaved
from benchmarks.plots import Lines
from benchmarks.raw import BODY, RawLoop
from benchmarks.result import Goal, Result, Table

from beanpool import PoolManager

SIZES = (2, 10, 50, 200)
KEYLESS = "no key"
WITH_KEY = "with a key"
RAW = "raw sockets in turn"
PUTS = 2000
ROUNDS = 12


def cost_of_a_put(bench: Bench) -> Result:
    """``PoolManager.put``; the raw loop over as many sockets shows what the machine itself adds."""
    sizes = bench.sizes(SIZES)
    kinds = (KEYLESS, WITH_KEY, RAW)
    with bench.pinned(max(sizes)) as servers, contextlib.ExitStack() as stack:
        contenders = []
        for size in sizes:
            used = servers[:size]
            pool = stack.enter_context(PoolManager([server.address for server in used], encoding=None))
            raw = stack.enter_context(contextlib.closing(RawLoop(used)))
            ways = {KEYLESS: _puts(pool), WITH_KEY: _puts_with_keys(pool), RAW: raw.puts}
            drain = bench.drain_all(used)
            contenders += [Contender(f"{kind}, {size}", run, clean_up=drain) for kind, run in ways.items()]
        timings = interleaved(contenders, bench.rounds(ROUNDS), bench.operations(PUTS))
    least = sizes[0]
    rows = []
    for size in sizes:
        ratios = ["1" if size == least else str(timings.cost(f"{kind}, {size}", f"{kind}, {least}")) for kind in kinds]
        rows.append([str(size), *ratios, *(f"{timings.median(f'{kind}, {size}') * 1e6:.1f}" for kind in kinds)])
    head = ["servers", *(f"{kind}: cost, {least} servers = 1 (quartiles)" for kind in kinds)]
    head += [f"{kind} (µs)" for kind in kinds]
    what, of = f"PoolManager.put, {SIZES[-1]} servers", f"the same at {least}"
    if sizes[-1] == SIZES[-1]:
        measured = timings.cost(f"{KEYLESS}, {sizes[-1]}", f"{KEYLESS}, {least}")
        machine = timings.cost(f"{RAW}, {sizes[-1]}", f"{RAW}, {least}")
        goal = Goal(what, of, 1.5, measured, True, f"{RAW} alone: {machine.median:.2f}")
    else:
        goal = Goal(what, of, 1.5, None, True, "not with so few servers")
    places = [str(size) for size in sizes]
    series = {kind: [timings.median(f"{kind}, {size}") * 1e6 for size in sizes] for kind in kinds}
    return Result(
        "Cost of a put, 2 to 200 servers",
        [Table(head, rows)],
        [goal],
        [Lines("many-servers", "Cost of a put", "servers", "µs", places, series)],
    )


def _puts(pool: PoolManager[bytes]) -> Callable[[int], None]:
    def puts(count: int) -> None:
        put = pool.put
        for _ in range(count):
            put(BODY)

    return puts


def _puts_with_keys(pool: PoolManager[bytes]) -> Callable[[int], None]:
    keys = (f"user:{number}" for number in itertools.count())

    def puts(count: int) -> None:
        put = pool.put
        for key in itertools.islice(keys, count):
            put(BODY, key=key)

    return puts
