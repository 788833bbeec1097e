"""reserve_many and servers that take their time: far away, over a slow link, or stopped for a moment."""

from __future__ import annotations

import threading
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from support.batches import cut, fill, ready, reserved
from support.inside import inside
from support.pools import pool_with_jobs_in_hand
from support.servers import BeanstalkdServer
from support.threads import background
from support.waiting import wait_until, within

from beanpool import Job, PoolManager
from beanpool.reserve.batch import Take
from beanpool.reserve.tube_order import TubeOrder
from beanpool.reserve.waker import Interruption
from beanpool.server.pooled_connection import PooledConnection

if TYPE_CHECKING:
    from conftest import StartCluster, StartDelayLine


def far_pool(*addresses: str, **options: Any) -> PoolManager:
    return PoolManager(list(addresses), **{"health_interval": 60, **options})


def the_same_job_twice(jobs: list[Job]) -> list[tuple[tuple[str, int], int]]:
    return [entry for entry in Counter((job.server, int(job.id)) for job in jobs).items() if entry[1] > 1]


class TestFar:
    @pytest.mark.parametrize("timeout", [0, 3])
    def test_all_that_is_asked_for_comes(
        self, beanstalkd: BeanstalkdServer, delay_line: StartDelayLine, timeout: float
    ) -> None:
        fill(beanstalkd, 25)
        with far_pool(delay_line(beanstalkd).address) as pool:
            taken = []
            # With a connection to be made, and without; more than there are at the end.
            for limit in (10, 60):
                taken.append(pool.reserve_many(limit, timeout))
                assert reserved(beanstalkd) == len(taken[-1])
                assert set(pool.delete_many(taken[-1])) == {None}
            assert [len(jobs) for jobs in taken] == [10, 15]
            assert [status.state for status in pool.servers] == ["up"]
            assert pool.get_stats()["connections_lost"] == 0

    def test_from_all_servers_however_far_each_of_them_is(
        self, cluster: StartCluster, delay_line: StartDelayLine
    ) -> None:
        servers = cluster(4)
        lines = [delay_line(server, far) for server, far in zip(servers[1:], (0.05, 0.3, 0.45), strict=True)]
        addresses = [servers[0].address, *(line.address for line in lines)]
        with far_pool(*addresses) as pool:
            pool.wait(4)
            for server in servers:
                fill(server, 20)
            jobs = pool.reserve_many(40, 5)
            assert Counter(job.server for job in jobs) == dict.fromkeys(addresses, 10)
            assert set(pool.delete_many(jobs)) == {None}
            for server in servers[:3]:
                server.control.drain_all()
            # The nearer ones are empty, and only the farthest has any.
            assert len(pool.reserve_many(40, 5)) == 10
            assert {status.state for status in pool.servers} == {"up"}

    def test_far_ones_that_all_are_empty_at_first(self, cluster: StartCluster, delay_line: StartDelayLine) -> None:
        servers = cluster(2)
        with far_pool(*[delay_line(server).address for server in servers]) as pool:
            pool.wait(2)
            waiting = background(lambda: pool.reserve_many(10, 30))
            wait_until(lambda: all(server.control.counter("current-waiting") for server in servers), "waiters")
            servers[0].control._exchange(b"put 0 0 60 1\r\nx\r\n" * 20, 20)
            jobs = waiting.result()
            assert len(jobs) == 10
            assert reserved(*servers) == 10
            assert set(pool.delete_many(jobs)) == {None}

    @pytest.mark.parametrize("timeout", [0.05, 0.25])
    def test_less_time_than_a_round_trip_loses_nothing_and_says_nothing_of_the_server(
        self, beanstalkd: BeanstalkdServer, delay_line: StartDelayLine, timeout: float
    ) -> None:
        fill(beanstalkd, 20)
        line = delay_line(beanstalkd)
        with far_pool(line.address) as pool:
            pool.wait()
            with within(timeout, slack=0.5):
                jobs = pool.reserve_many(10, timeout)
            assert set(pool.delete_many(jobs)) <= {None}
            with within(timeout, slack=0.5):
                job = pool.reserve(timeout)
            if job is not None:
                job.delete()
            del jobs, job
            assert [status.state for status in pool.servers] == ["up"]
            wait_until(lambda: beanstalkd.control.counter("cmd-delete") + ready(beanstalkd) == 20, "what raced in")
            rest: list[Job] = []

            def all_have_come() -> bool:
                rest.extend(pool.reserve_many(20, 1))
                return len(rest) + beanstalkd.control.counter("cmd-delete") == 20

            wait_until(all_have_come, "the rest of the jobs", 10)
            assert the_same_job_twice(rest) == []
            pool.close(timeout=0)

    def test_a_stop_of_less_than_a_second_costs_no_job(self, cluster: StartCluster) -> None:
        servers = cluster(2)
        with pool_with_jobs_in_hand(*servers) as pool:
            pool.wait(2)
            for server in servers:
                fill(server, 10)
            servers[0].freeze()
            thawing = threading.Timer(0.4, servers[0].thaw)
            thawing.start()
            jobs = pool.reserve_many(20, 5)
            thawing.join()
            assert len(jobs) == 20
            assert set(pool.delete_many(jobs)) == {None}
            assert {status.state for status in pool.servers} == {"up"}


class TestSlowLink:
    """Jobs take their time to come: not all of them are there in time."""

    BODY = b"x" * 60_000

    @pytest.mark.parametrize(("timeout", "least"), [(0, 10), (1.2, 3)])
    def test_what_comes_in_is_returned(
        self, beanstalkd: BeanstalkdServer, delay_line: StartDelayLine, timeout: float, least: int
    ) -> None:
        put_large(beanstalkd, self.BODY, 100)
        line = delay_line(beanstalkd, 0.0, rate=1_000_000)
        with far_pool(line.address, encoding=None, timeout=2) as pool:
            with within(timeout or 2, slack=0.5):
                jobs = pool.reserve_many(100, timeout)
            assert least <= len(jobs) < 100
            assert reserved(beanstalkd) == len(jobs), "nothing is on its way that nobody gets"
            assert [job.data for job in jobs] == [self.BODY] * len(jobs)
            assert set(pool.delete_many(jobs)) == {None}

    def test_it_holds_up_nobody(self, cluster: StartCluster, delay_line: StartDelayLine) -> None:
        servers = cluster(2)
        # A job takes 6 s to come. That is more than the pool's timeout, and than any patience that the round trip of a
        # first check can lead to.
        line = delay_line(servers[0], 0.0, rate=10_000)
        put_large(servers[0], self.BODY, 5)
        fill(servers[1], 10)
        with far_pool(line.address, servers[1].address, encoding=None, timeout=5) as pool:
            with within(1.0, slack=3.0):
                jobs = pool.reserve_many(20, 10)
            assert {job.server for job in jobs} == {servers[1].address}
            assert len(jobs) == 10
            assert set(pool.delete_many(jobs)) == {None}


def put_large(server: BeanstalkdServer, body: bytes, count: int) -> None:
    for _ in range(count):
        server.control.put(body)


class TestNotTwice:
    def test_a_job_whose_time_ends_during_the_call(self, cluster: StartCluster) -> None:
        """The healthy server gives its jobs again while the call waits for the frozen one."""
        servers = cluster(2)
        with pool_with_jobs_in_hand(*servers) as pool:
            pool.wait(2)
            for _ in range(30):
                servers[0].control.put(b"x", ttr=1)
            servers[1].freeze()
            jobs = pool.reserve_many(60, 3)
            servers[1].thaw()
            assert the_same_job_twice(jobs) == []
            # All of them are reserved here, by the handles that were returned.
            assert [job.reserved for job in jobs] == [True] * 30
            connections = {job.connection for job in jobs}
            pool.delete_many(jobs)
            assert all(not getattr(connection, "jobs", None) for connection in connections)

    def test_over_two_connections(self, beanstalkd: BeanstalkdServer) -> None:
        """The second reservation is the one that holds."""
        fill(beanstalkd, 1)
        with pool_with_jobs_in_hand(beanstalkd) as pool:
            pool.wait()
            [member] = inside(pool).members
            first, second = (member.pool.acquire(time.monotonic() + 5) for _ in range(2))
            first.begin_reserve(("default",), 0)
            reply = first.await_reply(time.monotonic() + 5)
            assert reply is not None
            take = Take(TubeOrder(("default",), "any"), 5, 5.0, Interruption())
            take.add([(member, first, reply), (member, second, reply)])
            [job] = take.jobs()
            assert job.connection is second


class TestLostMeanwhile:
    def test_jobs_whose_connection_breaks_while_another_server_is_waited_for(
        self, cluster: StartCluster, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        servers = cluster(3)
        with pool_with_jobs_in_hand(*servers) as pool:
            pool.wait(3)
            fill(servers[0], 10)
            fill(servers[1], 5)
            servers[2].freeze()
            taking = background(lambda: pool.reserve_many(40, 5))
            wait_until(lambda: reserved(servers[0]) == 10, "the first server's jobs to be taken")
            servers[0].kill()
            jobs = taking.result()
            servers[2].thaw()
            assert {job.server for job in jobs} == {servers[1].address}
            assert len(jobs) == 5
            assert set(pool.delete_many(jobs)) == {None}

    def test_all_of_them_at_the_very_end(self, beanstalkd: BeanstalkdServer, monkeypatch: pytest.MonkeyPatch) -> None:
        """Nothing is left, and there is time: the call waits for others."""
        fill(beanstalkd, 5)
        sort_out = Take.sort_out
        broken: list[PooledConnection] = []

        def break_first(take: Take) -> None:
            if not broken:
                broken.append(take._lanes[0].connection)
                cut(broken[0])
                wait_until(lambda: reserved(beanstalkd) == 0, "the server to take them back")
                # As if it had been silent for a while: one that was heard just now is trusted.
                take._lanes[0].progress_at -= 1
            sort_out(take)

        monkeypatch.setattr(Take, "sort_out", break_first)
        with pool_with_jobs_in_hand(beanstalkd) as pool:
            jobs = pool.reserve_many(5, 5)
            assert broken
            assert len(jobs) == 5
            assert set(pool.delete_many(jobs)) == {None}
