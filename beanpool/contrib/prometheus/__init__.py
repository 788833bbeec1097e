"""Metrics for Prometheus: of a pool, and of the servers themselves. It needs the extra ``prometheus``."""

from beanpool.contrib.prometheus.observing import PoolObserver, observe
from beanpool.contrib.prometheus.pools import PoolCollector
from beanpool.contrib.prometheus.servers import ServerCollector
from beanpool.contrib.prometheus.workers import WorkerCollector

__all__ = ["PoolCollector", "PoolObserver", "ServerCollector", "WorkerCollector", "observe"]
