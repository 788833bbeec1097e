"""The counters of pools, read when they are scraped: nothing on the path of a job."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any

from prometheus_client import Metric
from prometheus_client.registry import Collector

from beanpool import PoolManager
from beanpool.contrib.prometheus.families import Family, Filled

_JOBS = {
    "puts": Family("beanpool_jobs_put", "Jobs that a server has stored.", counter=True),
    "reserved": Family("beanpool_jobs_reserved", "Jobs that were reserved.", counter=True),
    "deleted": Family("beanpool_jobs_deleted", "Jobs that were deleted.", counter=True),
    "released": Family("beanpool_jobs_released", "Jobs that were given back.", counter=True),
    "buried": Family("beanpool_jobs_buried", "Jobs that were buried.", counter=True),
    "touched": Family("beanpool_jobs_touched", "Touches of jobs.", counter=True),
}
_OF_SERVER = {
    **_JOBS,
    "in_hand": Family("beanpool_jobs_in_hand", "Jobs that are reserved here and not finished."),
    "put_attempts_failed": Family("beanpool_put_attempts_failed", "Attempts to put that failed.", counter=True),
    "requests_num": Family("beanpool_connection_requests", "Callers who wanted a connection.", counter=True),
    "requests_queued": Family("beanpool_connection_waits", "Callers who had to wait for a connection.", counter=True),
    "requests_wait_ms": Family(
        "beanpool_connection_wait_seconds", "The time that callers waited for connections.", counter=True, scale=0.001
    ),
    "requests_waiting": Family("beanpool_connection_waiting", "Callers who wait for a connection now."),
    "requests_errors": Family(
        "beanpool_connection_wait_errors", "Callers who waited for a connection in vain.", counter=True
    ),
    "connections_num": Family("beanpool_connects", "Connections that were made.", counter=True),
    "connections_ms": Family(
        "beanpool_connect_seconds", "The time that it took to make connections.", counter=True, scale=0.001
    ),
    "connections_errors": Family("beanpool_connect_errors", "Connections that could not be made.", counter=True),
    "connections_lost": Family("beanpool_connections_lost", "Connections that broke.", counter=True),
    "returns_bad": Family("beanpool_connections_returned_bad", "Connections that came back broken.", counter=True),
    "pool_max": Family("beanpool_connections_max", "How many connections there may be."),
}
_OF_POOL = {
    "put_errors": Family("beanpool_put_errors", "Puts that ended with an error.", counter=True),
    "puts_rerouted": Family(
        "beanpool_puts_rerouted", "Puts that another server took than the first choice.", counter=True
    ),
    "puts_ambiguous": Family("beanpool_puts_ambiguous", "Puts that may or may not be stored.", counter=True),
    "retries_num": Family("beanpool_put_retries", "Rounds in which puts were tried again.", counter=True),
    "retries_refused": Family(
        "beanpool_put_retries_refused", "Puts that were not tried again: there were too many of them.", counter=True
    ),
    "jobs_lost": Family("beanpool_jobs_lost", "Reservations that were lost.", counter=True),
    "outages_num": Family("beanpool_outages", "How often a server went down.", counter=True),
}
_STATE = Family("beanpool_server_state", "What is believed of a server: 1 for the state that it is in.")
_DRAINING = Family("beanpool_server_draining", "Whether a server takes no puts any more.")
_LEAVING = Family("beanpool_server_leaving", "Whether a server leaves the pool when it is empty.")
_WEIGHT = Family("beanpool_server_weight", "A server's share of the puts, beside those of the others.")
_ROUND_TRIP = Family("beanpool_server_round_trip_seconds", "The round trip of a server's last check or handshake.")
_CONNECTIONS = Family("beanpool_connections", "Connections that are open, idle, or in use.")

_ALL = (
    *(*_OF_SERVER.values(), *_OF_POOL.values()),
    *(_STATE, _DRAINING, _LEAVING, _WEIGHT, _ROUND_TRIP, _CONNECTIONS),
)


class PoolCollector(Collector):
    """The counters of pools, and what they believe of their servers, as metrics ``beanpool_...``.

    It reads them when they are scraped, and asks no server. Pools are told apart by the label ``pool``, their name; so
    give them one. A pool that is dropped, or closed, leaves.

    :param pools: one, or several: two collectors cannot be in the same registry.
    """

    def __init__(self, *pools: PoolManager[Any]) -> None:
        self._pools: weakref.WeakSet[PoolManager[Any]] = weakref.WeakSet(pools)

    def add(self, pool: PoolManager[Any]) -> None:
        """Let it have the metrics of this pool, too."""
        self._pools.add(pool)

    def remove(self, pool: PoolManager[Any]) -> None:
        """Let it have the metrics of this pool no longer."""
        self._pools.discard(pool)

    def describe(self) -> Iterable[Metric]:
        """The metrics without values, for the registry."""
        return [family.empty() for family in _ALL]

    def collect(self) -> Iterable[Metric]:
        """The metrics of this moment."""
        filled = Filled()
        for pool in sorted(self._pools, key=lambda pool: pool.name):
            self._add(filled, pool)
        return filled.metrics()

    def _add(self, filled: Filled, pool: PoolManager[Any]) -> None:
        labels = {"pool": pool.name}
        counts = pool.get_stats()
        for name, family in _OF_POOL.items():
            filled.add(family, labels, counts[name])
        by_server = pool.get_stats_by_server()
        for status in pool.servers:
            server = {**labels, "server": status.address}
            # One that has joined since is told of the next time.
            counts = by_server.get(status.address, {})
            for name, count in counts.items():
                of_server = _OF_SERVER.get(name)
                if of_server is not None:
                    filled.add(of_server, server, count)
            for state in ("up", "suspect", "down"):
                filled.add(_STATE, {**server, "state": state}, status.state == state)
            filled.add(_DRAINING, server, status.draining)
            filled.add(_LEAVING, server, status.leaving)
            filled.add(_WEIGHT, server, status.weight)
            if status.round_trip is not None:
                filled.add(_ROUND_TRIP, server, status.round_trip)
            for state, connections in (("open", status.open), ("idle", status.idle), ("in_use", status.leased)):
                filled.add(_CONNECTIONS, {**server, "state": state}, connections)
