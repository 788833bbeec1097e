"""What a pool tells its listeners: frozen descriptions of what has happened."""

from __future__ import annotations

import dataclasses
from typing import Literal

ServerStateName = Literal["up", "suspect", "down"]
"""What is believed about a server."""


@dataclasses.dataclass(frozen=True, slots=True)
class Event:
    """The base of all events. `pool` is the pool's name."""

    pool: str


@dataclasses.dataclass(frozen=True, slots=True)
class ConnectionOpened(Event):
    """A connection stands, and its server has said who it is."""

    server: str
    instance: str


@dataclasses.dataclass(frozen=True, slots=True)
class ConnectionClosed(Event):
    """A connection was given up."""

    server: str
    reason: str


@dataclasses.dataclass(frozen=True, slots=True)
class ServerStateChanged(Event):
    """What is believed about a server has changed: its state, its draining, or its process."""

    server: str
    name: str
    before: ServerStateName
    after: ServerStateName
    draining: bool
    restarted: bool
    """Another process answers now: what was reserved from the one before is lost."""
    reason: str | None
    """The last error, in words."""
    lasted: float
    """How long it was in the state before (seconds)."""


@dataclasses.dataclass(frozen=True, slots=True)
class ServersChanged(Event):
    """Other servers are the pool's than before. All are given by their addresses."""

    joined: tuple[str, ...]
    leaving: tuple[str, ...]
    """They get no puts any more, and leave when they are empty."""
    left: tuple[str, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class DiscoveryFailed(Event):
    """Which servers there are could not be found out: the pool goes on with those that it has.

    It is told once, and again when there was an answer meanwhile.
    """

    reason: str
    servers: int
    """How many the pool has."""


@dataclasses.dataclass(frozen=True, slots=True)
class DiscoveryRecovered(Event):
    """Which servers there are was found out, after questions that had no answer."""

    failures: int
    """How many these were."""
    lasted: float
    """How long since the first of them (seconds)."""


@dataclasses.dataclass(frozen=True, slots=True)
class PutRerouted(Event):
    """A put went to another server than the first choice."""

    server: str
    """Who took it."""
    instead_of: str
    reason: str


@dataclasses.dataclass(frozen=True, slots=True)
class PutMadeAmbiguous(Event):
    """A put may or may not be stored on `server`: all of it was sent, and no complete reply came."""

    server: str
    reason: str


@dataclasses.dataclass(frozen=True, slots=True)
class ReservationLost(Event):
    """A job's reservation is gone: another worker may run it, or has run it."""

    server: str
    job_id: int
    reason: str


@dataclasses.dataclass(frozen=True, slots=True)
class ConnectionsShort(Event):
    """Callers go short of connections to a server: its limit is lower than what they need at the same time.

    It is told once, and again when it had been over for a minute.
    """

    server: str
    max_connections: int
    held_by_jobs: int
    """How many of them are held by unfinished jobs."""
    wanted: int
    """The most that were in use and waited for at the same time."""
    advised: int
    """What to set ``max_connections`` to, at least."""


@dataclasses.dataclass(frozen=True, slots=True)
class RetryScheduled(Event):
    """No server took a put: it will be tried again."""

    wait: float
    """How long until then (seconds)."""
    reason: str
