"""The numbers of a pool: its counters, and immutable snapshots of its servers."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping

from beanpool.events import ServerStateName
from beanpool.runtime import Lock

POOL_COUNTS = (
    "puts_rerouted",
    "puts_ambiguous",
    "retries_num",
    "retries_refused",
    "put_errors",
    "jobs_lost",
    "outages_num",
    "discoveries_num",
    "discovery_errors",
)
# As psycopg_pool calls them: users have dashboards for these.
SERVER_COUNTS = (
    "requests_queued",
    "requests_wait_ms",
    "requests_errors",
    "returns_bad",
    "connections_num",
    "connections_ms",
    "connections_errors",
    "connections_lost",
    "put_attempts_failed",
)


class Counters:
    """Counts rare events, in any thread. Every counter is there from the start.

    :param names: of the counters.
    """

    __slots__ = ("_counts", "_lock")

    def __init__(self, names: Iterable[str]) -> None:
        self._counts = dict.fromkeys(names, 0)
        self._lock = Lock()

    def add(self, name: str, count: int = 1) -> None:
        """Count this many more."""
        with self._lock:
            self._counts[name] += count

    def snapshot(self) -> dict[str, int]:
        """All counts."""
        with self._lock:
            return dict(self._counts)


def total(parts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """Add up several sets of counts, name by name."""
    sums: dict[str, int] = {}
    for part in parts:
        for name, count in part.items():
            sums[name] = sums.get(name, 0) + count
    return sums


@dataclasses.dataclass(frozen=True, slots=True)
class ServerStatus:
    """One server of a pool, at the moment of asking."""

    address: str
    name: str
    weight: float
    state: ServerStateName
    draining: bool
    """It takes no puts any more, and is still reserved from."""
    leaving: bool
    """It was left out by ``set_servers()``: it gets no puts, and leaves when it has no jobs any more."""
    instance: str | None
    """The id of the server process, as last seen."""
    version: str | None
    round_trip: float | None
    """Of the last handshake or probe (seconds)."""
    last_error: str | None
    since: float
    """For how long it has been in this state (seconds)."""
    open: int
    """Connections that are open or being opened."""
    idle: int
    leased: int
    """Connections in use: by a call, by an unfinished job, or waiting for a job."""
