"""Servers that join and leave by their records while a pool is at work: nothing is lost, and the right keys move."""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections import deque
from typing import TYPE_CHECKING

from support.ledger import Ledger
from support.name_server import Zone
from support.threads import background
from support.waiting import wait_until

from beanpool import PoolManager

if TYPE_CHECKING:
    from conftest import StartCluster

# More by hand.
PUTS_PER_PHASE = 300
KEYS = [f"key {number}" for number in range(300)]


def test_nothing_is_lost_and_no_key_goes_by_way_of_a_third_server(
    cluster: StartCluster, zone: Zone, ledger: Ledger
) -> None:
    a, b, c, d = servers = cluster(4)
    # One joins, one leaves, the name server is silent for a while, and one leaves for another.
    phases = [[a, b], [a, b, c], [b, c], [b, c], [c, d]]
    owners = [owners_of([zone.address(server) for server in phase]) for phase in phases]
    zone.list(*phases[0])
    placed: deque[tuple[int, int, str, str]] = deque()
    # An even step is a phase, an odd one the change to the next.
    steps = itertools.count(1)
    step = [0]
    stop, stop_working = threading.Event(), threading.Event()
    seen_after: list[float] = []

    with zone.pool(timeout=1, health_interval=0.1, patience=0.3) as pool:
        pool.wait(2)

        def produce() -> None:
            for key in itertools.cycle(random.sample(KEYS, len(KEYS))):
                if stop.is_set():
                    return
                body, began = ledger.token(), step[0]
                jid = pool.put(body, key=key)
                ledger.acked(body, jid.server, jid, jid.maybe_duplicate)
                placed.append((began, step[0], key, jid.server))

        def work() -> None:
            while not stop_working.is_set():
                for job in pool.reserve_many(20, 0.1):
                    ledger.delivered(job.data, job.server, job.id)
                    job.delete()
                    ledger.deleted(job.data)

        def await_puts() -> None:
            enough = len(placed) + PUTS_PER_PHASE
            wait_until(lambda: len(placed) >= enough, "some puts", 60)

        producers = [background(produce, "a producer") for _ in range(2)]
        worker = background(work, "a worker")
        await_puts()
        for before, phase in itertools.pairwise(phases):
            step[0] = next(steps)
            wanted = {zone.address(server) for server in phase}
            if phase == before:
                zone.server.freeze()
                failed = pool.get_stats()["discovery_errors"]
                wait_until(lambda: pool.get_stats()["discovery_errors"] > failed, "the silence to be noticed")  # noqa: B023  # It is not called later.
                zone.server.thaw()
            else:
                zone.list(*phase)
                listed_at = time.monotonic()
                wait_until(lambda: staying(pool) == wanted, "the change")  # noqa: B023  # It is not called later.
                seen_after.append(time.monotonic() - listed_at)
            step[0] = next(steps)
            await_puts()
        stop.set()
        for producer in producers:
            producer.result(10)
        wait_until(lambda: not ledger.outstanding(), "all jobs to be worked off", 30)
        wait_until(lambda: len(pool.servers) == len(phases[-1]), "those that leave to be gone")
        stop_working.set()
        worker.result(10)
    astray = [
        (began, ended, key, server)
        for began, ended, key, server in placed
        if server not in {owners[phase][key] for phase in range(began // 2, (ended + 1) // 2 + 1)}
    ]
    report = ledger.reconcile([server.control for server in servers], exactly_once=True)
    moved = [sum(old[key] != new[key] for key in KEYS) for old, new in itertools.pairwise(owners)]
    print(
        f"keys moved: {moved} of {len(KEYS)}; puts astray: {len(astray)} of {len(placed)}; "
        f"seen after {', '.join(f'{seconds:.2f}' for seconds in seen_after)} s; {report}"
    )
    assert not astray
    # All that moved went to the one that joined, and came from the one that left.
    joined, left = zone.address(c), zone.address(a)
    assert {owners[1][key] for key in KEYS if owners[0][key] != owners[1][key]} == {joined}
    assert {owners[1][key] for key in KEYS if owners[1][key] != owners[2][key]} == {left}
    assert moved[2] == 0


def staying(pool: PoolManager) -> set[str]:
    return {status.address for status in pool.servers if not status.leaving}


def owners_of(addresses: list[str]) -> dict[str, str]:
    pool = PoolManager(addresses)
    return {key: pool.route(key)[0] for key in KEYS}
