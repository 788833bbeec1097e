"""Histograms of what a pool does, measured as it happens."""

from __future__ import annotations

import threading
import weakref
from typing import Any

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Histogram

from beanpool import AttemptOutcome, JobEnd, Observer, PoolManager
from beanpool.contrib.prometheus.pools import PoolCollector

OTHERS = "*"
"""The label of tubes beyond the limit; no tube can be called that."""

# A command takes some 50 µs on the same machine, and its timeout in the worst case.
_COMMAND = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_WAIT = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)


class _Instruments:
    """What is measured, for all observed pools of a registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def histogram(
            name: str, text: str, labels: tuple[str, ...], buckets: tuple[float, ...] = _COMMAND
        ) -> Histogram:
            return Histogram(f"beanpool_{name}", text, ("pool", *labels), buckets=buckets, registry=registry)

        def counter(name: str, text: str, labels: tuple[str, ...]) -> Counter:
            return Counter(f"beanpool_{name}", text, ("pool", *labels), registry=registry)

        self.put = histogram(
            "put_duration_seconds",
            "How long attempts to put took, with the wait for a connection; a batch counts once.",
            ("server", "outcome"),
        )
        self.tube_put = counter("tube_jobs_put", "Jobs that were to be put into a tube.", ("tube", "outcome"))
        self.tube_bytes = counter("tube_bytes_put", "The size of their bodies.", ("tube", "outcome"))
        self.reserve = histogram(
            "reserve_duration_seconds",
            "How long calls waited that reserved jobs; reserving many counts once for each server.",
            ("server",),
            _WAIT,
        )
        self.tube_reserved = counter(
            "tube_jobs_reserved",
            "Jobs that were reserved from a tube; without its name where it was not asked for.",
            ("tube",),
        )
        self.finish = histogram(
            "finish_duration_seconds",
            "How long it took to delete, release or bury jobs; a batch counts once.",
            ("server", "how"),
        )
        self.tube_finished = counter("tube_jobs_finished", "Jobs of a tube that were finished.", ("tube", "how"))
        self.held = histogram(
            "job_held_seconds",
            "How long jobs were reserved until they were finished; a batch counts once, with its mean.",
            ("tube", "how"),
            _WAIT,
        )
        self.touch = histogram(
            "touch_duration_seconds", "How long touches took; a batch counts once.", ("server", "outcome")
        )
        self.connect = histogram(
            "connect_duration_seconds",
            "How long it took to connect, and to learn who the server is.",
            ("server", "outcome"),
        )
        self.observers: weakref.WeakKeyDictionary[PoolManager[Any], PoolObserver] = weakref.WeakKeyDictionary()
        self.counters = PoolCollector()
        registry.register(self.counters)


_instruments: weakref.WeakKeyDictionary[CollectorRegistry, _Instruments] = weakref.WeakKeyDictionary()
_lock = threading.Lock()


class PoolObserver(Observer):
    """Measures a pool for Prometheus; :func:`observe` makes it."""

    def __init__(self, pool: PoolManager[Any], instruments: _Instruments, most_tubes: int) -> None:
        self._pool = weakref.ref(pool)
        self._name = pool.name
        self._instruments = instruments
        self._most_tubes = most_tubes
        self._tubes: set[str] = set()
        # By what they are of: to look one up in the library takes longer than all the rest.
        self._put: dict[tuple[str, str, str], tuple[Any, Any, Any]] = {}
        self._reserved: dict[tuple[str, str | None], tuple[Any, Any]] = {}
        self._finished: dict[tuple[str, str | None, str], tuple[Any, Any, Any]] = {}
        self._touched: dict[tuple[str, bool], Any] = {}
        self._connected: dict[tuple[str, bool], Any] = {}

    def close(self) -> None:
        """Measure no more. What was measured stays in the registry."""
        pool = self._pool()
        if pool is None:
            return
        with _lock:
            known = self._instruments.observers.pop(pool, None)
        if known is not None:
            self._instruments.counters.remove(pool)
            pool.remove_observer(self)

    def put(self, server: str, tube: str, count: int, size: int, seconds: float, outcome: AttemptOutcome) -> None:
        """See :class:`Observer`."""
        found = self._put.get((server, tube, outcome))
        if found is None:
            of = self._instruments
            label = self._label(tube)
            found = self._put[server, tube, outcome] = (
                of.put.labels(self._name, server, outcome),
                of.tube_put.labels(self._name, label, outcome),
                of.tube_bytes.labels(self._name, label, outcome),
            )
        duration, jobs, size_of_bodies = found
        duration.observe(seconds)
        jobs.inc(count)
        size_of_bodies.inc(size)

    def reserved(self, server: str, tube: str | None, count: int, waited: float) -> None:
        """See :class:`Observer`."""
        found = self._reserved.get((server, tube))
        if found is None:
            of = self._instruments
            found = self._reserved[server, tube] = (
                of.reserve.labels(self._name, server),
                of.tube_reserved.labels(self._name, self._label(tube)),
            )
        duration, jobs = found
        duration.observe(waited)
        jobs.inc(count)

    def finished(self, server: str, tube: str | None, how: JobEnd, count: int, held: float, seconds: float) -> None:
        """See :class:`Observer`."""
        found = self._finished.get((server, tube, how))
        if found is None:
            of = self._instruments
            label = self._label(tube)
            found = self._finished[server, tube, how] = (
                of.finish.labels(self._name, server, how),
                of.held.labels(self._name, label, how),
                of.tube_finished.labels(self._name, label, how),
            )
        duration, how_long_held, jobs = found
        duration.observe(seconds)
        how_long_held.observe(held)
        jobs.inc(count)

    def touched(self, server: str, count: int, seconds: float, ok: bool) -> None:
        """See :class:`Observer`."""
        self._child(self._touched, server, ok, self._instruments.touch).observe(seconds)

    def connected(self, server: str, seconds: float, error: Exception | None) -> None:
        """See :class:`Observer`."""
        self._child(self._connected, server, error is None, self._instruments.connect).observe(seconds)

    def _child(self, known: dict[tuple[str, bool], Any], server: str, ok: bool, of: Histogram) -> Any:
        found = known.get((server, ok))
        if found is None:
            found = known[server, ok] = of.labels(self._name, server, "ok" if ok else "failed")
        return found

    def _label(self, tube: str | None) -> str:
        if tube is None:
            return ""
        if tube not in self._tubes:
            if len(self._tubes) >= self._most_tubes:
                return OTHERS
            self._tubes.add(tube)
        return tube


def observe(pool: PoolManager[Any], registry: CollectorRegistry = REGISTRY, *, most_tubes: int = 100) -> PoolObserver:
    """Have all metrics of a pool: its counters (:class:`PoolCollector`), and histograms of what it does.

    It may be called for several pools and one registry; they are told apart by the label ``pool``, their name.

    :param registry: where the metrics are; that of ``prometheus_client`` unless another is given.
    :param most_tubes: how many tubes have metrics of their own. Those that come later share the label ``tube="*"``:
        Prometheus keeps a time series for each.
    :returns: the observer, whose ``close()`` ends it; the same one if the pool is observed there already.
    """
    with _lock:
        instruments = _instruments.get(registry)
        if instruments is None:
            instruments = _instruments[registry] = _Instruments(registry)
        observer = instruments.observers.get(pool)
        if observer is not None:
            return observer
        observer = instruments.observers[pool] = PoolObserver(pool, instruments, most_tubes)
    instruments.counters.add(pool)
    pool.add_observer(observer)
    return observer
