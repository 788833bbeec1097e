"""Moves while servers are killed or frozen: nothing is lost, and what is there twice was declared.

``BEANPOOL_MOVES=12 BEANPOOL_MOVED=4000`` makes it long, by hand.
"""

from __future__ import annotations

import functools
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
from support.servers import BeanstalkdServer
from support.threads import background
from support.waiting import wait_until

from beanpool import PoolManager, Put
from beanpool.admin import Outcome, StoredJob, evacuate, move, total

if TYPE_CHECKING:
    from conftest import StartCluster

# More by hand.
MOVES = int(os.environ.get("BEANPOOL_MOVES", "1"))
MOVED = int(os.environ.get("BEANPOOL_MOVED", "900"))
# How long a server may be silent, and how long one is frozen (seconds).
TIMEOUT = 0.3 if MOVES == 1 else 1.0
FROZEN = 3.0

Move = Callable[[PoolManager, BeanstalkdServer, float], dict[str, Outcome]]


def _within_servers(pool: PoolManager, _: BeanstalkdServer, timeout: float) -> dict[str, Outcome]:
    return move(pool, "a", "b", timeout=timeout)


def _by_key(pool: PoolManager, _: BeanstalkdServer, timeout: float) -> dict[str, Outcome]:
    def key(job: StoredJob) -> bytes:
        return job.data

    return move(pool, "a", "b", key=key, timeout=timeout)


def _away(pool: PoolManager, server: BeanstalkdServer, timeout: float) -> dict[str, Outcome]:
    return evacuate(pool, server.address, timeout=timeout)


def bodies_in(servers: list[BeanstalkdServer]) -> Counter[bytes]:
    """How often each body is there; takes all of them."""
    found: Counter[bytes] = Counter()
    for server in servers:
        nothing_in_hand = functools.partial(_has_none_reserved, server)
        wait_until(nothing_in_hand, "no job to be in hand")
        found.update(job.body for job in server.control.drain_all())
    return found


def _has_none_reserved(server: BeanstalkdServer) -> bool:
    return server.control.counter("current-jobs-reserved") == 0


def fill(pool: PoolManager, run: int) -> list[bytes]:
    """A third of the jobs ready, a third delayed, a third buried; on all servers."""
    bodies = [b"%d of run %d" % (number, run) for number in range(MOVED)]
    pool.put_many([Put(body, delay=1000 if number % 3 == 1 else 0) for number, body in enumerate(bodies)], tube="a")
    pool.bury_many(pool.reserve_many(MOVED // 3, 5, tubes="a"))
    return bodies


@pytest.mark.parametrize("fault", ["kill", "freeze"])
@pytest.mark.parametrize("moving", [_within_servers, _by_key, _away], ids=["within servers", "by key", "away"])
def test_nothing_is_lost_and_duplicates_are_declared(
    cluster: StartCluster, rng: random.Random, fault: str, moving: Move
) -> None:
    servers = cluster(3, wal=True)
    for run in range(MOVES):
        with PoolManager([server.url for server in servers], connect_timeout=0.5, health_interval=0.5) as pool:
            bodies = fill(pool, run)
            victim = rng.choice(servers)
            seen = victim.control.counter("cmd-delete")
            share = rng.random() * MOVED / 3 / 2
            running = background(functools.partial(moving, pool, victim, TIMEOUT), "the move")
            while not running.done and victim.control.counter("cmd-delete") - seen <= share:
                pass
            outcomes = _harm(victim, fault, running.result)
            twice = _settle(pool, servers, outcomes, bodies, moving, victim)
        sum_ = total(outcomes)
        print(
            f"{fault} {run}: {sum_.done} done, {sum_.skipped} skipped, {sum_.unsure} unsure, {sum_.duplicates} declared"
            f" twice; {twice} were there twice"
        )


def _harm(victim: BeanstalkdServer, fault: str, result: Callable[[float], dict[str, Outcome]]) -> dict[str, Outcome]:
    if fault == "kill":
        victim.kill()
        victim.start()
        return result(60)
    victim.freeze()
    since = time.monotonic()
    outcomes = result(60)
    if MOVES > 1:
        time.sleep(max(0.0, FROZEN - (time.monotonic() - since)))
    victim.thaw()
    return outcomes


def _settle(
    pool: PoolManager,
    servers: list[BeanstalkdServer],
    outcomes: dict[str, Outcome],
    bodies: list[bytes],
    moving: Move,
    victim: BeanstalkdServer,
) -> int:
    """Let a second run finish the move, and compare what is there with what was said."""
    wait_until(lambda: pool.ping_by_server(timeout=5) and all(s.state == "up" for s in pool.servers), "all to be up")
    again = moving(pool, victim, 10)
    assert total(again).error is None, again
    found = bodies_in(servers)
    lost = [body for body in bodies if body not in found]
    assert not lost, f"{len(lost)} lost: {outcomes}"
    # A job without a body is put to learn how far ids go. One that a broken connection has left is no job of anybody.
    del found[b""]
    assert set(found) == set(bodies)
    twice = sum(found.values()) - len(bodies)
    declared = sum(outcome.duplicates + outcome.unsure for outcome in (*outcomes.values(), *again.values()))
    assert twice <= declared, outcomes
    return twice


MOVER = """
import sys
from beanpool import PoolManager
from beanpool.admin import move
with PoolManager(sys.argv[1:]) as pool:
    move(pool, "a", "b", progress=lambda news: print(news.handled, flush=True))
"""


def test_a_mover_that_is_killed_loses_nothing(cluster: StartCluster) -> None:
    servers = cluster(2)
    urls = [server.url for server in servers]
    with PoolManager(urls) as pool:
        bodies = fill(pool, 0)
    with subprocess.Popen([sys.executable, "-c", MOVER, *urls], stdout=subprocess.PIPE) as mover:
        assert mover.stdout is not None
        mover.stdout.readline()
        mover.kill()
    found = bodies_in(servers)
    del found[b""]
    assert set(found) == set(bodies)
    # A portion of each server.
    assert sum(found.values()) - len(bodies) <= 2 * 250
