"""Which jobs of a server a pool has in hand, whatever connection they are on."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from beanpool.job import Job

if TYPE_CHECKING:  # lease.py writes what is read here.
    from beanpool.lease import JobRef

Refs = dict[int, "JobRef"]


class InHand:
    """The unfinished jobs of one address, by the server process that gave them out, and by id.

    It outlives the server's membership: jobs stay in hand while a server is removed and added again.
    """

    def __init__(self) -> None:
        self._by_instance: dict[str, Refs] = {}

    def of(self, instance: str) -> Refs:
        """Those of one server process, for its connections to keep up to date."""
        for other, refs in self._by_instance.copy().items():
            if not refs and other != instance:
                # A process that is gone. Should a connection to it still be there, only its jobs are not found by id.
                self._by_instance.pop(other, None)
        return self._by_instance.setdefault(instance, {})

    def find(self, jid: int, instance: str | None) -> Job | None:
        """The job that is reserved under this id, in the process `instance` (None: whichever)."""
        for name, refs in self._by_instance.copy().items():
            ref = refs.get(jid) if instance in (None, name) else None
            job = ref() if ref is not None else None
            if job is not None and job.reserved:
                return job
        return None


def forget(refs: Refs, mine: Refs, jids: Iterable[int]) -> None:
    """Take what a connection held (`mine`) out of what the pool has in hand (`refs`), and out of `mine`."""
    for jid in jids:
        other = refs.pop(jid, None)
        # Only now: what an interrupt leaves here is found when the job is dropped.
        ref = mine.pop(jid, None)
        if other is not None and other is not ref:
            # It was reserved again meanwhile, over another connection.
            refs.setdefault(jid, other)
