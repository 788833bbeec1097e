"""A pool's verbs for one job, which take the job itself or its id, and as long as they are told."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
from support.pools import pool_with_jobs_in_hand, unprobed
from support.servers import BeanstalkdServer
from support.waiting import within

from beanpool import BeanpoolError, Job, JobLost, NotFound, PoolManager

if TYPE_CHECKING:
    from conftest import StartCluster


def take(pool: PoolManager, count: int = 1, priority: int = 2**31) -> list[Job]:
    for number in range(count):
        pool.put(f"job {number}", priority)
    # Each with a connection of its own.
    return [job for _ in range(count) if (job := pool.reserve(5)) is not None]


class TestAJobForAnId:
    def test_what_is_in_hand(self, cluster: StartCluster) -> None:
        servers = cluster(2)
        with unprobed(*servers) as pool:
            for job in take(pool, 4, priority=42):
                assert pool.stats_job(job)["state"] == "reserved"
                pool.touch(job)
                pool.release(job, delay=60)
                assert not job.reserved
                pool.kick_job(job)
                job = pool.reserve_job(job.id)
                pool.bury(job)
                stats = pool.stats_job(job.id)
                assert (stats["state"], stats["pri"]) == ("buried", 42)
                # As the job's own commands: nothing happens to what is not reserved.
                pool.touch(job)
                pool.release(job)
                pool.delete(job)
                with pytest.raises(NotFound):
                    pool.delete(job)

    def test_one_that_was_looked_at(self, beanstalkd: BeanstalkdServer) -> None:
        with unprobed(beanstalkd) as pool:
            pool.put("x")
            job = pool.peek_ready()
            assert job is not None
            pool.delete(job)
            assert beanstalkd.control.state(1) is None

    def test_a_lost_one(self, beanstalkd: BeanstalkdServer) -> None:
        with unprobed(beanstalkd) as pool:
            [job] = take(pool)
            job.connection.close()
            with pytest.raises(JobLost):
                pool.touch(job)

    def test_another_server_than_the_job_s(self, cluster: StartCluster) -> None:
        with unprobed(*cluster(2)) as pool:
            [job] = take(pool)
            other = next(server.address for server in pool.servers if server.address != job.server)
            verbs: list[Callable[..., object]] = [pool.delete, pool.release, pool.bury, pool.touch, pool.kick_job]
            for verb in (*verbs, pool.stats_job):
                with pytest.raises(ValueError, match=f"be that of the job .{job.server}."):
                    verb(job, server=other)
            pool.delete(job, server=job.server)


class TestPriority:
    def test_is_kept_by_whatever_way(self, beanstalkd: BeanstalkdServer) -> None:
        with unprobed(beanstalkd) as pool:
            jid = pool.put("x", 42)
            for give_up in (pool.release, pool.bury):
                for given, expected in (((), 42), ((7,), 7), ((None,), 7), ((42,), 42)):
                    job = pool.reserve_job(jid)
                    give_up(jid, *given)
                    assert not job.reserved
                    assert pool.stats_job(jid)["pri"] == expected


class TestTimeout:
    def test_each_command_has_its_own(self, beanstalkd: BeanstalkdServer) -> None:
        with pool_with_jobs_in_hand(beanstalkd, timeout=60, connect_timeout=60) as pool:
            jid = pool.put("x", delay=600)
            first, *_ = jobs = take(pool, 7)
            calls: list[Callable[[], object]] = [
                lambda: jobs[0].touch(timeout=0.1),
                lambda: jobs[1].release(timeout=0.1),
                lambda: jobs[2].bury(9, timeout=0.1),
                lambda: jobs[3].delete(timeout=0.1),
                lambda: pool.delete(jobs[4], timeout=0.1),
                lambda: pool.touch(jobs[5].id, timeout=0.1),
                lambda: pool.bury(jobs[6].id, timeout=0.1),
                lambda: first.stats(timeout=0.1),
                lambda: pool.stats_job(jid, timeout=0.1),
                lambda: pool.kick_job(jid, timeout=0.1),
                lambda: pool.delete(jid, timeout=0.1),
                lambda: pool.peek(jid, timeout=0.1),
                lambda: pool.reserve_job(jid, timeout=0.1),
            ]
            beanstalkd.freeze()
            for number, call in enumerate(calls):
                with within(0.1, f"call {number}", slack=1.5), pytest.raises(BeanpoolError):
                    call()
            beanstalkd.thaw()

    def test_bad_ones_are_refused(self, beanstalkd: BeanstalkdServer) -> None:
        with unprobed(beanstalkd) as pool:
            jid = pool.put("x")
            verbs: list[Callable[..., object]] = [pool.delete, pool.kick_job, pool.stats_job, pool.peek]
            for verb in (*verbs, pool.reserve_job):
                with pytest.raises(ValueError, match="timeout must be a positive number"):
                    verb(jid, timeout=0)
            job = pool.reserve(0)
            assert job is not None
            verbs = [pool.delete, pool.touch, pool.release, pool.bury]
            for verb in verbs:
                for named in (job, jid):
                    with pytest.raises(ValueError, match="timeout must be a positive number"):
                        verb(named, timeout=-1)
            assert job.reserved
            job.delete()
