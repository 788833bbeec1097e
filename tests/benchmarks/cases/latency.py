"""From a put to a thread that waits for the job, over 1 to 32 servers."""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Iterator

from benchmarks.bench import Bench
from benchmarks.measuring import Timings
from benchmarks.peers import AIOSTALK, GREENSTALK, NOT_INSTALLED, PYSTALK, PYSTALKD, installed
from benchmarks.plots import Lines
from benchmarks.result import Goal, Result, Table
from support.servers import BeanstalkdServer

SIZES = (1, 2, 4, 8, 16, 32)
GOAL_SIZE = 16
ROUNDS = 15
PUTS = 20
"""Puts to each client in a round; the round's figure is their median."""
YARDSTICK = f"{GREENSTALK}, 1 server"


def wake_up(bench: Bench) -> Result:
    """A thread that waits in ``reserve`` on one core, then on all of them."""
    result = Result("Put to delivery, to a thread that waits")
    what = f"wake-up over {GOAL_SIZE} servers"
    if not installed(GREENSTALK):
        result.goals = [Goal(what, YARDSTICK, 1.3, None, True, f"{GREENSTALK} is {NOT_INSTALLED}")]
        return result
    sizes = bench.sizes(SIZES)
    with bench.pinned(max(sizes)) as servers:
        pinned, times = _measure(bench, servers, sizes)
    result.tables.append(_table(pinned, times, "Client, producer and servers on one core:"))
    spread, times = _measure(bench, servers, sizes)
    result.tables.append(_table(spread, times, "On all cores:"))
    if GOAL_SIZE in sizes:
        measured = pinned.cost(_name(GOAL_SIZE), YARDSTICK)
        result.goals = [Goal(what, YARDSTICK, 1.3, measured, at_most=True)]
    else:
        result.goals = [Goal(what, YARDSTICK, 1.3, None, True, "not with so few servers")]
    places = [str(size) for size in sizes]
    series = {"beanpool, one core": [pinned.median(_name(size)) * 1000 for size in sizes]}
    series["beanpool, all cores"] = [spread.median(_name(size)) * 1000 for size in sizes]
    series[f"{YARDSTICK}, one core"] = [pinned.median(YARDSTICK) * 1000] * len(sizes)
    series[f"{YARDSTICK}, all cores"] = [spread.median(YARDSTICK) * 1000] * len(sizes)
    result.plots = [Lines("latency", "Put to delivery", "servers that one thread waits on", "ms", places, series)]
    return result


def _name(size: int) -> str:
    return f"beanpool, {size} server{'s' * (size > 1)}"


def _measure(
    bench: Bench, servers: list[BeanstalkdServer], sizes: tuple[int, ...]
) -> tuple[Timings, dict[str, list[float]]]:
    # Not at the top: it imports greenstalk.
    from benchmarks.reserve_latency import Contender, Producer, beanpool_waits, delivery, greenstalk_waits, raw_waits

    timings, times = Timings(), dict[str, list[float]]()

    def slices(contenders: list[Contender], puts: int) -> Iterator[tuple[str, list[float]]]:
        found: dict[str, list[float]] = {}
        for _ in range(puts):
            for contender in contenders:
                found.setdefault(contender.name, []).append(delivery(producer, contender, servers))
        yield from found.items()

    with contextlib.ExitStack() as stack:
        producer = stack.enter_context(Producer())
        contenders = [stack.enter_context(greenstalk_waits(servers[0]))]
        contenders.append(stack.enter_context(raw_waits(servers[:GOAL_SIZE])))
        contenders += [stack.enter_context(beanpool_waits(servers[:size])) for size in sizes]
        # Not counted: connections are opened.
        for _ in slices(contenders, 2):
            pass
        for _ in range(bench.rounds(ROUNDS)):
            for name, seconds in slices(contenders, max(2, round(PUTS * bench.effort.operations))):
                timings.add(name, statistics.median(seconds))
                times.setdefault(name, []).extend(seconds)
    return timings, times


def _table(timings: Timings, times: dict[str, list[float]], caption: str) -> Table:
    rows = [
        [
            name,
            "1" if name == YARDSTICK else str(timings.cost(name, YARDSTICK)),
            f"{statistics.median(seconds) * 1000:.3f}",
            f"{statistics.quantiles(seconds, n=10)[8] * 1000:.3f}",
        ]
        for name, seconds in times.items()
    ]
    rows += [[name, "one server only", "", ""] for name in (PYSTALK, PYSTALKD, AIOSTALK)]
    return Table(["client", f"latency, {YARDSTICK} = 1 (quartiles)", "median (ms)", "90 % (ms)"], rows, caption)
