"""Waiting for a change of the servers: of their states, their weights, and which there are."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Availability:
    """Lets threads sleep until something is found out about a server, or until a timeout.

    :param check_now: has the servers that are down checked; called by threads that wait for one.
    """

    def __init__(self, check_now: Callable[[], None]) -> None:
        self._check_now = check_now
        self._condition = threading.Condition()
        self._ended = False
        self.version: int = 0
        """Raised by every change of a server's state, of the servers and of their weights."""
        self.comebacks: int = 0
        """How often a server has begun to take puts, after a time in which it did not."""

    def changed(self, came_back: bool) -> None:
        """Something has changed; `came_back`: there may be a server that takes puts and took none before."""
        with self._condition:
            self.version += 1
            self.comebacks += came_back
            self._condition.notify_all()

    def end(self) -> None:
        """Wake everybody: there is nothing to wait for any more."""
        with self._condition:
            self._ended = True
            self._condition.notify_all()

    def wait_for_change(self, version: int, timeout: float) -> None:
        """Sleep until the version is another one, but not for longer than `timeout` (seconds)."""
        with self._condition:
            self._condition.wait_for(lambda: self._ended or self.version != version, timeout)

    def wait_for_comeback(self, comebacks: int, timeout: float) -> None:
        """Sleep until there were more comebacks than these, but not for longer than `timeout` (seconds)."""
        self._check_now()
        with self._condition:
            self._condition.wait_for(lambda: self._ended or self.comebacks != comebacks, timeout)
