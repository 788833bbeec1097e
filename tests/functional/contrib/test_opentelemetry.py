"""What OpenTelemetry is told, by its conventions for messaging: spans, metrics, and the work on a job."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from support.pools import unprobed
from support.workers import running

from beanpool import Job, PoolManager, PutFailed
from beanpool.worker import Worker

pytest.importorskip("opentelemetry.sdk")
from opentelemetry import propagate
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.semconv._incubating.attributes import messaging_attributes
from opentelemetry.semconv._incubating.metrics import messaging_metrics
from opentelemetry.trace import SpanKind, StatusCode
from support.waiting import wait_until

from beanpool.contrib.opentelemetry import observe, process, traced

if TYPE_CHECKING:
    from conftest import StartCluster

OF_CONVENTIONS = {
    value
    for module in (messaging_attributes, messaging_metrics)
    for value in vars(module).values()
    if isinstance(value, str)
}


class Telemetry:
    """An SDK that keeps what it is told."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.tracer_provider = TracerProvider()
        self.tracer_provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self._reader = InMemoryMetricReader()
        self.meter_provider = MeterProvider([self._reader])
        self.providers: dict[str, Any] = {
            "tracer_provider": self.tracer_provider,
            "meter_provider": self.meter_provider,
        }

    def spans(self) -> list[ReadableSpan]:
        """Those that have ended, in order."""
        return list(self.exporter.get_finished_spans())

    def points(self) -> dict[str, list[Any]]:
        """The data points of all metrics."""
        data = self._reader.get_metrics_data()
        found: dict[str, list[Any]] = {}
        for resource in data.resource_metrics if data is not None else ():
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    found[metric.name] = list(metric.data.data_points)
        return found


@pytest.fixture
def telemetry() -> Telemetry:
    return Telemetry()


def about(span: ReadableSpan) -> dict[str, Any]:
    """A span's attributes, without those of the address."""
    attributes = dict(span.attributes or {})
    assert isinstance(attributes.pop("server.address"), str)
    assert isinstance(attributes.pop("server.port"), int)
    assert attributes.pop("messaging.system") == "beanstalkd"
    return attributes


def test_commands_are_spans_of_the_caller_s_trace(cluster: StartCluster, telemetry: Telemetry) -> None:
    (a,) = cluster(1)
    with unprobed(a, tube="mail", watch="mail") as pool:
        observe(pool, **telemetry.providers)
        with telemetry.tracer_provider.get_tracer("test").start_as_current_span("request") as request:
            pool.put("hello")
        job = pool.reserve(1)
        assert job is not None
        job.release()
        job = pool.reserve(1)
        assert job is not None
        job.bury()
        pool.kick()
        job = pool.reserve(1)
        assert job is not None
        job.delete()
    spans = [span for span in telemetry.spans() if span.name != "request"]
    names = ["put mail", "reserve mail", "release mail", "reserve mail", "bury mail", "reserve mail", "delete mail"]
    assert [span.name for span in spans] == names
    put = spans[0]
    assert put.parent is not None
    assert put.parent.span_id == request.get_span_context().span_id
    assert all(span.parent is None for span in spans[1:])
    assert about(put) == {
        "messaging.operation.name": "put",
        "messaging.operation.type": "send",
        "messaging.destination.name": "mail",
        "messaging.message.body.size": 5,
    }
    assert [span.attributes["messaging.operation.type"] for span in spans if span.attributes] == [
        *("send", "receive", "settle", "receive", "settle", "receive", "settle")
    ]
    for span in spans:
        assert span.kind is SpanKind.CLIENT
        assert span.start_time is not None
        assert span.end_time is not None
        assert 0 <= span.end_time - span.start_time < 60e9
        assert {name for name in about(span) if name.startswith("messaging.")} <= OF_CONVENTIONS


def test_a_batch_is_one_span_for_each_server(cluster: StartCluster, telemetry: Telemetry) -> None:
    a, b = cluster(2)
    with unprobed(a, b) as pool:
        observe(pool, **telemetry.providers)
        pool.put_many(["x"] * 10)
    spans = telemetry.spans()
    assert [span.name for span in spans] == ["put default"] * 2
    assert sum(about(span)["messaging.batch.message_count"] for span in spans) == 10
    (sent,) = {sum(point.value for point in points) for name, points in telemetry.points().items() if "sent" in name}
    assert sent == 10


def test_an_attempt_that_fails_is_an_error(telemetry: Telemetry) -> None:
    with PoolManager("127.0.0.1:1", timeout=0.2) as pool:
        observe(pool, **telemetry.providers)
        with pytest.raises(PutFailed):
            pool.put("x")
        points = telemetry.points()
    span = telemetry.spans()[0]
    assert span.status.status_code is StatusCode.ERROR
    assert about(span)["error.type"] == "not_sent"
    assert points["messaging.client.operation.duration"][0].attributes["error.type"] == "not_sent"
    assert points["beanpool.put_errors"][0].value == 1


def test_metrics_add_up_and_have_the_names_of_the_conventions(cluster: StartCluster, telemetry: Telemetry) -> None:
    (a,) = cluster(1)
    with unprobed(a) as pool:
        observer = observe(pool, **telemetry.providers, spans=False)
        for number in range(3):
            pool.put(str(number))
        jobs = pool.reserve_many(2)
        jobs[0].touch()
        points = telemetry.points()
        assert not telemetry.spans()
        assert {name for name in points if name.startswith("messaging.")} <= OF_CONVENTIONS
        assert [point.value for point in points["messaging.client.sent.messages"]] == [3]
        assert [point.value for point in points["messaging.client.consumed.messages"]] == [2]
        counts = {
            point.attributes["messaging.operation.name"]: point.count
            for point in points["messaging.client.operation.duration"]
        }
        assert counts == {"put": 3, "reserve": 1, "touch": 1}
        assert points["beanpool.in_hand"][0].value == 2
        assert sum(point.value for point in points["beanpool.connections"]) >= 1
        pool.delete_many(jobs)
        observer.close()
        pool.put("unseen")
        assert [point.value for point in telemetry.points()["messaging.client.sent.messages"]] == [3]


def test_a_worker_s_handler_is_a_span_and_what_it_puts_belongs_to_it(
    cluster: StartCluster, telemetry: Telemetry
) -> None:
    (a,) = cluster(1)

    def handler(job: Job) -> None:
        if job.body == "bad":
            raise LookupError
        pool.put("follow-up", tube="next")

    with unprobed(a) as pool:
        observe(pool, **telemetry.providers)
        worker = Worker(pool, threads=1)
        worker.add("mail", traced(handler, **telemetry.providers))
        with running(worker):
            pool.put("good", tube="mail")
            pool.put("bad", tube="mail")
            wait_until(lambda: worker.get_stats()["failed"] == 1, "the failure")
    spans = {span.name: span for span in telemetry.spans()}
    good, bad = (span for span in telemetry.spans() if span.name == "process mail")
    assert good.kind is SpanKind.CONSUMER
    follow_up = spans["put next"]
    assert follow_up.parent is not None
    assert good.context is not None
    assert follow_up.parent.span_id == good.context.span_id
    assert about(good)["messaging.message.body.size"] == 4
    assert bad.status.status_code is StatusCode.ERROR
    assert about(bad)["error.type"] == "LookupError"
    errors = [point.attributes.get("error.type") for point in telemetry.points()["messaging.process.duration"]]
    assert sorted(errors, key=str) == ["LookupError", None]


def test_a_program_may_carry_the_context_in_its_own_bodies(cluster: StartCluster, telemetry: Telemetry) -> None:
    (a,) = cluster(1)
    with unprobed(a) as pool:
        with telemetry.tracer_provider.get_tracer("test").start_as_current_span("request") as request:
            carrier: dict[str, str] = {}
            propagate.inject(carrier)
            pool.put(json.dumps({"trace": carrier, "to": "alice"}))
        job = pool.reserve(1)
        assert job is not None
        with (
            process(job, context=lambda job: propagate.extract(json.loads(job.body)["trace"]), **telemetry.providers),
            job,
        ):
            pass
    span = next(span for span in telemetry.spans() if span.name == "process default")
    assert span.context is not None
    assert span.context.trace_id == request.get_span_context().trace_id
    assert span.parent is not None
    assert span.parent.span_id == request.get_span_context().span_id


def test_without_an_sdk_nothing_happens(cluster: StartCluster) -> None:
    (a,) = cluster(1)
    with unprobed(a) as pool:
        observe(pool)
        pool.put("x")
        job = pool.reserve(1)
        assert job is not None
        with process(job), job:
            pass
