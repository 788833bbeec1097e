"""The end of a pool: callers that use a connection may finish, for a limited time."""

from __future__ import annotations

import collections
import contextlib
import threading
import time
from collections.abc import Callable

from beanpool.net import ChannelState
from beanpool.server.pooled_connection import PooledConnection

# How long the users of connections that were shut down under them may take to see it (seconds).
_INTERRUPTED_FOR = 0.25


class PoolClosing:
    """Waits until the connections of a pool come back, and closes those that do not.

    :param connections: returns the pool's connections.
    :param discard: closes one for good, and is told why.
    """

    def __init__(
        self, connections: Callable[[], list[PooledConnection]], discard: Callable[[PooledConnection, str], None]
    ) -> None:
        self._connections = connections
        self._discard = discard
        # Of those who wait until others have given back what they use.
        self._closers: collections.deque[threading.Lock] = collections.deque()

    def given_up(self) -> None:
        """A connection was given up."""
        for closer in list(self._closers):
            with contextlib.suppress(RuntimeError):
                closer.release()

    def close(self, grace: float, deadline: float) -> None:
        """Close all connections.

        :param grace: until when commands on their way may finish (monotonic seconds).
        :param deadline: until when jobs may be finished (monotonic seconds).
        """
        busy = self._await_return(self._in_command, grace)
        for connection in busy:
            connection.interrupt()
        # Their users are done in a moment, but for one that a signal handler has interrupted to come here.
        stuck = self._await_return(
            lambda: [c for c in busy if c.channel_state is ChannelState.IN_COMMAND],
            min(deadline, time.monotonic() + _INTERRUPTED_FOR),
        )
        self._await_return(lambda: [c for c in self._standing() if c not in stuck], deadline)
        for connection in self._connections():
            if connection.channel_state is ChannelState.IN_COMMAND:
                # Its user closes it: a descriptor that is closed under a reader may be somebody else's by then.
                connection.interrupt()
            else:
                self._discard(connection, "the pool was closed")

    def _await_return(self, of: Callable[[], list[PooledConnection]], until: float) -> list[PooledConnection]:
        """Wait until there is none of these, but not past `until` (monotonic seconds); returns those that there are."""
        # Not a condition upon the pool's lock, which would let go of it for the frame that a signal handler has
        # interrupted.
        closer = threading.Lock()
        self._closers.append(closer)
        try:
            while True:
                closer.acquire(blocking=False)
                found = of()
                remaining = until - time.monotonic()
                if not found or remaining <= 0:
                    return found
                closer.acquire(timeout=remaining)
        finally:
            self._closers.remove(closer)

    def _standing(self) -> list[PooledConnection]:
        # An unfinished job whose connection broke is lost already, and nobody has to finish it.
        return [c for c in self._connections() if c.channel_state is not ChannelState.CLOSED]

    def _in_command(self) -> list[PooledConnection]:
        return [c for c in self._standing() if c.channel_state is not ChannelState.IN_STEP]
