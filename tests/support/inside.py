"""What tests see of a pool that no user does: the one place that knows how a pool is put together."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from beanpool import PoolManager
from beanpool.cluster import Cluster
from beanpool.member import Member
from beanpool.server_pool import ConnectionPool
from beanpool.shared_wait import SharedWait


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
