"""What is wrong with what was seen. Pure: it is told all it judges."""

from __future__ import annotations

import dataclasses
import enum
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from beanpool.cli.look import Look
from beanpool.cli.tables import count, seconds


class Level(enum.IntEnum):
    """How bad a finding is."""

    OK = 0
    NOTE = 1
    PROBLEM = 2
    SILENT = 3
    """A server does not answer: what it would have told is missing."""


@dataclasses.dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was found.

    :param about: a server, a tube, or what else it concerns.
    :param text: what is so.
    :param advice: what to do about it.
    """

    level: Level
    about: str
    text: str
    advice: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Facts:
    """What a doctor is told.

    :param look: what the servers say.
    :param probes: what went wrong with a job that was put, reserved and deleted, by server; None if nothing did.
    :param old: a ready job is stuck after so long (seconds).
    :param descriptors: how many this process may have open; None where that is not known.
    :param max_connections: of the pool, to each server.
    """

    look: Look
    probes: Mapping[str, str | None]
    old: float
    descriptors: int | None
    max_connections: int


# A server has 1,024 descriptors where nobody has raised that, and stops accepting connections then.
_MANY_CONNECTIONS = 800
_SLOW = 0.1
_A_TURN = 60.0
_FEW_TIMEOUTS = 10
_RESERVE_JOB = (1, 12)


def findings(facts: Facts) -> list[Finding]:
    """All that is wrong, the worst first; if nothing is, that."""
    found = [finding for check in _CHECKS for finding in check(facts)]
    if not any(finding.level > Level.NOTE for finding in found):
        number = len(facts.look.servers)
        what = f"{count(number)} servers answer" if number > 1 else "the server answers"
        found.append(Finding(Level.OK, "servers", f"{what}, {count(len(facts.look.tubes))} tubes are worked off"))
    return sorted(found, key=lambda finding: -finding.level)


def _silent(facts: Facts) -> Iterator[Finding]:
    for server, error in facts.look.errors.items():
        advice = "Is it running, and may this machine reach it? Its jobs wait until it is back."
        yield Finding(Level.SILENT, server, error, advice)


def _probed(facts: Facts) -> Iterator[Finding]:
    for server, problem in facts.probes.items():
        if problem is not None:
            yield Finding(Level.PROBLEM, server, f"a job could not be put, reserved and deleted: {problem}")


def _same_process(facts: Facts) -> Iterator[Finding]:
    by_process = defaultdict(list)
    for server, stats in facts.look.stats.items():
        by_process[str(stats.get("id"))].append(server)
    for servers in by_process.values():
        if len(servers) > 1:
            advice = "List it once: a pool uses one of these names only."
            yield Finding(Level.PROBLEM, servers[0], f"is the same process as {', '.join(servers[1:])}", advice)


def _draining(facts: Facts) -> Iterator[Finding]:
    for server, stats in facts.look.stats.items():
        if stats.get("draining") in (True, "true"):
            advice = f"It takes no puts until it is started again; empty it with: beanpool evacuate {server}"
            yield Finding(Level.NOTE, server, "is draining", advice)


def _no_log(facts: Facts) -> Iterator[Finding]:
    without = [server for server, stats in facts.look.stats.items() if stats.get("binlog-current-index") == 0]
    for server in without:
        yield Finding(Level.NOTE, server, "keeps no log: a restart loses its jobs", "Start beanstalkd with -b FOLDER.")


def _differences(facts: Facts) -> Iterator[Finding]:
    stats = facts.look.stats
    sizes = {server: own.get("max-job-size") for server, own in stats.items()}
    if len(set(sizes.values())) > 1:
        shown = ", ".join(f"{server} {size}" for server, size in sizes.items())
        yield Finding(
            Level.PROBLEM,
            "servers",
            f"differ in max-job-size: {shown}",
            "Start all with the same -z: which server a large job meets is chance.",
        )
    versions = {server: str(own.get("version")) for server, own in stats.items()}
    if len(set(versions.values())) > 1:
        shown = ", ".join(f"{server} {version}" for server, version in versions.items())
        yield Finding(Level.NOTE, "servers", f"differ in version: {shown}")
    for server, version in versions.items():
        if _number(version) < _RESERVE_JOB:
            yield Finding(
                Level.NOTE,
                server,
                f"is beanstalkd {version}, which has no reserve-job",
                "With 1.12 or newer, a delete whose connection broke can be finished, and buried jobs be moved.",
            )


def _number(version: str) -> tuple[int, ...]:
    parts = version.split("+")[0].split(".")
    numbers = [int(part) for part in parts if part.isdecimal()]
    return tuple(numbers) if len(numbers) == len(parts) else _RESERVE_JOB


def _slow(facts: Facts) -> Iterator[Finding]:
    for status in facts.look.servers:
        server, trip = status.address, status.round_trip
        if trip is not None and trip >= _SLOW:
            advice = "A put takes at least that; is it far away, or busy?"
            yield Finding(Level.NOTE, server, f"takes {seconds(trip)} to answer", advice)


def _crowded(facts: Facts) -> Iterator[Finding]:
    for server, stats in facts.look.stats.items():
        if stats["current-connections"] >= _MANY_CONNECTIONS:
            yield Finding(
                Level.NOTE,
                server,
                f"has {count(stats['current-connections'])} connections",
                "At its limit of descriptors (often 1,024) it accepts no more: raise it (ulimit -n, LimitNOFILE=).",
            )


def _timeouts(facts: Facts) -> Iterator[Finding]:
    for server, stats in facts.look.stats.items():
        timeouts, jobs = stats["job-timeouts"], stats["total-jobs"]
        if timeouts >= _FEW_TIMEOUTS and timeouts * 100 >= jobs:
            yield Finding(
                Level.NOTE,
                server,
                f"{count(timeouts)} of {count(jobs)} jobs ran out of their TTR",
                "Those were worked on twice: give jobs a longer TTR, or touch them.",
            )


def _weightless(facts: Facts) -> Iterator[Finding]:
    for status in facts.look.servers:
        if status.weight == 0:
            yield Finding(Level.NOTE, status.address, "has weight 0 here, and gets no puts from this pool")


def _descriptors(facts: Facts) -> Iterator[Finding]:
    needed = facts.max_connections * len(facts.look.servers)
    if facts.descriptors is not None and needed > facts.descriptors:
        yield Finding(
            Level.NOTE,
            "this machine",
            f"a process may open {count(facts.descriptors)} files, its pool {count(needed)}",
            "Raise the limit (ulimit -n), or lower max_connections.",
        )


def _unwatched(facts: Facts) -> Iterator[Finding]:
    for tube, here in facts.look.tubes.items():
        watched = [server for server, stats in here.items() if stats["current-watching"]]
        alone = {
            server: _ready(stats)
            for server, stats in here.items()
            if _ready(stats) and server not in watched and not stats["current-jobs-reserved"]
        }
        if not alone:
            continue
        jobs = count(sum(alone.values()))
        if watched:
            # A worker asks the servers in turns: for a moment each may be without it.
            if facts.look.ages.get(tube, 0.0) < min(facts.old, _A_TURN):
                continue
            yield Finding(
                Level.PROBLEM,
                f"tube {tube}",
                f"{jobs} ready jobs on {', '.join(alone)}, where no worker watches it",
                f"Workers watch it on {', '.join(watched)} only: do they know all servers?",
            )
        else:
            advice = "Start a worker, or see what they are: beanpool peek " + tube
            yield Finding(Level.PROBLEM, f"tube {tube}", f"{jobs} ready jobs, and nobody watches it", advice)


def _old(facts: Facts) -> Iterator[Finding]:
    for tube, age in facts.look.ages.items():
        if age >= facts.old and facts.look.sum("current-watching", tube) and not _pause(facts.look.tubes[tube]):
            yield Finding(
                Level.PROBLEM,
                f"tube {tube}",
                f"the job that comes next was put {seconds(age)} ago",
                "Its workers do not keep up, or hang: more of them, or see what they do.",
            )


def _paused(facts: Facts) -> Iterator[Finding]:
    for tube, here in facts.look.tubes.items():
        if left := _pause(here):
            yield Finding(
                Level.NOTE, f"tube {tube}", f"is paused, for {seconds(float(left))} more", f"beanpool resume {tube}"
            )


def _buried(facts: Facts) -> Iterator[Finding]:
    for tube in facts.look.tubes:
        if number := facts.look.sum("current-jobs-buried", tube):
            advice = f"Look, then try them again: beanpool peek {tube} --state buried; beanpool kick {tube}"
            yield Finding(Level.NOTE, f"tube {tube}", f"{count(number)} buried jobs", advice)


def _ready(stats: Mapping[str, Any]) -> int:
    ready: int = stats["current-jobs-ready"]
    return ready


def _pause(here: Mapping[str, Mapping[str, Any]]) -> int:
    left: int = max(stats["pause-time-left"] for stats in here.values())
    return left


_CHECKS: tuple[Callable[[Facts], Iterator[Finding]], ...] = (
    *(_silent, _probed, _same_process, _differences, _unwatched, _old),
    *(_draining, _no_log, _slow, _crowded, _timeouts, _weightless, _descriptors, _paused, _buried),
)
