"""Pools for tests."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from beanpool import PoolManager
from support.servers import BeanstalkdServer


def pool_of(*servers: BeanstalkdServer, **options: Any) -> PoolManager[Any]:
    """A pool that checks health often, so that a test of what a check finds out does not take long."""
    return PoolManager([server.address for server in servers], **{"health_interval": 0.3, **options})


def unprobed(*servers: BeanstalkdServer, **options: Any) -> PoolManager[Any]:
    """A pool for a test that counts connections: a check of health takes one for a moment."""
    return pool_of(*servers, **{"health_interval": 60, **options})


@contextlib.contextmanager
def pool_with_jobs_in_hand(*servers: BeanstalkdServer, **options: Any) -> Iterator[PoolManager[Any]]:
    """An unprobed pool that does not wait at its end for the jobs that the test still has in hand."""
    with unprobed(*servers, **options) as pool:
        yield pool
        pool.close(0)
