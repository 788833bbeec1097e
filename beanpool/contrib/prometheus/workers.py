"""The counters of a worker."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

from prometheus_client import Metric
from prometheus_client.registry import Collector

from beanpool.contrib.prometheus.families import Family, Filled

_COUNTS = {
    "taken": Family("beanpool_worker_jobs_taken", "Jobs that the worker has taken.", counter=True),
    "done": Family("beanpool_worker_jobs_done", "Jobs that were done.", counter=True),
    "retried": Family("beanpool_worker_jobs_retried", "Jobs that will be tried again.", counter=True),
    "buried": Family("beanpool_worker_jobs_buried", "Jobs that were buried.", counter=True),
    "lost": Family("beanpool_worker_jobs_lost", "Jobs that were lost while they were worked on.", counter=True),
    "given_back": Family("beanpool_worker_jobs_given_back", "Jobs that were given back at the end.", counter=True),
    "failed": Family("beanpool_worker_handler_errors", "Calls of handlers that raised.", counter=True),
}


class HasStats(Protocol):
    """A worker, as far as it is needed here."""

    def get_stats(self) -> Mapping[str, int]:
        """Its counters."""


class WorkerCollector(Collector):
    """The counters of a :class:`beanpool.worker.Worker`, as metrics ``beanpool_worker_...``: one for each registry.

    ``beanpool worker --health ADDRESS`` has it already.
    """

    def __init__(self, worker: HasStats) -> None:
        self._worker = worker

    def describe(self) -> Iterable[Metric]:
        """The metrics without values, for the registry."""
        return [family.empty() for family in _COUNTS.values()]

    def collect(self) -> Iterable[Metric]:
        """The metrics of this moment."""
        filled = Filled()
        counts = self._worker.get_stats()
        for name, family in _COUNTS.items():
            filled.add(family, {}, counts[name])
        return filled.metrics()
