"""What a pool is asked to do while a fault is on, and how it is found out what became of it."""

from __future__ import annotations

import abc
import collections
import contextlib
import itertools
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from chaos.proxies import LinkedServer
from support.lag import LagProbe
from support.ledger import Ledger
from support.threads import Background, background
from support.waiting import wait_until

from beanpool import Job, JobId, JobLost, NoServerAvailable, OnAmbiguous, PoolManager, PutAmbiguous
from beanpool.events import Event, ServerStateChanged

T = TypeVar("T")

DEADLINE = 1.0
"""Of every call (seconds)."""
PATIENT = 4.0
"""Of every call that must bear a fault with nothing but delay: far more than the delay, on any machine (seconds)."""
SLACK = 0.25
CONNECT_TIMEOUT = 0.8
RECOVERY = 8.0
"""Until when a server that is well again is used again (seconds)."""


class Stage:
    """A pool on two servers, the first of which will be in trouble, and a tube of its own."""

    def __init__(
        self,
        sick: LinkedServer,
        healthy: LinkedServer,
        tube: str,
        ledger: Ledger,
        lag: LagProbe,
        *,
        deadline: float = DEADLINE,
        health_interval: float = 0.3,
    ) -> None:
        self.sick = sick
        self.healthy = healthy
        self.tube = tube
        self.ledger = ledger
        self.deadline = deadline
        self._lag = lag
        self.events: list[Event] = []
        self.pool = PoolManager(
            [sick.address, healthy.address],
            tube=tube,
            watch=(tube,),
            timeout=deadline,
            connect_timeout=CONNECT_TIMEOUT * deadline / DEADLINE,
            health_interval=health_interval,
            name=tube,
        )
        self.pool.add_listener(self.events.append)
        keys = map(str, itertools.count())
        self.key = next(key for key in keys if self.pool.route(key)[0] == sick.address)
        self.other_key = next(key for key in keys if self.pool.route(key)[0] == healthy.address)

    def timed(self, what: str, call: Callable[[], T], limit: float | None = None) -> T:
        """Call it, and assert that it ended in time, however it ended.

        :param limit: instead of the pool's timeout (seconds).
        """
        started = time.monotonic()
        try:
            return call()
        finally:
            took = time.monotonic() - started
            allowed = (self.deadline if limit is None else limit) + SLACK + self._lag.stalled(started, started + took)
            assert took <= allowed, f"{what} took {took:.3f} s, and was to end within {allowed:.3f} s"

    def store(self, server: LinkedServer) -> tuple[bytes, int]:
        """Put a job past the pool, and past the fault."""
        body = self.ledger.token()
        jid = server.control.put(body, self.tube)
        self.ledger.acked(body, server.address, jid)
        return body, jid

    def reserve(self, limit: float | None = None) -> Job | None:
        """Reserve a job through the pool and note it.

        :param limit: how long to wait, instead of the pool's timeout (seconds).
        """
        limit = self.deadline if limit is None else limit
        job = self.timed("reserve", lambda: self.pool.reserve(limit), limit)
        if job is not None:
            self.ledger.delivered(job.data, job.server, job.id)
        return job

    def delete(self, job: Job) -> str:
        """Delete a job through the pool and note it."""
        try:
            self.timed("delete", job.delete)
        except JobLost as error:
            self.ledger.delete_failed(job.data, error)
            return "JobLost"
        self.ledger.deleted(job.data)
        return "deleted"

    def put(self, key: str, on_ambiguous: OnAmbiguous = "resend") -> tuple[str, bytes]:
        """Put a job through the pool and note it; returns what came of it, and its body."""
        body = self.ledger.token()
        try:
            jid = self.timed("put", lambda: self.pool.put(body, key=key, on_ambiguous=on_ambiguous))
        except PutAmbiguous as error:
            self.ledger.ambiguous(body, max(1, len(error.attempts)))
            return "PutAmbiguous", body
        except NoServerAvailable as error:
            self.ledger.refused(body, error)
            return "NoServerAvailable", body
        self.ledger.acked(body, jid.server, jid, jid.maybe_duplicate)
        where = "stored" if jid.server == self.sick.address else "elsewhere"
        return f"{where}, maybe twice" if jid.maybe_duplicate else where, body

    def jobs_on_sick(self) -> int:
        """How many jobs of this stage the sick server holds, in any state."""
        return sum(
            self.sick.control.counter(f"current-jobs-{state}", self.tube) for state in ("ready", "reserved", "delayed")
        )

    def states(self) -> list[str]:
        """The states that the sick server went through, as the pool believes."""
        return [
            event.after
            for event in list(self.events)
            if isinstance(event, ServerStateChanged) and event.server == self.sick.address
        ]

    def recover(self) -> None:
        """The fault is over: both servers are used again, and every answer belongs to its question."""
        wait_until(lambda: all(status.state == "up" for status in self.pool.servers), "all servers to be up", RECOVERY)
        sent = []
        for key in (self.key, self.other_key):
            outcome, body = self.put(key)
            assert outcome in ("stored", "elsewhere"), outcome
            sent.append(body)
        while sent:
            job = self.reserve(2 * self.deadline)
            assert job is not None, "a job that was put after the fault does not come"
            assert self.delete(job) == "deleted"
            if job.data in sent:
                sent.remove(job.data)


class Operation(abc.ABC):
    """One call of the library. Made and prepared before the fault, run under it, judged when it is over."""

    name: str

    def __init__(self, stage: Stage) -> None:
        self.stage = stage

    def prepare(self) -> None:
        """Open the connections that will be in use, and whatever else has to be there before."""
        for key in (self.stage.key, self.stage.other_key):
            _, body = self.stage.put(key)
            job = self.stage.reserve()
            assert job is not None
            assert job.data == body
            self.stage.delete(job)

    @abc.abstractmethod
    def run(self, works: bool) -> str:
        """Do it under the fault; returns in words what came of it.

        :param works: the fault is one that the call has to bear with nothing but delay.
        """

    @abc.abstractmethod
    def judge(self, outcome: str, works: bool) -> None:
        """Compare with the server, now that the fault is over."""


class Put(Operation):
    """A put whose key belongs to the sick server."""

    name = "put"
    on_ambiguous: OnAmbiguous = "resend"
    allowed: tuple[str, ...] = ("elsewhere", "elsewhere, maybe twice", "stored", "stored, maybe twice")

    def run(self, works: bool) -> str:
        outcome, _ = self.stage.put(self.stage.key, self.on_ambiguous)
        if works:
            assert outcome == "stored"
        assert outcome in self.allowed, outcome
        return outcome

    def judge(self, outcome: str, works: bool) -> None:
        stored = self.stage.jobs_on_sick()
        assert stored <= 1
        if outcome == "elsewhere":
            assert stored == 0, "it is stored on the server that was tried before too, and that was not declared"
        if outcome.startswith("stored"):
            assert stored == 1


class PutToldToRaise(Put):
    """The same, where the caller wants to know instead of having it put again."""

    name = "put, raise"
    on_ambiguous = "raise"
    allowed = ("elsewhere", "stored", "PutAmbiguous")


class PutMany(Operation):
    """A batch, all of it for the sick server."""

    name = "put_many"

    def run(self, works: bool) -> str:
        stage, bodies = self.stage, self.stage.ledger.tokens(20, size=100)
        # A server has its time to answer, and what it leaves over has as much again elsewhere.
        limit = 2 * stage.deadline
        outcomes = stage.timed("put_many", lambda: stage.pool.put_many(bodies, key=stage.key), limit)
        self._undeclared = 0
        counts: collections.Counter[str] = collections.Counter()
        for body, outcome in zip(bodies, outcomes, strict=True):
            assert isinstance(outcome, JobId), outcome
            stage.ledger.acked(body, outcome.server, outcome, outcome.maybe_duplicate)
            stored = outcome.server == stage.sick.address
            self._undeclared += not stored and not outcome.maybe_duplicate
            counts[("stored" if stored else "elsewhere") + ", maybe twice" * outcome.maybe_duplicate] += 1
        if works:
            assert dict(counts) == {"stored": 20}
        return ", ".join(f"{count} {outcome}" for outcome, count in sorted(counts.items()))

    def judge(self, outcome: str, works: bool) -> None:
        # The ledger knows of each one; here only that what went elsewhere without a word is not here as well.
        assert self.stage.jobs_on_sick() <= 20 - self._undeclared


class ReserveReady(Operation):
    """A reserve while the only ready job is on the sick server."""

    name = "reserve ready"

    def prepare(self) -> None:
        super().prepare()
        self._body, self._jid = self.stage.store(self.stage.sick)
        self._job: Job | None = None

    def run(self, works: bool) -> str:
        self._job = job = self.stage.reserve()
        if job is None:
            assert not works
            return "none"
        assert (job.data, job.id, job.server) == (self._body, self._jid, self.stage.sick.address)
        return "delivered"

    def judge(self, outcome: str, works: bool) -> None:
        job = self._job
        if job is None or (job.lost and self.stage.delete(job) == "JobLost"):
            job = self.stage.reserve(3 * self.stage.deadline)
            assert job is not None, "the job never came"
            assert job.data == self._body
        if not job.lost:
            # Its connection may have died unseen; then the job is delivered once more, to the canary's reserve.
            self.stage.delete(job)


class ReserveMany(Operation):
    """A batch of reserves while there are jobs on both servers."""

    name = "reserve_many"

    def prepare(self) -> None:
        super().prepare()
        stage = self.stage
        self._bodies = {server: {stage.store(server)[0] for _ in range(3)} for server in (stage.sick, stage.healthy)}
        self._jobs: list[Job] = []

    def run(self, works: bool) -> str:
        stage = self.stage
        self._jobs = stage.timed("reserve_many", lambda: stage.pool.reserve_many(20, stage.deadline))
        for job in self._jobs:
            stage.ledger.delivered(job.data, job.server, job.id)
        sick, healthy = (
            {job.data for job in self._jobs if job.server == server.address} for server in (stage.sick, stage.healthy)
        )
        assert healthy == self._bodies[stage.healthy], "one server's trouble is not the other one's"
        assert sick <= self._bodies[stage.sick]
        assert len(sick) == 3 or not works
        return f"{len(sick)} and {len(healthy)}"

    def judge(self, outcome: str, works: bool) -> None:
        left = self._bodies[self.stage.sick] | self._bodies[self.stage.healthy]
        jobs, self._jobs = self._jobs, []
        while left:
            for job in jobs:
                if self.stage.delete(job) == "deleted":
                    left.remove(job.data)
            if left:
                job_again = self.stage.reserve(3 * self.stage.deadline)
                assert job_again is not None, "a job never came"
                jobs = [job_again]


class ReserveWaiting(Operation):
    """A reserve that waits on both servers when the fault comes."""

    name = "reserve waiting"

    def prepare(self) -> None:
        super().prepare()
        stage = self.stage
        self._call: Background[Job | None] = background(lambda: stage.reserve(3 * stage.deadline), stage.tube)
        for server in (stage.sick, stage.healthy):
            wait_until(lambda server=server: server.control.counter("current-waiting", stage.tube), "a waiter")  # type: ignore[misc]  # mypy infers no type for a lambda with defaults

    def run(self, works: bool) -> str:
        started = time.monotonic()
        body, _ = self.stage.store(self.stage.sick if works else self.stage.healthy)
        job = self._call.result(10.0)
        took = time.monotonic() - started
        assert job is not None, "nothing came"
        assert job.data == body
        if not works:
            # One server's trouble is not the other one's.
            assert took <= SLACK + self.stage._lag.stalled(started, started + took), f"it took {took:.3f} s"
        self._job = job
        return "delivered"

    def judge(self, outcome: str, works: bool) -> None:
        self.stage.delete(self._job)


class Delete(Operation):
    """The delete of a job that the sick server gave out before."""

    name = "delete"

    def prepare(self) -> None:
        super().prepare()
        body, self._jid = self.stage.store(self.stage.sick)
        job = self.stage.reserve()
        assert job is not None
        assert job.data == body
        self.job = job

    def run(self, works: bool) -> str:
        outcome = self.stage.delete(self.job)
        if works:
            assert outcome == "deleted"
        return outcome

    def judge(self, outcome: str, works: bool) -> None:
        if outcome == "deleted":
            assert self.stage.sick.control.stats_job(self._jid) is None, "it was said to be deleted"
        else:
            self._nobody_has_it()

    def _nobody_has_it(self) -> None:
        control, jid = self.stage.sick.control, self._jid
        wait_until(lambda: control.state(jid) in (None, "ready"), "the job to be given back", RECOVERY)


class DeleteMany(Operation):
    """A batch of deletes of jobs that both servers gave out before."""

    name = "delete_many"

    def prepare(self) -> None:
        super().prepare()
        stage = self.stage
        for server in (stage.sick, stage.healthy):
            for _ in range(3):
                stage.store(server)
        self._jobs = stage.timed("reserve_many", lambda: stage.pool.reserve_many(6, stage.deadline))
        for job in self._jobs:
            stage.ledger.delivered(job.data, job.server, job.id)
        assert len(self._jobs) == 6

    def run(self, works: bool) -> str:
        stage = self.stage
        # A server has its time to answer, and what was lost has as much again.
        outcomes = stage.timed("delete_many", lambda: stage.pool.delete_many(self._jobs), 2 * stage.deadline)
        counts: collections.Counter[str] = collections.Counter()
        self._lost = []
        for job, outcome in zip(self._jobs, outcomes, strict=True):
            if outcome is None:
                stage.ledger.deleted(job.data)
            else:
                assert isinstance(outcome, JobLost)
                assert job.server == stage.sick.address, "one server's trouble is not the other one's"
                assert not works
                stage.ledger.delete_failed(job.data, outcome)
                self._lost.append(job)
            counts["deleted" if outcome is None else "JobLost"] += 1
        return ", ".join(f"{count} {outcome}" for outcome, count in sorted(counts.items()))

    def judge(self, outcome: str, works: bool) -> None:
        for job in self._jobs:
            control = (self.stage.sick if job.server == self.stage.sick.address else self.stage.healthy).control
            if job in self._lost:
                wait_until(
                    lambda control=control, job=job: control.state(job.id) in (None, "ready"),  # type: ignore[misc]  # mypy infers no type for a lambda with defaults
                    "the job to be given back",
                    RECOVERY,
                )
            else:
                assert control.stats_job(job.id) is None, "it was said to be deleted"


class Touch(Delete):
    """A touch of such a job."""

    name = "touch"

    def run(self, works: bool) -> str:
        try:
            self.stage.timed("touch", self.job.touch)
        except JobLost:
            assert not works
            assert self.job.lost
            return "JobLost"
        return "touched"

    def judge(self, outcome: str, works: bool) -> None:
        if outcome == "JobLost":
            self.stage.ledger.delete_failed(self.job.data, "lost")
            self._nobody_has_it()
        elif self.stage.delete(self.job) == "deleted":
            assert self.stage.sick.control.stats_job(self._jid) is None


class Stats(Operation):
    """The statistics of all servers."""

    name = "stats"

    def run(self, works: bool) -> str:
        stage = self.stage
        answers = stage.timed("stats", stage.pool.stats_by_server)
        assert set(answers) == {stage.sick.address, stage.healthy.address}
        assert answers[stage.healthy.address]["pid"] == stage.healthy.server.pid
        answer = answers[stage.sick.address]
        if isinstance(answer, BaseException):
            assert not works, answer
            assert stage.sick.address in str(answer)
            return "error told"
        assert answer["pid"] == stage.sick.server.pid
        return "both"

    def judge(self, outcome: str, works: bool) -> None:
        """Nothing is left of it."""


OPERATIONS: tuple[type[Operation], ...] = (
    Put,
    PutToldToRaise,
    PutMany,
    ReserveReady,
    ReserveMany,
    ReserveWaiting,
    Delete,
    DeleteMany,
    Touch,
    Stats,
)


@contextlib.contextmanager
def witnesses(ledger: Ledger, servers: list[LinkedServer]) -> Iterator[None]:
    """Jobs that nobody asked for, with ids around those of the test: the ledger says if one is gone."""
    for server in servers:
        body = ledger.token()
        ledger.acked(body, server.address, server.control.put(body, "witness"))
    yield
    for server in servers:
        body = ledger.token()
        ledger.acked(body, server.address, server.control.put(body, "witness"))


def settle(ledger: Ledger, servers: list[LinkedServer]) -> None:
    """The pools are closed: no connection is left, and the books balance."""
    for server in servers:
        wait_until(lambda server=server: server.control.other_connections() == 0, "no connection left", RECOVERY)  # type: ignore[misc]  # mypy infers no type for a lambda with defaults
    ledger.reconcile([server.control for server in servers])
