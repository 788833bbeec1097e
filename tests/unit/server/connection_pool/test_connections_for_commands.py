"""Jobs in hand do not take all connections: what they need to be finished gets through."""

from __future__ import annotations

import contextlib
import threading
import time

import pytest
from support.inside import inside
from support.server_pools import all_in_use
from support.servers import BeanstalkdServer
from support.threads import run_together
from support.waiting import wait_until, within

from beanpool import Job, JobId, PoolManager, PoolTimeout


def reserve(pool: PoolManager) -> Job:
    job = pool.reserve(0)
    assert job is not None
    return job


def test_every_worker_with_a_job_in_hand_can_put(beanstalkd: BeanstalkdServer) -> None:
    workers = 32
    for _ in range(workers):
        beanstalkd.control.put(b"job")
    all_reserved = threading.Barrier(workers)
    with PoolManager(beanstalkd.url, max_connections=workers, timeout=5) as pool:

        def work() -> list[JobId]:
            job = reserve(pool)
            all_reserved.wait(10)
            ids = [pool.put("follow-up", tube="next") for _ in range(4)]
            all_reserved.wait(10)
            job.delete()
            return ids

        assert sum(len(ids) for ids in run_together(*[work] * workers, timeout=20)) == 4 * workers
        assert beanstalkd.control.counter("current-jobs-ready", "next") == 4 * workers
        assert workers < pool.servers[0].open <= workers + workers // 4
        inside(pool).connections_of(0).pruning.trim(0)
        assert pool.servers[0].open <= workers, "when the jobs are finished, there are no more than the limit"


def test_only_as_many_as_jobs_hold_and_a_quarter_of_the_limit(beanstalkd: BeanstalkdServer) -> None:
    with PoolManager(beanstalkd.url, max_connections=8) as pool:
        with all_in_use(pool):
            assert pool.servers[0].open == 8, "without jobs there is no allowance"
        for jobs, most in ((1, 9), (2, 10), (3, 10)):
            beanstalkd.control.put(b"job")
            held = [reserve(pool)]
            while len(held) < jobs:
                beanstalkd.control.put(b"job")
                held.append(reserve(pool))
            with all_in_use(pool):
                assert pool.servers[0].open == most
            for job in held:
                job.delete()
            inside(pool).connections_of(0).pruning.trim(0)


def test_reserves_get_none_of_them(beanstalkd: BeanstalkdServer) -> None:
    for _ in range(3):
        beanstalkd.control.put(b"job")
    with PoolManager(beanstalkd.url, max_connections=2) as pool:
        jobs = [reserve(pool), reserve(pool)]
        pool.put("more", tube="next")
        assert pool.servers[0].idle == 1
        for seconds in (0.0, 0.05):
            told = r"2 of 2 are in use, 2 of them by unfinished jobs.*max_connections, which is 2"
            with within(seconds), pytest.raises(PoolTimeout, match=told):
                pool.reserve(seconds)
            with pytest.raises(PoolTimeout):
                pool.reserve_many(5, seconds)
        jobs.pop().delete()
        jobs.append(reserve(pool))
        for job in jobs:
            job.delete()


class TestJobsThatNobodyWillFinish:
    """A traceback, or a future, keeps a job alive; its TTR runs out all the same."""

    @pytest.mark.parametrize("patient", [True, False])
    def test_lose_their_connection_to_who_needs_it(self, beanstalkd: BeanstalkdServer, patient: bool) -> None:
        kept: list[BaseException] = []

        def reserve_again() -> Job | None:
            if patient:
                return pool.reserve(10)

            def look() -> Job | None:
                with contextlib.suppress(PoolTimeout):
                    return pool.reserve(0)
                return None

            return wait_until(look, "a connection", 10)

        def handle() -> None:
            job = reserve(pool)
            raise RuntimeError(f"job {job.id} failed")

        with PoolManager(beanstalkd.url, max_connections=3, health_interval=60) as pool:
            for ttr in (1, 1, 100):
                pool.put("job", ttr=ttr)
                try:
                    handle()
                except RuntimeError as error:
                    kept.append(error)
            with pytest.raises(PoolTimeout, match="3 of them by unfinished jobs"):
                pool.reserve(0)
            again = [reserve_again(), reserve_again()]
            assert sorted(job.id for job in again if job) == [1, 2]
            assert beanstalkd.control.state(3) == "reserved", "the third has time left"
            for job in again:
                assert job is not None
                job.delete()
            assert pool.reserve(0) is None
            del kept

    def test_while_their_ttr_runs_or_somebody_touches_them_they_are_left_alone(
        self, beanstalkd: BeanstalkdServer
    ) -> None:
        with PoolManager(beanstalkd.url, max_connections=2, health_interval=60) as pool:
            pool.put("touched", ttr=1)
            touched = reserve(pool)
            pool.put("batch", ttr=1)
            pool.put("batch", ttr=60)
            batch = pool.reserve_many(2, 0)
            assert len(batch) == 2
            end = time.monotonic() + 2.5
            while time.monotonic() < end:
                touched.touch()
                with pytest.raises(PoolTimeout):
                    pool.reserve(0.3)
            assert not touched.lost
            assert not batch[1].lost
            for job in (touched, *batch):
                job.delete()
            wait_until(lambda: pool.servers[0].leased == 0, "the connections to come back")
