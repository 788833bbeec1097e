"""Producers whose puts have keys, and workers, while the servers change: which keys may be where, and what was put."""

from __future__ import annotations

import contextlib
import itertools
import random
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from support.ledger import Ledger
from support.threads import background
from support.waiting import wait_until

from beanpool import PoolManager
from beanpool.events import Event, PutRerouted

# Longer than a name server is silent for, or started anew, on a busy machine (seconds).
_PATIENCE = 5.0

Owners = dict[str, str]
"""Which server each key belongs to."""


def owners_of(addresses: Sequence[str], keys: Sequence[str]) -> Owners:
    """Where a pool with just these servers puts each key."""
    pool = PoolManager(addresses)
    return {key: pool.route(key)[0] for key in keys}


class Placed(NamedTuple):
    """A put that a server has taken."""

    began: int
    """The step in which it began."""
    ended: int
    key: str
    server: str
    rerouted: PutRerouted | None
    """What the pool said of it, if another server was tried before."""

    def homes(self, owners: Sequence[Owners]) -> set[str]:
        """The servers that were its key's meanwhile, given those of each phase."""
        return {owners[phase][self.key] for phase in range(self.began // 2, (self.ended + 1) // 2 + 1)}


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
        self.placed: deque[Placed] = deque()
        # By the thread that puts, which is the one that is told.
        self._rerouted: dict[int, PutRerouted] = {}
        pool.add_listener(self._note)
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

    def astray(self, owners: Sequence[Owners]) -> list[Placed]:
        """The puts that went to a server which was their key's in none of the phases meanwhile.

        :param owners: those of each phase.
        """
        return [placed for placed in self.placed if placed.server not in placed.homes(owners)]

    def _note(self, event: Event) -> None:
        if isinstance(event, PutRerouted):
            self._rerouted[threading.get_ident()] = event

    def _produce(self) -> None:
        for key in itertools.cycle(random.sample(self._keys, len(self._keys))):
            if self._stop.is_set():
                return
            body, began = self._ledger.token(), self._step
            jid = self._pool.put(body, key=key, timeout=_PATIENCE)
            self._ledger.acked(body, jid.server, jid, jid.maybe_duplicate)
            rerouted = self._rerouted.pop(threading.get_ident(), None)
            self.placed.append(Placed(began, self._step, key, jid.server, rerouted))

    def _work(self) -> None:
        while not self._stop_working.is_set():
            for job in self._pool.reserve_many(20, 0.1):
                self._ledger.delivered(job.data, job.server, job.id)
                job.delete()
                self._ledger.deleted(job.data)
