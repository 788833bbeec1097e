"""The limit of connections can be seen, and changed, and lets those who work on jobs finish them."""

from __future__ import annotations

import contextlib
import functools
import threading

import pytest
from support.inside import inside
from support.pools import pool_of, unprobed
from support.records import Records
from support.server_pools import all_in_use
from support.servers import BeanstalkdServer
from support.threads import background, run_together
from support.waiting import wait_until

from beanpool import Job, PoolManager, PoolTimeout
from beanpool.events import ConnectionsShort, Event
from beanpool.reserve import waiters

WORKERS = 40
LIMIT = 32
JOBS_EACH = 5


def reserve(pool: PoolManager, timeout: float = 10) -> Job:
    job = pool.reserve(timeout)
    assert job is not None
    return job


def test_more_workers_than_connections_finish_jobs_that_take_others_to_finish(beanstalkd: BeanstalkdServer) -> None:
    """Each puts two follow-ups with a job in hand; as many as can hold one until all of those do."""
    total = WORKERS * JOBS_EACH
    with unprobed(beanstalkd, max_connections=LIMIT) as pool:
        pool.put_many(["job"] * total)
        all_hold = threading.Barrier(LIMIT)

        def work(number: int) -> None:
            for turn in range(JOBS_EACH):
                with reserve(pool, 30):
                    if number < LIMIT and not turn:
                        all_hold.wait(20)
                    for _ in range(2):
                        pool.put("follow-up", tube="next")

        def work_last(number: int) -> None:
            # They would take the places of those that wait for each other.
            if number >= LIMIT:
                wait_until(lambda: all_hold.n_waiting == 0 and pool.get_stats()["reserved"] >= LIMIT, "the others", 20)
            work(number)

        run_together(*[functools.partial(work_last, number) for number in range(WORKERS)], timeout=60)
        stats = pool.get_stats()
        assert (stats["deleted"], stats["puts"], stats["in_hand"]) == (total, 3 * total, 0)
        assert (stats["requests_errors"], stats["jobs_lost"]) == (0, 0)
        assert beanstalkd.control.counter("current-jobs-ready", "next") == 2 * total


def test_what_is_lent_leaves_something_for_what_its_users_put(beanstalkd: BeanstalkdServer) -> None:
    address = beanstalkd.address
    with unprobed(beanstalkd, max_connections=2) as pool:
        for _ in range(2):
            with contextlib.ExitStack() as stack:
                lent = [stack.enter_context(pool.connection(address, tube="jobs")) for _ in range(2)]
                for connection in lent:
                    connection.put("job")
                    assert connection.reserve(0) is not None
                    pool.put("a follow-up", tube="next")
                assert pool.servers[0].open == 3
                with pytest.raises(PoolTimeout), pool.connection(address, timeout=0.05):
                    pass
                with pytest.raises(PoolTimeout):
                    pool.reserve(0, tubes="next")
            assert pool.servers[0].leased == 0
        waiting = background(functools.partial(pool.reserve, 30, tubes="nothing"))
        wait_until(lambda: beanstalkd.control.counter("current-waiting") == 1, "the reserve to wait")
        with pool.connection(address), pool.connection(address):
            # The reserve has given way.
            pool.put("x", tube="nothing")
        job = waiting.result()
        assert job is not None
        job.delete()


def test_those_who_go_short_are_told_of_once(beanstalkd: BeanstalkdServer) -> None:
    events: list[Event] = []
    with unprobed(beanstalkd, max_connections=2, name="p") as pool, Records("beanpool.pool") as records:
        pool.add_listener(events.append)
        pool.put_many(["job"] * 3)
        jobs = [reserve(pool), reserve(pool)]
        third = background(functools.partial(reserve, pool, 30))
        wait_until(lambda: any(isinstance(event, ConnectionsShort) for event in events), "the event")
        (event,) = [event for event in events if isinstance(event, ConnectionsShort)]
        assert event == ConnectionsShort("p", beanstalkd.address, 2, 2, event.wanted, 8)
        assert event.wanted >= 3
        (record,) = records
        assert record.levelname == "WARNING"
        text = record.getMessage()
        assert f"server {beanstalkd.address}: max_connections is 2, unfinished jobs hold 2 of them" in text
        assert "Set max_connections to 8 or more" in text
        jobs.pop().delete()
        for job in (*jobs, third.result()):
            job.delete()


class TestResize:
    def test_a_higher_limit_lets_those_in_who_wait(self, beanstalkd: BeanstalkdServer) -> None:
        with unprobed(beanstalkd, max_connections=1) as pool:
            pool.put_many(["job"] * 2)
            first = reserve(pool)
            second = background(functools.partial(reserve, pool, 60))
            wait_until(lambda: pool.get_stats()["requests_waiting"], "the reserve to queue")
            pool.resize(2)
            second.result().delete()
            first.delete()
            assert pool.get_stats()["pool_max"] == 2

    def test_a_lower_limit_closes_what_is_idle_and_then_what_comes_back(self, beanstalkd: BeanstalkdServer) -> None:
        with unprobed(beanstalkd, max_connections=6) as pool:
            pool.put_many(["job"] * 6)
            jobs = [reserve(pool) for _ in range(6)]
            for job in jobs[:2]:
                job.delete()
            assert (pool.servers[0].open, pool.servers[0].idle) == (6, 2)
            pool.resize(2)
            assert (pool.servers[0].open, pool.servers[0].idle) == (4, 0)
            for job in jobs[2:]:
                pool.put("a follow-up, though more than the limit hold jobs", tube="next")
                job.touch()
                job.delete()
            assert pool.servers[0].open <= 3, "one of them for the follow-ups"
            inside(pool).connections_of(0).pruning.trim(0)
            with all_in_use(pool):
                assert pool.servers[0].open == 2
            wait_until(lambda: beanstalkd.control.counter("current-connections") <= 3, "the server to see it")

    def test_calls_that_never_pause_give_them_back_all_the_same(self, beanstalkd: BeanstalkdServer) -> None:
        with unprobed(beanstalkd, max_connections=8) as pool:
            held = inside(pool).connections_of(0)
            stop = threading.Event()

            def put() -> None:
                while not stop.is_set():
                    pool.put("x", timeout=20)

            with all_in_use(pool):
                pool.resize(3)
                assert held.counts()[0] == 8
                threads = [background(put) for _ in range(6)]
            wait_until(lambda: held.counts()[0] <= 3, "the connections to come back")
            stop.set()
            for thread in threads:
                thread.result()

    def test_reserves_that_wait_give_way(self, beanstalkd: BeanstalkdServer, monkeypatch: pytest.MonkeyPatch) -> None:
        """Each set of tubes has a connection that waits; with a lower limit they take turns."""
        monkeypatch.setattr(waiters, "RESERVE_SLICE", 1)
        with pool_of(beanstalkd, max_connections=4) as pool:

            def work(tube: str) -> None:
                job = pool.reserve(30, tubes=tube)
                assert job is not None
                job.delete()

            waiting = [background(functools.partial(work, tube)) for tube in "abcd"]
            wait_until(lambda: beanstalkd.control.counter("current-waiting") == 4, "all to wait")
            pool.resize(2)
            wait_until(lambda: pool.servers[0].open <= 2, "two of them to give way", 20)
            for tube in "abcd":
                pool.put("x", tube=tube)
            for thread in waiting:
                thread.result(20)

    def test_it_is_that_of_servers_that_join_later(self, beanstalkd: BeanstalkdServer) -> None:
        with unprobed(beanstalkd, max_connections=4) as pool:
            pool.resize(7)
            pool.add_server("127.0.0.1:1")
            assert {stats["pool_max"] for stats in pool.get_stats_by_server().values()} == {7}
            for bad, error in ((0, ValueError), ("8", TypeError)):
                with pytest.raises(error, match="max_connections must be"):
                    pool.resize(bad)  # type: ignore[arg-type]  # what is refused
