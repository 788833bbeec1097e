"""Six producers and four workers on three servers, and what may happen to a server: nothing lost, nothing hung.

``pytest -s tests/faults/test_outages.py`` prints what each outage cost: the figures in docs/reliability.md.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
from faults.load import Load
from support.ledger import Ledger, Report
from support.servers import BeanstalkdServer
from support.threads import background
from support.waiting import wait_until

from beanpool import PoolManager

if TYPE_CHECKING:
    from conftest import StartDelayLine

TIMEOUT = 2.0
PAUSE = threading.Event().wait
"""How long a fault lasts is the fault, not a wait for something."""


class Scene:
    """Three servers with a write-ahead log, and a load on them."""

    def __init__(self, servers: list[BeanstalkdServer], pool: PoolManager, ledger: Ledger) -> None:
        self.servers = servers
        self.pool = pool
        self.load = Load(pool, ledger, timeout=TIMEOUT)

    def state(self, server: BeanstalkdServer) -> str:
        """What the pool believes of the server."""
        return next(status.state for status in self.pool.servers if status.address == server.address)


@pytest.fixture
def run(
    cluster: Callable[..., list[BeanstalkdServer]],
    ledger: Ledger,
    record_property: Callable[[str, object], None],
    request: pytest.FixtureRequest,
) -> Callable[[Callable[[Scene], dict[str, float | None]]], tuple[Scene, Report]]:
    """Runs a fault under load, and holds what came of it against the promises."""

    def play(fault: Callable[[Scene], dict[str, float | None]]) -> tuple[Scene, Report]:
        servers = cluster(3, wal=True)
        with PoolManager(
            [server.address for server in servers], timeout=TIMEOUT, connect_timeout=1.0, health_interval=1.0
        ) as pool:
            scene = Scene(servers, pool, ledger)
            with scene.load.running(servers):
                figures = fault(scene)
            report = scene.load.check(servers)
            line = scene.load.figures(report, **figures)
        record_property("figures", line)
        print(f"\n{request.node.name}: {line}")
        assert all(not server.control.counter("current-waiting") for server in servers)
        wait_until(lambda: all(server.control.other_connections() == 0 for server in servers), "no connection left")
        return scene, report

    return play


Run = Callable[[Callable[[Scene], dict[str, float | None]]], tuple[Scene, Report]]


def test_kill_9_of_one_of_three_and_its_restart_after_3_s(run: Run) -> None:
    def fault(scene: Scene) -> dict[str, float | None]:
        victim = scene.servers[0]
        killed_at = time.monotonic()
        victim.kill()
        PAUSE(3.0)
        victim.start()
        started_at = time.monotonic()
        wait_until(lambda: scene.state(victim) == "up", "the server to be used again", 5)
        before = victim.control.counter("cmd-put")
        wait_until(lambda: victim.control.counter("cmd-put") > before, "puts to come back", 5)
        return {
            "noticed after": scene.load.noticed(victim, killed_at),
            "back after": scene.load.when(victim, "up", started_at),
        }

    scene, _ = run(fault)
    assert scene.load.changes(scene.servers[0])[-1] == "up"
    assert scene.load.changes(scene.servers[1]) == scene.load.changes(scene.servers[2]) == []


def test_sigstop_of_6_s(run: Run) -> None:
    def fault(scene: Scene) -> dict[str, float | None]:
        victim = scene.servers[0]
        stopped_at = time.monotonic()
        victim.freeze()
        wait_until(lambda: scene.state(victim) == "down", "the silence to be noticed", 5)
        down_after = time.monotonic() - stopped_at
        PAUSE(6.0 - down_after)
        victim.thaw()
        thawed_at = time.monotonic()
        wait_until(lambda: scene.state(victim) == "up", "the server to be used again", 5)
        return {
            "noticed after": scene.load.noticed(victim, stopped_at),
            "down after": down_after,
            "back after": scene.load.when(victim, "up", thawed_at),
        }

    scene, _ = run(fault)
    # Half of a put's deadline is the first server's share.
    noticed = scene.load.noticed(scene.servers[0], 0.0)
    assert noticed is not None
    assert scene.load.changes(scene.servers[1]) == scene.load.changes(scene.servers[2]) == []


def test_a_stop_shorter_than_the_deadlines_is_nothing_but_latency(run: Run) -> None:
    def fault(scene: Scene) -> dict[str, float | None]:
        victim = scene.servers[0]
        victim.freeze()
        PAUSE(0.4)
        victim.thaw()
        return {}

    scene, report = run(fault)
    assert all(scene.load.changes(server) == [] for server in scene.servers)
    assert report.maybe_duplicate == report.failed_deletes == 0


def test_drain_of_one_and_its_restart(run: Run) -> None:
    def fault(scene: Scene) -> dict[str, float | None]:
        victim = scene.servers[0]
        victim.drain()
        drained_at = time.monotonic()

        def draining() -> bool:
            return any(status.draining for status in scene.pool.servers)

        wait_until(draining, "the drain to be noticed", 3)
        noticed_after = time.monotonic() - drained_at
        # Those on their way when it was noticed still come.
        PAUSE(0.1)
        puts, reserves = (victim.control.counter(name) for name in ("cmd-put", "cmd-reserve-with-timeout"))
        wait_until(
            lambda: victim.control.counter("cmd-reserve-with-timeout") > reserves + 5, "more reserves from it", 5
        )
        assert victim.control.counter("cmd-put") == puts
        victim.restart()
        wait_until(lambda: not draining(), "the end of the drain", 5)
        before = victim.control.counter("cmd-put")
        wait_until(lambda: victim.control.counter("cmd-put") > before, "puts to come back", 5)
        return {"noticed after": noticed_after}

    run(fault)


def test_rolling_restart_of_all(run: Run) -> None:
    def fault(scene: Scene) -> dict[str, float | None]:
        slowest = 0.0
        for server in scene.servers:
            instance = server.control.stats()["id"]
            server.restart()
            restarted_at = time.monotonic()

            def is_used_again(server: BeanstalkdServer = server, instance: str = instance) -> bool:
                status = next(status for status in scene.pool.servers if status.address == server.address)
                return status.state == "up" and status.instance != instance

            wait_until(is_used_again, "the restarted server to be used", 5)
            slowest = max(slowest, time.monotonic() - restarted_at)
            puts = scene.load.ledger.acked_count
            wait_until(lambda puts=puts: scene.load.ledger.acked_count > puts + 150, "more puts", 5)  # type: ignore[misc]  # mypy infers no type for a lambda with defaults
        return {"slowest return": slowest}

    run(fault)


def test_flapping_every_250_ms(run: Run) -> None:
    flaps = 8

    def fault(scene: Scene) -> dict[str, float | None]:
        victim = scene.servers[0]
        for _ in range(flaps):
            victim.kill()
            PAUSE(0.25)
            victim.start()
            PAUSE(0.25)
        started_at = time.monotonic()
        wait_until(lambda: scene.state(victim) == "up", "the server to be used again", 5)
        return {"back after": time.monotonic() - started_at}

    scene, _ = run(fault)
    changes = scene.load.changes(scene.servers[0])
    # At most suspect, down and up for each flap: nobody wavers on its own.
    assert len(changes) <= 3 * flaps, changes
    assert scene.load.changes(scene.servers[1]) == scene.load.changes(scene.servers[2]) == []


def test_that_all_connections_break_at_once_is_no_outage(
    beanstalkd: BeanstalkdServer, delay_line: StartDelayLine
) -> None:
    """Something between has forgotten them; the server answers whoever connects."""
    line = delay_line(beanstalkd, 0.05)
    tubes = [f"tube-{number}" for number in range(8)]
    with PoolManager(line.address, health_interval=60, timeout=5) as pool:
        calls = [background(lambda tube=tube: pool.reserve(20, tubes=tube)) for tube in tubes]  # type: ignore[misc]  # mypy infers no type for a lambda with defaults
        for _ in range(2):
            wait_until(lambda: beanstalkd.control.counter("current-waiting") == len(tubes), "all of them to wait")
            wait_until(lambda: pool.servers[0].state == "up", "the check of before to be answered")
            line.cut()
        for tube in tubes:
            beanstalkd.control.put(b"x", tube)
        for call in calls:
            job = call.result()
            assert job is not None
            job.delete()
        counts = pool.get_stats()
    assert counts["outages_num"] == 0
    assert counts["connections_lost"] >= len(tubes)


def test_kill_9_without_a_log_loses_what_that_server_held_and_nothing_else(
    cluster: Callable[..., list[BeanstalkdServer]], ledger: Ledger
) -> None:
    servers = cluster(2)
    with PoolManager([server.address for server in servers], timeout=TIMEOUT, health_interval=1.0) as pool:
        load = Load(pool, ledger, timeout=TIMEOUT, producers=2, workers=1)
        with load.running(servers):
            servers[0].restart()
            puts = ledger.acked_count
            wait_until(lambda: ledger.acked_count > puts + 100, "puts after the restart", 5)
        load.check(servers, storage_lost=[servers[0].address])
