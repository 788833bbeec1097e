"""What a pool tells about its servers: immutable snapshots."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, slots=True)
class ServerStatus:
    """One server of a pool, at the moment of asking."""

    address: str
    name: str
    weight: float
    state: str
    """``up``, ``suspect`` or ``down``."""
    draining: bool
    """It takes no puts any more, and is still reserved from."""
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
