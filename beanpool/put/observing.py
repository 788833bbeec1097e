"""What observers are told of the attempts of a batch of puts."""

from __future__ import annotations

import time
from typing import Generic

from beanpool.put.lane import Run, Token
from beanpool.server import Member
from beanpool.telemetry import AttemptOutcome, Observers

# How long a batch that goes on and on may keep what it has to tell (seconds).
_KEPT_FOR = 1.0


class AttemptTally(Generic[Token]):
    """Adds up the attempts of a batch, by server, tube and outcome, so that each observer is called once for all.

    Nothing is measured for a batch that begins while there is no observer.
    """

    __slots__ = ("_began", "_counts", "_observers")

    def __init__(self, observers: Observers) -> None:
        self._observers = observers if observers.active else None
        self._began = time.monotonic()
        self._counts: dict[tuple[str, str, AttemptOutcome], tuple[int, int]] = {}

    def add(self, member: Member, outcome: AttemptOutcome, run: Run[Token]) -> None:
        """Attempts to put into one tube of a server have ended."""
        if self._observers is None:
            return
        key = member.address, run[0][0][1].tube, outcome
        count, size = self._counts.get(key, (0, 0))
        self._counts[key] = count + len(run), size + sum([item[1].size for item, _ in run])
        if time.monotonic() - self._began > _KEPT_FOR:
            self.tell()

    def tell(self) -> None:
        """Tell what has come together since the last time."""
        if self._observers is None:
            return
        counts, self._counts = self._counts, {}
        began, self._began = self._began, time.monotonic()
        for (server, tube, outcome), (count, size) in counts.items():
            self._observers.put(server, tube, count, size, self._began - began, outcome)
