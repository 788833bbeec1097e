"""One limit for the lanes of all servers."""

from __future__ import annotations

import threading


class Quota:
    """How many jobs may still be taken up; None for any number."""

    def __init__(self, limit: int | None) -> None:
        self._left = limit
        self._lock = threading.Lock()

    def take(self, count: int) -> int:
        """Have up to `count` of it."""
        with self._lock:
            if self._left is None:
                return count
            granted = min(count, self._left)
            self._left -= granted
            return granted
