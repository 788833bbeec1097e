"""Many touches at once."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from beanpool.connection import Job
from beanpool.jobs.batch import Get, Outcome, ReservedBatch
from beanpool.jobs.lane import JobLane
from beanpool.protocol import TOUCH
from beanpool.telemetry import Observers, TouchedBatch


class TouchMany(ReservedBatch):
    """One call of ``touch_many``."""

    command = TOUCH
    how = None

    def __init__(self, get: Get, timeout: float, observers: Observers) -> None:
        super().__init__(get, timeout, observers)
        self._touched = TouchedBatch(observers) if observers.active else None

    def run(self, items: Iterable[Job[Any] | int]) -> list[Outcome]:
        """Touch all; returns one outcome per item, in order."""
        try:
            return super().run(items)
        finally:
            if self._touched is not None:
                self._touched.tell()

    def _note(self, lane: JobLane) -> None:
        super()._note(lane)
        if self._touched is not None:
            server = lane.connection.server
            self._touched.add(server, sum(1 for _ in lane.done()), ok=True)
            self._touched.add(server, len(lane.refusals) + len(lane.failures), ok=False)

    def _begin(self, lane: JobLane) -> None:
        requests = [b"touch %d\r\n" % jid for jid in lane.ids]
        lane.begin(TOUCH, range(len(lane.ids)), requests, self._timeout)

    def _do_alone(self, job: Job[Any], seconds: float) -> None:
        job.touch(timeout=seconds)
