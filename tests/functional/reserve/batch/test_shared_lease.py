"""The lease that the jobs of a batch share."""

from __future__ import annotations

import functools
import os
import threading
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
from faults.test_fork import in_child
from support.forgetting import forget
from support.inside import inside
from support.pools import pool_with_jobs_in_hand, unprobed
from support.processes import assert_baseline
from support.servers import BeanstalkdServer
from support.threads import background, run_together
from support.waiting import wait_until, within

from beanpool import Job, JobLost, NotFound, PoolClosed, PoolTimeout
from beanpool.events import Event, ServerStateChanged
from beanpool.server.partial_release import PartialRelease
from beanpool.server.pooled_connection import PooledConnection

if TYPE_CHECKING:
    from conftest import StartCluster
from support.batches import cut, fill, leased, ready, reserved, wait_for_waiters


class TestSharedLease:
    def test_the_connection_comes_back_with_the_last_of_its_jobs(self, beanstalkd: BeanstalkdServer) -> None:
        fill(beanstalkd, 6)
        with pool_with_jobs_in_hand(beanstalkd, max_connections=1) as pool:
            jobs = pool.reserve_many(6, 0)
            ends: list[Callable[[Job], None]] = [Job.delete, Job.release, Job.bury, Job.delete, Job.bury]
            for end, job in zip(ends, [jobs[3], jobs[0], jobs[5], jobs[1], jobs[4]], strict=True):
                jobs[2].touch()
                assert jobs[2].stats()["state"] == "reserved"
                end(job)
                assert leased(pool) == 1
                with pytest.raises(PoolTimeout):
                    pool.reserve(0.01)
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
            with pool_with_jobs_in_hand(*servers, max_connections=1) as pool:
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
        with pool_with_jobs_in_hand(beanstalkd) as pool:
            jobs = pool.reserve_many(3, 0)
            waiting = background(lambda: pool.reserve_many(1, 30))
            wait_for_waiters(beanstalkd)
            jobs[0].delete()
            for job in jobs[1:]:
                job.touch()
            beanstalkd.control.put(b"at last")
            [last] = waiting.result()
            assert last.connection is not jobs[1].connection
            assert set(pool.delete_many([*jobs[1:], last])) == {None}

    def test_one_that_is_dropped_goes_back_and_leaves_the_others(self, beanstalkd: BeanstalkdServer) -> None:
        priorities = [7, 70, 700]
        with pool_with_jobs_in_hand(beanstalkd) as pool:
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
        begin, closed = PartialRelease.begin, threading.Event()

        def begin_and_lose(give_back: PartialRelease) -> None:
            begin(give_back)
            give_back.connection.drop("another thread has closed it")
            closed.set()

        monkeypatch.setattr(PartialRelease, "begin", begin_and_lose)
        fill(beanstalkd, 2)
        with pool_with_jobs_in_hand(beanstalkd, max_connections=1) as pool:
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
        """They go back as fast as the server takes them, and who works on the others is not kept waiting."""
        with pool_with_jobs_in_hand(beanstalkd) as pool:
            pool.put_many(["x"] * 5000, ttr=600)
            jobs = pool.reserve_many(5000, 5)
            kept = jobs[::250]
            connection = kept[0].connection
            del jobs
            while ready(beanstalkd) < 4980:
                with within(0.3, "a touch beside it", slack=0.7):
                    kept[0].touch()
            assert reserved(beanstalkd) == 20
            assert set(pool.delete_many(kept)) == {None}
            assert leased(pool) == 0
            assert not connection.closed
            assert pool.get_stats()["connections_lost"] == 0

    def test_the_last_one_is_dropped_while_others_are_given_back(self, beanstalkd: BeanstalkdServer) -> None:
        """The pool shuts the connection down, and that says nothing of the server."""
        events: list[Event] = []
        fill(beanstalkd, 3)
        with pool_with_jobs_in_hand(beanstalkd, timeout=20) as pool:
            pool.add_listener(events.append)
            jobs = pool.reserve_many(3, 0)
            connection = jobs[0].connection
            assert isinstance(connection, PooledConnection)
            beanstalkd.freeze()
            jobs.pop()
            wait_until(connection.guard.locked, "the monitor to ask")
            jobs.clear()
            wait_until(lambda: connection.closed, "the connection to be closed")
            beanstalkd.thaw()
            wait_until(lambda: ready(beanstalkd) == 3, "the jobs to be given back")
            [status] = pool.servers
            assert (status.state, status.last_error, status.leased) == ("up", None, 0)
            assert pool.get_stats()["connections_lost"] == 0
        assert not [event for event in events if isinstance(event, ServerStateChanged)]

    def test_all_that_are_dropped(self, cluster: StartCluster) -> None:
        servers = cluster(2)
        for server in servers:
            fill(server, 50)
        with pool_with_jobs_in_hand(*servers, max_connections=1) as pool:
            jobs = pool.reserve_many(100, 0)
            jobs[7].delete()
            del jobs
            wait_until(lambda: ready(*servers) == 99, "the jobs to be given back")
            assert leased(pool) == 0
            assert len(pool.reserve_many(100, 1)) == 99

    def test_the_last_ones_that_are_dropped(self, beanstalkd: BeanstalkdServer) -> None:
        fill(beanstalkd, 10)
        with pool_with_jobs_in_hand(beanstalkd, max_connections=1) as pool:
            jobs = pool.reserve_many(10, 0)
            assert set(pool.delete_many(jobs[:8])) == {None}
            del jobs
            with within(1.0, slack=2.0):
                pool.put("the connection's place is free")
            wait_until(lambda: ready(beanstalkd) == 3, "the jobs to be given back")

    def test_dropped_while_its_sibling_is_busy_and_the_server_silent(self, beanstalkd: BeanstalkdServer) -> None:
        fill(beanstalkd, 3)
        with pool_with_jobs_in_hand(beanstalkd, timeout=1) as pool:
            jobs = pool.reserve_many(3, 0)
            beanstalkd.freeze()
            dropped = jobs.pop().id
            connection = jobs[0].connection
            assert isinstance(connection, PooledConnection)
            wait_until(connection.guard.locked, "the monitor to ask")
            # It waits for its turn, and the monitor for a reply as long as the pool's timeout.
            with within(2.0, slack=1.0), pytest.raises(JobLost):
                jobs[0].touch(timeout=20)
            wait_until(lambda: jobs[1].lost, "the loss of the last")
            beanstalkd.thaw()
            wait_until(lambda: beanstalkd.control.state(dropped) == "ready", "the job to be given back")
            wait_until(lambda: leased(pool) == 0, "the connection's place to be free")

    def test_the_finalizer_waits_for_nothing(self, beanstalkd: BeanstalkdServer) -> None:
        fill(beanstalkd, 2)
        with pool_with_jobs_in_hand(beanstalkd) as pool:
            jobs = pool.reserve_many(2, 0)
            server_pool = inside(pool).connections_of(0)
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
        with pool_with_jobs_in_hand(beanstalkd, max_connections=1) as pool:
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
            assert pool.get_stats()["jobs_lost"] == 3, "a delete that was finished all the same is no loss"

    def test_one_whose_time_ran_out_leaves_the_others(self, beanstalkd: BeanstalkdServer) -> None:
        with pool_with_jobs_in_hand(beanstalkd) as pool:
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
        with pool_with_jobs_in_hand(beanstalkd) as pool:
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
        with pool_with_jobs_in_hand(beanstalkd) as pool:
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
        with pool_with_jobs_in_hand(beanstalkd, max_connections=1) as pool:
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
            pool = unprobed(beanstalkd)
            jobs = pool.reserve_many(10, 0)
            closing = background(functools.partial(pool.close, 30))
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
            pool = unprobed(beanstalkd)
            jobs = pool.reserve_many(10, 0)
            pool.close(0.1)
            wait_until(lambda: ready(beanstalkd) == 10, "the jobs to be given back")
            assert all(job.lost for job in jobs)
            assert {type(outcome) for outcome in pool.delete_many(jobs)} == {JobLost}

    def test_a_pool_that_is_forgotten_gives_all_back(self, beanstalkd: BeanstalkdServer) -> None:
        beanstalkd.control.open()
        fill(beanstalkd, 5)
        with assert_baseline():
            pool = unprobed(beanstalkd)
            held: list[object] = [pool, pool.reserve_many(5, 0)]
            del pool

            with pytest.warns(ResourceWarning, match="never closed"):
                forget(held)
            wait_until(lambda: ready(beanstalkd) == 5, "the jobs to be given back")
            wait_until(lambda: beanstalkd.control.other_connections() == 0, "the connections to end")

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
    @pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
    def test_a_child_has_none_of_them(self, beanstalkd: BeanstalkdServer) -> None:
        fill(beanstalkd, 4)
        with pool_with_jobs_in_hand(beanstalkd) as pool:
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


class TestManyJobsOfOneServer:
    """beanstalkd looks through all jobs of a connection with each command on it."""

    def test_are_spread_over_a_part_of_its_connections(self, beanstalkd: BeanstalkdServer) -> None:
        with pool_with_jobs_in_hand(beanstalkd, max_connections=8) as pool:
            pool.put_many(["x"] * 9000, ttr=600)
            jobs = pool.reserve_many(9000, 5)
            assert len({job.number for job in jobs}) == 9000
            held = Counter(job.connection for job in jobs)
            assert sorted(held.values()) == [4500, 4500]
            assert leased(pool) == 2
            assert set(pool.delete_many(jobs)) == {None}
            assert leased(pool) == 0

    def test_stay_together_where_no_other_connection_is_free(self, beanstalkd: BeanstalkdServer) -> None:
        with pool_with_jobs_in_hand(beanstalkd, max_connections=8) as pool:
            pool.put_many(["x"] * 7, tube="other")
            others = [pool.reserve(1, tubes="other") for _ in range(7)]
            pool.put_many(["x"] * 5000, ttr=600)
            jobs = pool.reserve_many(5000, 5)
            assert len(jobs) == 5000
            assert len({job.connection for job in jobs}) == 1
            assert set(pool.delete_many([*jobs, *(job for job in others if job is not None)])) == {None}

    def test_as_many_as_one_connection_may_hold(self, beanstalkd: BeanstalkdServer) -> None:
        with pool_with_jobs_in_hand(beanstalkd) as pool:
            pool.put_many(["x"] * 4096, ttr=600)
            jobs = pool.reserve_many(4097, 10)
            assert len(jobs) == 4096
            assert len({job.connection for job in jobs}) == 1
            assert set(pool.delete_many(jobs)) == {None}
            assert leased(pool) == 0
