"""A batch and the connections of its servers: where they are few, and others use them."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from support.batches import stored_in
from support.inside import inside
from support.pools import pool_with_jobs_in_hand
from support.putting import key_of
from support.servers import BeanstalkdServer
from support.threads import run_together
from support.waiting import within

from beanpool import PoolManager, PoolTimeoutForPut, Put

if TYPE_CHECKING:
    from conftest import StartCluster


def test_a_full_pool_is_waited_for_once(beanstalkd: BeanstalkdServer) -> None:
    with pool_with_jobs_in_hand(beanstalkd, max_connections=1, timeout=0.4) as pool:
        with in_use(pool, 0), within(0.4, "the batch"):
            outcomes = pool.put_many(["x"] * 600)
        assert {type(outcome) for outcome in outcomes} == {PoolTimeoutForPut}
        stored_in(pool.put_many(["x"] * 10))


def test_a_full_pool_beside_one_that_is_not(cluster: StartCluster) -> None:
    servers = cluster(2)
    with pool_with_jobs_in_hand(*servers, max_connections=1, timeout=1) as pool:
        keys = [key_of(pool, server.address) for server in servers]
        with in_use(pool, 0), within(1, "the batch"):
            stored = stored_in(pool.put_many(Put("x", key=keys[number % 2]) for number in range(200)))
        assert {jid.server for jid in stored} == {servers[1].address}


def test_it_does_not_wait_for_its_own(beanstalkd: BeanstalkdServer) -> None:
    with pool_with_jobs_in_hand(beanstalkd, max_connections=2, timeout=10) as pool, within(3, "the batch"):
        stored_in(pool.put_many(Put("x", tube=f"tube-{number % 5}") for number in range(200)))


def test_batches_do_not_wait_for_each_other_for_ever(cluster: StartCluster) -> None:
    servers = cluster(2)
    with pool_with_jobs_in_hand(*servers, max_connections=1, timeout=20) as pool, within(15, "all batches"):
        run_together(
            *[
                lambda: stored_in(
                    pool.put_many(Put("x", key=f"{number}", tube=f"tube-{number % 2}") for number in range(100))
                )
            ]
            * 3,
            timeout=20,
        )


@contextlib.contextmanager
def in_use(pool: PoolManager, server: int) -> Iterator[None]:
    """Within the block a call has a connection of this server's pool."""
    with inside(pool).connections_of(server).lend(time.monotonic() + 5):
        yield
