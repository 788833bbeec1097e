"""What reserve_many takes: what is ready, from all servers, and not one job more."""

from __future__ import annotations

import functools
import gc
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from support.inside import inside
from support.ledger import Ledger
from support.pools import pool_with_jobs_in_hand
from support.servers import BeanstalkdServer
from support.threads import run_together
from support.waiting import wait_until

from beanpool import PoolManager

if TYPE_CHECKING:
    from conftest import StartCluster
from support.batches import fill, leased, reserved


class TestTaking:
    def test_what_is_ready_comes_at_once_and_nothing_more_is_reserved(self, cluster: StartCluster) -> None:
        servers = cluster(3)
        for server in servers:
            fill(server, 20)
        with pool_with_jobs_in_hand(*servers) as pool:
            jobs = pool.reserve_many(30, 0)
            assert Counter(job.server for job in jobs) == {server.address: 10 for server in servers}
            assert len({(job.server, job.id) for job in jobs}) == 30
            assert all(job.reserved and job.tube == "default" for job in jobs)
            assert reserved(*servers) == 30
            for server in servers:
                # By age, as the server gives them.
                assert [job.body for job in jobs if job.server == server.address] == [str(n) for n in range(10)]
            # The monitor may have one for a moment.
            wait_until(lambda: leased(pool) == 3, "one connection for all jobs of a server")

    def test_what_one_server_does_not_have_comes_from_the_others(self, cluster: StartCluster) -> None:
        servers = cluster(4)
        fill(servers[1], 3)
        fill(servers[3], 500)
        with pool_with_jobs_in_hand(*servers) as pool:
            jobs = pool.reserve_many(400, 0)
            assert Counter(job.server for job in jobs) == {servers[1].address: 3, servers[3].address: 397}
            assert reserved(*servers) == 400
            more = pool.reserve_many(400, 0)
            assert len(more) == 103
            assert pool.reserve_many(400, 0) == []
            assert reserved(*servers) == 503

    @pytest.mark.parametrize("limit", [1, 2, 3, 5, 300, 700])
    def test_never_more_than_the_limit(self, cluster: StartCluster, limit: int) -> None:
        servers = cluster(4)
        with pool_with_jobs_in_hand(*servers) as pool:
            pool.put_many(["x"] * 2000)
            jobs = pool.reserve_many(limit, 0)
            assert len(jobs) == limit
            assert reserved(*servers) == limit
            # Every reserve that the servers were ever asked for has its job here.
            assert sum(server.control.counter("cmd-reserve-with-timeout") for server in servers) == limit

    def test_no_server_starves(self, cluster: StartCluster) -> None:
        servers = cluster(4)
        for server in servers:
            fill(server, 40)
        with pool_with_jobs_in_hand(*servers) as pool:
            taken: Counter[str] = Counter()
            for _ in range(40):
                jobs = pool.reserve_many(2, 0)
                taken.update(job.server for job in jobs)
                pool.delete_many(jobs)
            assert taken.total() == 80
            assert all(taken[server.address] == 20 for server in servers), taken

    def test_an_empty_server_is_asked_once(self, cluster: StartCluster) -> None:
        servers = cluster(2)
        fill(servers[0], 1000)
        with pool_with_jobs_in_hand(*servers) as pool:
            jobs = pool.reserve_many(1000, 0)
            assert len(jobs) == 1000
            assert servers[1].control.counter("cmd-reserve-with-timeout") == 1

    def test_of_the_tubes_that_are_asked_for(self, cluster: StartCluster) -> None:
        servers = cluster(2)
        for server in servers:
            for tube in ("default", "a", "b"):
                fill(server, 5, tube)
        with pool_with_jobs_in_hand(*servers) as pool:
            assert Counter(job.tube for job in pool.reserve_many(50, 0, tubes="a")) == {"a": 10}
            assert {job.tube for job in pool.tube("b").reserve_many(50, 0)} == {"b"}
            gc.collect()
            jobs = pool.reserve_many(50, 0, tubes=["default", "no-jobs"])
            assert Counter(job.tube for job in jobs) == {None: 10}
            assert {job.stats()["tube"] for job in jobs} == {"default"}

    def test_large_bodies(self, beanstalkd: BeanstalkdServer) -> None:
        bodies = [bytes([number]) * 60_000 for number in range(100)]
        with pool_with_jobs_in_hand(beanstalkd, encoding=None) as pool:
            pool.put_many(bodies)
            jobs = pool.reserve_many(100, 0)
            assert [job.data for job in jobs] == bodies

    @pytest.mark.parametrize("limit", [0, -1, 100_001, True, 5.0, "5", None])
    def test_a_limit_that_is_none(self, limit: Any) -> None:
        pool = PoolManager("127.0.0.1:1")
        with pytest.raises((ValueError, TypeError), match="limit"):
            pool.reserve_many(limit)
        assert not inside(pool).cluster.started

    @pytest.mark.parametrize("timeout", [-1, "5", True])
    def test_a_timeout_that_is_none(self, timeout: Any) -> None:
        with pytest.raises((ValueError, TypeError), match="timeout"):
            PoolManager("127.0.0.1:1").reserve_many(5, timeout)

    def test_many_threads_and_each_job_once(self, cluster: StartCluster, ledger: Ledger) -> None:
        servers = cluster(4)
        bodies = ledger.tokens(6000)

        def work(number: int) -> None:
            while ledger.outstanding():
                jobs = pool.reserve_many(1 + 37 * number, 0.05)
                assert len(jobs) <= 1 + 37 * number
                for job in jobs:
                    ledger.delivered(job.data, job.server, job.id)
                for job, outcome in zip(jobs, pool.delete_many(iter(jobs)), strict=True):
                    assert outcome is None
                    ledger.deleted(job.data)

        with pool_with_jobs_in_hand(*servers) as pool:
            for body, jid in zip(bodies, pool.put_many(bodies), strict=True):
                assert not isinstance(jid, Exception)
                ledger.acked(body, jid.server, jid)
            run_together(*[functools.partial(work, number) for number in range(6)], timeout=60)
            wait_until(lambda: leased(pool) == 0, "the connections that waited to come back")
        ledger.reconcile([server.control for server in servers], exactly_once=True)
