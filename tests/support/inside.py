"""What tests see of a pool that no user does: the one place that knows how a pool is put together."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from beanpool import PoolManager
from beanpool.cluster.cluster import Cluster
from beanpool.reserve.wait import SharedWait
from beanpool.server.connection_pool import ConnectionPool
from beanpool.server.member import Member


@dataclasses.dataclass(frozen=True)
class Inside:
    """The parts of one pool."""

    pool: PoolManager

    @property
    def cluster(self) -> Cluster:
        return self.pool._cluster

    @property
    def members(self) -> Sequence[Member]:
        return self.cluster.topology.members

    @property
    def waits(self) -> dict[Any, SharedWait]:
        """By the tubes that are waited on."""
        return self.pool._reserver._waits

    def connections_of(self, number: int) -> ConnectionPool:
        """The connections to one of the servers."""
        return self.members[number].pool


def inside(pool: PoolManager) -> Inside:
    """The parts of `pool`."""
    return Inside(pool)
