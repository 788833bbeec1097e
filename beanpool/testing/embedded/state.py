"""What the server knows: its jobs, its tubes, and a session for each connection."""

from __future__ import annotations

import bisect
import dataclasses
import enum
from collections.abc import Callable

from beanpool.testing.embedded.bag import Bag
from beanpool.testing.embedded.clock import SECOND

URGENT = 1024
"""Jobs with a priority below this are counted as urgent."""


class JobState(enum.Enum):
    """Where a job is; the value is the protocol's word for it."""

    ARRIVING = "invalid"
    """It has an id, and its body is on the way."""
    READY = "ready"
    DELAYED = "delayed"
    RESERVED = "reserved"
    BURIED = "buried"


@dataclasses.dataclass(slots=True, eq=False)
class StoredJob:
    """One job.

    :ivar delay: seconds that it was last delayed for.
    :ivar ttr: seconds that a reservation lasts.
    :ivar created: when its put command came (nanoseconds of the server's clock).
    :ivar deadline: while it is delayed or reserved: when that ends.
    :ivar holder: the session that has it reserved.
    """

    id: int
    tube: Tube
    priority: int
    delay: int
    ttr: int
    created: int
    body: bytes = b""
    state: JobState = JobState.ARRIVING
    deadline: int = 0
    holder: Session | None = None
    reserves: int = 0
    timeouts: int = 0
    releases: int = 0
    buries: int = 0
    kicks: int = 0


class JobQueue:
    """Jobs ordered by a number (a priority, a deadline), the smaller id first where it is the same."""

    def __init__(self) -> None:
        self._entries: list[tuple[int, int, StoredJob]] = []

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def first(self) -> StoredJob:
        """The job that is next."""
        return self._entries[0][2]

    def add(self, number: int, job: StoredJob) -> None:
        """Put `job` where `number` says."""
        bisect.insort(self._entries, (number, job.id, job))

    def remove(self, number: int, job: StoredJob) -> None:
        """Take `job` out, which was added with `number`."""
        del self._entries[bisect.bisect_left(self._entries, (number, job.id))]

    def below(self, number: int) -> int:
        """How many jobs have a smaller number."""
        return bisect.bisect_left(self._entries, (number,))


class Tube:
    """One tube. It exists as long as a session uses or watches it, or a job is in it.

    :ivar ready: by priority.
    :ivar delayed: by the moment at which they become ready.
    :ivar buried: by id, in the order of their burials.
    :ivar jobs: how many there are, in all states.
    :ivar paused: the seconds that it was last paused for, as long as it is; 0 may be a pause of no time at all.
    :ivar paused_until: when the pause ends; None if there is none.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.ready = JobQueue()
        self.delayed = JobQueue()
        self.buried: dict[int, StoredJob] = {}
        self.waiting: Bag[Session] = Bag()
        self.jobs = 0
        self.reserved = 0
        self.using = 0
        self.watching = 0
        self.total_jobs = 0
        self.deletes = 0
        self.pauses = 0
        self.paused = 0
        self.paused_until: int | None = None

    @property
    def urgent(self) -> int:
        """How many ready jobs are urgent."""
        return self.ready.below(URGENT)

    @property
    def needed(self) -> bool:
        """Whether anything keeps the tube."""
        return bool(self.using or self.watching or self.jobs)

    def end_pause(self) -> None:
        """Let jobs be reserved again."""
        self.paused, self.paused_until = 0, None


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
