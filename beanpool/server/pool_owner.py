"""Who a pool of connections belongs to."""

from __future__ import annotations

from typing import Protocol

from beanpool.errors import BeanpoolError
from beanpool.protocol import Identity
from beanpool.server.pooled_connection import PooledConnection


class PoolOwner(Protocol):
    """Who a pool tells of what it sees. Called outside of the pool's lock."""

    def learn(self, identity: Identity, round_trip: float) -> int:
        """A handshake told who the server is; returns the generation that the connection belongs to."""

    def report(self, error: BeanpoolError, generation: int, began: float) -> None:
        """A connection of this generation failed, in what began then (monotonic seconds)."""

    def fair_time(self, round_trips: int) -> float:
        """How long it may take to answer so often, being as far away as it is known to be (seconds)."""

    def starved(self) -> None:
        """A caller waits for a connection and none is free: free one, if you can."""

    def connected(self, seconds: float, error: Exception | None) -> None:
        """An attempt to connect has ended after so long (seconds), and why it failed."""

    def opened(self, connection: PooledConnection) -> None:
        """A connection stands."""

    def closed(self, connection: PooledConnection, because: str) -> None:
        """A connection that stood was given up."""
