"""Producers and workers on a pool, every call of theirs timed against its deadline, and every job in the ledger."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import random
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from support.lag import LagProbe
from support.ledger import Ledger, Report
from support.servers import BeanstalkdServer
from support.waiting import wait_until

from beanpool import PoolManager
from beanpool.errors import BeanpoolError, JobLost, NotFound
from beanpool.events import Event, ServerStateChanged
from beanpool.testing.raw_client import RawClient

T = TypeVar("T")

SLACK = 0.25
"""How much longer than its deadline a call may take (seconds)."""


@dataclasses.dataclass(frozen=True)
class Call:
    """One call and its time."""

    what: str
    started: float
    took: float
    deadline: float

    @property
    def over(self) -> float:
        """How much longer than its deadline it took (seconds; below 0 if it was in time)."""
        return self.took - self.deadline


class Load:
    """Runs producers and workers on a pool while a test does its worst to the servers.

    :param timeout: the pool's deadline for a command (seconds).
    :param pause: how long a producer does nothing between two puts (seconds).
    :param work: how long a worker holds each job (seconds).
    :param keys: puts are made with one of these keys; None for puts without.
    """

    def __init__(
        self,
        pool: PoolManager,
        ledger: Ledger,
        *,
        timeout: float,
        producers: int = 6,
        workers: int = 4,
        pause: float = 0.006,
        work: float = 0.004,
        keys: Sequence[str] | None = None,
    ) -> None:
        self.pool = pool
        self.ledger = ledger
        self.calls: list[Call] = []
        self.put_errors: list[BaseException] = []
        self.foreign_errors: list[BaseException] = []
        """What escaped that is none of the errors that a caller has to expect."""
        self.events: list[tuple[float, Event]] = []
        self.probe = LagProbe()
        # Of its own: the port may have been another server's before, and that one's clients may still call.
        self.tube = f"load-{uuid.uuid4().hex}"
        self._timeout = timeout
        self._pause = pause
        self._work_time = work
        self._keys = keys
        self._stop_producing = threading.Event()
        self._stop_working = threading.Event()
        self._never = threading.Event()
        self._producers = [threading.Thread(target=self._produce, name=f"producer {n}") for n in range(producers)]
        self._workers = [threading.Thread(target=self._work, name=f"worker {n}") for n in range(workers)]

    def _note(self, event: Event) -> None:
        self.events.append((time.monotonic(), event))

    def timed(self, what: str, deadline: float, call: Callable[[], T]) -> T:
        """Call it, and note how long it took, however it ended."""
        started = time.monotonic()
        try:
            return call()
        finally:
            self.calls.append(Call(what, started, time.monotonic() - started, deadline))

    def _produce(self) -> None:
        rng = random.Random(threading.current_thread().name)
        while not self._stop_producing.wait(self._pause):
            body = self.ledger.token()
            key = rng.choice(self._keys) if self._keys else None
            try:
                jid = self.timed("put", self._timeout, functools.partial(self.pool.put, body, key=key, tube=self.tube))
            except BeanpoolError as error:
                self.put_errors.append(error)
                self.ledger.ambiguous(body)
            except BaseException as error:
                self.foreign_errors.append(error)
                raise
            else:
                self.ledger.acked(body, jid.server, jid, jid.maybe_duplicate)

    def _work(self) -> None:
        while not self._stop_working.is_set():
            try:
                job = self.timed("reserve", 0.5, lambda: self.pool.reserve(0.5, tubes=self.tube))
            except BeanpoolError as error:
                self.foreign_errors.append(error)
                continue
            if job is None:
                continue
            self.ledger.delivered(job.data, job.server, job.id)
            self._never.wait(self._work_time)
            try:
                self.timed("delete", self._timeout, job.delete)
            except (JobLost, NotFound) as error:
                self.ledger.delete_failed(job.data, error)
            except BaseException as error:
                self.foreign_errors.append(error)
                raise
            else:
                self.ledger.deleted(job.data)

    @contextlib.contextmanager
    def running(self, servers: Sequence[BeanstalkdServer]) -> Iterator[None]:
        """Run while the block runs; at its end the producers stop, and the workers once all is worked off."""
        controls = [server.control for server in servers]
        self.pool.add_listener(self._note)
        with self.probe:
            for thread in (*self._producers, *self._workers):
                thread.start()
            try:
                wait_until(lambda: self.ledger.acked_count > 100, "the load to run", 10)
                yield
            finally:
                self._stop_producing.set()
                for thread in self._producers:
                    thread.join(30)
                with contextlib.suppress(AssertionError):
                    # A job that was lost is the ledger's to tell.
                    wait_until(lambda: self._worked_off(controls), "all jobs to be worked off", 10)
                self._stop_working.set()
                for thread in self._workers:
                    thread.join(30)
        assert not [thread.name for thread in (*self._producers, *self._workers) if thread.is_alive()]

    def _worked_off(self, controls: Sequence[RawClient]) -> bool:
        # A delete whose reply got lost may have been carried out: that body is never noted as deleted.
        return not self.ledger.outstanding() or not any(
            int(stats["current-jobs-ready"]) + int(stats["current-jobs-reserved"])
            for stats in (control.stats() for control in controls)
        )

    def check(self, servers: Sequence[BeanstalkdServer], *, storage_lost: Sequence[str] = ()) -> Report:
        """Assert what is promised under every fault: the ledger's invariants, no put raised, no call late."""
        assert self.foreign_errors == []
        assert self.put_errors == []
        late = [call for call in self.calls if self._late(call)]
        assert late == [], f"{len(late)} calls were late; the machine's worst stall was {self.probe.worst:.2f} s"
        report = self.ledger.reconcile([server.control for server in servers], storage_lost=storage_lost)
        # A job comes twice only if its reservation was lost, and then somebody's delete has failed.
        assert report.redelivered <= report.failed_deletes + report.maybe_duplicate, str(report)
        return report

    def _late(self, call: Call) -> bool:
        return call.over > SLACK + self.probe.stalled(call.started, call.started + call.took)

    def worst(self, what: str) -> Call:
        """The call of this kind that went longest beyond its deadline, or came closest to it."""
        return max((call for call in self.calls if call.what == what), key=lambda call: call.over)

    def when(self, server: BeanstalkdServer, state: str, after: float) -> float | None:
        """How long after a moment the pool believed the server to be in `state` (seconds)."""
        for moment, event in self.events:
            if (
                moment >= after
                and isinstance(event, ServerStateChanged)
                and (event.server, event.after) == (server.address, state)
            ):
                return moment - after
        return None

    def noticed(self, server: BeanstalkdServer, after: float) -> float | None:
        """How long after a moment the pool preferred other servers to this one (seconds)."""
        moments = [moment for state in ("suspect", "down") if (moment := self.when(server, state, after)) is not None]
        return min(moments, default=None)

    def changes(self, server: BeanstalkdServer) -> list[str]:
        """The states that the server went through."""
        return [
            event.after
            for _, event in self.events
            if isinstance(event, ServerStateChanged) and event.server == server.address and event.before != event.after
        ]

    def figures(self, report: Report, **more: float | None) -> str:
        """One line for people."""
        named = {
            **more,
            **{f"worst {what}": self.worst(what).took for what in ("put", "reserve", "delete")},
            "worst beyond its deadline": max(call.over for call in self.calls),
            "worst stall of the machine": self.probe.worst,
        }
        texts = [f"{name} {'-' if value is None else f'{value:.3f} s'}" for name, value in named.items()]
        return (
            f"{report.acked} puts ({report.maybe_duplicate} maybe twice), {report.deliveries} deliveries, "
            f"{report.failed_deletes} lost reservations; " + ", ".join(texts)
        )
