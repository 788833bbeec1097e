"""Producers whose puts have keys, and workers, while the servers change: which keys may be where, and what was put."""

from __future__ import annotations

import contextlib
import itertools
import random
import threading
from collections import deque
from collections.abc import Iterator, Sequence

from support.ledger import Ledger
from support.threads import background
from support.waiting import wait_until

from beanpool import PoolManager

Owners = dict[str, str]
"""Which server each key belongs to."""


def owners_of(addresses: Sequence[str], keys: Sequence[str]) -> Owners:
    """Where a pool with just these servers puts each key."""
    pool = PoolManager(addresses)
    return {key: pool.route(key)[0] for key in keys}


class KeyedLoad:
    """Threads that put and work on jobs, from the beginning of the block of :meth:`running` to its end.

    :param pool: whose servers change.
    :param ledger: every job is in there.
    :param keys: each producer puts them one after the other, again and again.
    """

    def __init__(self, pool: PoolManager, ledger: Ledger, keys: Sequence[str]) -> None:
        self._pool = pool
        self._ledger = ledger
        self._keys = keys
        self.placed: deque[tuple[int, int, str, str]] = deque()
        """The step in which a put began, that in which it ended, its key, and its server."""
        # An even one is a phase, an odd one the change to the next.
        self._step = 0
        self._stop, self._stop_working = threading.Event(), threading.Event()

    @contextlib.contextmanager
    def running(self, producers: int, workers: int) -> Iterator[None]:
        """At the end all jobs are worked off."""
        putting = [background(self._produce, "a producer") for _ in range(producers)]
        working = [background(self._work, "a worker") for _ in range(workers)]
        yield
        self._stop.set()
        for producer in putting:
            producer.result(10)
        wait_until(lambda: not self._ledger.outstanding(), "all jobs to be worked off", 30)
        # What leaves is gone when it is seen to be empty: by who works.
        wait_until(lambda: not any(status.leaving for status in self._pool.servers), "those that leave to be gone")
        self._stop_working.set()
        for worker in working:
            worker.result(10)

    @contextlib.contextmanager
    def changing(self) -> Iterator[None]:
        """The servers change in the block."""
        self._step += 1
        yield
        self._step += 1

    def await_puts(self, count: int) -> None:
        """Wait for so many more."""
        enough = len(self.placed) + count
        wait_until(lambda: len(self.placed) >= enough, "some puts", 60)

    def astray(self, owners: Sequence[Owners]) -> list[tuple[int, int, str, str]]:
        """The puts that went to a server which was their key's in none of the phases meanwhile.

        :param owners: those of each phase.
        """
        return [
            (began, ended, key, server)
            for began, ended, key, server in self.placed
            if server not in {owners[phase][key] for phase in range(began // 2, (ended + 1) // 2 + 1)}
        ]

    def _produce(self) -> None:
        for key in itertools.cycle(random.sample(self._keys, len(self._keys))):
            if self._stop.is_set():
                return
            body, began = self._ledger.token(), self._step
            jid = self._pool.put(body, key=key)
            self._ledger.acked(body, jid.server, jid, jid.maybe_duplicate)
            self.placed.append((began, self._step, key, jid.server))

    def _work(self) -> None:
        while not self._stop_working.is_set():
            for job in self._pool.reserve_many(20, 0.1):
                self._ledger.delivered(job.data, job.server, job.id)
                job.delete()
                self._ledger.deleted(job.data)
