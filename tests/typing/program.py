"""A program for type checkers alone: it uses what is public, and everything that it gets has a known type.

mypy and pyright check it, both strictly. A line that they must refuse says so by a comment for each, and a comment that
is not needed is an error to both.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any, Literal, assert_type

import tenacity

from beanpool import (
    BeanpoolError,
    CommandFailed,
    Connection,
    ConnectionOpened,
    Discovery,
    DnsA,
    DnsSrv,
    Event,
    Found,
    Job,
    JobId,
    JobTooBig,
    NoServerAvailable,
    NoServerForPut,
    Observer,
    OnAmbiguous,
    PoolManager,
    PoolTimeout,
    PoolTimeoutForPut,
    Producer,
    Put,
    PutAmbiguous,
    PutFailed,
    Server,
    ServerStateChanged,
    ServerStatus,
    Tube,
    Waker,
)


def pools(encoding: str | None) -> None:
    """Which bodies a pool's jobs have."""
    assert_type(PoolManager("q1"), PoolManager[str])
    assert_type(PoolManager([Server("q1", weight=2), ("q2", 11300), "q3"], encoding="latin-1"), PoolManager[str])
    assert_type(PoolManager("q1", encoding=None, timeout=2, name="raw"), PoolManager[bytes])
    assert_type(PoolManager("q1", encoding=encoding), PoolManager[str | bytes])
    assert_type(PoolManager.from_env(), PoolManager[str])
    assert_type(PoolManager.from_env(encoding=None, tube="mails"), PoolManager[bytes])
    assert_type(PoolManager.from_env(encoding=encoding), PoolManager[str | bytes])
    with PoolManager("q1", encoding=None) as pool:
        assert_type(pool, PoolManager[bytes])
    either: PoolManager[str | bytes] = PoolManager("q1")
    assert_type(either.route("key"), tuple[str, ...])


def discoveries(discovery: Discovery) -> None:
    """What finds out which servers there are."""
    assert_type(PoolManager(discovery=discovery), PoolManager[str])
    assert_type(PoolManager("q1", discovery=DnsA("q.example", 11301), drain_for=60), PoolManager[str])
    assert_type(PoolManager(discovery=DnsSrv("_q._tcp.example"), encoding=None), PoolManager[bytes])
    PoolManager(discovery=lambda: Found(["q1", ("q2", 11301)], ttl=30), discovery_interval=(10, 60))
    assert_type(discovery().servers, tuple[Server, ...])
    assert_type(discovery().ttl, float | None)
    PoolManager(discovery="q1")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]


def policies(fails_often: bool) -> None:
    """What ``retry`` and ``on_ambiguous`` take."""
    PoolManager("q1", retry=tenacity.stop_after_attempt(3))
    PoolManager("q1", retry=[tenacity.stop_after_delay(1) | tenacity.stop_after_attempt(3), tenacity.wait_fixed(1)])
    PoolManager("q1", retry=tenacity.wait_fixed(1) + tenacity.wait_random(0, 1))
    policy: OnAmbiguous = "raise" if fails_often else "resend"
    PoolManager("q1", on_ambiguous=policy).put("x", on_ambiguous=policy)
    PoolManager("q1", retry=3)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    PoolManager("q1", retry=tenacity.wait_fixed)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    PoolManager("q1", on_ambiguous="retry")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    PoolManager("q1", on_ambigous="raise")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    PoolManager.from_env(max_conections=3)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    PoolManager("q1", encoding=3)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]


def puts(pool: PoolManager, producer: Producer) -> JobId | None:
    """What puts return, and what becomes of those that fail."""
    try:
        jid = pool.put("body", 7, delay=1, ttr=60, tube="mails", key="user 4711", timeout=2, on_ambiguous="raise")
    except JobTooBig as error:
        assert_type((error.size, error.limit, error.args), tuple[int | None, int | None, tuple[Any, ...]])
        return None
    except PutFailed as failed:
        assert_type(failed.may_be_stored, bool)
        if isinstance(failed, PutAmbiguous):
            assert_type(failed.attempts, tuple[BaseException, ...])
        elif isinstance(failed, NoServerForPut):
            assert_type(failed.errors, dict[str, BaseException])
            unavailable: NoServerAvailable = failed
            raise unavailable from None
        elif isinstance(failed, PoolTimeoutForPut):
            timeout: PoolTimeout = failed
            raise timeout from None
        return None
    assert_type((jid.server, jid.instance, jid.maybe_duplicate, jid.buried), tuple[str, str, bool, bool])
    for outcome in pool.put_many(["a", b"b", Put("c", key="k", priority=3)], on_ambiguous="resend"):
        assert_type(outcome, JobId | Exception)
    assert_type(pool.producer(linger=0.001), Producer)
    with producer:
        assert_type(producer.put(b"body", tube="mails"), Future[JobId])
    pool.put("x", on_ambiguous="never")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    pool.put("x", prio=3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    pool.put(7)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    pool.put_many(["x"], on_ambiguous=True)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    pool.tube("mails").put("x", on_ambiguous="no")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    return jid


def reserves(texts: PoolManager, raw: PoolManager[bytes], either: PoolManager[str | bytes], waker: Waker) -> None:
    """What a job's body is, wherever the job comes from."""
    job = texts.reserve(1, tubes=["mails", "sms"], waker=waker)
    assert_type(job, Job[str] | None)
    if job is not None:
        assert_type(job.body.upper(), str)
        with job as entered:
            assert_type(entered, Job[str])
        work_on(job)
    for packed in raw.reserve_many(100, 1, tubes="mails"):
        assert_type((packed.body, packed.data), tuple[bytes, bytes])
        work_on(packed)
    both = either.reserve(0)
    assert_type(both.body if both is not None else None, str | bytes | None)
    assert_type(raw.tube("mails"), Tube[bytes])
    assert_type(raw.tube("mails").reserve(0), Job[bytes] | None)
    assert_type(raw.tube("mails").reserve_many(5, 0), list[Job[bytes]])
    assert_type(raw.tube("mails").peek_ready(), Job[bytes] | None)
    assert_type(texts.peek_buried(), Job[str] | None)
    assert_type(raw.reserve_job(7, server="q1"), Job[bytes])
    with raw.connection("q1", tube="mails") as connection:
        assert_type(connection, Connection[bytes])
    assert_type(raw.reserve(1, tubes=["mails", "sms"], order="fair", server="q1"), Job[bytes] | None)
    assert_type(raw.reserve_many(5, 1, order="strict"), list[Job[bytes]])
    texts.reserve(1, order="random")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    raw.reserve(tube="mails")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    texts.reserve("1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def work_on(job: Job[Any]) -> None:
    """What a job of whatever pool can do."""
    job.touch(timeout=1)
    assert_type((job.id, job.jid, job.server, job.tube), tuple[int, int, str, str | None])
    assert_type((job.lost, job.reserved), tuple[bool, bool])
    job.release(priority=7, delay=1)
    job.bury()
    job.delete()
    job.release(prioriy=7)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


def finishes(pool: PoolManager, raw: PoolManager[bytes], jobs: list[Job[bytes]], jid: JobId) -> None:
    """What takes jobs, or their ids."""
    outcomes = [*pool.delete_many([*jobs, jid, 7]), *raw.touch_many(jobs), *raw.bury_many(jobs, priority=3)]
    outcomes += raw.release_many(jobs, delay=3, timeout=1)
    assert_type(outcomes, list[Exception | None])
    with pool.keep(jobs, until=60) as kept:
        assert_type(kept.lost, tuple[Job[Any], ...])
    pool.delete(jid)
    pool.release(jobs[0], delay=3)
    pool.touch(7, server="q1")
    pool.touch("7")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def connections(encoding: str | None) -> None:
    """One server, without a pool."""
    assert_type(Connection(), Connection[str])
    assert_type(Connection("q1", 11300, False, None, timeout=2), Connection[str])
    assert_type(Connection("q1", encoding=None).reserve(1), Job[bytes] | None)
    assert_type(Connection("q1", encoding=encoding), Connection[str | bytes])
    assert_type(Connection.from_url("beanstalk://q1"), Connection[str])
    assert_type(Connection.from_url("beanstalk://q1", encoding=None).peek(7), Job[bytes] | None)
    with Connection("q1") as connection, connection.pipeline() as pipeline:
        pipeline.put("x").delete(7)
    assert_type(connection.put("x"), int)
    Connection("q1", tiemout=3)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]


class Count(Observer):
    """Is told of puts."""

    def put(
        self,
        server: str,
        tube: str,
        count: int,
        size: int,
        seconds: float,
        outcome: Literal["stored", "buried", "refused", "not_sent", "ambiguous"],
    ) -> None:
        """Counts nothing."""


def looks(pool: PoolManager[Any]) -> Iterator[ServerStatus]:
    """What can be seen of a pool."""

    def listen(event: Event) -> None:
        if isinstance(event, ServerStateChanged):
            assert_type((event.before, event.after), tuple[State, State])
        elif isinstance(event, ConnectionOpened):
            assert_type(event.instance, str)

    pool.add_listener(listen)
    pool.add_observer(Count())
    for status in pool.servers:
        assert_type((status.state, status.draining), tuple[State, bool])
        if status.state == "down":
            yield status
    assert_type(pool.get_stats(), dict[str, int])
    for survey in pool.survey("mail*", most=3, head_age=True, timeout=1).values():
        assert_type((survey.left_out, survey.error), tuple[int, BeanpoolError | None])
    assert_type(pool.healthy(2), bool)
    pool.add_observer(print)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


State = Literal["up", "suspect", "down"]


def refusals(error: BeanpoolError) -> str:
    """What an error tells."""
    if isinstance(error, CommandFailed):
        assert_type((error.command, error.status, error.results), tuple[str, str, list[str]])
        assert_type((error.server, error.job, error.tube), tuple[str, int | None, str | None])
    return f"{error}{os.linesep}"
