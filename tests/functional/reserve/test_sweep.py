"""Reserving from whichever server has a job: the sweep, the waiting time, and what is said when nobody can be asked."""

from __future__ import annotations

import functools
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from support.pools import pool_of
from support.scripted import ScriptedConnection, answering, stats_reply
from support.servers import BeanstalkdServer
from support.threads import background, run_together
from support.waiting import wait_until, within

from beanpool import (
    ConnectionFailed,
    Job,
    JobLost,
    NoServerAvailable,
    NotFound,
    PoolClosed,
    PoolManager,
    PoolTimeout,
    Server,
)

if TYPE_CHECKING:
    from conftest import StartCluster, StartScripted


def take(pool: PoolManager, timeout: float | None = 0, **options: Any) -> Job:
    job = pool.reserve(timeout, **options)
    assert job is not None
    job.delete()
    return job


def commands(server: BeanstalkdServer) -> dict[str, int]:
    return {name: int(value) for name, value in server.control.stats().items() if name.startswith("cmd-")}


class TestSweep:
    def test_a_job_is_found_wherever_it_is(self, cluster: StartCluster) -> None:
        servers = cluster(4)
        with pool_of(*servers) as pool:
            assert pool.reserve(timeout=0) is None
            for server in [*servers, *reversed(servers)]:
                jid = server.control.put(b"here")
                job = take(pool)
                assert (job.id, job.data, job.server, job.tube) == (jid, b"here", server.address, "default")

    def test_no_server_starves(self, cluster: StartCluster) -> None:
        servers = cluster(4)
        for server in servers:
            for _ in range(100):
                server.control.put(b"job")
        with pool_of(*servers) as pool:
            shares = Counter(take(pool).server for _ in range(200))
        assert min(shares[server.address] for server in servers) >= 40, shares

    def test_a_ready_job_costs_one_command(self, beanstalkd: BeanstalkdServer) -> None:
        with pool_of(beanstalkd, health_interval=60) as pool:
            beanstalkd.control.put(b"first")
            take(pool)
            beanstalkd.control.put(b"second")
            before = commands(beanstalkd)
            job = pool.reserve()
            assert job is not None
            after = commands(beanstalkd)
            spent = {name: after[name] - count for name, count in before.items() if after[name] != count}
            job.delete()
        assert spent == {"cmd-reserve-with-timeout": 1, "cmd-stats": 1}, "the statistics are the test's own"

    def test_only_the_tubes_that_were_named(self, beanstalkd: BeanstalkdServer) -> None:
        """One connection serves all calls, and what an earlier one watched must not leak into the next."""
        with pool_of(beanstalkd, max_connections=1) as pool:
            for tube in ("a", "b", "c", "default"):
                beanstalkd.control.put(tube.encode(), tube=tube)
            assert take(pool, tubes="a").data == b"a"
            assert pool.reserve(timeout=0, tubes="a") is None
            assert {take(pool, tubes=["c", "b", "c"]).data for _ in range(2)} == {b"b", b"c"}
            assert pool.reserve(timeout=0, tubes=("b", "c")) is None
            assert take(pool).data == b"default"
            assert pool.reserve(timeout=0) is None

    def test_the_tube_is_told_where_it_is_known(self, beanstalkd: BeanstalkdServer) -> None:
        with pool_of(beanstalkd) as pool:
            beanstalkd.control.put(b"x", tube="a")
            assert take(pool, tubes="a").tube == "a"
            beanstalkd.control.put(b"x", tube="a")
            assert take(pool, tubes=["a", "b"]).tube is None

    def test_the_pools_own_tubes(self, beanstalkd: BeanstalkdServer) -> None:
        with pool_of(beanstalkd, watch=["a", "b"]) as pool:
            for tube in ("a", "b", "default"):
                beanstalkd.control.put(tube.encode(), tube=tube)
            assert {take(pool).data, take(pool).data} == {b"a", b"b"}
            assert pool.reserve(timeout=0) is None
            assert pool.watch("default") == 3
            assert take(pool).data == b"default"

    def test_a_server_without_a_share_of_the_puts_is_reserved_from(self, cluster: StartCluster) -> None:
        servers = cluster(2)
        with PoolManager(
            [Server(server.host, server.port, weight=index) for index, server in enumerate(servers)]
        ) as pool:
            servers[0].control.put(b"left over")
            assert take(pool).data == b"left over"

    def test_a_hundred_jobs_by_many_threads_without_waiting(self, cluster: StartCluster) -> None:
        servers = cluster(3)
        for server in servers:
            for number in range(100):
                server.control.put(b"%d" % number)
        found: list[tuple[str, int]] = []

        def consume() -> None:
            while (job := pool.reserve(timeout=0)) is not None:
                found.append((job.server, job.id))
                job.delete()

        with pool_of(*servers) as pool:
            run_together(*[consume] * 4)
        assert len(found) == len(set(found)) == 300


class TestFewConnections:
    @pytest.mark.parametrize("many", [False, True])
    def test_looks_at_the_same_time_do_not_wait_for_each_other(self, cluster: StartCluster, many: bool) -> None:
        """Who queues for a server's connection holds no other server's."""
        with pool_of(*cluster(4), max_connections=1, timeout=60) as pool:
            look = functools.partial(pool.reserve_many, 2, 0) if many else functools.partial(pool.reserve, 0)

            def look_often() -> None:
                for _ in range(100):
                    assert not look()

            run_together(*[look_often] * 8, timeout=30)


class TestTime:
    @pytest.mark.parametrize("timeout", [0, 0.0, 0.05, 0.3, 1.0])
    def test_the_time_is_kept_to_the_fraction(self, cluster: StartCluster, timeout: float) -> None:
        servers = cluster(3)
        with pool_of(*servers) as pool:
            # From then on connections stand, and the time is all waiting.
            assert pool.reserve(timeout=0) is None
            started = time.monotonic()
            with within(timeout, slack=0.15):
                assert pool.reserve(timeout=timeout) is None
            assert time.monotonic() >= started + timeout, "nor does it end before"

    def test_it_ends_with_a_job(self, cluster: StartCluster) -> None:
        servers = cluster(3)
        with pool_of(*servers) as pool:
            for server in servers:
                call = background(functools.partial(pool.reserve, timeout=5))
                wait_until(lambda: all(s.control.counter("current-waiting") for s in servers), "the thread to wait")
                with within(0.2, "the delivery"):
                    server.control.put(b"job")
                    job = call.result()
                assert job is not None
                job.delete()

    @pytest.mark.parametrize("count", [1, 2])
    def test_none_waits_until_there_is_one(self, cluster: StartCluster, count: int) -> None:
        servers = cluster(count)
        with pool_of(*servers) as pool:
            call = background(pool.reserve)
            wait_until(lambda: all(s.control.counter("current-waiting") for s in servers), "the thread to wait")
            servers[-1].control.put(b"job")
            job = call.result()
            assert job is not None
            job.delete()

    def test_of_several_servers_only_one_is_up_and_it_is_waited_on(self, cluster: StartCluster) -> None:
        servers = cluster(3)
        for server in servers[1:]:
            server.kill()
        with pool_of(*servers) as pool:
            with within(0.2):
                assert pool.reserve(timeout=0.2) is None
            call = background(pool.reserve)
            wait_until(lambda: servers[0].control.counter("current-waiting"), "the thread to wait")
            servers[0].control.put(b"job")
            job = call.result()
            assert job is not None
            job.delete()


class TestArguments:
    @pytest.mark.parametrize(
        ("arguments", "error"),
        [
            ({"timeout": -1}, ValueError),
            ({"timeout": float("nan")}, ValueError),
            ({"timeout": float("inf")}, ValueError),
            ({"timeout": "1"}, TypeError),
            ({"timeout": True}, TypeError),
            ({"tubes": []}, ValueError),
            ({"tubes": "a b"}, ValueError),
            ({"tubes": "a\r\nput 0 0 1 1\r\nx"}, ValueError),
            ({"tubes": ["a", 7]}, TypeError),
            ({"tubes": "x" * 201}, ValueError),
        ],
    )
    def test_are_checked_before_a_byte_is_sent(
        self, scripted_server: StartScripted, arguments: dict[str, Any], error: type[Exception]
    ) -> None:
        server = scripted_server()
        with PoolManager([server.address], health_interval=60) as pool:
            with pytest.raises(error, match=next(iter(arguments))):
                pool.reserve(**arguments)
            assert server.accepts == 0


class TestNobodyToAsk:
    @pytest.mark.parametrize("timeout", [0, 0.3])
    def test_every_server_is_named_with_its_reason(self, cluster: StartCluster, timeout: float) -> None:
        servers = cluster(3)
        for server in servers:
            server.kill()
        with pool_of(*servers) as pool:
            with within(timeout), pytest.raises(NoServerAvailable) as caught:
                pool.reserve(timeout=timeout)
            assert set(caught.value.errors) == {server.address for server in servers}
            for server in servers:
                assert server.address in str(caught.value)
                assert "refused" in str(caught.value.errors[server.address])

    def test_frozen_servers(self, cluster: StartCluster) -> None:
        servers = cluster(2)
        for server in servers:
            server.control.open()
            server.freeze()
        with pool_of(*servers, timeout=0.5, connect_timeout=0.3) as pool:
            with within(0.5), pytest.raises(NoServerAvailable) as caught:
                pool.reserve(timeout=0)
            assert set(caught.value.errors) == {server.address for server in servers}
            call = background(pool.reserve)
            for server in servers:
                server.thaw()
            servers[1].control.put(b"job")
            job = call.result()
            assert job is not None
            job.delete()

    def test_one_frozen_server_hides_no_job_of_the_others(self, cluster: StartCluster) -> None:
        servers = cluster(3)
        with pool_of(*servers, timeout=0.6, connect_timeout=0.6, health_interval=60) as pool:
            assert pool.reserve(timeout=0) is None
            servers[1].freeze()
            for server in (servers[0], servers[2]):
                server.control.put(b"job")
            with within(0.6):
                assert {take(pool).server, take(pool).server} == {servers[0].address, servers[2].address}
            servers[1].thaw()

    def test_one_frozen_server_and_no_job(self, cluster: StartCluster) -> None:
        servers = cluster(3)
        with pool_of(*servers, timeout=0.5, connect_timeout=0.5) as pool:
            assert pool.reserve(timeout=0) is None
            servers[1].freeze()
            with within(0.5):
                assert pool.reserve(timeout=0) is None
            with within(0.3):
                assert pool.reserve(timeout=0.3) is None

    def test_all_connections_are_held_by_unfinished_jobs(self, beanstalkd: BeanstalkdServer) -> None:
        with pool_of(beanstalkd, max_connections=2) as pool:
            for _ in range(3):
                beanstalkd.control.put(b"job")
            held = [pool.reserve(timeout=0) for _ in range(2)]
            with within(0), pytest.raises(PoolTimeout, match=f"{beanstalkd.address}.* 2 of 2 "):
                pool.reserve(timeout=0)
            with within(0.2), pytest.raises(PoolTimeout):
                pool.reserve(timeout=0.2)
            for job in held:
                assert job is not None
                job.delete()
            take(pool)

    def test_a_closed_pool(self, beanstalkd: BeanstalkdServer) -> None:
        pool = pool_of(beanstalkd)
        pool.close()
        with pytest.raises(PoolClosed):
            pool.reserve(timeout=0)


class TestOddServers:
    @pytest.mark.parametrize(
        "reply",
        [
            b"INTERNAL_ERROR\r\n",
            b"OUT_OF_MEMORY\r\n",
            b"DEADLINE_SOON\r\n",
            b"BAD_FORMAT\r\n",
            b"INSERTED 5\r\n",
            b"RESERVED 0 99999999999999\r\n",
            b"RESERVED x 1\r\nx\r\n",
            b"RESERVED 1 1\r\nxyz",
            b"nonsense\r\n",
            b"TIMED_OUT\r\nTIMED_OUT\r\n",
        ],
    )
    @pytest.mark.parametrize("timeout", [0, 0.3])
    def test_beside_a_good_one(
        self, beanstalkd: BeanstalkdServer, scripted_server: StartScripted, reply: bytes, timeout: float
    ) -> None:
        """What an odd server answers is neither taken for a job, nor does it keep the jobs of others away."""
        odd = scripted_server(default=answering({"stats": stats_reply(), "reserve-with-timeout": reply}))
        with PoolManager([odd.address, beanstalkd.address], timeout=1) as pool:
            for _ in range(3):
                assert pool.reserve(timeout=timeout / 3) is None
            beanstalkd.control.put(b"job")
            assert take(pool, timeout=1).server == beanstalkd.address

    def test_a_tube_that_cannot_be_watched(self, beanstalkd: BeanstalkdServer, scripted_server: StartScripted) -> None:
        """The reserve goes out behind the watch, in one piece: a job from tubes that nobody named is not taken."""
        served = threading.Event()

        def reserve(connection: ScriptedConnection, line: bytes, body: bytes) -> bytes:
            served.set()
            return b"RESERVED 1 5\r\nwrong\r\n"

        odd = scripted_server(
            default=answering({"stats": stats_reply(), "watch": b"OUT_OF_MEMORY\r\n", "reserve-with-timeout": reserve})
        )
        with PoolManager([odd.address, beanstalkd.address], timeout=5) as pool:
            assert pool.reserve(timeout=0, tubes="a") is None
            assert served.wait(10)
            beanstalkd.control.put(b"right", tube="a")
            assert take(pool, tubes="a").data == b"right"

    def test_a_reply_in_pieces(self, scripted_server: StartScripted) -> None:
        def reserve(connection: ScriptedConnection, line: bytes, body: bytes) -> None:
            connection.send_bytewise(b"RESERVED 7 12\r\nin\r\npieces\r\n\r\n", pause=0.002)

        server = scripted_server(
            default=answering({"stats": stats_reply(), "reserve-with-timeout": reserve, "delete": b"DELETED\r\n"})
        )
        with PoolManager([server.address]) as pool:
            job = pool.reserve(timeout=1)
            assert job is not None
            assert (job.id, job.data) == (7, b"in\r\npieces\r\n")
            job.delete()


class TestOneJob:
    def test_by_its_id(self, cluster: StartCluster) -> None:
        servers = cluster(2)
        with pool_of(*servers) as pool:
            first, second = pool.put("one", delay=100), pool.put("two")
            jobs = [pool.reserve_job(jid) for jid in (first, second)]
            assert [job.body for job in jobs] == ["one", "two"]
            assert [job.server for job in jobs] == [first.server, second.server]
            with pytest.raises(NotFound):
                pool.reserve_job(first)
            for job in jobs:
                job.delete()
            with pytest.raises(NotFound):
                pool.reserve_job(second)

    def test_by_number_and_server(self, cluster: StartCluster) -> None:
        servers = cluster(2)
        ids = [server.control.put(server.address.encode()) for server in servers]
        assert ids[0] == ids[1], "the same number, on each server another job"
        with pool_of(*servers) as pool:
            job = pool.reserve_job(ids[1], server=servers[1].address)
            assert job.body == servers[1].address
            job.delete()
            assert servers[0].control.state(ids[0]) == "ready"
            with pytest.raises(ValueError, match="names a different job on each of the 2 servers"):
                pool.reserve_job(ids[0])

    def test_of_a_process_that_is_gone(self, beanstalkd: BeanstalkdServer) -> None:
        with pool_of(beanstalkd) as pool:
            jid = pool.put("old")
            put_at = time.monotonic()
            # Until then a connection passes for alive without a look at it.
            wait_until(lambda: time.monotonic() > put_at + 0.02, "a pause in the traffic")
            beanstalkd.restart()
            assert beanstalkd.control.put(b"new") == jid
            with pytest.raises(JobLost, match="restarted"):
                pool.reserve_job(jid)
            assert beanstalkd.control.state(jid) == "ready"

    def test_of_a_server_that_is_down(self, cluster: StartCluster) -> None:
        servers = cluster(2)
        with pool_of(*servers, timeout=0.5) as pool:
            jid = pool.put("job")
            down = next(server for server in servers if server.address == jid.server)
            down.kill()
            with within(0.5), pytest.raises(ConnectionFailed, match=down.address):
                pool.reserve_job(jid)
