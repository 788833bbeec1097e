"""What the server knows of one connection."""

from __future__ import annotations

import enum
from collections.abc import Callable

from beanpool.testing.embedded.bag import Bag
from beanpool.testing.embedded.clock import SECOND
from beanpool.testing.embedded.stored_job import StoredJob
from beanpool.testing.embedded.tube import Tube


class NoJob(enum.Enum):
    """How a reserve ends without a job; the value is the protocol's word for it."""

    TIMED_OUT = b"TIMED_OUT"
    DEADLINE_SOON = b"DEADLINE_SOON"


class Session:
    """One connection: the tube it uses, those it watches, the jobs it has reserved, and whether it waits for one.

    :ivar answer: called with what a reserve brought, which may be long after it was asked for.
    :ivar waiting_until: when a waiting reserve times out; None if it does not.
    """

    def __init__(self, answer: Callable[[StoredJob | NoJob], None], tube: Tube) -> None:
        self.answer = answer
        self.used = tube
        self.watched: Bag[Tube] = Bag()
        self.reserved: dict[int, StoredJob] = {}
        self.producer = False
        self.worker = False
        self.waiting = False
        self.waiting_until: int | None = None

    @property
    def deadline(self) -> int | None:
        """When the first of its reservations runs out."""
        return min((job.deadline for job in self.reserved.values()), default=None)

    def deadline_soon(self, now: int) -> bool:
        """Whether one of its reservations is in its last second."""
        deadline = self.deadline
        return deadline is not None and now >= deadline - SECOND

    @property
    def due(self) -> int | None:
        """When time alone changes something for it: a reservation runs out, or a wait is over."""
        moments = []
        deadline = self.deadline
        if deadline is not None:
            moments.append(deadline - SECOND if self.waiting else deadline)
        if self.waiting and self.waiting_until is not None:
            moments.append(self.waiting_until)
        return min(moments, default=None)
