"""What it costs to be measured: a put, and a reserve with its delete, with each of the ways to see a pool."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Callable
from typing import Any

from benchmarks.bench import Bench
from benchmarks.measuring import Contender, Timings, interleaved
from benchmarks.raw import BODY
from benchmarks.result import Result, Table

from beanpool import PoolManager

NOTHING = "nothing"
PUTS = "put"
JOBS = "reserve and delete"
OPERATIONS = 1000
ROUNDS = 16

Measure = Callable[[PoolManager[bytes]], object]


def cost_of_metrics(bench: Bench) -> Result:
    """One thread, one server; what an SDK exports is dropped."""
    ways = {NOTHING: _nothing, **_prometheus(), **_opentelemetry()}
    contenders = []
    with bench.pinned(1) as servers, contextlib.ExitStack() as stack:
        drain, fill, drain_rest = bench.drain_all(servers), bench.fill(servers), bench.drain_the_rest(servers)
        kept = []
        for name, measure in ways.items():
            pool = stack.enter_context(PoolManager(servers[0].address, encoding=None, name=name))
            kept.append(measure(pool))
            contenders += [
                Contender(f"{name}, {PUTS}", _puts(pool), clean_up=drain),
                Contender(f"{name}, {JOBS}", _jobs(pool), prepare=fill, clean_up=drain_rest),
            ]
        timings = interleaved(contenders, bench.rounds(ROUNDS), bench.operations(OPERATIONS))
    return Result("What it costs to be measured", [_table(timings, list(ways))])


def _table(timings: Timings, ways: list[str]) -> Table:
    rows = []
    for way in ways:
        row = [way]
        for what in (PUTS, JOBS):
            name, of = f"{way}, {what}", f"{NOTHING}, {what}"
            row += [f"{timings.median(name) * 1e6:.1f}", "1" if way == NOTHING else str(timings.cost(name, of))]
        rows.append(row)
    head = ["measured by"]
    for what in (PUTS, JOBS):
        head += [f"{what} (µs)", "cost, unmeasured = 1 (quartiles)"]
    return Table(head, rows)


def _puts(pool: PoolManager[bytes]) -> Callable[[int], None]:
    def run(count: int) -> None:
        for _ in range(count):
            pool.put(BODY)

    return run


def _jobs(pool: PoolManager[bytes]) -> Callable[[int], None]:
    def run(count: int) -> None:
        for _ in range(count):
            job = pool.reserve(5)
            assert job is not None
            job.delete()

    return run


def _nothing(_: PoolManager[bytes]) -> None: ...


def _prometheus() -> dict[str, Measure]:
    if importlib.util.find_spec("prometheus_client") is None:
        return {}
    from prometheus_client import CollectorRegistry

    from beanpool.contrib.prometheus import PoolCollector, observe

    return {
        "PoolCollector": PoolCollector,
        "prometheus.observe": lambda pool: observe(pool, CollectorRegistry()),
    }


def _opentelemetry() -> dict[str, Measure]:
    if importlib.util.find_spec("opentelemetry") is None or importlib.util.find_spec("opentelemetry.sdk") is None:
        return {}
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader
    from opentelemetry.sdk.trace import TracerProvider

    from beanpool.contrib.opentelemetry import observe

    # Without a processor, spans are made and dropped.
    sdk: dict[str, Any] = {"meter_provider": MeterProvider([InMemoryMetricReader()])}
    return {
        "opentelemetry.observe, no SDK": observe,
        "the SDK, metrics": lambda pool: observe(pool, **sdk, spans=False),
        "the SDK, metrics and spans": lambda pool: observe(pool, **sdk, tracer_provider=TracerProvider()),
    }
