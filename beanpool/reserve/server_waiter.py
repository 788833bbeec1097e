"""One connection that waits for a job."""

from __future__ import annotations

import contextlib
import time

from beanpool.protocol import Reply
from beanpool.server import Member, PooledConnection

# How long after its end a reply may be missing before others are asked about the server, at least (seconds).
_DOUBTED_AFTER = 1.0
_USUAL_ROUND_TRIPS = 4

Delivery = tuple[Member, PooledConnection, Reply]
"""A job that has come in: from whom, on which connection, and the reply that holds it."""

Post = tuple[Member, int]
"""Where a connection may wait: on which server, for which group of tubes."""

Begun = list[tuple[Member, PooledConnection, int]]
"""Connections with a reserve under way, each with the number of its group of tubes."""


class ServerWaiter:
    """A connection that waits on one server.

    :param beside: whether it is one of several there, and only asks.
    """

    __slots__ = (
        "asked_at",
        "beside",
        "connection",
        "descriptor",
        "doubted_at",
        "ends_at",
        "member",
        "post",
        "returns",
        "step",
    )

    def __init__(self, post: Post, connection: PooledConnection, *, beside: bool = False) -> None:
        self.post = post
        self.member = post[0]
        self.connection = connection
        self.beside = beside
        self.step = connection.step
        """What to call when it is ready."""
        self.descriptor = -1
        self.asked_at = 0.0
        """When it was asked (monotonic seconds)."""
        self.ends_at = 0.0
        """When the server's own wait ends (monotonic seconds)."""
        self.doubted_at = 0.0
        """When a reply is so late that others are asked about the server (monotonic seconds)."""
        self.returns = -1
        """How many connections to its server had come back in good order when that was done; -1 before."""

    def asked(self, ends_at: float) -> None:
        """The server was asked to wait until then."""
        self.asked_at = time.monotonic()
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
