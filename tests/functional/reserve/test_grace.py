"""The moment in which connections go on waiting though nobody does any more."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
from support.inside import inside
from support.pools import pool_of, unprobed
from support.servers import BeanstalkdServer
from support.threads import background
from support.waiting import wait_until, within

from beanpool import Job, PoolManager

if TYPE_CHECKING:
    from conftest import StartCluster, StartDelayLine

LONG = 30.0
FAR = 0.3


@pytest.fixture
def grace(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Makes the grace so long (seconds)."""

    def be(seconds: float) -> None:
        monkeypatch.setattr("beanpool.reserve.wait.GRACE", seconds)

    return be


def waiting(server: BeanstalkdServer) -> int:
    return server.control.counter("current-waiting")


def begin_grace(pool: PoolManager, *servers: BeanstalkdServer, **options: object) -> None:
    """Let a caller wait, get a job of the last server, and go."""
    tubes = options.get("tubes", "default")
    tube = tubes if isinstance(tubes, str) else next(iter(tubes))  # type: ignore[call-overload]  # A list of names.
    call = background(functools.partial(pool.reserve, 10, **options))  # type: ignore[arg-type]  # As it was given.
    wait_until(lambda: [waiting(server) for server in servers] == [1] * len(servers), "a waiter on each server")
    servers[-1].control.put(b"first", tube=tube)
    job = call.result()
    assert job is not None
    job.delete()


def put_into_waiter(server: BeanstalkdServer, body: bytes, tube: str = "default") -> int:
    """Put a job, which goes to the connection that waits."""
    jid = server.control.put(body, tube=tube)
    wait_until(lambda: server.control.state(jid) == "reserved", "the waiter to have it")
    return jid


def take(job: Job | None) -> bytes:
    assert job is not None
    job.delete()
    return job.data


class TestGrace:
    def test_a_trickle_of_jobs_needs_no_new_connections(self, cluster: StartCluster) -> None:
        servers = cluster(4)
        jobs = 60
        with unprobed(*servers) as pool:

            def work() -> None:
                for _ in range(jobs):
                    take(pool.reserve(10))

            worker = background(work)
            wait_until(lambda: [waiting(server) for server in servers] == [1] * 4, "a waiter on each server")
            before = sum(server.control.counter("total-connections") for server in servers)
            for number in range(jobs):
                servers[number % 4].control.put(b"job")
                time.sleep(0.005)
            worker.result()
            made = sum(server.control.counter("total-connections") for server in servers) - before
        # Three for each job without it. On a machine that is busy the worker is away for longer now and then.
        assert made < jobs / 2

    def test_the_next_caller_gets_at_once_what_has_come_in(
        self, cluster: StartCluster, grace: Callable[[float], None]
    ) -> None:
        servers = cluster(3)
        grace(LONG)
        with pool_of(*servers) as pool:
            begin_grace(pool, *servers)
            put_into_waiter(servers[0], b"second")
            put_into_waiter(servers[1], b"third")
            with within(0.0, "two reserves"):
                assert {take(pool.reserve(10)), take(pool.reserve(10))} == {b"second", b"third"}

    def test_nobody_comes_and_the_job_goes_back(self, cluster: StartCluster, grace: Callable[[float], None]) -> None:
        servers = cluster(3)
        grace(0.4)
        with pool_of(*servers) as pool:
            begin_grace(pool, *servers)
            with within(0.4, "the job's return"):
                jid = put_into_waiter(servers[0], b"second")
                wait_until(lambda: servers[0].control.state(jid) == "ready", "the job's return")
            wait_until(lambda: not any(map(waiting, servers)), "the waiters to leave")
            assert take(pool.reserve(0)) == b"second"

    def test_what_a_caller_leaves_goes_back(self, cluster: StartCluster, grace: Callable[[float], None]) -> None:
        servers = cluster(3)
        grace(0.5)
        with pool_of(*servers) as pool:
            begin_grace(pool, *servers)
            for server in servers[:2]:
                put_into_waiter(server, b"second")
            take(pool.reserve(10))
            [left] = [server for server in servers if server.control.counter("current-jobs-reserved")]
            wait_until(lambda: left.control.counter("current-jobs-ready"), "the job's return")

    def test_who_takes_one_job_does_not_prolong_the_wait_of_another(
        self, cluster: StartCluster, grace: Callable[[float], None], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        servers = cluster(3)
        grace(LONG)
        with pool_of(*servers) as pool:
            begin_grace(pool, *servers)
            [shared] = inside(pool).waits.values()
            watch = shared.kept
            assert watch is not None
            until = watch.kept_until
            put_into_waiter(servers[0], b"second")
            put_into_waiter(servers[1], b"third")
            take(pool.reserve(10))
            assert shared.kept is watch
            assert watch.kept_until == until
            take(pool.reserve(10))
            assert watch.kept_until == until
            # But who has to wait keeps nothing from anybody.
            monkeypatch.setattr("beanpool.reserve.wait._AT_ONCE", -1.0)
            begin_grace(pool, *servers)
            assert watch.kept_until > until

    def test_many_take_all_that_has_come_in(self, cluster: StartCluster, grace: Callable[[float], None]) -> None:
        servers = cluster(3)
        grace(LONG)
        with pool_of(*servers) as pool:
            begin_grace(pool, *servers)
            for server in servers[:2]:
                put_into_waiter(server, b"waiting")
            servers[2].control.put(b"ready")
            jobs = pool.reserve_many(5, 10)
            assert sorted(job.data for job in jobs) == [b"ready", b"waiting", b"waiting"]
            assert pool.delete_many(jobs) == [None] * 3

    def test_the_connections_that_are_missing_then_are_made_for_the_next_caller(self, cluster: StartCluster) -> None:
        servers = cluster(4)
        with unprobed(*servers) as pool:
            begin_grace(pool, *servers)
            wait_until(lambda: not any(map(waiting, servers)), "the waiters to leave")
            wait_until(lambda: [status.idle for status in pool.servers] == [1] * 4, "a connection to each server")


class TestOthers:
    """Who comes in the grace, and does not wait for the same."""

    @pytest.mark.parametrize("far", [False, True], ids=["near", "far"])
    def test_a_mere_look_finds_the_job(
        self, cluster: StartCluster, delay_line: StartDelayLine, grace: Callable[[float], None], far: bool
    ) -> None:
        servers = cluster(2)
        grace(LONG)
        first = delay_line(servers[0], FAR).address if far else servers[0].address
        with PoolManager([first, servers[1].address], health_interval=60) as pool:
            for many in (False, True):
                begin_grace(pool, *servers)
                # From afar it is still on its way then.
                put_into_waiter(servers[0], b"second")
                found = pool.reserve_many(3, 0) if many else [pool.reserve(0)]
                assert [take(job) for job in found] == [b"second"]

    @pytest.mark.parametrize("far", [False, True], ids=["near", "far"])
    def test_a_mere_look_says_that_there_is_none(
        self, cluster: StartCluster, delay_line: StartDelayLine, grace: Callable[[float], None], far: bool
    ) -> None:
        servers = cluster(2)
        grace(LONG)
        first = delay_line(servers[0], FAR).address if far else servers[0].address
        with PoolManager([first, servers[1].address], health_interval=60) as pool:
            begin_grace(pool, *servers)
            assert pool.reserve(0) is None
            assert pool.reserve_many(3, 0) == []
            # What waits goes on.
            assert waiting(servers[0]) == 1

    def test_a_look_for_some_of_the_tubes_finds_it(self, cluster: StartCluster, grace: Callable[[float], None]) -> None:
        servers = cluster(2)
        grace(LONG)
        with pool_of(*servers) as pool:
            begin_grace(pool, *servers, tubes=["a", "b"])
            assert pool.reserve(0, tubes="c") is None
            assert waiting(servers[0]) == 1, "who looks for other tubes ends nothing"
            put_into_waiter(servers[0], b"second", tube="b")
            assert take(pool.reserve(0, tubes=["b", "c"])) == b"second"

    def test_who_waits_for_some_of_the_tubes_has_it_after_the_grace(
        self, cluster: StartCluster, grace: Callable[[float], None]
    ) -> None:
        servers = cluster(2)
        grace(0.3)
        with pool_of(*servers) as pool:
            begin_grace(pool, *servers, tubes=["a", "b"])
            servers[0].control.put(b"second", tube="b")
            with within(0.3, "the delivery"):
                assert take(pool.reserve(10, tubes="b")) == b"second"

    def test_a_put_has_the_connection_that_waits(self, cluster: StartCluster, grace: Callable[[float], None]) -> None:
        servers = cluster(2)
        grace(LONG)
        with pool_of(*servers, max_connections=1) as pool:
            begin_grace(pool, *servers)
            with within(0.5, "the puts"):
                for _ in servers:
                    pool.put("job", tube="other")

    def test_close_does_not_wait_for_its_end(self, cluster: StartCluster, grace: Callable[[float], None]) -> None:
        servers = cluster(2)
        grace(LONG)
        with pool_of(*servers) as pool:
            begin_grace(pool, *servers)
            jid = put_into_waiter(servers[0], b"second")
            with within(0.5, "close()"):
                pool.close()
        wait_until(lambda: servers[0].control.state(jid) == "ready", "the job's return")

    def test_a_pool_of_one_server_has_it_too(
        self, beanstalkd: BeanstalkdServer, grace: Callable[[float], None]
    ) -> None:
        with unprobed(beanstalkd) as pool:
            assert pool.reserve(0) is None
            made = beanstalkd.control.counter("total-connections")
            grace(LONG)
            for _ in range(5):
                assert pool.reserve(0.01) is None
            assert beanstalkd.control.counter("total-connections") == made
            assert waiting(beanstalkd) == 1


class TestFarServers:
    def test_a_worker_comes_back_before_what_waits_there_is_cancelled(
        self, cluster: StartCluster, delay_line: StartDelayLine
    ) -> None:
        """To finish a job takes it a round trip, which is longer than the grace for near ones."""
        servers = cluster(6)
        jobs = 4
        with PoolManager([delay_line(server, FAR).address for server in servers], health_interval=60) as pool:
            pool.wait()

            def work() -> None:
                for _ in range(jobs):
                    take(pool.reserve(10))

            worker = background(work)
            before = 0
            for number in range(jobs):
                wait_until(lambda: sum(map(waiting, servers)) >= len(servers) - 1, "the worker to wait")
                before = before or sum(server.control.counter("total-connections") for server in servers)
                servers[number].control.put(b"job")
                wait_until(lambda number=number: not servers[number].control.counter("current-jobs-ready"), "its end")  # type: ignore[misc]  # mypy infers no type for a lambda with defaults
            worker.result()
            made = sum(server.control.counter("total-connections") for server in servers) - before
        # Five for each job otherwise, but the last one; one more now and then on a machine that is busy.
        assert made <= 10

    def test_what_waits_on_near_ones_does_not_wait_for_longer(
        self, cluster: StartCluster, delay_line: StartDelayLine
    ) -> None:
        near, distant, last = cluster(3)
        far = delay_line(distant, 0.4)
        with pool_of(near, last) as pool:
            pool.wait()
            pool.add_server(far.address)
            pool.wait()
            begin_grace(pool, near, distant, last)
            wait_until(lambda: not waiting(near), "the near one to be left")
            [shared] = inside(pool).waits.values()
            assert shared.kept is not None
            assert [member.address for member, _ in shared.kept.by_post] == [far.address]
            jid = put_into_waiter(distant, b"late")
            wait_until(lambda: not waiting(distant) and distant.control.state(jid) == "ready", "its return")

    def test_calls_that_wait_for_less_than_a_round_trip_get_a_job_in_the_end(
        self, cluster: StartCluster, delay_line: StartDelayLine
    ) -> None:
        """What one has asked for comes to the next."""
        servers = cluster(4)
        servers[0].control.put(b"job")
        with PoolManager([delay_line(server, FAR).address for server in servers], health_interval=60) as pool:
            pool.wait(4)
            for _ in range(80):
                job = pool.reserve(FAR / 3)
                if job is not None:
                    break
        assert job is not None
        assert job.data == b"job"
