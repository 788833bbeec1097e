"""Tests of what becomes of jobs in a worker's threads."""

from __future__ import annotations

import functools
import itertools
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from support.pools import pool_of
from support.records import Records
from support.servers import BeanstalkdServer
from support.waiting import wait_until, within
from support.workers import Calls, Events, Gate, running

from beanpool import Job, PoolManager
from beanpool.worker import (
    Backoff,
    Breaker,
    Bury,
    JobBuried,
    JobDone,
    JobGivenBack,
    JobLost,
    JobRetried,
    JobStarted,
    Retry,
    TimeLimitExceeded,
    Worker,
    current_job,
)

if TYPE_CHECKING:
    from conftest import StartCluster, StartDelayLine

AT_ONCE = Backoff(tries=3, base=0)


def jobs_in(server: BeanstalkdServer, state: str, tube: str = "mail") -> int:
    return server.control.counter(f"current-jobs-{state}", tube)


def deleted(server: BeanstalkdServer) -> int:
    return server.control.counter("cmd-delete")


class TestOutcomes:
    @pytest.mark.parametrize("batch", [1, 5])
    def test_a_job_whose_handler_returns_is_deleted(self, beanstalkd: BeanstalkdServer, batch: int) -> None:
        def handle(job: Job, count: int) -> None:
            assert current_job() is job

        calls = Calls(handle)
        with pool_of(beanstalkd) as pool:
            pool.put_many(map(str, range(30)), tube="mail")
            worker = Worker(pool, threads=2, batch=batch, stop_when_empty=True)
            worker.add("mail", calls)
            events = Events(worker)
            assert worker.run() == 0
            assert calls.counts == dict.fromkeys(map(str, range(30)), 1)
            assert deleted(beanstalkd) == 30
            assert current_job() is None
            assert {event.id for event in events.of(JobDone)} == set(range(1, 31))
            assert {(event.server, event.tube) for event in events.of(JobStarted)} == {(beanstalkd.address, "mail")}
            assert worker.get_stats() == {
                "taken": 30, "done": 30, "failed": 0, "retried": 0, "buried": 0, "lost": 0, "given_back": 0,
            }  # fmt: skip

    @pytest.mark.parametrize("batch", [1, 5])
    def test_one_whose_handler_raises_is_tried_again_and_buried_in_the_end(
        self, beanstalkd: BeanstalkdServer, batch: int
    ) -> None:
        def handle(job: Job) -> None:
            if job.body == "bad":
                raise ValueError("no such user")

        with pool_of(beanstalkd) as pool, Records("beanpool.worker") as records:
            bad = pool.put("bad", 7, tube="mail")
            pool.put_many(["good"] * 9, tube="mail")
            worker = Worker(pool, threads=1, retry=AT_ONCE, batch=batch, stop_when_empty=True)
            worker.add("mail", handle)
            events = Events(worker)
            assert worker.run() == 0
            stats = pool.stats_job(bad)
            assert (stats["state"], stats["releases"], stats["pri"]) == ("buried", 2, 7)
            assert [(event.attempt, event.delay) for event in events.of(JobRetried)] == [(1, 0), (2, 0)]
            [buried] = events.of(JobBuried)
            assert (buried.id, buried.attempt, str(buried.error)) == (bad, 3, "no such user")
            assert jobs_in(beanstalkd, "ready") == 0
            assert deleted(beanstalkd) == 9
            last = [text for text in records.texts() if text.startswith("ERROR")]
            assert len(last) == 1
            assert f"job 1 of {beanstalkd.address}, tube mail: buried at try 3" in last[0]
            assert "its tries are used up" in last[0]
            assert "Traceback" in last[0]

    def test_it_waits_on_its_server_meanwhile(self, beanstalkd: BeanstalkdServer) -> None:
        def handle(job: Job) -> None:
            raise ValueError

        with pool_of(beanstalkd) as pool:
            jid = pool.put("bad", tube="mail")
            worker = Worker(pool, threads=1, retry=Backoff(base=100, jitter=False), stop_when_empty=True)
            worker.add("mail", handle)
            assert worker.run() == 0
            stats = pool.stats_job(jid)
            assert (stats["state"], stats["delay"]) == ("delayed", 100)

    @pytest.mark.parametrize(
        ("error", "state", "delay"),
        [(Bury("no such user"), "buried", None), (Retry(50), "delayed", 50), (Retry(), "delayed", 100)],
    )
    def test_a_handler_can_say_what_is_to_be_done(
        self, beanstalkd: BeanstalkdServer, error: Exception, state: str, delay: int | None
    ) -> None:
        def handle(job: Job) -> None:
            raise error

        with pool_of(beanstalkd) as pool:
            jid = pool.put("job", tube="mail")
            worker = Worker(pool, threads=1, retry=Backoff(base=100, jitter=False), stop_when_empty=True)
            # Neither is a failure.
            worker.add("mail", handle, breaker=Breaker(after=1))
            assert worker.run() == 0
            stats = pool.stats_job(jid)
            assert stats["state"] == state
            assert delay in (None, stats["delay"])
            assert worker.get_stats()["failed"] == 0

    @pytest.mark.parametrize("batch", [1, 5])
    def test_a_handler_can_finish_its_job_itself(self, beanstalkd: BeanstalkdServer, batch: int) -> None:
        with pool_of(beanstalkd) as pool:
            ids = pool.put_many(["a", "b", "c"], tube="mail")
            worker = Worker(pool, threads=1, batch=batch, stop_when_empty=True)
            worker.add("mail", lambda job: job.bury() if job.body == "b" else None)
            assert worker.run() == 0
            assert isinstance(ids[1], int)
            assert pool.stats_job(ids[1])["state"] == "buried"
            assert deleted(beanstalkd) == 2

    def test_a_handler_that_ends_its_thread_has_failed(self, beanstalkd: BeanstalkdServer) -> None:
        def handle(job: Job) -> None:
            raise SystemExit(3)

        with pool_of(beanstalkd) as pool:
            jid = pool.put("job", tube="mail")
            worker = Worker(pool, threads=1, retry=AT_ONCE, stop_when_empty=True)
            worker.add("mail", handle)
            assert worker.run() == 0
            assert pool.stats_job(jid)["state"] == "buried"

    def test_a_job_that_was_lost_is_not_deleted(self, beanstalkd: BeanstalkdServer) -> None:
        go_on = threading.Event()

        def handle(job: Job) -> None:
            # A server may forget the end of a TTR until the connection says something.
            while not go_on.wait(0.1):
                job.stats()

        with pool_of(beanstalkd) as pool, pool_of(beanstalkd) as other:
            jid = pool.put("job", ttr=1, tube="mail")
            worker = Worker(pool, threads=1, keep_alive=False)
            worker.add("mail", handle)
            events = Events(worker)
            with running(worker):
                wait_until(lambda: events.of(JobStarted), "the job's start")
                theirs = other.reserve(10, tubes="mail")
                assert theirs is not None
                go_on.set()
                [lost] = wait_until(lambda: events.of(JobLost), "its loss")
                assert (lost.id, lost.error) == (jid, None)
                assert theirs.stats()["state"] == "reserved"
                assert worker.get_stats()["lost"] == 1
                theirs.delete()

    @pytest.mark.parametrize("batch", [1, 2])
    def test_a_job_that_was_delivered_too_often_is_not_run_again(
        self, beanstalkd: BeanstalkdServer, batch: int
    ) -> None:
        calls = Calls()
        with pool_of(beanstalkd) as pool:
            jid = pool.put("poison", tube="mail")
            for _ in range(2):
                # As by a process that dies.
                job = pool.reserve(5, tubes="mail")
                assert job is not None
                job.connection.close()
            pool.put("good", tube="mail")
            worker = Worker(pool, threads=1, batch=batch, max_deliveries=2, stop_when_empty=True)
            worker.add("mail", calls)
            assert worker.run() == 0
            assert calls.counts == {"good": 1}
            stats = pool.stats_job(jid)
            assert (stats["state"], stats["reserves"], stats["releases"]) == ("buried", 3, 0)

    def test_a_batch_is_asked_in_one_round_trip_how_often_it_was_delivered(
        self, beanstalkd: BeanstalkdServer, delay_line: StartDelayLine
    ) -> None:
        for _ in range(60):
            beanstalkd.control.put(b"job", "mail")
        with PoolManager(delay_line(beanstalkd, 0.1).address) as pool:
            worker = Worker(pool, threads=1, batch=60, max_deliveries=5, stop_when_empty=True)
            worker.add("mail", Calls())
            # Sixty of them are six seconds.
            with within(3, "a worker"):
                assert worker.run() == 0
        assert deleted(beanstalkd) == 60


class TestTime:
    @pytest.mark.parametrize("batch", [1, 5])
    def test_a_job_is_kept_alive_while_it_runs(self, beanstalkd: BeanstalkdServer, batch: int) -> None:
        timeouts: list[int] = []

        def handle(job: Job) -> None:
            ends = time.monotonic() + 2.2
            while time.monotonic() < ends:
                # A server may forget the end of a TTR until the connection says something.
                timeouts.append(job.stats()["timeouts"])
                time.sleep(0.1)

        with pool_of(beanstalkd) as pool:
            pool.put_many(["job"] * batch, ttr=1, tube="mail")
            worker = Worker(pool, threads=1, max_jobs=batch)
            worker.add("mail", lambda job: handle(job) if not timeouts else None, batch=batch)
            assert worker.run() == 0
            assert len(timeouts) > 1
            assert not any(timeouts)
            assert worker.get_stats()["done"] == batch

    def test_a_job_is_kept_alive_while_the_rest_of_its_batch_is_under_way(
        self, beanstalkd: BeanstalkdServer, delay_line: StartDelayLine
    ) -> None:
        beanstalkd.control.put(b"first", "mail", ttr=1)
        beanstalkd.control.put(b"x" * 60_000, "mail")
        timeouts: list[int] = []
        with PoolManager(delay_line(beanstalkd, 0.02, rate=45_000).address) as pool:
            worker = Worker(pool, threads=1, batch=2, stop_when_empty=True)
            worker.add("mail", lambda job: timeouts.append(job.stats()["timeouts"]))
            assert worker.run() == 0
            assert timeouts == [0, 0]

    def test_a_handler_that_takes_too_long_is_ended_and_its_thread_goes_on(self, beanstalkd: BeanstalkdServer) -> None:
        def handle(job: Job) -> None:
            while job.body == "long":
                time.sleep(0.001)

        with pool_of(beanstalkd) as pool:
            jid = pool.put("long", tube="mail")
            worker = Worker(pool, threads=1, retry=Backoff(base=100, jitter=False), max_jobs=2)
            worker.add("mail", handle, time_limit=0.2)
            events = Events(worker)
            with running(worker):
                [failed] = wait_until(lambda: events.of(JobRetried), "the end of the long one")
                assert isinstance(failed.error, TimeLimitExceeded)
                assert failed.seconds >= 0.2
                assert pool.stats_job(jid)["state"] == "delayed"
                pool.put("short", tube="mail")
                assert worker.join(10) == 0
                assert worker.get_stats()["done"] == 1

    def test_the_touching_stops_at_the_time_limit(self, beanstalkd: BeanstalkdServer) -> None:
        timed_out = threading.Event()

        def handle(job: Job) -> None:
            try:
                while True:
                    time.sleep(0.001)
            except TimeLimitExceeded:
                # A server may forget the end of a TTR until the connection says something.
                while not job.stats()["timeouts"]:
                    time.sleep(0.1)
                timed_out.set()

        with pool_of(beanstalkd) as pool:
            pool.put("stuck", ttr=1, tube="mail")
            worker = Worker(pool, threads=1)
            # Time for a touch, and for no second one.
            worker.add("mail", handle, time_limit=0.6)
            with running(worker):
                assert timed_out.wait(15)


class TestBatches:
    def test_what_is_done_is_deleted_while_a_slow_one_runs(self, beanstalkd: BeanstalkdServer) -> None:
        with pool_of(beanstalkd) as pool, Gate() as gate:
            pool.put_many(["a", "b", "slow", "late"], tube="mail")
            worker = Worker(pool, threads=1)
            worker.add("mail", lambda job: gate(job) if job.body == "slow" else None, batch=10)
            events = Events(worker)
            with running(worker):
                wait_until(lambda: gate.inside, "the slow one's start")
                wait_until(lambda: deleted(beanstalkd) == 2, "the deletes of those before it")
                assert jobs_in(beanstalkd, "reserved") == 2
                time.sleep(0.01)
                gate.open()
                wait_until(lambda: deleted(beanstalkd) == 4, "the other deletes")
                # The one behind it is told.
                assert events.of(JobStarted)[-1].waited >= 0.01

    def test_the_rest_goes_back_when_the_breaker_opens_and_that_is_no_try(self, beanstalkd: BeanstalkdServer) -> None:
        def handle(job: Job) -> None:
            if job.body != "good":
                raise ConnectionError("the database is away")

        with pool_of(beanstalkd) as pool:
            ids = pool.put_many(["good", *["x"] * 7], tube="mail")
            worker = Worker(pool, threads=1, retry=Backoff(tries=1), breaker=Breaker(after=3, base=50), batch=10)
            worker.add("mail", handle)
            events = Events(worker)
            with running(worker):
                wait_until(lambda: len(events.of(JobGivenBack)) == 4, "the jobs that were given back")
                wait_until(lambda: jobs_in(beanstalkd, "ready") == 4, "their being ready")
                assert deleted(beanstalkd) == 1
                assert [pool.stats_job(jid)["releases"] for jid in ids[4:] if isinstance(jid, int)] == [0] * 4
                # Two were buried, before it was clear that they were not to blame.
                assert (jobs_in(beanstalkd, "buried"), jobs_in(beanstalkd, "delayed")) == (2, 1)


class TestPlaces:
    def test_a_concurrency_limit_holds_over_all_threads_and_the_other_tube_is_served(
        self, beanstalkd: BeanstalkdServer
    ) -> None:
        with pool_of(beanstalkd) as pool, Gate() as gate:
            pool.put_many(["slow"] * 8, tube="slow")
            worker = Worker(pool, threads=8)
            fast = Calls()
            worker.add("slow", gate, concurrency=2)
            worker.add("mail", fast)
            with running(worker):
                wait_until(lambda: gate.inside == 2, "the slow ones' start")
                pool.put_many(["fast"] * 200, tube="mail")
                wait_until(lambda: fast.total == 200, "all of the other tube")
                assert jobs_in(beanstalkd, "reserved", "slow") == 2
                gate.open()
                wait_until(lambda: len(gate.bodies) == 8, "all slow ones")
                assert gate.most == 2

    def test_a_freed_place_is_used_at_once(self, beanstalkd: BeanstalkdServer) -> None:
        """Threads that wait for other tubes are woken: nobody looks from time to time."""
        times: list[tuple[float, float]] = []

        def handle(job: Job) -> None:
            started = time.monotonic()
            time.sleep(0.01)
            times.append((started, time.monotonic()))

        with pool_of(beanstalkd) as pool:
            pool.put_many(["job"] * 30, tube="slow")
            worker = Worker(pool, threads=4, max_jobs=30)
            worker.add("slow", handle, concurrency=1)
            worker.add("mail", Calls())
            assert worker.run() == 0
        gaps = sorted(after[0] - before[1] for before, after in itertools.pairwise(times))
        assert gaps[0] >= 0
        # Half of them: the machine may be busy with something else now and then.
        assert gaps[len(gaps) // 2] < 0.05

    def test_exactly_as_many_jobs_are_taken_as_may_be(self, beanstalkd: BeanstalkdServer) -> None:
        for batch in (1, 7):
            with pool_of(beanstalkd) as pool:
                calls = Calls()
                pool.put_many(["job"] * 40, tube=f"mail-{batch}")
                worker = Worker(pool, threads=4, max_jobs=25, batch=batch)
                worker.add(f"mail-{batch}", calls)
                assert worker.run() == 0
                assert calls.total == 25
                assert jobs_in(beanstalkd, "ready", f"mail-{batch}") == 15


class TestBreaker:
    def test_an_outage_buries_nothing_and_costs_few_tries(self, beanstalkd: BeanstalkdServer) -> None:
        away = threading.Event()
        away.set()

        def handle(job: Job) -> None:
            if away.is_set():
                raise ConnectionError("the database is away")

        with pool_of(beanstalkd) as pool:
            pool.put_many(["job"] * 100, tube="mail")
            worker = Worker(pool, threads=4, retry=Backoff(tries=2), breaker=Breaker(after=5, base=0.1))
            worker.add("mail", handle)
            events = Events(worker)
            with running(worker):
                # The circuit opened, and three tried in vain.
                wait_until(lambda: len(events.of(JobRetried)) == 8, "some tries")
                assert not events.of(JobBuried)
                away.clear()
                wait_until(lambda: deleted(beanstalkd) == 100, "the end of the queue")
                assert worker.get_stats()["failed"] <= 9
                assert worker.get_stats()["buried"] == 0

    def test_other_tubes_are_worked_on_meanwhile(self, beanstalkd: BeanstalkdServer) -> None:
        def handle(job: Job) -> None:
            raise ConnectionError("the database is away")

        fast = Calls()
        with pool_of(beanstalkd) as pool:
            pool.put_many(["job"] * 20, tube="slow")
            worker = Worker(pool, threads=2, retry=Backoff(tries=5, base=0))
            worker.add("slow", handle, breaker=Breaker(after=2, base=100, cap=100))
            worker.add("mail", fast)
            with running(worker):
                wait_until(lambda: worker.get_stats()["failed"] == 2, "the outage")
                pool.put_many(["job"] * 50, tube="mail")
                wait_until(lambda: fast.total == 50, "the other tube")
                assert worker.get_stats()["failed"] == 2


class TestTubes:
    @pytest.mark.parametrize("order", ["any", "fair", "strict"])
    def test_each_tube_has_its_handler(self, cluster: StartCluster, order: Any) -> None:
        servers = cluster(2)
        seen: list[tuple[str, object]] = []

        def note(tube: str, job: Job) -> None:
            seen.append((tube, job.body))

        with pool_of(*servers) as pool:
            for tube in ("a", "b", "c"):
                pool.put_many([tube] * 20, tube=tube)
            worker = Worker(pool, threads=3, order=order, batch="auto", stop_when_empty=True)
            for tube in ("a", "b", "c"):
                worker.add(tube, functools.partial(note, tube))
            assert worker.run() == 0
        assert sorted(seen) == [(tube, tube) for tube in ("a", "b", "c") for _ in range(20)]

    def test_a_worker_can_put_follow_up_jobs_while_all_its_threads_have_jobs(
        self, beanstalkd: BeanstalkdServer
    ) -> None:
        together = threading.Barrier(8)

        def first(job: Job) -> None:
            together.wait(20)
            pool.put("second", tube="second")

        second = Calls()
        with PoolManager(beanstalkd.address, max_connections=8, health_interval=0.3) as pool:
            pool.put_many(["first"] * 8, tube="first")
            worker = Worker(pool, threads=8, stop_when_empty=True)
            worker.add("first", first)
            worker.add("second", second)
            assert worker.run() == 0
            assert second.total == 8


class TestUnexpected:
    def test_a_job_that_cannot_be_finished_goes_back_before_its_thread_rests(
        self, beanstalkd: BeanstalkdServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The error refers to the job for as long as the thread rests."""
        monkeypatch.setattr("beanpool.worker.runner._FIRST_PAUSE", 20.0)

        def handle(_: Job) -> None:
            error = Retry()
            error.delay = "soon"  # type: ignore[assignment]  # What a program does wrong.
            raise error

        with pool_of(beanstalkd) as pool:
            pool.put("x", tube="mail")
            worker = Worker(pool, threads=1)
            worker.add("mail", handle)
            with running(worker):
                wait_until(lambda: worker.get_stats()["given_back"] == 1, "the job to be given back")
                wait_until(lambda: jobs_in(beanstalkd, "ready") == 1, "the server to have it")

    def test_a_reason_that_cannot_be_said(self, beanstalkd: BeanstalkdServer) -> None:
        class Hopeless(Bury):
            def __str__(self) -> str:
                raise RuntimeError("no words")

        def handle(_: Job) -> None:
            raise Hopeless

        with pool_of(beanstalkd) as pool:
            pool.put("x", tube="mail")
            worker = Worker(pool, threads=1, max_jobs=1)
            worker.add("mail", handle)
            assert worker.run() == 0
            assert jobs_in(beanstalkd, "buried") == 1
