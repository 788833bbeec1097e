"""What two looks at the servers tell: how things stand, and how fast they change. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping

from beanpool.cli.look import Look, Stats

SORTS = ("trouble", "name", "ready", "rate", "age")
_STATES = ("ready", "reserved", "delayed", "buried")
# A ready job that nobody has taken for so long while others watch the tube (seconds).
_STUCK = 60.0


@dataclasses.dataclass(frozen=True, slots=True)
class Rates:
    """How many jobs each second; None where that is not known yet, or not any more."""

    put: float | None
    done: float | None


@dataclasses.dataclass(frozen=True, slots=True)
class ServerRow:
    """One server.

    :ivar state: as the pool sees it, or what it says of itself.
    :ivar jobs: by state; None while it does not answer.
    """

    address: str
    state: str
    trip: float | None
    jobs: Mapping[str, int] | None
    connections: int | None
    waiting: int | None
    rates: Rates
    error: str


@dataclasses.dataclass(frozen=True, slots=True)
class TubeRow:
    """One tube, added up over the servers that answer.

    :ivar age: of the job that comes next (seconds).
    :ivar pause: what is left of a pause (seconds).
    :ivar trouble: what is wrong with it; empty if nothing is.
    """

    name: str
    jobs: Mapping[str, int]
    watching: int
    waiting: int
    age: float | None
    pause: int
    rates: Rates
    trouble: str
    severity: int


@dataclasses.dataclass(frozen=True, slots=True)
class View:
    """All of it."""

    servers: tuple[ServerRow, ...]
    tubes: tuple[TubeRow, ...]
    rates: Rates

    def jobs(self, state: str) -> int:
        """The jobs of all servers that answer."""
        return sum(row.jobs[state] for row in self.servers if row.jobs is not None)


def view_of(now: Look, before: Look | None) -> View:
    """Build it of the latest look, and the one before."""
    servers = tuple(_server_row(now, before, status.address) for status in now.servers)
    tubes = tuple(_tube_row(now, before, name) for name in now.tubes)
    return View(servers, tubes, Rates(_sum(row.rates.put for row in servers), _sum(row.rates.done for row in servers)))


def in_order(tubes: Iterable[TubeRow], sort: str) -> list[TubeRow]:
    """The tubes as they are to be shown: by one of :data:`SORTS`."""

    def key(row: TubeRow) -> tuple[float, ...]:
        match sort:
            case "name":
                return ()
            case "ready":
                return (-row.jobs["ready"],)
            case "rate":
                return (-(row.rates.put or 0) - (row.rates.done or 0),)
            case "age":
                return (-(row.age or 0),)
            case _:
                return (-row.severity, -row.jobs["ready"] - row.jobs["buried"])

    return sorted(tubes, key=lambda row: (key(row), row.name))


def _server_row(now: Look, before: Look | None, address: str) -> ServerRow:
    [status] = (status for status in now.servers if status.address == address)
    stats = now.stats.get(address)
    if stats is None:
        state: str = status.state if status.state != "up" else "silent"
        return ServerRow(address, state, None, None, None, None, Rates(None, None), now.errors.get(address, ""))
    state = "draining" if stats.get("draining") in (True, "true") else "up"
    earlier = before.stats.get(address) if before is not None else None
    # Counters begin anew with the process.
    same = earlier is not None and earlier.get("id") == stats.get("id")
    rates = _rates(stats, earlier, _elapsed(now, before), "total-jobs") if same else Rates(None, None)
    return ServerRow(
        address,
        state,
        status.round_trip,
        {state: stats[f"current-jobs-{state}"] for state in _STATES},
        stats["current-connections"],
        stats["current-waiting"],
        rates,
        "",
    )


def _tube_row(now: Look, before: Look | None, name: str) -> TubeRow:
    here = now.tubes[name]
    earlier = before.tubes.get(name, {}) if before is not None else {}
    elapsed = _elapsed(now, before)
    of_servers = [_rates(stats, earlier.get(server), elapsed, "total-jobs") for server, stats in here.items()]
    rates = Rates(_sum(rate.put for rate in of_servers), _sum(rate.done for rate in of_servers))
    jobs = {state: now.sum(f"current-jobs-{state}", name) for state in _STATES}
    watching, waiting = now.sum("current-watching", name), now.sum("current-waiting", name)
    pause = max(stats["pause-time-left"] for stats in here.values())
    age = now.ages.get(name)
    trouble, severity = _trouble(here, jobs, age, pause, rates)
    return TubeRow(name, jobs, watching, waiting, age, pause, rates, trouble, severity)


def _trouble(
    here: Mapping[str, Stats], jobs: Mapping[str, int], age: float | None, pause: int, rates: Rates
) -> tuple[str, int]:
    """What is wrong with a tube, and how bad it is."""
    if pause:
        return "paused", 2
    if jobs["ready"] and not any(
        stats["current-watching"] or stats["current-jobs-reserved"] for stats in here.values()
    ):
        return "nobody watches it", 4
    if age is not None and age >= _STUCK:
        if not rates.done:
            return "stuck", 3
        # A worker asks the servers in turns: for a moment each may be without it.
        alone = sum(_is_alone(stats) for stats in here.values())
        if alone:
            return f"unwatched on {alone}", 3
    if jobs["buried"]:
        return "buried jobs", 1
    return "", 0


def _is_alone(stats: Stats) -> bool:
    return bool(stats["current-jobs-ready"]) and not (stats["current-watching"] or stats["current-jobs-reserved"])


def _rates(now: Stats, before: Stats | None, elapsed: float, puts: str) -> Rates:
    if before is None or elapsed <= 0:
        return Rates(None, None)
    put, done = now[puts] - before[puts], now["cmd-delete"] - before["cmd-delete"]
    return Rates(None, None) if put < 0 or done < 0 else Rates(put / elapsed, done / elapsed)


def _elapsed(now: Look, before: Look | None) -> float:
    return 0.0 if before is None else now.at - before.at


def _sum(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None
