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
import functools
import os
import random
import secrets
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from chaos.proxies import STREAMS, ProxiedClusters, ProxiedServer, Toxiproxy
from support.lag import LagProbe
from support.ledger import Ledger, Report
from support.processes import assert_baseline
from support.waiting import wait_until

from beanpool import Job, JobId, JobLost, NoServerAvailable, PoolManager, PoolTimeout, PutAmbiguous
from beanpool.errors import BeanpoolError

T = TypeVar("T")

DEADLINE = 1.0
"""Of every call but a reserve (seconds)."""
SLACK = 0.25
RESERVE_FOR = 0.5
HUNG_AFTER = 10.0
"""A call that is so much over its deadline is hung (seconds)."""
QUIET = 40.0
"""The longest time for all jobs to be worked off once the faults are over (seconds)."""

ALL = -1


# The schedule.


@dataclasses.dataclass(frozen=True, order=True)
class Planned:
    """One fault of a schedule. Times are seconds since the start."""

    at: float
    until: float
    server: int
    kind: str
    number: int
    """Of what the kind needs: bytes, milliseconds."""

    def __str__(self) -> str:
        where = "all servers" if self.server == ALL else f"server {self.server}"
        return f"{self.at:8.3f} to {self.until:8.3f} s: {self.kind} ({self.number}) on {where}"


Begin = Callable[[ProxiedServer, int], object]

KINDS: dict[str, Begin] = {
    **{
        f"{kind} {stream}": functools.partial(
            lambda server, number, kind, stream, attribute, more: server.link.add(
                kind, stream, **{attribute: number, **more}
            ),
            kind=kind,
            stream=stream,
            attribute=attribute,
            more=more,
        )
        for stream in STREAMS
        for kind, attribute, more in (
            ("latency", "latency", {"jitter": 50}),
            ("bandwidth", "rate", {}),
            ("slicer", "delay", {"average_size": 1, "size_variation": 0}),
            ("limit_data", "bytes", {}),
            ("reset_peer", "timeout", {}),
            ("slow_close", "delay", {}),
        )
    },
    **{
        f"black hole {stream}": functools.partial(
            lambda server, number, stream: server.link.add("timeout", stream, timeout=0), stream=stream
        )
        for stream in STREAMS
    },
    "link down": lambda server, number: server.link.down(),
    "link cut": lambda server, number: server.link.cut(),
    "kill -9": lambda server, number: server.kill(),
    "kill -9 behind a link that stays": lambda server, number: server.server.kill(),
    "SIGSTOP": lambda server, number: server.server.freeze(),
    "drain": lambda server, number: server.server.drain(),
}
NUMBERS = {"latency": (50, 1500), "bandwidth": (2, 50), "slicer": (0, 200), "limit_data": (0, 3000)}


def make_schedule(seed: int, seconds: float, servers: int) -> list[Planned]:
    """The faults of a run: one to a server at a time, one server always well, but for moments when all are gone."""
    rng = random.Random(f"{seed} {seconds} {servers}")
    planned: list[Planned] = []
    busy_until = [0.0] * servers
    at = 1.0
    while (at := at + rng.expovariate(1.5)) < seconds - 1.0:
        free = [server for server in range(servers) if busy_until[server] <= at]
        until = min(at + rng.choice((0.05, 0.3, 0.8, 1.5, 3.0)) * rng.uniform(0.5, 1.5), seconds)
        if len(free) == servers and rng.random() < 0.05:
            until = min(until, at + 1.0)
            planned.append(Planned(at, until, ALL, "link down", 0))
            busy_until = [until] * servers
        elif len(free) > 1:
            server, kind = rng.choice(free), rng.choice(list(KINDS))
            number = rng.randint(*NUMBERS.get(kind.split()[0], (0, 300)))
            planned.append(Planned(at, until, server, kind, number))
            busy_until[server] = until
    return planned


class Injector:
    """Does to the servers what the schedule says."""

    def __init__(self, servers: Sequence[ProxiedServer], planned: Sequence[Planned]) -> None:
        self._servers = servers
        steps = [(fault.at, 1, fault) for fault in planned] + [(fault.until, 0, fault) for fault in planned]
        self._steps = sorted(steps)
        self.injected: collections.Counter[str] = collections.Counter()

    def run(self, stop: threading.Event) -> None:
        """Go through the schedule; at the end everything is well."""
        started = time.monotonic()
        for at, begins, fault in self._steps:
            if stop.wait(max(0.0, started + at - time.monotonic())):
                break
            for server in self._servers if fault.server == ALL else [self._servers[fault.server]]:
                if begins:
                    KINDS[fault.kind](server, fault.number)
                else:
                    self._heal(server, fault)
            self.injected[fault.kind] += begins
        for server in self._servers:
            server.heal(cut=True)

    def _heal(self, server: ProxiedServer, fault: Planned) -> None:
        if fault.kind == "drain":
            server.control.close()
            server.server.restart()
        server.heal(cut=True)


# What is done meanwhile.


class Watchdog:
    """Knows what every thread is doing and since when; a call that does not end becomes a dump of all stacks."""

    def __init__(self) -> None:
        self._calls: dict[int, tuple[str, float, float]] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)
        self.hung: list[str] = []
        self.late: list[str] = []
        self.count: collections.Counter[str] = collections.Counter()
        self.worst = 0.0
        """How much the latest call was over its deadline (seconds)."""
        self.lag = LagProbe()
        self._lock = threading.Lock()

    def __enter__(self) -> Watchdog:
        self.lag.__enter__()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self.lag.__exit__()

    def timed(self, what: str, limit: float, call: Callable[[], T]) -> T:
        """Call it, under watch."""
        me = threading.get_ident()
        started = time.monotonic()
        self._calls[me] = (what, started, limit)
        try:
            return call()
        finally:
            ended = time.monotonic()
            del self._calls[me]
            over = ended - started - limit
            with self._lock:
                self.count[what] += 1
                self.worst = max(self.worst, over)
            if over > SLACK and over - self.lag.stalled(started, ended) > SLACK:
                self.late.append(f"{what} was {over:.3f} s over its {limit:g} s")

    def _run(self) -> None:
        while not self._stop.wait(1.0):
            now = time.monotonic()
            for what, started, limit in list(self._calls.values()):
                if now - started > limit + HUNG_AFTER:
                    self.hung.append(f"{what} has not ended after {now - started:.1f} s")
            if self.hung:
                dump_stacks(self.hung[0])
                return


def dump_stacks(why: str) -> None:
    """Write the stacks of all threads to stderr."""
    print(f"soak: {why}; the stacks of all threads:", file=sys.stderr)
    with tempfile.TemporaryFile("w+") as file:
        faulthandler.dump_traceback(file, all_threads=True)
        file.seek(0)
        print(file.read(), file=sys.stderr)


class Traffic:
    """Producers, workers and somebody who looks at the statistics, all on one pool."""

    def __init__(self, pool: PoolManager, ledger: Ledger, watchdog: Watchdog, seed: int, pause: float) -> None:
        self.pool = pool
        self.ledger = ledger
        self._watchdog = watchdog
        self._seed = seed
        self._pause = pause
        self.errors: list[BaseException] = []
        """What escaped that no caller has to expect."""
        self.outcomes: collections.Counter[str] = collections.Counter()
        self._lock = threading.Lock()
        self._stop_producing = threading.Event()
        self._stop_working = threading.Event()
        self._threads: list[threading.Thread] = []

    def start(self, producers: int, workers: int) -> None:
        """Start all threads."""
        loops = [(self._produce, self._stop_producing)] * producers + [(self._work, self._stop_working)] * workers
        for number, (turn, stop) in enumerate([*loops, (self._look, self._stop_producing)]):
            thread = threading.Thread(
                target=self._loop, args=(turn, stop, random.Random(f"{self._seed} {number}")), name=f"soak {number}"
            )
            thread.daemon = True
            self._threads.append(thread)
            thread.start()

    def _loop(self, turn: Callable[[random.Random], None], stop: threading.Event, rng: random.Random) -> None:
        while not stop.is_set():
            try:
                turn(rng)
            except BaseException as error:
                self.errors.append(error)
                if len(self.errors) > 20:
                    return

    def _note(self, outcome: str) -> None:
        with self._lock:
            self.outcomes[outcome] += 1

    def _produce(self, rng: random.Random) -> None:
        if self._stop_producing.wait(self._pause * rng.uniform(0.5, 1.5)):
            return
        key = str(rng.randrange(50)) if rng.random() < 0.5 else None
        on_ambiguous = "resend" if rng.random() < 0.8 else "raise"
        if rng.random() < 0.02:
            bodies = self.ledger.tokens(rng.randint(1, 60), size=100)
            # A server has its time to answer, and what it leaves over has as much again elsewhere.
            batch = self._watchdog.timed(
                "put_many", 2 * DEADLINE, lambda: self.pool.put_many(bodies, key=key, on_ambiguous=on_ambiguous)
            )
            for body, one in zip(bodies, batch, strict=True):
                self._book(body, one)
            return
        body = self.ledger.token(rng.choices((0, 200, 2000, 20_000), (60, 30, 9, 1))[0])
        outcome: JobId | Exception
        try:
            outcome = self._watchdog.timed(
                "put", DEADLINE, lambda: self.pool.put(body, key=key, on_ambiguous=on_ambiguous)
            )
        except BeanpoolError as error:
            outcome = error
        self._book(body, outcome)

    def _book(self, body: bytes, outcome: JobId | Exception) -> None:
        if isinstance(outcome, JobId):
            self.ledger.acked(body, outcome.server, outcome, outcome.maybe_duplicate)
            self._note("put, maybe twice" if outcome.maybe_duplicate else "put")
        elif isinstance(outcome, PutAmbiguous):
            self.ledger.ambiguous(body, max(1, len(outcome.attempts)))
            self._note("put ambiguous")
        elif isinstance(outcome, NoServerAvailable | PoolTimeout):
            self.ledger.refused(body, outcome)
            self._note("put refused")
        else:
            raise outcome

    def _work(self, rng: random.Random) -> None:
        try:
            job = self._watchdog.timed("reserve", RESERVE_FOR, lambda: self.pool.reserve(RESERVE_FOR))
        except NoServerAvailable:
            self._note("no server to reserve from")
            return
        if job is None:
            return
        self.ledger.delivered(job.data, job.server, job.id)
        try:
            self._finish(job, rng)
        except JobLost as error:
            self.ledger.delete_failed(job.data, error)
            self._note("job lost")

    def _finish(self, job: Job, rng: random.Random) -> None:
        timed = self._watchdog.timed
        if rng.random() < 0.1:
            time.sleep(rng.uniform(0.0, 0.1))
            timed("touch", DEADLINE, job.touch)
        fate = rng.random()
        if fate < 0.02:
            timed("release", DEADLINE, job.release)
            self._note("released")
        elif fate < 0.03:
            # The job is dropped with the last reference to it, and given back.
            self._note("dropped")
        else:
            timed("delete", DEADLINE, job.delete)
            self.ledger.deleted(job.data)
            self._note("deleted")

    def _look(self, rng: random.Random) -> None:
        if self._stop_producing.wait(0.5):
            return
        answers = self._watchdog.timed("stats", DEADLINE, self.pool.stats_by_server)
        assert len(answers) == len(self.pool.servers)
        for answer in answers.values():
            assert isinstance(answer, dict | BeanpoolError)

    def stop_producing(self) -> None:
        """No more puts."""
        self._stop_producing.set()

    def stop(self) -> list[str]:
        """End; returns the names of threads that do not."""
        self._stop_producing.set()
        self._stop_working.set()
        end = time.monotonic() + HUNG_AFTER + DEADLINE
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))
        return [thread.name for thread in self._threads if thread.is_alive()]


# The run.


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


def _play(result: Result, cluster: list[ProxiedServer], producers: int, workers: int, pause: float) -> Ledger:
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


def _jobs_at(server: ProxiedServer) -> int:
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
