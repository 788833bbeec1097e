"""One connection that waits for a job."""

from __future__ import annotations

import contextlib

from beanpool.protocol import Reply
from beanpool.server import Member, PooledConnection

# How long after its end a reply may be missing before others are asked about the server, at least (seconds).
_DOUBTED_AFTER = 1.0
_USUAL_ROUND_TRIPS = 4

Catch = tuple[Member, PooledConnection, Reply]
"""A job that has come in: from whom, on which connection, and the reply that holds it."""

Begun = list[tuple[Member, PooledConnection]]
"""Connections with a reserve under way."""


class Station:
    """A connection that waits on one server.

    :param beside: whether it is one of several there, and only asks.
    """

    __slots__ = ("beside", "connection", "descriptor", "doubted_at", "ends_at", "member", "returns", "step")

    def __init__(self, member: Member, connection: PooledConnection, *, beside: bool = False) -> None:
        self.member = member
        self.connection = connection
        self.beside = beside
        self.step = connection.step
        """What to call when it is ready."""
        self.descriptor = -1
        self.ends_at = 0.0
        """When the server's own wait ends (monotonic seconds)."""
        self.doubted_at = 0.0
        """When a reply is so late that others are asked about the server (monotonic seconds)."""
        self.returns = -1
        """How many connections to its server had come back in good order when that was done; -1 before."""

    def asked(self, ends_at: float) -> None:
        """The server was asked to wait until then."""
        self.ends_at = ends_at
        self.doubted_at = ends_at + max(_DOUBTED_AFTER, _USUAL_ROUND_TRIPS * (self.member.health.round_trip or 0.0))
        self.returns = -1


def taken(begun: Begun) -> Begun:
    """Take everything out of a list from which another thread may be taking, too."""
    taken: Begun = []
    with contextlib.suppress(IndexError):
        while True:
            taken.append(begun.pop())
    return taken
