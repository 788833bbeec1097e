"""The network ends after k bytes of request or reply: no k gives a wrong result, a hang or a lost job."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest
from chaos.operations import CONNECT_TIMEOUT, DEADLINE, PATIENT, RECOVERY, Stage, settle, witnesses
from chaos.proxies import LinkedServer
from chaos.report import Results
from support.lag import LagProbe
from support.ledger import Ledger
from support.threads import background
from support.toxiproxy import STREAMS
from support.waiting import wait_until

from beanpool import Connection, Job, JobId, JobLost, NoServerAvailable, PoolManager
from beanpool.errors import BeanpoolError, ConnectionFailed
from beanpool.testing.raw_client import StoredJob
from beanpool.testing.toxiproxy import Stream

if TYPE_CHECKING:
    from chaos.conftest import StartProxied

Case = Callable[[Stage, Stream, int], str]
"""One operation with the network ending after so many bytes; returns in words what came of it."""


def cuts(length: int, step: int = 3) -> list[int]:
    """After how many bytes to cut: every number for the first line and for the last bytes, and some between."""
    return sorted({*range(min(16, length)), *range(16, length, step), *range(max(0, length - 4), length + 1)})


@contextlib.contextmanager
def stage_on(servers: list[LinkedServer], ledger: Ledger, lag: LagProbe) -> Iterator[Stage]:
    """A pool whose monitor keeps still, with a connection to the sick server."""
    stage = Stage(servers[0], servers[1], "tube", ledger, lag, deadline=PATIENT, health_interval=60.0)
    with stage.pool:
        outcome, body = stage.put(stage.key)
        assert outcome == "stored"
        job = stage.reserve()
        assert job is not None
        assert job.data == body
        stage.delete(job)
        yield stage


def put(stage: Stage, stream: Stream, k: int) -> str:
    with stage.sick.link.toxic("limit_data", stream, bytes=k):
        outcome, body = stage.put(stage.key)
    stored = stage.jobs_on_sick()
    _take_out(stage)
    request = len(f"put 2147483648 0 120 {len(body)}\r\n{body.decode()}\r\n")
    # A put of which the last byte is missing is not in the server; one that is there in full is.
    assert stored == (stream == "downstream" or k >= request), outcome
    # What is stored twice says so. What is not may have to say so too: nobody can know.
    assert not (outcome == "elsewhere" and stored)
    if outcome == "stored":
        assert k >= (len("INSERTED 1\r\n") if stream == "downstream" else request)
    return outcome


def put_many(stage: Stage, stream: Stream, k: int) -> str:
    bodies = stage.ledger.tokens(3)
    with stage.sick.link.toxic("limit_data", stream, bytes=k):
        outcomes = stage.timed("put_many", lambda: stage.pool.put_many(bodies, key=stage.key), 2 * stage.deadline)
    stored = {job.body for job in _take_out(stage)}
    counts: Counter[str] = Counter()
    end = 0
    for body, outcome in zip(bodies, outcomes, strict=True):
        assert isinstance(outcome, JobId), outcome
        stage.ledger.acked(body, outcome.server, outcome, outcome.maybe_duplicate)
        end += len(f"put 2147483648 0 120 {len(body)}\r\n{body.decode()}\r\n")
        arrived = stream == "downstream" or k >= end
        # A server whose first reply meets a closed link may be told so before it comes to the next command.
        assert body not in stored if not arrived else body in stored or body is not bodies[0]
        there = outcome.server == stage.sick.address
        assert body in stored or not there
        assert body not in stored or there or outcome.maybe_duplicate
        counts["stored" if there else "elsewhere, maybe twice" if outcome.maybe_duplicate else "elsewhere"] += 1
    return " and ".join(f"{count} {outcome}" for outcome, count in sorted(counts.items()))


def _take_out(stage: Stage) -> list[StoredJob]:
    """Work off what is there, so that the next round begins with empty tubes; returns what the sick server had."""
    servers = (stage.sick, stage.healthy)
    # One that came while a connection still waited, for nobody, goes back after the grace.
    wait_until(
        lambda: not any(server.control.counter("current-jobs-reserved", stage.tube) for server in servers),
        "all jobs to be free",
    )
    taken = {server: server.control.drain_jobs(stage.tube) for server in servers}
    for server, jobs in taken.items():
        for job in jobs:
            stage.ledger.delivered(job.body, server.address, job.id)
            stage.ledger.deleted(job.body)
    return taken[stage.sick]


def reserve_ready(stage: Stage, stream: Stream, k: int) -> str:
    body, jid = stage.store(stage.sick)
    with stage.sick.link.toxic("limit_data", stream, bytes=k):
        job = stage.timed("reserve", lambda: stage.pool.reserve(0))
    return _judge(stage, job, body, jid)


def reserve_many(stage: Stage, stream: Stream, k: int) -> str:
    stored = dict(stage.store(stage.sick) for _ in range(2))
    with stage.sick.link.toxic("limit_data", stream, bytes=k):
        jobs = stage.timed("reserve_many", lambda: stage.pool.reserve_many(3, 0))
    # All of a connection's jobs, or none: what is cut off goes back.
    assert {job.data: job.id for job in jobs} in (stored, {})
    by_id = {job.id: job for job in jobs}
    outcomes = [_judge(stage, by_id.get(jid), body, jid) for body, jid in stored.items()]
    return " and ".join(outcomes)


def reserve_waiting(stage: Stage, stream: Stream, k: int) -> str:
    call = background(lambda: stage.timed("reserve", lambda: stage.pool.reserve(0.2), 0.2))

    def waits_everywhere() -> bool:
        nonlocal call
        if call.done:
            # On a slow machine it was over before anybody looked.
            assert call.result() is None
            call = background(lambda: stage.timed("reserve", lambda: stage.pool.reserve(0.2), 0.2))
        servers = (stage.sick, stage.healthy)
        return all(server.control.counter("current-waiting", stage.tube) for server in servers) and not call.done

    wait_until(waits_everywhere, "a waiter on both servers")
    with stage.sick.link.toxic("limit_data", stream, bytes=k):
        body, jid = stage.store(stage.sick)
        job = call.result()
    return _judge(stage, job, body, jid)


def _judge(stage: Stage, job: Job | None, body: bytes, jid: int) -> str:
    if job is not None:
        assert (job.data, job.id, job.server) == (body, jid, stage.sick.address)
        stage.ledger.delivered(job.data, job.server, job.id)
        if stage.delete(job) == "deleted":
            assert stage.sick.control.peek(jid) is None
            return "delivered"
    wait_until(lambda: stage.sick.control.state(jid) == "ready", "the job to be given back", RECOVERY)
    stage.sick.control.delete(jid)
    stage.ledger.delivered(body, stage.sick.address, jid)
    stage.ledger.deleted(body)
    return "given back"


def _reserved(stage: Stage) -> Job:
    body, _ = stage.store(stage.sick)
    job = stage.reserve()
    assert job is not None
    assert job.data == body
    return job


def delete(stage: Stage, stream: Stream, k: int) -> str:
    job = _reserved(stage)
    with stage.sick.link.toxic("limit_data", stream, bytes=k):
        outcome = stage.delete(job)
    gone = stage.sick.control.stats_job(job.id) is None
    assert gone or outcome == "JobLost"
    if not gone:
        _finish(stage, job)
    return f"{outcome}, {'gone' if gone else 'still there'}"


def delete_many(stage: Stage, stream: Stream, k: int) -> str:
    stored = dict(stage.store(stage.sick) for _ in range(2))
    jobs = stage.pool.reserve_many(2, 0)
    assert {job.data: job.id for job in jobs} == stored
    for job in jobs:
        stage.ledger.delivered(job.data, job.server, job.id)
    with stage.sick.link.toxic("limit_data", stream, bytes=k):
        outcomes = stage.timed("delete_many", lambda: stage.pool.delete_many(jobs), 2 * stage.deadline)
    told = []
    for job, outcome in zip(jobs, outcomes, strict=True):
        gone = stage.sick.control.stats_job(job.id) is None
        if outcome is None:
            assert gone
            stage.ledger.deleted(job.data)
        else:
            assert isinstance(outcome, JobLost)
            stage.ledger.delete_failed(job.data, outcome)
            if not gone:
                _finish(stage, job)
        told.append(f"{'deleted' if outcome is None else 'JobLost'}, {'gone' if gone else 'still there'}")
    return " and ".join(told)


def touch(stage: Stage, stream: Stream, k: int) -> str:
    job = _reserved(stage)
    with stage.sick.link.toxic("limit_data", stream, bytes=k):
        try:
            stage.timed("touch", job.touch)
        except JobLost:
            stage.ledger.delete_failed(job.data, "lost")
            _finish(stage, job)
            return "JobLost"
    # The link may have closed right behind the reply: then one more attempt is made on a new connection.
    assert stage.delete(job) == "deleted"
    return "touched"


def _finish(stage: Stage, job: Job) -> None:
    wait_until(lambda: stage.sick.control.state(job.id) == "ready", "the job to be given back", RECOVERY)
    stage.sick.control.delete(job.id)
    stage.ledger.delivered(job.data, job.server, job.id)
    stage.ledger.deleted(job.data)


_BODY = len("token-12345678-12345.")
LENGTHS: dict[str, tuple[Case, dict[Stream, int]]] = {
    "put": (put, {"upstream": 26 + _BODY + 2, "downstream": 16}),
    "put_many": (put_many, {"upstream": 3 * (26 + _BODY + 2), "downstream": 3 * 16}),
    "reserve ready": (reserve_ready, {"upstream": 26, "downstream": 20 + _BODY}),
    "reserve_many": (reserve_many, {"upstream": 3 * 24 + 2, "downstream": 2 * (20 + _BODY) + 11}),
    "reserve waiting": (reserve_waiting, {"upstream": 4, "downstream": 20 + _BODY}),
    "delete": (delete, {"upstream": 14, "downstream": 10}),
    "delete_many": (delete_many, {"upstream": 2 * 14, "downstream": 2 * 9 + 1}),
    "touch": (touch, {"upstream": 14, "downstream": 10}),
}


@pytest.mark.parametrize("stream", STREAMS)
@pytest.mark.parametrize("operation", LENGTHS)
def test_the_network_ends_after_k_bytes(
    operation: str, stream: Stream, proxied: StartProxied, ledger: Ledger, results: Results
) -> None:
    case, lengths = LENGTHS[operation]
    servers = proxied(2)
    outcomes: Counter[str] = Counter()
    with LagProbe() as lag, witnesses(ledger, servers):
        for k in cuts(lengths[stream]):
            with stage_on(servers, ledger, lag) as stage:
                try:
                    outcome = case(stage, stream, k)
                    _canary(stage)
                except AssertionError as error:
                    raise AssertionError(f"after {k} bytes {stream}: {error}") from error
                outcomes[outcome] += 1
    settle(ledger, servers)
    # Nothing works at 0 bytes, and everything does beyond the last one.
    assert len(outcomes) > 1 or (operation, stream) == ("reserve waiting", "upstream")
    text = ", ".join(f"{count} × {outcome}" for outcome, count in sorted(outcomes.items()))
    results.cell(f"limit_data after k bytes {stream}", operation, text, sum(outcomes.values()))


def _canary(stage: Stage) -> None:
    """Whatever connection is used next gives the answer to the question that was asked."""
    body = stage.ledger.token()
    jid = stage.pool.put(body, tube="canary")
    stage.ledger.acked(body, jid.server, jid, jid.maybe_duplicate)
    assert {server.address: server for server in (stage.sick, stage.healthy)}[jid.server].control.peek(jid) == body


@pytest.mark.parametrize("stream", STREAMS)
def test_stats_of_a_network_that_ends_after_k_bytes(stream: Stream, proxied: StartProxied, results: Results) -> None:
    (server,) = proxied(1)
    length = len("stats\r\n") + 3 if stream == "upstream" else len(server.control.command("stats")) + 40
    answered = refused = 0
    tried = cuts(length, 17)
    for k in tried:
        with Connection(server.link.host, server.link.port, timeout=DEADLINE) as connection:
            assert connection.using() == "default"
            server.link.add("limit_data", stream, bytes=k)
            try:
                statistics = connection.stats()
            except ConnectionFailed:
                refused += 1
                assert connection.closed
            else:
                answered += 1
                assert statistics["pid"] == server.server.pid
                # The reply's last line.
                assert "platform" in statistics
            server.link.clear()
    assert answered > 1
    assert refused >= len(tried) - 10
    results.cell(
        f"limit_data after k bytes {stream}", "stats", f"{answered} × answered, {refused} × error", answered + refused
    )


@pytest.mark.parametrize("stream", STREAMS)
def test_a_handshake_that_ends_after_k_bytes_stores_nothing(
    stream: Stream, proxied: StartProxied, ledger: Ledger, results: Results
) -> None:
    """A pool's connection is of use only after the server has said who it is."""
    servers = proxied(1)
    (server,) = servers
    length = len("stats\r\n") + 80 if stream == "upstream" else len(server.control.command("stats")) + 40
    outcomes: Counter[str] = Counter()
    for k in cuts(length, 31):
        body = ledger.token()
        with PoolManager(
            [server.address], timeout=DEADLINE / 10, connect_timeout=CONNECT_TIMEOUT, health_interval=60
        ) as pool:
            server.link.add("limit_data", stream, bytes=k)
            try:
                jid = pool.put(body)
            except NoServerAvailable as error:
                ledger.refused(body, error)
                outcomes["not stored"] += 1
            except BeanpoolError as error:
                ledger.ambiguous(body, 20)
                outcomes[type(error).__name__] += 1
            else:
                ledger.acked(body, jid.server, jid, jid.maybe_duplicate)
                outcomes["stored"] += 1
            finally:
                server.link.clear()
    settle(ledger, servers)
    assert len(outcomes) > 1
    text = ", ".join(f"{count} × {outcome}" for outcome, count in sorted(outcomes.items()))
    results.figures(f"a handshake and put cut after k bytes {stream}", text, sum(outcomes.values()))
