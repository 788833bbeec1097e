"""Reading half-closed connections to their end: the server takes back a job that raced in, and closes its side."""

from __future__ import annotations

import time

from beanpool.errors import BeanpoolError
from beanpool.net import Channel

# How long a server may take to close its side (seconds).
_PATIENCE = 1.0
_WHY = "its reserve was cancelled"


class HalfClosed:
    """One of them, as an :class:`~beanpool.cluster.activities.Activity`."""

    doing = "closing a connection"
    wants_write = False

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self.late_at = time.monotonic() + _PATIENCE
        """See :class:`Activity`."""

    def descriptor(self) -> int:
        """See :class:`Activity`."""
        return self._channel.fileno()

    def begin(self) -> bool:
        """See :class:`Activity`."""
        return self._channel.at_end()

    def ready(self) -> bool:
        """See :class:`Activity`."""
        return self._channel.at_end()

    def late(self) -> bool:
        """Whatever it still has to say, it is closed."""
        return True

    def end(self, error: BeanpoolError | None) -> None:
        """See :class:`Activity`."""
        self._channel.close(_WHY)

    def abort(self, because: str) -> None:
        """See :class:`Activity`."""
        self._channel.close(_WHY)
