"""``beanpool demo``: three servers, one of them killed and started again, nothing lost."""

from __future__ import annotations

import argparse
import dataclasses
import random
import secrets
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from beanpool import PoolManager, Server, ServerStatus
from beanpool.cli.demo.ledger import Ledger, Tally
from beanpool.cli.demo.local_servers import local_servers
from beanpool.cli.demo.scoreboard import Row, View, choose_view
from beanpool.cli.demo.workload import Workload
from beanpool.cli.exits import CommandError, Exit
from beanpool.cli.stop_signals import StopSignals
from beanpool.cli.tables import count
from beanpool.cli.terminal import complain, say, to_json
from beanpool.testing.beanstalkd import find_beanstalkd, no_beanstalkd
from beanpool.testing.failures import ServerFailed

NAMES = ("b1", "b2", "b3")
TUBE = "orders"
# After the length of the demo the workers get this long for what is left, on a machine that is slow.
DRAIN_LIMIT = 15.0
_JOB_COUNTERS = ("current-jobs-ready", "current-jobs-reserved", "current-jobs-delayed", "current-jobs-buried")
_EMBEDDED = "The servers are embedded ones, processes of Python that keep no write-ahead log."


class DemoServer(Protocol):
    """What the demo needs of a server: it can be killed, and started again at the same address.

    :ivar keeps_jobs: whether it has its jobs back then.
    """

    name: str
    host: str
    port: int
    keeps_jobs: bool

    @property
    def address(self) -> str:
        """Its address as the pool writes it."""

    def start(self) -> None:
        """Start it; return when it answers."""

    def kill(self) -> None:
        """End it without a warning."""


@dataclasses.dataclass(frozen=True, slots=True)
class Result:
    """How a run ended.

    :ivar left_on_servers: jobs that the servers still had; ``None`` if one of them did not say.
    :ivar failures: what went wrong in a thread of the demo.
    """

    seconds: float
    tally: Tally
    left_on_servers: int | None
    failures: Sequence[str]

    @property
    def lost(self) -> int:
        """Jobs whose put was acknowledged, that no killed server took with it, and that were never delivered."""
        return self.tally.outstanding

    @property
    def good(self) -> bool:
        """Whether jobs were put, none was lost, none is left, and no thread failed."""
        return self.tally.put > 0 and not self.lost and self.left_on_servers == 0 and not self.failures


def run(arguments: argparse.Namespace) -> int:
    """Run the demo; exit code 0 only if nothing was lost."""
    program = find_beanstalkd()
    if program is None and not arguments.json:
        say(f"{no_beanstalkd()}.\n{_EMBEDDED}")
    view = choose_view(len(NAMES), plain=arguments.plain, json=arguments.json)
    seed = secrets.randbits(32) if arguments.seed is None else arguments.seed
    with StopSignals() as signals:
        try:
            with local_servers(program, NAMES) as servers:
                result = Demo(servers, view, signals, seconds=arguments.seconds, seed=seed).run()
        except ServerFailed as error:
            raise CommandError(str(error), code=Exit.UNAVAILABLE) from error
    if signals.received is not None:
        complain("the demo was interrupted; its servers are stopped and their files removed")
        return 128 + signals.received
    say(to_json(_fields(result, servers, seed)) if arguments.json else summary(result))
    for failure in result.failures:
        print(failure, file=sys.stderr)
    if result.left_on_servers != 0:
        complain(f"the servers still hold {result.left_on_servers or 'an unknown number of'} jobs")
    return Exit.OK if result.good else Exit.NEGATIVE


class Demo:
    """One run over `servers`, which are running already."""

    def __init__(
        self, servers: Sequence[DemoServer], view: View, signals: StopSignals, *, seconds: float, seed: int
    ) -> None:
        self._servers = servers
        self._victim = random.Random(seed).choice(servers)
        self._view = view
        self._signals = signals
        self._seconds = seconds
        self._ledger = Ledger()
        self._stats: dict[str, dict[str, Any]] = {}
        self._answered: set[str] = set()
        self._states: dict[str, str] = {}
        self._started = 0.0
        self._pool = PoolManager(
            [Server(server.host, server.port, name=server.name) for server in servers],
            tube=TUBE,
            watch=(TUBE,),
            connect_timeout=1.0,
            timeout=2.0,
            health_interval=min(0.5, seconds / 40),
            name="demo",
        )
        self._workload = Workload(self._pool, self._ledger, seed)

    def run(self) -> Result:
        """Play the whole story, close the pool, and return what the books say."""
        self._started = time.monotonic()
        with self._pool:
            try:
                self._workload.start()
                self._play()
            finally:
                self._workload.stop()
                self._pool.close()
                self._workload.join()
        everyone = len(self._answered) == len(self._servers)
        left = sum(map(_jobs, self._stats.values())) if everyone else None
        return Result(self._elapsed(), self._ledger.tally(), left, tuple(self._workload.failures))

    def _play(self) -> None:
        acts: list[tuple[float, Callable[[], None]]] = [
            (self._seconds * 0.25, self._kill_one),
            (self._seconds * 0.5, self._start_it_again),
            (self._seconds * 0.75, self._stop_producing),
        ]
        kind = "servers" if all(server.keeps_jobs for server in self._servers) else "embedded servers"
        self._view.note(0.0, f"{len(self._servers)} {kind}, 2 producers, 4 workers")
        while self._signals.received is None and not self._workload.failures:
            while acts and self._elapsed() >= acts[0][0]:
                acts.pop(0)[1]()
            # Asked before the counters are read: what is counted after the last put is final.
            producing = bool(acts) or self._workload.producing
            self._ask_servers()
            self._show()
            drained = len(self._answered) == len(self._servers) and not any(map(_jobs, self._stats.values()))
            if (drained and not producing) or self._elapsed() > self._seconds + DRAIN_LIMIT:
                return
            time.sleep(self._view.interval)

    def _kill_one(self) -> None:
        self._victim.kill()
        waiting = _jobs(self._stats.get(self._victim.address, {}))
        if not self._victim.keeps_jobs:
            self._stats.pop(self._victim.address, None)
        fate = "wait in its write-ahead log" if self._victim.keeps_jobs else "are gone with it, for it keeps no log"
        self._note(f"killed {self._victim.name} with SIGKILL; about {waiting} jobs {fate}")

    def _start_it_again(self) -> None:
        if not self._victim.keeps_jobs:
            # While it is dead: all that was put there belongs to the process that was killed.
            self._ledger.gone_with(self._victim.address)
        self._victim.start()
        jobs = "with the same log" if self._victim.keeps_jobs else "with no jobs"
        self._note(f"started {self._victim.name} again, at the same address, {jobs}")

    def _stop_producing(self) -> None:
        self._workload.stop_producing()
        self._note("the producers stop; the workers finish what is there")

    def _ask_servers(self) -> None:
        answers = self._pool.stats_by_server()
        fresh = {server: stats for server, stats in answers.items() if not isinstance(stats, BaseException)}
        self._stats |= fresh
        self._answered = set(fresh)

    def _show(self) -> None:
        tally = self._ledger.tally()
        servers = self._pool.servers
        for server in servers:
            if self._states.setdefault(server.name, server.state) != server.state:
                self._states[server.name] = server.state
                self._note(f"the pool sees {server.name} {server.state}")
        self._view.show(self._elapsed(), [self._row(server, tally) for server in servers], tally)

    def _row(self, server: ServerStatus, tally: Tally) -> Row:
        stats = self._stats.get(server.address, {})
        return Row(
            name=server.name,
            address=server.address,
            state=server.state,
            answered=server.address in self._answered,
            ready=stats.get("current-jobs-ready", 0),
            reserved=stats.get("current-jobs-reserved", 0),
            done=tally.done_by_server[server.address],
            put_share=tally.put_by_server[server.address] / max(1, tally.put),
            open=server.open,
            leased=server.leased,
            last_error=(server.last_error or "").rpartition(f"{server.address}: ")[2],
        )

    def _note(self, text: str) -> None:
        self._view.note(self._elapsed(), text)

    def _elapsed(self) -> float:
        return time.monotonic() - self._started


def summary(result: Result) -> str:
    """The run in one line."""
    tally = result.tally
    parts = [
        f"{count(tally.put)} put",
        f"{count(tally.done)} done",
        *([f"{count(tally.gone)} gone with the server that was killed"] if tally.gone else []),
        f"{count(result.lost)} lost",
        f"{count(tally.delivered_twice)} delivered twice (at-least-once)",
        f"worst put {tally.worst_put * 1000:.0f} ms",
    ]
    if tally.refused:
        parts.append(f"{count(tally.refused)} puts failed")
    return " · ".join(parts)


def _fields(result: Result, servers: Sequence[DemoServer], seed: int) -> dict[str, Any]:
    tally = result.tally
    return {
        "put": tally.put,
        "done": tally.done,
        "gone_with_server": tally.gone,
        "lost": result.lost,
        "delivered_twice": tally.delivered_twice,
        "puts_failed": tally.refused,
        "puts_maybe_duplicate": tally.maybe_duplicate,
        "reservations_lost": tally.reservations_lost,
        "worst_put_seconds": round(tally.worst_put, 6),
        "left_on_servers": result.left_on_servers,
        "seconds": round(result.seconds, 3),
        "seed": seed,
        "embedded": not all(server.keeps_jobs for server in servers),
        "servers": {
            server.name: {
                "put": tally.put_by_server[server.address],
                "done": tally.done_by_server[server.address],
            }
            for server in servers
        },
    }


def _jobs(stats: dict[str, Any]) -> int:
    return sum(stats.get(counter, 0) for counter in _JOB_COUNTERS)
