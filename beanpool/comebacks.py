"""Servers that take puts again after a time in which they did not: what puts that no server takes sleep for."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Comebacks:
    """Lets threads sleep until a server comes back, or their pause is over.

    :param look: has the servers that are away checked now; called by threads that wait for one.
    """

    def __init__(self, look: Callable[[], None]) -> None:
        self._look = look
        self._changed = threading.Condition()
        self._ended = False
        self.count = 0
        """How many there were."""

    def note(self) -> None:
        """A server has come back."""
        with self._changed:
            self.count += 1
            self._changed.notify_all()

    def end(self) -> None:
        """Wake everybody: there is nothing to wait for any more."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def sleep(self, seconds: float, since: int) -> None:
        """Sleep for so long (seconds), but not past the first comeback after the first `since` ones."""
        self._look()
        with self._changed:
            self._changed.wait_for(lambda: self._ended or self.count != since, seconds)
