"""A tube: its jobs in their order, and the sessions that wait for them."""

from __future__ import annotations

import bisect
from typing import TYPE_CHECKING

from beanpool.testing.embedded.bag import Bag

if TYPE_CHECKING:
    from beanpool.testing.embedded.session import Session
    from beanpool.testing.embedded.stored_job import StoredJob

URGENT = 1024
"""Jobs with a priority below this are counted as urgent."""


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
