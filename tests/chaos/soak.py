"""Producers and workers for as long as wanted, under random faults, and then the balance of every single job.

``python tests/chaos/soak.py --seconds 600 --seed 7``; the same seed, seconds and number of servers give the same
faults at the same times. ``--schedule`` prints them without running anything.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import dataclasses
import faulthandler
import os
import secrets
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from chaos.proxies import LinkedServer, ProxiedClusters
from chaos.schedule import Injector, make_schedule
from chaos.traffic import DEADLINE, Traffic
from chaos.watchdog import Watchdog, dump_stacks
from support.ledger import Ledger, Report
from support.processes import assert_baseline
from support.waiting import wait_until

from beanpool import PoolManager
from beanpool.testing.toxiproxy import Toxiproxy

QUIET = 40.0
"""The longest time for all jobs to be worked off once the faults are over (seconds)."""


@dataclasses.dataclass
class Result:
    """What a run came to."""

    seed: int
    seconds: float
    operations: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    outcomes: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    faults: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    report: Report = dataclasses.field(default_factory=Report)
    problems: list[str] = dataclasses.field(default_factory=list)
    worst_over: float = 0.0
    worst_stall: float = 0.0

    def summary(self) -> str:
        """One line for a table."""
        lost = sum("I1" in violation for violation in self.report.violations)
        undeclared = sum("I3" in violation for violation in self.report.violations)
        return (
            f"{self.seconds:g} s, seed {self.seed}: {sum(self.operations.values()):,} operations, "
            f"{sum(self.faults.values())} faults; lost {lost}, undeclared duplicates {undeclared}, "
            f"hung {sum('not ended' in problem for problem in self.problems)}, {len(self.problems)} problems"
        )

    def __str__(self) -> str:
        def listed(counts: collections.Counter[str]) -> str:
            return ", ".join(f"{name} {count:,}" for name, count in sorted(counts.items()))

        return "\n".join(
            [
                self.summary(),
                f"operations: {listed(self.operations)}",
                f"outcomes: {listed(self.outcomes)}",
                f"faults: {listed(self.faults)}",
                f"the call latest beyond its deadline: {self.worst_over:.3f} s; "
                f"the machine's worst stall: {self.worst_stall:.3f} s",
                str(self.report),
                *(f"PROBLEM: {problem}" for problem in self.problems),
            ]
        )


@contextlib.contextmanager
def _noted(problems: list[str]) -> Iterator[None]:
    try:
        yield
    except AssertionError as error:
        problems.append(str(error))


def run(
    proxy: Toxiproxy,
    *,
    seed: int,
    seconds: float,
    servers: int = 4,
    producers: int = 6,
    workers: int = 6,
    pause: float = 0.02,
) -> Result:
    """Run the soak; the result's ``problems`` are empty when every promise was kept."""
    result = Result(seed, seconds)
    clusters = ProxiedClusters(proxy)
    try:
        cluster = clusters(servers, wal=True)
        for server in cluster:
            server.control.open()
        with _noted(result.problems), assert_baseline(10.0):
            ledger = _play(result, cluster, producers, workers, pause)
        with _noted(result.problems):
            for server in cluster:
                # Where its connection was cut in mid-command the control opens another one.
                wait_until(lambda server=server: server.control.other_connections() == 0, f"the baseline at {server}")  # type: ignore[misc]  # mypy infers no type for a lambda with defaults
        result.report = ledger.audit([server.control for server in cluster])
        result.problems += result.report.violations
        excuses = result.report.failed_deletes + result.report.maybe_duplicate
        excuses += result.outcomes["released"] + result.outcomes["dropped"]
        if result.report.redelivered > excuses:
            result.problems.append(f"{result.report.redelivered} bodies came twice, and only {excuses} had a reason to")
    finally:
        clusters.stop()
    return result


def _play(result: Result, cluster: list[LinkedServer], producers: int, workers: int, pause: float) -> Ledger:
    ledger = Ledger()
    injector = Injector(cluster, make_schedule(result.seed, result.seconds, len(cluster)))
    with (
        Watchdog() as watchdog,
        PoolManager(
            [server.address for server in cluster],
            timeout=DEADLINE,
            connect_timeout=0.5,
            health_interval=0.5,
            name="soak",
        ) as pool,
    ):
        traffic = Traffic(pool, ledger, watchdog, result.seed, pause)
        aborted = threading.Event()
        injecting = threading.Thread(target=_inject, args=(injector, aborted, result), name="injector", daemon=True)
        traffic.start(producers, workers)
        injecting.start()
        end = time.monotonic() + result.seconds
        while time.monotonic() < end and not watchdog.hung and not traffic.errors:
            aborted.wait(0.2)
        if watchdog.hung or traffic.errors:
            aborted.set()
        injecting.join(30.0)
        for server in cluster:
            server.control.close()
        traffic.stop_producing()
        with _noted(result.problems):
            wait_until(
                lambda: watchdog.hung or traffic.errors or not any(map(_jobs_at, cluster)),
                "all jobs to be worked off",
                QUIET,
            )
            wait_until(
                lambda: watchdog.hung or all(status.state == "up" for status in pool.servers), "all servers up", 10.0
            )
        stuck = traffic.stop()
        if stuck:
            dump_stacks(f"{', '.join(stuck)} do not end")
            result.problems.append(f"{', '.join(stuck)} have not ended")
        pool.close(2.0)
    result.problems += watchdog.hung + watchdog.late[:10]
    result.problems += [f"escaped: {type(error).__name__}: {error}" for error in traffic.errors]
    result.operations, result.outcomes, result.faults = watchdog.count, traffic.outcomes, injector.injected
    result.worst_over, result.worst_stall = watchdog.worst, watchdog.lag.worst
    return ledger


def _inject(injector: Injector, aborted: threading.Event, result: Result) -> None:
    try:
        injector.run(aborted)
    except Exception as error:
        result.problems.append(f"the injector failed: {type(error).__name__}: {error}")
        raise


def _jobs_at(server: LinkedServer) -> int:
    statistics = server.control.stats()
    return sum(int(statistics[f"current-jobs-{state}"]) for state in ("ready", "reserved", "delayed"))


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=60.0, help="how long faults are injected (default: 60)")
    parser.add_argument("--seed", type=int, help="of the faults (default: BEANPOOL_SEED, or a random one)")
    parser.add_argument("--servers", type=int, default=4)
    parser.add_argument("--producers", type=int, default=6)
    parser.add_argument("--workers", type=int, default=6)
    parser.add_argument("--pause", type=float, default=0.02, help="of a producer between two puts (seconds)")
    parser.add_argument("--schedule", action="store_true", help="print the faults and run nothing")
    options = parser.parse_args()
    seed = options.seed
    if seed is None:
        seed = int(os.environ.get("BEANPOOL_SEED") or secrets.randbits(32))
    if options.schedule:
        print(*make_schedule(seed, options.seconds, options.servers), sep="\n")
        return 0
    print(f"seed {seed}", flush=True)
    # If even the watchdog hangs.
    faulthandler.dump_traceback_later(options.seconds + QUIET + 120, exit=True)
    with Toxiproxy(seed=seed) as proxy:
        result = run(
            proxy,
            seed=seed,
            seconds=options.seconds,
            servers=options.servers,
            producers=options.producers,
            workers=options.workers,
            pause=options.pause,
        )
    faulthandler.cancel_dump_traceback_later()
    print(result)
    return 1 if result.problems else 0


if __name__ == "__main__":
    sys.exit(main())
