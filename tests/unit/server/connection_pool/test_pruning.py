"""A limit that is changed, where no monitor comes by."""

from __future__ import annotations

import time

import pytest
from support.server_pools import connections_of, soon, waiting
from support.servers import BeanstalkdServer
from support.threads import background
from support.waiting import wait_until

from beanpool import PoolTimeout


def test_those_who_wait_get_what_there_is_more_at_once(beanstalkd: BeanstalkdServer) -> None:
    with connections_of(beanstalkd.host, beanstalkd.port, 1) as (pool, _):
        first = pool.acquire(soon())
        threads = [background(lambda: pool.acquire(soon())) for _ in range(2)]
        wait_until(lambda: waiting(pool) == 2, "both to wait")
        pool.pruning.resize(3)
        for connection in (first, *(thread.result() for thread in threads)):
            pool.checkin(connection)
        assert (pool.max_connections, pool.counts()) == (3, (3, 3))


def test_what_is_too_many_goes_oldest_first(beanstalkd: BeanstalkdServer) -> None:
    with connections_of(beanstalkd.host, beanstalkd.port, 4) as (pool, owner):
        connections = [pool.acquire(soon()) for _ in range(4)]
        for connection in connections[:3]:
            pool.checkin(connection)
        pool.pruning.resize(2)
        assert pool.places.idle == [connections[2]]
        assert owner.closings == ["max_connections was lowered"] * 2
        pool.checkin(connections[3])
        assert pool.places.idle == connections[2:]
        assert not any(connection.closed for connection in connections[2:])


def test_a_lower_limit_leaves_a_spare_one_beside_those_that_are_held_and_no_more(beanstalkd: BeanstalkdServer) -> None:
    with connections_of(beanstalkd.host, beanstalkd.port, 4) as (pool, _):
        held = [pool.acquire_for_long(soon(), ()) for _ in range(4)]
        pool.pruning.resize(1)
        held.append(pool.acquire(soon()))
        # As a command does that reserves a job by its id.
        held[-1].lent = True
        with pytest.raises(PoolTimeout):
            pool.acquire(time.monotonic() + 0.02)
        for connection in held:
            connection.lent = False
            pool.checkin(connection)
        assert pool.counts() == (1, 1)
