"""Wakes a batch that waits for servers."""

from __future__ import annotations

import math

from beanpool.net import WakeUpPipe


class Bell:
    """Makes the wait of a batch end: it is waited on beside the connections.

    Where the process has no descriptor to spare it cannot be heard: see :attr:`works`.
    """

    pending = False
    late_at = math.inf
    wants_write = False

    def __init__(self) -> None:
        self._pipe: WakeUpPipe | None = None
        try:
            self._pipe = WakeUpPipe()
        except OSError:
            # Who waits looks now and then instead.
            return

    @property
    def works(self) -> bool:
        """Whether it can be heard."""
        return self._pipe is not None

    @property
    def connection(self) -> Bell:
        """What is waited on."""
        return self

    def fileno(self) -> int:
        """What is readable after :meth:`ring`; -1 if it is not to be heard."""
        return self._pipe.descriptor if self._pipe is not None else -1

    def ring(self) -> bool:
        """Let the wait end, or the next one if there is none; returns that somebody is there."""
        if self._pipe is not None:
            self._pipe.wake()
        return True

    def silence(self) -> None:
        """It was heard."""
        if self._pipe is not None:
            self._pipe.drain()

    def close(self) -> None:
        """Nobody waits any more."""
        if self._pipe is not None:
            self._pipe.close()
