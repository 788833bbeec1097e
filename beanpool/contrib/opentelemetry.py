"""Metrics and spans for OpenTelemetry, by its conventions for messaging. It needs the extra ``opentelemetry``.

That is the API alone: where they go is up to the SDK that the program configures. Without one, they go nowhere and cost
next to nothing.

A job of beanstalkd is a body and no more: there is no header that could carry a trace from the program that puts it to
the one that works on it. This module does not change bodies. A program that has a place for it in its own format can
say so, by `context`: see :func:`process`.
"""

from __future__ import annotations

import contextlib
import functools
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

from opentelemetry.context import Context
from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation, get_meter
from opentelemetry.trace import SpanKind, Status, StatusCode, TracerProvider, get_tracer

from beanpool import AttemptOutcome, Job, JobEnd, Observer, PoolManager, __version__

Result = TypeVar("Result")
ContextOf = Callable[[Job[Any]], Context | None]
"""Finds in a job's body the context of the program that has put it; None if there is none."""

_NAME = "beanpool.contrib.opentelemetry"
_SYSTEM = "beanstalkd"
# Those that the conventions advise: seconds.
_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)
_TYPES = {"put": "send", "reserve": "receive", "delete": "settle", "release": "settle", "bury": "settle"}
_COMMANDS: Mapping[JobEnd, str] = {"deleted": "delete", "released": "release", "buried": "bury"}
_STORED = ("stored", "buried")
_COUNTERS = {
    "put_errors": "Puts that ended with an error.",
    "puts_rerouted": "Puts that another server took than the first choice.",
    "puts_ambiguous": "Puts that may or may not be stored.",
    "jobs_lost": "Reservations that were lost.",
    "outages_num": "How often a server went down.",
}

Attributes = dict[str, str | int]


class PoolObserver(Observer):
    """Tells OpenTelemetry what a pool does; :func:`observe` makes it."""

    def __init__(
        self,
        pool: PoolManager[Any],
        tracer_provider: TracerProvider | None,
        meter_provider: MeterProvider | None,
        spans: bool,
    ) -> None:
        self._pool = weakref.ref(pool)
        self._tracer = get_tracer(_NAME, __version__, tracer_provider)
        self._spans = spans
        meter = get_meter(_NAME, __version__, meter_provider)
        self._duration = meter.create_histogram(
            "messaging.client.operation.duration",
            unit="s",
            description="Duration of messaging operation initiated by a producer or consumer client.",
            explicit_bucket_boundaries_advisory=_BUCKETS,
        )
        self._sent = meter.create_counter(
            "messaging.client.sent.messages",
            unit="{message}",
            description="Number of messages producer attempted to send to the broker.",
        )
        self._consumed = meter.create_counter(
            "messaging.client.consumed.messages",
            unit="{message}",
            description="Number of messages that were delivered to the application.",
        )
        # They are alike in nearly all calls; to build them takes as long as to record them.
        self._attributes: dict[tuple[str, str, str | None, str | None], Attributes] = {}
        self._watch(meter, pool)

    def _watch(self, meter: Any, pool: PoolManager[Any]) -> None:
        """Have the pool's own counters read when metrics are collected."""
        # The meter keeps the callbacks for ever, and must not keep the pool.
        weakly = weakref.ref(pool)
        labels = {"beanpool.pool": pool.name}

        def counter(name: str) -> Callable[[CallbackOptions], Iterable[Observation]]:
            def read(_: CallbackOptions) -> Iterable[Observation]:
                found = weakly()
                return [Observation(found.get_stats()[name], labels)] if found is not None else []

            return read

        def connections(_: CallbackOptions) -> Iterable[Observation]:
            found = weakly()
            for status in found.servers if found is not None else ():
                for state, count in (("idle", status.idle), ("used", status.leased)):
                    yield Observation(count, {**labels, **_address(status.address), "state": state})

        for name, text in _COUNTERS.items():
            meter.create_observable_counter(f"beanpool.{name}", [counter(name)], description=text)
        meter.create_observable_up_down_counter(
            "beanpool.in_hand", [counter("in_hand")], description="Jobs that are reserved here and not finished."
        )
        meter.create_observable_up_down_counter(
            "beanpool.connections", [connections], description="Connections that are open."
        )

    def close(self) -> None:
        """Tell nothing more."""
        pool = self._pool()
        if pool is not None:
            pool.remove_observer(self)

    def put(self, server: str, tube: str, count: int, size: int, seconds: float, outcome: AttemptOutcome) -> None:
        """See :class:`Observer`."""
        error = None if outcome in _STORED else outcome
        attributes = self._attributes_of("put", server, tube, error)
        self._sent.add(count, attributes)
        self._duration.record(seconds, attributes)
        if self._spans:
            about: Attributes = {"messaging.message.body.size": size} if count == 1 else {}
            self._span("put", tube, attributes, count, seconds, about, error)

    def reserved(self, server: str, tube: str | None, count: int, waited: float) -> None:
        """See :class:`Observer`."""
        attributes = self._attributes_of("reserve", server, tube)
        self._consumed.add(count, attributes)
        self._duration.record(waited, attributes)
        if self._spans:
            self._span("reserve", tube, attributes, count, waited)

    def finished(self, server: str, tube: str | None, how: JobEnd, count: int, held: float, seconds: float) -> None:
        """See :class:`Observer`."""
        command = _COMMANDS[how]
        attributes = self._attributes_of(command, server, tube)
        self._duration.record(seconds, attributes)
        if self._spans:
            self._span(command, tube, attributes, count, seconds)

    def touched(self, server: str, count: int, seconds: float, ok: bool) -> None:
        """See :class:`Observer`."""
        # A span would tell of no work: most touches are made in the background.
        self._duration.record(seconds, self._attributes_of("touch", server, None, None if ok else "not_touched"))

    def _attributes_of(self, command: str, server: str, tube: str | None, error: str | None = None) -> Attributes:
        key = command, server, tube, error
        found = self._attributes.get(key)
        if found is None:
            found = {
                "messaging.system": _SYSTEM,
                "messaging.operation.name": command,
                **({"messaging.operation.type": _TYPES[command]} if command in _TYPES else {}),
                **({"messaging.destination.name": tube} if tube is not None else {}),
                **_address(server),
                **({"error.type": error} if error is not None else {}),
            }
            if len(self._attributes) < 10_000:
                self._attributes[key] = found
        return found

    def _span(
        self,
        command: str,
        tube: str | None,
        attributes: Attributes,
        count: int,
        seconds: float,
        about: Attributes = {},  # noqa: B006  # Only read.
        error: str | None = None,
    ) -> None:
        """Tell of a command that has just ended."""
        now = time.time_ns()
        span = self._tracer.start_span(
            f"{command} {tube}" if tube is not None else command,
            # Not PRODUCER: the context of the span does not travel with the job.
            kind=SpanKind.CLIENT,
            attributes=attributes,
            start_time=now - int(seconds * 1e9),
        )
        if span.is_recording():
            if count > 1:
                span.set_attribute("messaging.batch.message_count", count)
            if about:
                span.set_attributes(about)
            if error is not None:
                span.set_status(Status(StatusCode.ERROR, error))
        span.end(now)


def observe(
    pool: PoolManager[Any],
    *,
    tracer_provider: TracerProvider | None = None,
    meter_provider: MeterProvider | None = None,
    spans: bool = True,
) -> PoolObserver:
    """Tell OpenTelemetry from now on of what `pool` does.

    - Spans, each a child of the one in which the command was called: ``put TUBE``, ``reserve TUBE``, ``delete TUBE``,
      ``release TUBE``, ``bury TUBE``. A batch is one for each server and tube. A put that fails over is several: one
      for each attempt.
    - Metrics: ``messaging.client.operation.duration``, ``messaging.client.sent.messages`` and
      ``messaging.client.consumed.messages``, by command, server and tube; and the pool's own counters as
      ``beanpool.*``.

    :param tracer_provider: where spans go; None for the global one.
    :param meter_provider: where metrics go; None for the global one.
    :param spans: False for metrics alone.
    :returns: the observer, whose ``close()`` ends it.
    """
    observer = PoolObserver(pool, tracer_provider, meter_provider, spans)
    pool.add_observer(observer)
    return observer


@contextlib.contextmanager
def process(
    job: Job[Any],
    *,
    context: ContextOf | None = None,
    tracer_provider: TracerProvider | None = None,
    meter_provider: MeterProvider | None = None,
) -> Iterator[None]:
    """Measure the work on a job: a span ``process TUBE`` and the metric ``messaging.process.duration``.

    What is called in the block belongs to that span. An exception is noted there, and goes on.

    :param context: finds in the body the context of the program that has put the job, whose span the new one is a child
        of. beanstalkd has no place for it beside the body, so it is for programs whose bodies have one, as in
        ``lambda job: propagate.extract(json.loads(job.body))``.
    """
    tracer = _process_tracer(tracer_provider)
    duration = _process_duration(meter_provider)
    tube = job.tube
    attributes: Attributes = {
        "messaging.system": _SYSTEM,
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        **({"messaging.destination.name": tube} if tube is not None else {}),
        **_address(job.server),
    }
    began = time.perf_counter()
    try:
        with tracer.start_as_current_span(
            f"process {tube}" if tube is not None else "process",
            context(job) if context is not None else None,
            kind=SpanKind.CONSUMER,
            attributes={
                **attributes,
                "messaging.message.id": str(job.id),
                "messaging.message.body.size": len(job.data),
            },
        ) as span:
            try:
                yield
            except BaseException as error:
                attributes["error.type"] = type(error).__qualname__
                span.set_attribute("error.type", type(error).__qualname__)
                raise
    finally:
        duration.record(time.perf_counter() - began, attributes)


def traced(
    handler: Callable[[Job[Any]], Result],
    *,
    context: ContextOf | None = None,
    tracer_provider: TracerProvider | None = None,
    meter_provider: MeterProvider | None = None,
) -> Callable[[Job[Any]], Result]:
    """A handler for :class:`beanpool.worker.Worker` that calls `handler` within :func:`process`."""

    @functools.wraps(handler)
    def within_span(job: Job[Any]) -> Result:
        with process(job, context=context, tracer_provider=tracer_provider, meter_provider=meter_provider):
            return handler(job)

    return within_span


@functools.lru_cache(maxsize=8)
def _process_tracer(tracer_provider: TracerProvider | None) -> Any:
    return get_tracer(_NAME, __version__, tracer_provider)


@functools.lru_cache(maxsize=8)
def _process_duration(meter_provider: MeterProvider | None) -> Any:
    return get_meter(_NAME, __version__, meter_provider).create_histogram(
        "messaging.process.duration",
        unit="s",
        description="Duration of processing operation.",
        explicit_bucket_boundaries_advisory=_BUCKETS,
    )


def _address(server: str) -> Attributes:
    host, colon, port = server.rpartition(":")
    if colon and port.isdigit():
        return {"server.address": host.strip("[]"), "server.port": int(port)}
    return {"server.address": server}
