"""The end of a pool: callers that use a connection may finish, for a limited time."""

from __future__ import annotations

import collections
import contextlib
import threading
import time
from collections.abc import Callable

from beanpool.connection import has_interrupted
from beanpool.net import ChannelState
from beanpool.server.pooled_connection import PooledConnection

INTERRUPTED_FOR = 0.25
"""How long the users of connections that were shut down under them may take to see it (seconds)."""


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
        # What was shut down under its users, as long as they are waited for.
        self._interrupted: list[PooledConnection] = []

    def given_up(self) -> None:
        """A connection was given up."""
        for closer in list(self._closers):
            with contextlib.suppress(RuntimeError):
                closer.release()

    def end_commands(self, grace: float) -> None:
        """Let commands on their way finish, and shut down the connections of those that do not.

        Not those on jobs in hand: they are what the jobs are waited for.

        :param grace: until when they may finish (monotonic seconds).
        """
        self._interrupted = self._await_return(self._in_command, grace)
        for connection in self._interrupted:
            connection.interrupt()

    def await_interrupted(self, until: float) -> None:
        """Let the users of what was shut down see it, but not past `until` (monotonic seconds)."""
        shut_down = self._interrupted
        self._interrupted = self._await_return(
            lambda: [c for c in shut_down if c.channel_state is ChannelState.IN_COMMAND], until
        )

    def close(self, deadline: float) -> None:
        """Close all connections.

        :param deadline: until when jobs may be finished (monotonic seconds).
        """
        # A signal handler that comes here may have interrupted a user, who ends when this does.
        stuck = [*self._interrupted, *(c for c in self._standing() if has_interrupted(c))]
        self._await_return(lambda: [c for c in self._standing() if c not in stuck], deadline)
        self._interrupted = []
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
        return [c for c in self._standing() if not c.jobs and c.channel_state is not ChannelState.IN_STEP]
