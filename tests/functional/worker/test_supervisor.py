"""Tests of how a worker ends."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.pools import pool_of
from support.servers import BeanstalkdServer
from support.waiting import wait_until, within
from support.workers import Calls, Events, Gate, running

from beanpool import Job, PoolManager
from beanpool.worker import JobDone, JobGivenBack, TimeLimitExceeded, Worker, drained
from beanpool.worker import supervisor as supervising

if TYPE_CHECKING:
    from conftest import StartCluster, StartDelayLine


def jobs_in(server: BeanstalkdServer, state: str, tube: str = "mail") -> int:
    return server.control.counter(f"current-jobs-{state}", tube)


class TestGrace:
    def test_running_jobs_are_finished_and_no_more_are_taken(self, beanstalkd: BeanstalkdServer) -> None:
        with pool_of(beanstalkd) as pool, Gate() as gate:
            pool.put_many(["job"] * 5, tube="mail")
            worker = Worker(pool, threads=2, grace=60)
            worker.add("mail", gate)
            with running(worker):
                wait_until(lambda: gate.inside == 2, "two jobs")
                worker.stop()
                assert worker.join(0.1) is None
                gate.open()
                assert worker.join(10) == 0
            assert len(gate.bodies) == 2
            assert (jobs_in(beanstalkd, "ready"), jobs_in(beanstalkd, "reserved")) == (3, 0)

    @pytest.mark.parametrize("batch", [1, 4])
    def test_what_takes_longer_is_given_back_and_that_is_no_try(self, beanstalkd: BeanstalkdServer, batch: int) -> None:
        with pool_of(beanstalkd) as pool, Gate() as gate:
            ids = pool.put_many([f"job-{number}" for number in range(4)], tube="mail")
            worker = Worker(pool, threads=1, grace=0.2, batch=batch)
            # The first one of a batch is done by then, and stays so.
            worker.add("mail", lambda job: gate(job) if job.body != "job-0" else None)
            events = Events(worker)
            with running(worker):
                wait_until(lambda: gate.inside, "a job that takes long")
                worker.stop()
                assert worker.join(10) == 75
            wait_until(lambda: jobs_in(beanstalkd, "ready") == 3, "the jobs that were given back")
            assert jobs_in(beanstalkd, "reserved") == 0
            assert [event.id for event in events.of(JobDone)] == [ids[0]]
            assert len(events.of(JobGivenBack)) == (1 if batch == 1 else 3)
            for jid in ids[1:]:
                assert isinstance(jid, int)
                stats = pool.stats_job(jid)
                assert (stats["state"], stats["releases"], stats["timeouts"]) == ("ready", 0, 0)

    def test_a_second_stop_shortens_the_grace(self, beanstalkd: BeanstalkdServer) -> None:
        with pool_of(beanstalkd) as pool, Gate() as gate:
            pool.put("job", tube="mail")
            worker = Worker(pool, threads=1, grace=60)
            worker.add("mail", gate)
            with running(worker):
                wait_until(lambda: gate.inside, "its start")
                worker.stop()
                assert worker.join(0.1) is None
                worker.stop(0)
                assert worker.join(10) == 75

    def test_a_worker_that_waits_ends_at_once_also_without_servers(self, cluster: StartCluster) -> None:
        servers = cluster(2)
        with pool_of(*servers) as pool:
            worker = Worker(pool, threads=4)
            worker.add("mail", Calls())
            with running(worker):
                pool.put("job", tube="mail")
                wait_until(lambda: worker.get_stats()["done"] == 1, "a job")
                for server in servers:
                    server.kill()
                wait_until(lambda: all(server.state == "down" for server in pool.servers), "the end of the servers")
                with within(0.5, slack=2):
                    worker.stop()
                    assert worker.join() == 0


class TestLimits:
    def test_it_ends_when_its_time_is_over(self, beanstalkd: BeanstalkdServer) -> None:
        with pool_of(beanstalkd) as pool:
            worker = Worker(pool, threads=2, max_time=0.2)
            worker.add("mail", Calls())
            started = time.monotonic()
            assert worker.run() == 0
            assert time.monotonic() >= started + 0.2

    def test_it_ends_when_it_has_too_much_memory(self, beanstalkd: BeanstalkdServer) -> None:
        with pool_of(beanstalkd) as pool:
            worker = Worker(pool, threads=2, max_memory=1)
            worker.add("mail", Calls())
            assert worker.run() == 12

    def test_it_ends_when_nothing_is_left_but_not_while_a_server_is_silent(self, cluster: StartCluster) -> None:
        servers = cluster(2)
        with pool_of(*servers, timeout=0.5) as pool:
            for server in servers:
                server.control.put(b"job", tube="mail")
            calls = Calls()
            worker = Worker(pool, threads=2, stop_when_empty=True)
            worker.add("mail", calls)
            servers[0].freeze()
            with running(worker):
                wait_until(lambda: calls.total == 1, "the job of the other server")
                wait_until(lambda: any(server.state == "down" for server in pool.servers), "the server to be missed")
                assert worker.join(1) is None
                servers[0].thaw()
                assert worker.join(20) == 0
            assert calls.total == 2

    def test_it_takes_what_far_servers_have_before_it_ends(
        self, cluster: StartCluster, delay_line: StartDelayLine
    ) -> None:
        servers = cluster(8)
        for server in servers:
            server.control.put(b"job", tube="mail")
        with PoolManager([delay_line(server).address for server in servers]) as pool:
            calls = Calls()
            worker = Worker(pool, threads=8, stop_when_empty=True)
            worker.add("mail", calls)
            with running(worker):
                assert worker.join(20) == 0
            assert calls.total == 8

    def test_it_does_not_end_while_a_job_is_under_way_to_it(
        self, beanstalkd: BeanstalkdServer, delay_line: StartDelayLine
    ) -> None:
        beanstalkd.control.put(b"x" * 60_000, tube="mail")
        with PoolManager(delay_line(beanstalkd, 0.02, rate=60_000).address) as pool:
            calls = Calls()
            worker = Worker(pool, threads=1, stop_when_empty=True)
            worker.add("mail", calls)
            with running(worker):
                assert worker.join(20) == 0
            assert calls.total == 1
            assert jobs_in(beanstalkd, "ready") == 0

    def test_what_others_have_in_hand_keeps_it_only_for_a_while(
        self, beanstalkd: BeanstalkdServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(drained, "_UNDER_WAY", 0.3)
        beanstalkd.control.put(b"job", tube="mail")
        with pool_of(beanstalkd) as others, pool_of(beanstalkd) as pool:
            held = others.reserve(5, tubes="mail")
            assert held is not None
            worker = Worker(pool, threads=1, stop_when_empty=True)
            worker.add("mail", Calls())
            with running(worker):
                assert worker.join(20) == 0
            held.delete()

    def test_it_does_not_end_while_a_running_job_may_put_others(self, beanstalkd: BeanstalkdServer) -> None:
        go_on = threading.Event()

        def first(job: Job) -> None:
            go_on.wait()
            pool.put("second", tube="second")

        second = Calls()
        with pool_of(beanstalkd) as pool:
            pool.put("first", tube="first")
            worker = Worker(pool, threads=3, stop_when_empty=True)
            worker.add("first", first)
            worker.add("second", second)
            with running(worker):
                try:
                    assert worker.join(1) is None
                finally:
                    go_on.set()
                assert worker.join(20) == 0
            assert second.total == 1

    def test_closing_the_pool_ends_it(self, beanstalkd: BeanstalkdServer) -> None:
        pool = pool_of(beanstalkd)
        worker = Worker(pool, threads=2)
        worker.add("mail", Calls())
        with running(worker):
            pool.close()
            assert worker.join(10) == 0


class TestHeartbeat:
    def test_it_beats_until_every_thread_is_stuck(
        self, beanstalkd: BeanstalkdServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(supervising, "BEAT_EVERY", 0.05)
        path = tmp_path / "heartbeat"

        def beats() -> bool:
            os.utime(path, (0, 0))
            try:
                wait_until(lambda: path.stat().st_mtime, "a beat", 0.5)
            except AssertionError:
                return False
            return True

        def handle(job: Job) -> None:
            try:
                gate(job)
            except TimeLimitExceeded:
                gate(job)

        with pool_of(beanstalkd) as pool, Gate() as gate:
            worker = Worker(pool, threads=2, heartbeat_file=path)
            worker.add("mail", handle, time_limit=0.1)
            with running(worker):
                assert beats()
                pool.put("stuck", tube="mail")
                wait_until(lambda: gate.inside == 1, "one stuck thread")
                assert beats()
                assert not worker.stuck
                pool.put("stuck", tube="mail")
                wait_until(lambda: gate.inside == 2, "two stuck threads")
                wait_until(lambda: not beats(), "the end of the heartbeat")
                assert worker.stuck

    def test_a_file_that_cannot_be_written_is_an_error_at_the_start(
        self, beanstalkd: BeanstalkdServer, tmp_path: Path
    ) -> None:
        with pool_of(beanstalkd) as pool:
            worker = Worker(pool, heartbeat_file=tmp_path / "none" / "heartbeat")
            worker.add("mail", Calls())
            with pytest.raises(OSError):
                worker.run()
