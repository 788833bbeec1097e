"""What reserve_many waits for."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import pytest
from support.inside import inside
from support.pools import pool_with_jobs_in_hand, unprobed
from support.scripted import answering, stats_reply
from support.servers import BeanstalkdServer
from support.threads import background
from support.waiting import wait_until, within

from beanpool import PoolClosed, PoolManager
from beanpool.reserve.waiters import WaiterSet

if TYPE_CHECKING:
    from conftest import StartCluster, StartScripted
from support.batches import fill, leased, ready, reserved, wait_for_waiters


@pytest.fixture
def gate_of_looks(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Until it is set, no waiting thread looks at what its connections have."""
    gate = threading.Event()
    look = WaiterSet.poll

    def look_late(waiters: WaiterSet, deadline: float) -> None:
        assert gate.wait(10)
        look(waiters, deadline)

    monkeypatch.setattr(WaiterSet, "poll", look_late)
    return gate


class TestWaiting:
    def test_not_without_time(self, cluster: StartCluster) -> None:
        with pool_with_jobs_in_hand(*cluster(3)) as pool, within(0, slack=1.0):
            assert pool.reserve_many(5, 0) == []

    def test_in_vain(self, cluster: StartCluster) -> None:
        servers = cluster(3)
        with pool_with_jobs_in_hand(*servers) as pool:
            started = time.monotonic()
            assert pool.reserve_many(5, 0.3) == []
            assert 0.3 <= time.monotonic() - started < 1.3
            assert leased(pool) <= 3
            wait_until(lambda: not any(server.control.counter("current-waiting") for server in servers), "no waiter")

    @pytest.mark.parametrize("timeout", [30, None])
    def test_for_the_first_one_and_what_came_with_it(self, cluster: StartCluster, timeout: float | None) -> None:
        servers = cluster(3)
        with pool_with_jobs_in_hand(*servers) as pool:
            waiting = background(lambda: pool.reserve_many(50, timeout))
            wait_for_waiters(*servers)
            # In one piece: the server takes in all of them before it lets go of the first.
            servers[1].control._exchange(b"put 0 0 60 1\r\nx\r\n" * 20, 20)
            jobs = waiting.result()
            assert 1 <= len(jobs) <= 20
            assert {job.server for job in jobs} == {servers[1].address}
            assert reserved(*servers) == len(jobs)
            assert set(pool.delete_many(jobs)) == {None}

    def test_what_comes_on_all_servers_at_the_same_time(
        self, cluster: StartCluster, gate_of_looks: threading.Event
    ) -> None:
        """Each waiting connection has a job by then; none of them is given back, and their servers have more."""
        servers = cluster(3)
        with pool_with_jobs_in_hand(*servers) as pool:
            pool.wait(3)
            waiting = background(lambda: pool.reserve_many(20, 30))
            wait_for_waiters(*servers)
            for server in servers:
                fill(server, 10)
            assert reserved(*servers) == 3
            gate_of_looks.set()
            jobs = waiting.result()
            assert len(jobs) == 20
            assert {job.server for job in jobs} == {server.address for server in servers}
            assert reserved(*servers) == 20
            assert [job.lost for job in jobs] == [False] * 20

    def test_what_comes_on_others_while_the_first_is_looked_at(
        self, cluster: StartCluster, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        servers = cluster(3)
        glance = WaiterSet.poll_now

        def glance_late(waiters: WaiterSet) -> None:
            for server in servers[1:]:
                fill(server, 10)
            glance(waiters)

        monkeypatch.setattr(WaiterSet, "poll_now", glance_late)
        with pool_with_jobs_in_hand(*servers) as pool:
            pool.wait(3)
            waiting = background(lambda: pool.reserve_many(20, 30))
            wait_for_waiters(*servers)
            servers[0].control.put(b"the first")
            jobs = waiting.result()
            assert len(jobs) == 20
            assert {job.server for job in jobs} == {server.address for server in servers}
            assert reserved(*servers) == 20

    def test_no_more_than_the_limit_of_what_comes_at_the_same_time(
        self, cluster: StartCluster, gate_of_looks: threading.Event
    ) -> None:
        servers = cluster(3)
        with pool_with_jobs_in_hand(*servers) as pool:
            pool.wait(3)
            waiting = background(lambda: pool.reserve_many(2, 30))
            wait_for_waiters(*servers)
            for server in servers:
                fill(server, 1)
            gate_of_looks.set()
            assert len(jobs := waiting.result()) == 2
            wait_until(lambda: reserved(*servers) == 2, "the third to be given back")
            assert ready(*servers) == 1
            assert set(pool.delete_many(jobs)) == {None}

    def test_others_who_wait_get_theirs_first(self, beanstalkd: BeanstalkdServer) -> None:
        with pool_with_jobs_in_hand(beanstalkd) as pool:
            calls = [background(lambda: pool.reserve_many(1, 30)) for _ in range(4)]
            wait_until(lambda: inside(pool).waits[("default",)].waiting == 4, "all to wait")
            for _ in range(4):
                beanstalkd.control.put(b"x")
            assert [len(call.result()) for call in calls] == [1] * 4

    def test_a_close_wakes_it(self, cluster: StartCluster) -> None:
        servers = cluster(2)
        pool = unprobed(*servers)
        waiting = background(lambda: pool.reserve_many(5))
        wait_for_waiters(servers[0])
        with within(0.5, slack=0.5):
            pool.close()
            assert isinstance(waiting.error(), PoolClosed)
        with pytest.raises(PoolClosed):
            pool.reserve_many(5, 0)

    def test_a_job_in_its_last_second_is_no_job(
        self, beanstalkd: BeanstalkdServer, scripted_server: StartScripted
    ) -> None:
        fake = scripted_server(
            default=answering({"stats": stats_reply(), "reserve-with-timeout": b"DEADLINE_SOON\r\n"})
        )
        with PoolManager([fake.address], health_interval=60) as pool:
            assert pool.reserve_many(5, 0) == []
