"""Many reserves at once: what is ready, from all servers, and not one job more; and the lease that the jobs share."""

from __future__ import annotations

import contextlib
import functools
import gc
import os
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest
from faults.test_fork import in_child
from hypothesis import given
from hypothesis import strategies as st
from support.ledger import Ledger
from support.processes import assert_baseline
from support.scripted import ScriptedConnection, answering, expect_line, send, stats_reply, with_data
from support.servers import BeanstalkdServer
from support.threads import background, run_together
from support.waiting import wait_until, within

from beanpool import Job, JobLost, NoServerAvailable, NotFound, PoolClosed, PoolManager, PoolTimeout
from beanpool.connection import Connection
from beanpool.giving_back import GiveBack
from beanpool.pooled_connection import PooledConnection
from beanpool.shares import shares
from beanpool.watch import Watch

if TYPE_CHECKING:
    from conftest import StartCluster, StartScripted


def manager(*servers: BeanstalkdServer, **options: Any) -> PoolManager:
    # A probe takes a connection for a moment, and here they are counted.
    return PoolManager([server.address for server in servers], **{"health_interval": 60, **options})


@contextlib.contextmanager
def pool_of(*servers: BeanstalkdServer, **options: Any) -> Iterator[PoolManager]:
    with manager(*servers, **options) as pool:
        yield pool
        # Jobs that a test still has in hand need not be waited for.
        pool.close(0)


def fill(server: BeanstalkdServer, count: int, tube: str = "default") -> None:
    for number in range(count):
        server.control.put(b"%d" % number, tube)


def reserved(*servers: BeanstalkdServer) -> int:
    return sum(server.control.counter("current-jobs-reserved") for server in servers)


def ready(*servers: BeanstalkdServer) -> int:
    return sum(server.control.counter("current-jobs-ready") for server in servers)


def leased(pool: PoolManager) -> int:
    return sum(status.leased for status in pool.servers)


def cut(connection: Connection) -> None:
    """Let the connection break, as by a network that fails."""
    assert isinstance(connection, PooledConnection)
    with socket.socket(fileno=connection.fileno()) as shared:
        shared.shutdown(socket.SHUT_RDWR)
        shared.detach()


@given(limit=st.integers(0, 10_000), servers=st.integers(1, 300))
def test_shares(limit: int, servers: int) -> None:
    parts = shares(limit, servers)
    assert (len(parts), sum(parts)) == (servers, limit)
    assert max(parts) - min(parts) <= 1
    assert parts == sorted(parts, reverse=True)
    assert shares(limit, 0) == []


class TestTaking:
    def test_what_is_ready_comes_at_once_and_nothing_more_is_reserved(self, cluster: StartCluster) -> None:
        servers = cluster(3)
        for server in servers:
            fill(server, 20)
        with pool_of(*servers) as pool:
            jobs = pool.reserve_many(30, 0)
            assert Counter(job.server for job in jobs) == {server.address: 10 for server in servers}
            assert len({(job.server, job.id) for job in jobs}) == 30
            assert all(job.reserved and job.tube == "default" for job in jobs)
            assert reserved(*servers) == 30
            for server in servers:
                # By age, as the server gives them.
                assert [job.body for job in jobs if job.server == server.address] == [str(n) for n in range(10)]
            assert leased(pool) == 3, "one connection for all jobs of a server"

    def test_what_one_server_does_not_have_comes_from_the_others(self, cluster: StartCluster) -> None:
        servers = cluster(4)
        fill(servers[1], 3)
        fill(servers[3], 500)
        with pool_of(*servers) as pool:
            jobs = pool.reserve_many(400, 0)
            assert Counter(job.server for job in jobs) == {servers[1].address: 3, servers[3].address: 397}
            assert reserved(*servers) == 400
            assert len(pool.reserve_many(400, 0)) == 103
            assert pool.reserve_many(400, 0) == []
            assert reserved(*servers) == 503

    @pytest.mark.parametrize("limit", [1, 2, 3, 5, 300, 700])
    def test_never_more_than_the_limit(self, cluster: StartCluster, limit: int) -> None:
        servers = cluster(4)
        with pool_of(*servers) as pool:
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
        with pool_of(*servers) as pool:
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
        with pool_of(*servers) as pool:
            jobs = pool.reserve_many(1000, 0)
            assert len(jobs) == 1000
            assert servers[1].control.counter("cmd-reserve-with-timeout") == 1

    def test_of_the_tubes_that_are_asked_for(self, cluster: StartCluster) -> None:
        servers = cluster(2)
        for server in servers:
            for tube in ("default", "a", "b"):
                fill(server, 5, tube)
        with pool_of(*servers) as pool:
            assert Counter(job.tube for job in pool.reserve_many(50, 0, tubes="a")) == {"a": 10}
            assert {job.tube for job in pool.tube("b").reserve_many(50, 0)} == {"b"}
            gc.collect()
            jobs = pool.reserve_many(50, 0, tubes=["default", "no-jobs"])
            assert Counter(job.tube for job in jobs) == {None: 10}
            assert {job.stats()["tube"] for job in jobs} == {"default"}

    def test_large_bodies(self, beanstalkd: BeanstalkdServer) -> None:
        bodies = [bytes([number]) * 60_000 for number in range(100)]
        with pool_of(beanstalkd, encoding=None) as pool:
            pool.put_many(bodies)
            jobs = pool.reserve_many(100, 0)
            assert [job.data for job in jobs] == bodies

    @pytest.mark.parametrize("limit", [0, -1, 100_001, True, 5.0, "5", None])
    def test_a_limit_that_is_none(self, limit: Any) -> None:
        pool = PoolManager("127.0.0.1:1")
        with pytest.raises((ValueError, TypeError), match="limit"):
            pool.reserve_many(limit)
        assert not pool._started

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

        with pool_of(*servers) as pool:
            for body, jid in zip(bodies, pool.put_many(bodies), strict=True):
                assert not isinstance(jid, Exception)
                ledger.acked(body, jid.server, jid)
            run_together(*[functools.partial(work, number) for number in range(6)], timeout=60)
            wait_until(lambda: leased(pool) == 0, "the connections that waited to come back")
        ledger.reconcile([server.control for server in servers], exactly_once=True)


class TestWaiting:
    def test_not_without_time(self, cluster: StartCluster) -> None:
        with pool_of(*cluster(3)) as pool, within(0, slack=1.0):
            assert pool.reserve_many(5, 0) == []

    def test_in_vain(self, cluster: StartCluster) -> None:
        servers = cluster(3)
        with pool_of(*servers) as pool:
            started = time.monotonic()
            assert pool.reserve_many(5, 0.3) == []
            assert 0.3 <= time.monotonic() - started < 1.3
            assert leased(pool) <= 3
            wait_until(lambda: not any(server.control.counter("current-waiting") for server in servers), "no waiter")

    @pytest.mark.parametrize("timeout", [30, None])
    def test_for_the_first_one_and_what_came_with_it(self, cluster: StartCluster, timeout: float | None) -> None:
        servers = cluster(3)
        with pool_of(*servers) as pool:
            waiting = background(lambda: pool.reserve_many(50, timeout))
            for server in servers:
                wait_until(lambda server=server: server.control.counter("current-waiting"), "a waiter")  # type: ignore[misc]  # mypy infers no type for a lambda with defaults
            # In one piece: the server takes in all of them before it lets go of the first.
            servers[1].control._exchange(b"put 0 0 60 1\r\nx\r\n" * 20, 20)
            jobs = waiting.result()
            assert 1 <= len(jobs) <= 20
            assert {job.server for job in jobs} == {servers[1].address}
            assert reserved(*servers) == len(jobs)
            assert set(pool.delete_many(jobs)) == {None}

    def test_what_comes_on_all_servers_at_the_same_time(
        self, cluster: StartCluster, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Each waiting connection has a job by then; none of them is given back, and their servers have more."""
        servers = cluster(3)
        gate = threading.Event()
        look = Watch.look

        def look_late(watch: Watch, deadline: float) -> None:
            assert gate.wait(10)
            look(watch, deadline)

        monkeypatch.setattr(Watch, "look", look_late)
        with pool_of(*servers) as pool:
            pool.wait(3)
            waiting = background(lambda: pool.reserve_many(20, 30))
            for server in servers:
                wait_until(lambda server=server: server.control.counter("current-waiting"), "a waiter")  # type: ignore[misc]  # mypy infers no type for a lambda with defaults
                fill(server, 10)
            assert reserved(*servers) == 3
            gate.set()
            jobs = waiting.result()
            assert len(jobs) == 20
            assert {job.server for job in jobs} == {server.address for server in servers}
            assert reserved(*servers) == 20
            assert [job.lost for job in jobs] == [False] * 20

    def test_what_comes_on_others_while_the_first_is_looked_at(
        self, cluster: StartCluster, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        servers = cluster(3)
        glance = Watch.glance

        def glance_late(watch: Watch) -> None:
            for server in servers[1:]:
                fill(server, 10)
            glance(watch)

        monkeypatch.setattr(Watch, "glance", glance_late)
        with pool_of(*servers) as pool:
            pool.wait(3)
            waiting = background(lambda: pool.reserve_many(20, 30))
            for server in servers:
                wait_until(lambda server=server: server.control.counter("current-waiting"), "a waiter")  # type: ignore[misc]  # mypy infers no type for a lambda with defaults
            servers[0].control.put(b"the first")
            jobs = waiting.result()
            assert len(jobs) == 20
            assert {job.server for job in jobs} == {server.address for server in servers}
            assert reserved(*servers) == 20

    def test_no_more_than_the_limit_of_what_comes_at_the_same_time(
        self, cluster: StartCluster, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        servers = cluster(3)
        gate = threading.Event()
        look = Watch.look

        def look_late(watch: Watch, deadline: float) -> None:
            assert gate.wait(10)
            look(watch, deadline)

        monkeypatch.setattr(Watch, "look", look_late)
        with pool_of(*servers) as pool:
            pool.wait(3)
            waiting = background(lambda: pool.reserve_many(2, 30))
            for server in servers:
                wait_until(lambda server=server: server.control.counter("current-waiting"), "a waiter")  # type: ignore[misc]  # mypy infers no type for a lambda with defaults
                fill(server, 1)
            gate.set()
            assert len(jobs := waiting.result()) == 2
            wait_until(lambda: reserved(*servers) == 2, "the third to be given back")
            assert ready(*servers) == 1
            assert set(pool.delete_many(jobs)) == {None}

    def test_others_who_wait_get_theirs_first(self, beanstalkd: BeanstalkdServer) -> None:
        with pool_of(beanstalkd) as pool:
            calls = [background(lambda: pool.reserve_many(1, 30)) for _ in range(4)]
            wait_until(lambda: pool._reserver._waits[("default",)].waiting == 4, "all to wait")
            for _ in range(4):
                beanstalkd.control.put(b"x")
            assert [len(call.result()) for call in calls] == [1] * 4

    def test_a_close_wakes_it(self, cluster: StartCluster) -> None:
        servers = cluster(2)
        pool = manager(*servers)
        waiting = background(lambda: pool.reserve_many(5))
        wait_until(lambda: servers[0].control.counter("current-waiting"), "a waiter")
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


class TestSharedLease:
    def test_the_connection_comes_back_with_the_last_of_its_jobs(self, beanstalkd: BeanstalkdServer) -> None:
        fill(beanstalkd, 6)
        with pool_of(beanstalkd, max_connections=1) as pool:
            jobs = pool.reserve_many(6, 0)
            ends: list[Callable[[Job], None]] = [Job.delete, Job.release, Job.bury, Job.delete, Job.bury]
            for end, job in zip(ends, [jobs[3], jobs[0], jobs[5], jobs[1], jobs[4]], strict=True):
                jobs[2].touch()
                assert jobs[2].stats()["state"] == "reserved"
                end(job)
                assert leased(pool) == 1
                with pytest.raises(PoolTimeout):
                    pool.put("no connection is free", timeout=0.01)
            jobs[2].delete()
            assert (leased(pool), pool.servers[0].idle) == (0, 1)
            assert pool.put("one is free")
            assert reserved(beanstalkd) == 0
            assert beanstalkd.control.counter("current-jobs-buried") == 2

    def test_finished_by_many_threads(self, cluster: StartCluster) -> None:
        servers = cluster(2)
        for _ in range(20):
            for server in servers:
                fill(server, 12)
            with pool_of(*servers, max_connections=1) as pool:
                jobs = pool.reserve_many(24, 0)
                ends: list[Callable[[Job], None]] = [Job.delete, Job.touch, Job.bury]
                run_together(*[functools.partial(ends[number % 3], job) for number, job in enumerate(jobs)])
                assert leased(pool) == 2
                for job in jobs:
                    assert job.reserved == (job in jobs[1::3])
                run_together(*[job.delete for job in jobs[1::3]])
                assert leased(pool) == 0
                assert all(status.open == 1 for status in pool.servers)
                assert reserved(*servers) == 0
                for server in servers:
                    server.control.drain_all()

    def test_no_reserve_waits_on_it(self, beanstalkd: BeanstalkdServer) -> None:
        fill(beanstalkd, 3)
        with pool_of(beanstalkd) as pool:
            jobs = pool.reserve_many(3, 0)
            waiting = background(lambda: pool.reserve_many(1, 30))
            wait_until(lambda: beanstalkd.control.counter("current-waiting"), "a waiter")
            jobs[0].delete()
            for job in jobs[1:]:
                job.touch()
            beanstalkd.control.put(b"at last")
            [last] = waiting.result()
            assert last.connection is not jobs[1].connection
            assert set(pool.delete_many([*jobs[1:], last])) == {None}

    def test_one_that_is_dropped_goes_back_and_leaves_the_others(self, beanstalkd: BeanstalkdServer) -> None:
        priorities = [7, 70, 700]
        with pool_of(beanstalkd) as pool:
            ids = [pool.put("x", priority) for priority in priorities]
            jobs = pool.reserve_many(3, 0)
            dropped = jobs.pop(1).id
            wait_until(lambda: beanstalkd.control.state(dropped) == "ready", "the job to be given back")
            state = beanstalkd.control.stats_job(dropped)
            assert state is not None
            assert state["pri"] == "70"
            assert [job.lost for job in jobs] == [False, False]
            assert [beanstalkd.control.state(jid) for jid in ids] == ["reserved", "ready", "reserved"]
            assert leased(pool) == 1
            jobs[0].delete()
            jobs[1].delete()
            assert leased(pool) == 0
            assert [status.open for status in pool.servers] == [1], "it was not closed"

    def test_one_that_is_dropped_when_another_thread_closes_the_connection(
        self, beanstalkd: BeanstalkdServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As ``close()`` does: the monitor, which looks for its descriptor, goes on; what it raises fails the test."""
        begin, closed = GiveBack.begin, threading.Event()

        def begin_and_lose(give_back: GiveBack) -> None:
            begin(give_back)
            give_back.connection.drop("another thread has closed it")
            closed.set()

        monkeypatch.setattr(GiveBack, "begin", begin_and_lose)
        fill(beanstalkd, 2)
        with pool_of(beanstalkd, max_connections=1) as pool:
            jobs = pool.reserve_many(2, 0)
            del jobs[0]
            assert closed.wait(10)
            wait_until(lambda: beanstalkd.control.counter("current-jobs-ready") == 2, "both to be given back")
            assert jobs[0].lost
            wait_until(lambda: not leased(pool), "the place to be free")
            job = pool.reserve(5)
            assert job is not None
            job.delete()

    def test_many_that_are_dropped(self, beanstalkd: BeanstalkdServer) -> None:
        with pool_of(beanstalkd) as pool:
            pool.put_many(["x"] * 200)
            jobs = pool.reserve_many(200, 0)
            kept = jobs[::10]
            connection = kept[0].connection
            del jobs
            wait_until(lambda: ready(beanstalkd) == 180, "the jobs to be given back")
            assert reserved(beanstalkd) == 20
            assert set(pool.delete_many(kept)) == {None}
            assert leased(pool) == 0
            assert not connection.closed

    def test_all_that_are_dropped(self, cluster: StartCluster) -> None:
        servers = cluster(2)
        for server in servers:
            fill(server, 50)
        with pool_of(*servers, max_connections=1) as pool:
            jobs = pool.reserve_many(100, 0)
            jobs[7].delete()
            del jobs
            wait_until(lambda: ready(*servers) == 99, "the jobs to be given back")
            assert leased(pool) == 0
            assert len(pool.reserve_many(100, 1)) == 99

    def test_the_last_ones_that_are_dropped(self, beanstalkd: BeanstalkdServer) -> None:
        fill(beanstalkd, 10)
        with pool_of(beanstalkd, max_connections=1) as pool:
            jobs = pool.reserve_many(10, 0)
            assert set(pool.delete_many(jobs[:8])) == {None}
            del jobs
            with within(1.0, slack=2.0):
                pool.put("the connection's place is free")
            wait_until(lambda: ready(beanstalkd) == 3, "the jobs to be given back")

    def test_dropped_while_its_sibling_is_busy_and_the_server_silent(self, beanstalkd: BeanstalkdServer) -> None:
        fill(beanstalkd, 3)
        with pool_of(beanstalkd, timeout=1) as pool:
            jobs = pool.reserve_many(3, 0)
            beanstalkd.freeze()
            dropped = jobs.pop().id
            connection = jobs[0].connection
            assert isinstance(connection, PooledConnection)
            wait_until(connection.guard.locked, "the monitor to ask")
            with within(2.0, slack=1.0), pytest.raises(JobLost):
                jobs[0].touch()
            assert jobs[1].lost
            beanstalkd.thaw()
            wait_until(lambda: beanstalkd.control.state(dropped) == "ready", "the job to be given back")
            wait_until(lambda: leased(pool) == 0, "the connection's place to be free")

    def test_the_finalizer_waits_for_nothing(self, beanstalkd: BeanstalkdServer) -> None:
        fill(beanstalkd, 2)
        with pool_of(beanstalkd) as pool:
            jobs = pool.reserve_many(2, 0)
            server_pool = pool._topology.members[0].pool
            connection = jobs[0].connection
            assert isinstance(connection, PooledConnection)
            with within(0.1), server_pool._lock, connection.guard:
                del jobs[0]
            wait_until(lambda: ready(beanstalkd) == 1, "the job to be given back")
            jobs[0].delete()

    def test_a_connection_that_breaks_takes_all_of_them_and_none_stands_in_the_way(
        self, beanstalkd: BeanstalkdServer
    ) -> None:
        fill(beanstalkd, 5)
        with pool_of(beanstalkd, max_connections=1) as pool:
            jobs = pool.reserve_many(5, 0)
            cut(jobs[0].connection)
            wait_until(lambda: ready(beanstalkd) == 5, "the server to take them back")
            for finish in (Job.touch, Job.release, Job.bury):
                with pytest.raises(JobLost):
                    finish(jobs.pop())
            assert all(job.lost for job in jobs)
            for job in jobs:
                # Recovered on the only connection that there may be, while the others still exist.
                job.delete()
            assert ready(beanstalkd) == 3
            assert (leased(pool), reserved(beanstalkd)) == (0, 0)
            assert pool.get_stats()["jobs_lost"] == 5

    def test_one_whose_time_ran_out_leaves_the_others(self, beanstalkd: BeanstalkdServer) -> None:
        with pool_of(beanstalkd) as pool:
            short = pool.put("short", ttr=1)
            pool.put("long", ttr=60)
            first, second = pool.reserve_many(2, 0)
            assert first.id == short
            wait_until(lambda: first.stats()["state"] == "ready", "the TTR to run out")
            with pytest.raises(JobLost):
                first.touch()
            assert second.reserved
            assert leased(pool) == 1
            second.delete()
            assert leased(pool) == 0

    def test_one_that_is_lost_can_be_had_again(self, beanstalkd: BeanstalkdServer) -> None:
        fill(beanstalkd, 3)
        with pool_of(beanstalkd) as pool:
            jobs = pool.reserve_many(3, 0)
            cut(jobs[0].connection)
            wait_until(lambda: ready(beanstalkd) == 3, "the server to take them back")
            for job in jobs:
                with pytest.raises(JobLost):
                    job.touch()
                job.reacquire()
            assert reserved(beanstalkd) == 3
            assert len({id(job.connection) for job in jobs}) == 3
            assert set(pool.delete_many(jobs)) == {None}

    def test_they_are_found_by_their_ids(self, beanstalkd: BeanstalkdServer) -> None:
        with pool_of(beanstalkd) as pool:
            ids = [pool.put("x") for _ in range(4)]
            jobs = pool.reserve_many(4, 0)
            pool.touch(ids[0])
            pool.delete(ids[1])
            pool.bury(ids[2])
            pool.release(ids[3], delay=60)
            assert [job.reserved for job in jobs] == [True, False, False, False]
            assert [beanstalkd.control.state(jid) for jid in ids] == ["reserved", None, "buried", "delayed"]
            with pytest.raises(NotFound):
                pool.touch(ids[3])
            jobs[0].delete()

    def test_a_pool_full_of_jobs_says_so(self, beanstalkd: BeanstalkdServer) -> None:
        fill(beanstalkd, 3)
        with pool_of(beanstalkd, max_connections=1) as pool:
            jobs = pool.reserve_many(2, 0)
            for timeout in (0, 0.05):
                with pytest.raises(PoolTimeout):
                    pool.reserve_many(2, timeout)
            assert pool.delete_many(jobs) == [None, None]
            assert len(pool.reserve_many(2, 0)) == 1

    def test_a_close_waits_for_them_and_then_gives_them_back(self, beanstalkd: BeanstalkdServer) -> None:
        beanstalkd.control.open()
        fill(beanstalkd, 10)
        with assert_baseline():
            pool = manager(beanstalkd)
            jobs = pool.reserve_many(10, 0)
            closing = background(functools.partial(pool.close, 5))
            wait_until(
                lambda: isinstance(background(lambda: pool.put("more")).error(), PoolClosed), "the pool to close"
            )
            jobs[0].delete()
            jobs[1].touch()
            assert not closing.done
            assert set(pool.delete_many(jobs[1:])) == {None}
            with within(0.3, "the rest of the close", slack=1.0):
                closing.result()
        with assert_baseline():
            fill(beanstalkd, 10)
            pool = manager(beanstalkd)
            jobs = pool.reserve_many(10, 0)
            pool.close(0.1)
            wait_until(lambda: ready(beanstalkd) == 10, "the jobs to be given back")
            assert all(job.lost for job in jobs)
            assert {type(outcome) for outcome in pool.delete_many(jobs)} == {JobLost}

    def test_a_pool_that_is_forgotten_gives_all_back(self, beanstalkd: BeanstalkdServer) -> None:
        beanstalkd.control.open()
        fill(beanstalkd, 5)
        with assert_baseline():
            pool = manager(beanstalkd)
            jobs = pool.reserve_many(5, 0)
            del pool, jobs
            with pytest.warns(ResourceWarning, match="never closed"):
                gc.collect()
            wait_until(lambda: ready(beanstalkd) == 5, "the jobs to be given back")
            wait_until(lambda: beanstalkd.control.other_connections() == 0, "the connections to end")

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
    @pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
    def test_a_child_has_none_of_them(self, beanstalkd: BeanstalkdServer) -> None:
        fill(beanstalkd, 4)
        with pool_of(beanstalkd) as pool:
            jobs = pool.reserve_many(4, 0)

            def child() -> None:
                assert {type(outcome) for outcome in pool.delete_many(jobs)} == {JobLost}
                pool.put("of the child", tube="child")
                [mine] = pool.reserve_many(5, 0, tubes="child")
                assert pool.delete_many([mine]) == [None]
                jobs.clear()

            in_child(child)
            assert reserved(beanstalkd) == 4
            assert pool.delete_many(jobs) == [None] * 4


class TestTrouble:
    def test_no_server(self, cluster: StartCluster) -> None:
        servers = cluster(2)
        for server in servers:
            server.kill()
        with pool_of(*servers) as pool:
            for timeout in (0, 0.2):
                with pytest.raises(NoServerAvailable) as caught:
                    pool.reserve_many(5, timeout)
                assert set(caught.value.errors) == {server.address for server in servers}

    def test_a_dead_server_among_others(self, cluster: StartCluster) -> None:
        servers = cluster(3)
        servers[0].kill()
        for server in servers[1:]:
            fill(server, 10)
        with pool_of(*servers) as pool, within(1.0, slack=1.0):
            assert len(pool.reserve_many(20, 0)) == 20

    @pytest.mark.parametrize("timeout", [0, 30, None])
    def test_a_frozen_server_holds_up_what_others_gave_for_a_moment(
        self, cluster: StartCluster, timeout: float | None
    ) -> None:
        servers = cluster(3)
        with pool_of(*servers) as pool:
            pool.wait(3)
            fill(servers[1], 10)
            fill(servers[2], 10)
            servers[0].freeze()
            with within(1.0, slack=1.5):
                jobs = pool.reserve_many(60, timeout)
            assert len(jobs) == 20
            assert pool.delete_many(jobs) == [None] * 20
            states = {status.address: status.state for status in pool.servers}
            assert states[servers[0].address] != "up"
            servers[0].thaw()

    def test_a_frozen_server_alone_ends_in_time(self, beanstalkd: BeanstalkdServer) -> None:
        with pool_of(beanstalkd, timeout=0.6) as pool:
            pool.wait()
            beanstalkd.freeze()
            with within(0.6, slack=1.0), pytest.raises(NoServerAvailable):
                pool.reserve_many(5, 0)
            beanstalkd.thaw()

    def test_a_short_wait_says_nothing_of_a_servers_health(self, cluster: StartCluster) -> None:
        servers = cluster(2)
        with pool_of(*servers) as pool:
            pool.wait(2)
            servers[0].freeze()
            with within(0.1, slack=1.0):
                assert pool.reserve_many(5, 0.1) == []
            servers[0].thaw()
            assert {status.state for status in pool.servers} == {"up"}

    @pytest.mark.parametrize("timeout", [0, 0.4])
    def test_a_server_that_stops_in_the_middle_of_its_share(
        self, cluster: StartCluster, scripted_server: StartScripted, timeout: float
    ) -> None:
        """Its jobs go back with its connection; those of the others are returned."""
        (server,) = cluster(1)
        fill(server, 10)

        def some(connection: ScriptedConnection) -> None:
            for number in range(4):
                connection.expect_line(b"reserve-with-timeout 0")
                connection.send(with_data(b"RESERVED %d" % (number + 1), b"x"))
            connection.send(b"RESERVED 5 100\r\nhalf of")
            connection.read_until_closed()

        fake = scripted_server([expect_line(b"stats"), send(stats_reply()), some], default=ScriptedConnection.close)
        with PoolManager([fake.address, server.address], health_interval=60) as pool:
            with within(1.0, slack=1.5):
                jobs = pool.reserve_many(20, timeout)
            assert {job.server for job in jobs} == {server.address}
            # What may be reserved there until the server sees the end is not asked for elsewhere.
            assert len(jobs) == 10
            assert pool.delete_many(jobs) == [None] * 10
            wait_until(lambda: leased(pool) == 0, "the connections to come back, and the check to end")

    def test_a_reply_that_no_reserve_may_have(self, cluster: StartCluster, scripted_server: StartScripted) -> None:
        (server,) = cluster(1)
        fill(server, 10)
        for reply in (b"INSERTED 1\r\n", b"RESERVED 1 2\r\nxxx\r\n", b"RESERVED 1 x\r\n", b"OUT_OF_MEMORY\r\n"):
            fake = scripted_server(default=answering({"stats": stats_reply(), "reserve-with-timeout": reply}))
            with PoolManager([fake.address, server.address], health_interval=60) as pool:
                jobs = pool.reserve_many(20, 0)
                assert {job.server for job in jobs} == {server.address}
                assert len(jobs) == 10
                for job in jobs:
                    job.release()

    def test_a_draining_server_is_taken_from(self, cluster: StartCluster) -> None:
        servers = cluster(2)
        for server in servers:
            fill(server, 10)
        servers[0].drain()
        with pool_of(*servers) as pool:
            assert len(pool.reserve_many(20, 0)) == 20

    def test_a_server_that_is_removed_keeps_the_connection_of_its_jobs(self, cluster: StartCluster) -> None:
        servers = cluster(2)
        for server in servers:
            fill(server, 10)
        with pool_of(*servers) as pool:
            jobs = pool.reserve_many(20, 0)
            pool.remove_server(servers[0].address)
            assert pool.reserve_many(5, 0) == []
            theirs = [job for job in jobs if job.server == servers[0].address]
            dropped = jobs.pop(jobs.index(theirs.pop())).id
            wait_until(lambda: servers[0].control.state(dropped) == "ready", "a dropped one to be given back")
            theirs[0].touch()
            del theirs
            assert set(pool.delete_many(jobs)) == {None}
            wait_until(lambda: servers[0].control.other_connections() == 0, "the connections to end")

    def test_no_descriptor_is_left(self, cluster: StartCluster) -> None:
        servers = cluster(3)
        for server in servers:
            fill(server, 20)
        with assert_baseline(), pool_of(*servers) as pool:
            assert len(pool.reserve_many(50, 1)) == 50
            assert len(pool.reserve_many(50, 1)) >= 10
