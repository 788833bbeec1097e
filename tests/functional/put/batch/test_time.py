"""How long a batch takes where servers are silent, or gone: a few timeouts, whatever its length."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from support.batches import stored_in
from support.pools import pool_of
from support.putting import state_of
from support.scripted import ScriptedConnection, answering, stats_reply
from support.servers import BeanstalkdServer
from support.waiting import wait_until, within

from beanpool import JobId, NoServerForPut, PoolManager, Put, PutAmbiguous

if TYPE_CHECKING:
    from conftest import StartCluster, StartDelayLine, StartScripted


@pytest.mark.parametrize("count", [1, 2, 3])
def test_servers_that_are_silent_cost_two_timeouts_at_most(cluster: StartCluster, count: int) -> None:
    servers = cluster(count)
    with pool_of(*servers, timeout=0.4) as pool:
        pool.wait(count)
        for server in servers:
            server.freeze()
        try:
            with within(0.8, "the batch", slack=0.6):
                outcomes = pool.put_many("x" * 50 for _ in range(4_000))
        finally:
            for server in servers:
                server.thaw()
    kinds = {type(outcome) for outcome in outcomes}
    assert len(outcomes) == 4_000
    assert kinds == {PutAmbiguous, NoServerForPut}, "what was sent, and what was not"


def test_a_server_that_is_far_gets_all_of_it_however_long_it_takes(
    cluster: StartCluster, delay_line: StartDelayLine
) -> None:
    """Time in which puts are stored is no waiting."""
    (server,) = cluster(1)
    line = delay_line(server, 0.15)
    with PoolManager([line.address], timeout=0.8) as pool:
        pool.wait(1, timeout=10)
        stored = stored_in(pool.put_many("x" * 20_000 for _ in range(24)))
    assert len(stored) == 24


def test_a_slow_link_with_bodies_that_take_their_time(beanstalkd: BeanstalkdServer, delay_line: StartDelayLine) -> None:
    """The batch takes longer than the timeout; every single put does not."""
    line = delay_line(beanstalkd, 0.05, rate=120_000)
    with PoolManager([line.address], timeout=1) as pool:
        stored = stored_in(pool.put_many("x" * 10_000 for _ in range(15)))
        assert len(stored) == 15
        assert not any(jid.maybe_duplicate for jid in stored)


def test_many_tubes_of_a_server_that_is_far(beanstalkd: BeanstalkdServer, delay_line: StartDelayLine) -> None:
    """Each takes a connection of its own, and so several round trips: none of that is waiting in vain."""
    line = delay_line(beanstalkd, 0.05)
    with PoolManager([line.address], timeout=0.6, max_connections=20) as pool:
        stored = stored_in(pool.put_many(Put("x", tube=f"tube-{number}") for number in range(10)))
    assert len(stored) == 10


def test_a_source_that_takes_its_time_leaves_the_batch_all_of_its_own(cluster: StartCluster) -> None:
    """A server that was silent for the first puts takes those that come later."""
    (server,) = cluster(1)

    def puts() -> Iterator[str]:
        server.freeze()
        yield "silent"
        wait_until(lambda: state_of(pool, server.address) == "down", "the silence to be noticed")
        server.thaw()
        wait_until(lambda: state_of(pool, server.address) == "up", "its return")
        yield "later"

    with pool_of(server, timeout=0.3, health_interval=0.1) as pool:
        pool.wait(1)
        _, later = pool.put_many(puts())
    assert isinstance(later, JobId)


def test_a_part_of_a_reply_is_no_progress(scripted_server: StartScripted) -> None:
    def trickle(connection: ScriptedConnection, line: bytes, body: bytes) -> bytes | None:
        connection.send_bytewise(b"INSERTED 123456789012345", 0.1)
        connection.stall()
        return None

    server = scripted_server(default=answering({"stats": stats_reply(), "put": trickle}))
    with PoolManager([server.address], timeout=0.5, health_interval=60) as pool, within(1.0, "the batch"):
        outcomes = pool.put_many(["x"] * 5)
    assert {type(outcome) for outcome in outcomes} == {PutAmbiguous}
