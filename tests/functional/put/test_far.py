"""Puts where servers are far away: many take as long as one, and none holds up what is for others."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest
from support.batches import stored_in
from support.inside import inside
from support.pools import pool_of
from support.putting import key_of
from support.servers import BeanstalkdServer
from support.threads import background, run_together
from support.waiting import wait_until, within

from beanpool import JobId, NoServerForPut, PoolManager, Put

if TYPE_CHECKING:
    from conftest import StartCluster, StartDelayLine

FAR = 0.15
LONG = 30.0


@pytest.fixture
def far_cluster(cluster: StartCluster, delay_line: StartDelayLine) -> list[str]:
    """The addresses of eight servers that are equally far away."""
    return [delay_line(server, FAR).address for server in cluster(8)]


@contextlib.contextmanager
def all_in_use(pool: PoolManager, server: int) -> Iterator[None]:
    """Within the block other calls have all connections of a pool that may have one to each server."""
    with inside(pool).connections_of(server).lend(time.monotonic() + 5):
        yield


def test_reserves_that_wait_take_no_server_from_puts(cluster: StartCluster) -> None:
    """They give way, so their connections are not in use: what has no key goes to each server in its turn."""
    servers = cluster(4)
    with pool_of(*servers, max_connections=1) as pool:
        pool.wait(4)
        puts: list[Callable[[], list[JobId]]] = [
            lambda: [pool.put("x") for _ in servers],
            lambda: stored_in(pool.put_many(["x"] * len(servers))),
        ]
        for put in puts:
            waiter = background(lambda: pool.reserve(LONG, tubes=["others"]))
            for number in range(4):
                places = inside(pool).connections_of(number).places
                wait_until(lambda: places.waiting_and_calls()[0], "it to wait on all")  # noqa: B023  # Not called later.
            assert {jid.server for jid in put()} == {server.address for server in servers}
            pool.put("x", tube="others")
            job = waiter.result(10)
            assert job is not None
            job.delete()
        assert pool.get_stats()["put_attempts_failed"] == 0


class TestBatch:
    def test_connects_to_all_at_once(self, far_cluster: list[str]) -> None:
        with PoolManager(far_cluster) as pool, within(2 * FAR, "the batch", slack=0.5):
            stored = stored_in(pool.put_many([Put("x", tube="mails") for _ in range(80)]))
        assert {jid.server for jid in stored} == set(far_cluster)

    def test_tells_all_their_tubes_at_once(self, far_cluster: list[str]) -> None:
        with PoolManager(far_cluster) as pool:
            pool.wait(8, timeout=10)
            with within(3 * FAR, "the batch", slack=0.6):
                stored_in(pool.put_many([Put("x", tube=f"tube-{number % 3}") for number in range(80)]))

    def test_changes_the_tube_of_its_only_connection_once_for_each(
        self, cluster: StartCluster, delay_line: StartDelayLine
    ) -> None:
        lines = [delay_line(server, 0.1) for server in cluster(2)]
        with PoolManager([line.address for line in lines], max_connections=1) as pool:
            pool.wait(2, timeout=10)
            with within(4 * 2 * 0.1, "the batch", slack=0.7):
                stored_in(pool.put_many([Put("x", tube=f"tube-{number % 4}") for number in range(48)]))

    def test_stands_in_line_once_for_all_its_tubes(
        self, beanstalkd: BeanstalkdServer, delay_line: StartDelayLine
    ) -> None:
        """Four batches of four tubes wait for four turns of the only connection at most, and not for sixteen."""
        line = delay_line(beanstalkd, 0.05)
        with PoolManager([line.address], max_connections=1, timeout=1.2) as pool:
            pool.wait(1, timeout=10)
            puts = [Put("x", tube=f"tube-{number % 4}") for number in range(8)]
            run_together(*[lambda: stored_in(pool.put_many(puts))] * 4, timeout=20)

    def test_does_not_queue_for_a_server_where_any_will_do(self, cluster: StartCluster) -> None:
        servers = cluster(2)
        with pool_of(*servers, max_connections=1, timeout=20) as pool:
            pool.wait(2)
            with all_in_use(pool, 0), within(2, "the batch"):
                stored = stored_in(pool.put_many(["x"] * 100))
        assert {jid.server for jid in stored} == {servers[1].address}

    def test_a_timeout_of_less_than_two_round_trips(self, cluster: StartCluster, delay_line: StartDelayLine) -> None:
        """A server has the time that it is known to need before others are to have a turn."""
        lines = [delay_line(server, 0.3) for server in cluster(2)]
        with PoolManager([line.address for line in lines], timeout=0.5) as pool:
            pool.wait(2, timeout=10)
            assert not any(jid.maybe_duplicate for jid in stored_in(pool.put_many(["x"] * 20)))


class TestProducer:
    @pytest.mark.parametrize("frozen", [False, True], ids=["far", "frozen"])
    def test_one_server_holds_up_no_put_to_another(
        self, cluster: StartCluster, delay_line: StartDelayLine, frozen: bool
    ) -> None:
        servers = cluster(2)
        line = delay_line(servers[1], 0 if frozen else 0.6)
        with PoolManager([servers[0].address, line.address], timeout=20) as pool, pool.producer(linger=0) as producer:
            pool.wait(2, timeout=10)
            near, far = key_of(pool, servers[0].address), key_of(pool, line.address)
            if frozen:
                servers[1].freeze()
            try:
                held = producer.put("x", key=far)
                for _ in range(20):
                    assert producer.put("x", key=near).result(10).server == servers[0].address
                nobody_waits = [producer.put("x", key=near) for _ in range(3)]
                assert producer.put("x", key=near).result(10)
                assert all(future.done() for future in nobody_waits)
                assert not held.done()
            finally:
                servers[1].thaw()
            assert held.result(10).server == line.address

    def test_what_nobody_waits_for_lingers_and_goes(self, cluster: StartCluster, delay_line: StartDelayLine) -> None:
        servers = cluster(2)
        line = delay_line(servers[1], 0.6)
        told: list[bool] = []
        with PoolManager([servers[0].address, line.address]) as pool, pool.producer(linger=0.01) as producer:
            pool.wait(2, timeout=10)
            held = producer.put("x", key=key_of(pool, line.address))
            held.add_done_callback(lambda _: told.append(all(future.done() for future in others)))
            wait_until(lambda: inside(pool).connections_of(1).in_commands(), "it to be on its way")
            others = [producer.put("x", key=key_of(pool, servers[0].address)) for _ in range(3)]
        assert told == [True]


class TestSinglePut:
    def test_without_a_key_does_not_queue_for_a_server(self, cluster: StartCluster) -> None:
        servers = cluster(2)
        with pool_of(*servers, max_connections=1, timeout=20) as pool:
            pool.wait(2)
            with all_in_use(pool, 0), within(2, "the puts"):
                stored = [pool.put("x") for _ in range(20)]
            assert pool.get_stats()["put_attempts_failed"] == 0
        assert {jid.server for jid in stored} == {servers[1].address}
        assert not any(jid.maybe_duplicate for jid in stored)

    def test_without_a_key_queues_where_the_wait_is_shortest(
        self, cluster: StartCluster, delay_line: StartDelayLine
    ) -> None:
        servers = cluster(2)
        line = delay_line(servers[1], 0.3)
        with PoolManager([servers[0].address, line.address], max_connections=1, timeout=20) as pool:
            pool.wait(2, timeout=10)
            with all_in_use(pool, 1):
                with all_in_use(pool, 0):
                    puts = [background(lambda: pool.put("x")) for _ in range(6)]
                    near = inside(pool).connections_of(0)
                    wait_until(lambda: len(near.places.queue) == 6, "all to wait for the near one")
                assert {put.result(10).server for put in puts} == {servers[0].address}

    def test_where_all_drain_that_is_said_after_one_round_trip(
        self, cluster: StartCluster, delay_line: StartDelayLine
    ) -> None:
        servers = cluster(6)
        with PoolManager([delay_line(server, 0.2).address for server in servers], health_interval=60) as pool:
            pool.wait(6, timeout=10)
            for server in servers:
                server.drain()
            # That they drain is learned from each of them.
            with pytest.raises(NoServerForPut):
                pool.put("x")
            with within(0.2, "the put", slack=0.4), pytest.raises(NoServerForPut):
                pool.put("x")

    def test_a_timeout_of_a_few_round_trips(self, cluster: StartCluster, delay_line: StartDelayLine) -> None:
        lines = [delay_line(server, 0.2) for server in cluster(3)]
        with PoolManager([line.address for line in lines], timeout=0.7) as pool:
            pool.wait(3, timeout=10)
            stored = [pool.put("x", tube="mails") for _ in range(3)]
        assert not any(jid.maybe_duplicate for jid in stored)
