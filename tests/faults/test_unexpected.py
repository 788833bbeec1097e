"""Unexpected errors in a pool's own threads: each costs a check or a connection, and nothing else."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support.inside import inside
from support.processes import thread_names
from support.records import Records
from support.servers import BeanstalkdServer
from support.waiting import wait_until

from beanpool import Job, PoolManager
from beanpool.events import ConnectionClosed, Event
from beanpool.net.channel import Channel
from beanpool.server.lease import Lease
from beanpool.server.partial_release import PartialRelease
from beanpool.server.pool_pruning import PoolPruning
from beanpool.server.pooled_connection import PooledConnection

Cluster = Callable[..., list[BeanstalkdServer]]


class Unforeseen(Exception):
    """An error that nobody knows."""


class Trouble:
    """Lets a method raise for one server, while it is there, and counts the calls for all.

    :param at: where the object that the method belongs to has its server's address.
    """

    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        owner: type,
        method: str,
        error: BaseException,
        *,
        server: str,
        at: Callable[[Any], str] = lambda owner: str(owner.server),
    ) -> None:
        self.there = True
        self.calls: Counter[str] = Counter()
        plain = getattr(owner, method)

        def troubled(this: Any, *args: Any, **kwargs: Any) -> Any:
            self.calls[at(this)] += 1
            if self.there and at(this) == server:
                raise error
            return plain(this, *args, **kwargs)

        monkeypatch.setattr(owner, method, troubled)

    def wait_for_calls(self, server: str, more: int = 3) -> None:
        enough = self.calls[server] + more
        wait_until(lambda: self.calls[server] >= enough, f"{more} more calls for {server}")


def state(pool: PoolManager, server: BeanstalkdServer) -> str:
    return next(status.state for status in pool.servers if status.address == server.address)


def messages(records: Records) -> list[str]:
    """What was logged, each with the last line of its traceback."""
    taken = records.take()
    assert all(record.exc_info for record in taken)
    return [logging.Formatter("%(message)s").format(record) for record in taken]


@pytest.fixture
def watched(cluster: Cluster) -> Iterator[tuple[PoolManager, list[BeanstalkdServer]]]:
    """A pool named p of three servers whose monitor has begun; it must end with the pool."""
    servers = cluster(3)
    addresses = [server.address for server in servers]
    with PoolManager(addresses, name="p", max_connections=1, timeout=2, health_interval=0.05) as pool:
        yield pool, servers
        assert thread_names("beanpool-monitor-p")


@pytest.mark.parametrize(
    ("method", "error"),
    [
        ("begin_probe", Unforeseen()),
        ("step", SystemExit(1)),
        ("live_descriptor", ValueError("Invalid file descriptor: -1")),
        ("identify", MemoryError()),
    ],
)
def test_a_check_that_fails_in_no_known_way_stops_nobody_elses_and_is_made_anew(
    watched: tuple[PoolManager, list[BeanstalkdServer]],
    monkeypatch: pytest.MonkeyPatch,
    unforeseen: Records,
    method: str,
    error: BaseException,
) -> None:
    pool, (bad, *others) = watched
    started = time.monotonic()
    trouble = Trouble(monkeypatch, PooledConnection, method, error, server=bad.address)
    for server in (*others, bad):
        trouble.wait_for_calls(server.address, 2)
    # Not before the next tick: nothing spins.
    assert trouble.calls[bad.address] <= 2 + (time.monotonic() - started) / 0.4
    assert state(pool, bad) == "up"
    others[0].kill()
    wait_until(lambda: state(pool, others[0]) == "down", "the death of another to be noticed")
    assert [text.splitlines()[0] for text in messages(unforeseen)] == [
        f"pool p: the check of {bad.address} failed unexpectedly"
    ]
    trouble.there = False
    bad.kill()
    wait_until(lambda: state(pool, bad) == "down", "its death to be noticed")
    bad.start()
    wait_until(lambda: state(pool, bad) == "up", "its return to be noticed")
    assert not unforeseen


def test_a_check_that_failed_leaves_no_connection_and_no_place_taken(
    beanstalkd: BeanstalkdServer, monkeypatch: pytest.MonkeyPatch, unforeseen: Records
) -> None:
    trouble = Trouble(monkeypatch, PooledConnection, "step", Unforeseen(), server=beanstalkd.address)
    with PoolManager(beanstalkd.url, max_connections=1, timeout=5, health_interval=0.05) as pool:
        trouble.wait_for_calls(beanstalkd.address, 2)
        pool.put("x")
        job = pool.reserve(0)
        assert job is not None
        job.delete()
        assert pool.servers[0].open == 1
        trouble.there = False
        wait_until(lambda: beanstalkd.control.other_connections() <= 1, "what was given up to be closed")
    assert unforeseen.take()


def test_a_reason_is_given_for_the_connection_that_a_failed_check_took_along(
    watched: tuple[PoolManager, list[BeanstalkdServer]], monkeypatch: pytest.MonkeyPatch, unforeseen: Records
) -> None:
    pool, (bad, *_) = watched
    wait_until(lambda: all(status.idle for status in pool.servers), "all to have been checked")
    closed: list[Event] = []
    pool.add_listener(lambda event: closed.append(event) if isinstance(event, ConnectionClosed) else None)
    Trouble(monkeypatch, PooledConnection, "identify", Unforeseen(), server=bad.address)
    wait_until(lambda: bool(closed), "a connection to be closed")
    assert closed[0] == ConnectionClosed("p", bad.address, f"the check of {bad.address} failed: Unforeseen")
    wait_until(lambda: bool(unforeseen), "it to be logged")
    unforeseen.take()


def test_tidying_up_that_fails_keeps_nobody_from_being_checked(
    watched: tuple[PoolManager, list[BeanstalkdServer]],
    monkeypatch: pytest.MonkeyPatch,
    unforeseen: Records,
) -> None:
    pool, (bad, *others) = watched
    servers = {member.pool.pruning: member.address for member in inside(pool).members}
    trouble = Trouble(
        monkeypatch, PoolPruning, "trim", Unforeseen(), server=bad.address, at=lambda pruning: servers[pruning]
    )
    trouble.wait_for_calls(bad.address)
    for server in (bad, others[0]):
        server.kill()
        wait_until(lambda server=server: state(pool, server) == "down", "its death to be noticed")  # type: ignore[misc]  # mypy infers no type for a lambda with defaults
    trouble.wait_for_calls(others[1].address)
    texts = messages(unforeseen)
    assert [text.splitlines()[0] for text in texts] == [f"pool p: tidying up after {bad.address} failed unexpectedly"]


def test_jobs_that_could_not_be_given_back_are_seen_to_again(
    watched: tuple[PoolManager, list[BeanstalkdServer]], monkeypatch: pytest.MonkeyPatch, unforeseen: Records
) -> None:
    pool, (bad, *_) = watched
    trouble = Trouble(
        monkeypatch,
        Lease,
        "abandoned",
        Unforeseen(),
        server=bad.address,
        at=lambda lease: str(lease.connection.server),
    )
    bad.control.put(b"x")
    job = pool.reserve(10)
    assert job is not None
    del job
    trouble.wait_for_calls(bad.address)
    assert counter(bad, "reserved") == 1
    trouble.there = False
    wait_until(lambda: counter(bad, "ready") == 1, "the job to be given back")
    # A check looks for such jobs too, where all connections are in use.
    doing = {text.splitlines()[0].split(": ")[1] for text in messages(unforeseen)}
    assert f"tidying up after {bad.address} failed unexpectedly" in doing
    assert doing <= {f"{what} {bad.address} failed unexpectedly" for what in ("tidying up after", "the check of")}


def three_jobs_of_a_batch(server: BeanstalkdServer, pool: PoolManager) -> list[Job]:
    for number in range(3):
        server.control.put(b"%d" % number)
    return pool.reserve_many(3, 0)


def counter(server: BeanstalkdServer, state: str) -> int:
    return server.control.counter(f"current-jobs-{state}")


@pytest.mark.parametrize("method", ["step", "begin", "live_descriptor"])
def test_a_give_back_that_fails_in_no_known_way_gives_back_all_by_closing_the_connection(
    beanstalkd: BeanstalkdServer, monkeypatch: pytest.MonkeyPatch, unforeseen: Records, method: str
) -> None:
    plain = getattr(PartialRelease, method)
    fails = threading.Event()

    def fail(give_back: PartialRelease) -> object:
        plain(give_back)
        fails.set()
        raise Unforeseen

    monkeypatch.setattr(PartialRelease, method, fail)
    with PoolManager(beanstalkd.url, name="p", max_connections=1, timeout=5, health_interval=60) as pool:
        jobs = three_jobs_of_a_batch(beanstalkd, pool)
        del jobs[0]
        assert fails.wait(10)
        wait_until(lambda: counter(beanstalkd, "ready") == 3, "all to be given back")
        assert all(job.lost for job in jobs)
        monkeypatch.setattr(PartialRelease, method, plain)
        again = pool.reserve_many(3, 5)
        assert len(again) == 3
        del again[0]
        wait_until(lambda: counter(beanstalkd, "ready") == 1, "the dropped one to be given back")
        pool.delete_many(again)
    first, *more = [text.splitlines()[0] for text in messages(unforeseen)]
    assert first == f"pool p: giving back jobs to {beanstalkd.address} failed unexpectedly"
    assert not more


@pytest.mark.parametrize("owner", [PartialRelease, Lease])
def test_what_could_not_even_be_begun_is_tried_again_and_costs_the_siblings_nothing(
    beanstalkd: BeanstalkdServer, monkeypatch: pytest.MonkeyPatch, unforeseen: Records, owner: type
) -> None:
    method = {PartialRelease: "__init__", Lease: "pin"}[owner]
    fails = threading.Event()

    def fail(*_: object) -> None:
        fails.set()
        raise Unforeseen

    with PoolManager(beanstalkd.url, name="p", max_connections=1, timeout=5, health_interval=60) as pool:
        jobs = three_jobs_of_a_batch(beanstalkd, pool)
        with monkeypatch.context() as patch:
            patch.setattr(owner, method, fail)
            del jobs[0]
            assert fails.wait(10)
            wait_until(lambda: bool(unforeseen), "it to be logged")
            jobs.pop().delete()
        wait_until(lambda: counter(beanstalkd, "ready") == 1, "the dropped one to be given back")
        jobs.pop().delete()
    assert len(unforeseen.take()) == 1


def test_a_cancelled_wait_whose_end_fails_is_closed(
    beanstalkd: BeanstalkdServer, monkeypatch: pytest.MonkeyPatch, unforeseen: Records
) -> None:
    with PoolManager(beanstalkd.url, name="p", timeout=2, health_interval=0.05) as pool:
        trouble = Trouble(monkeypatch, Channel, "at_end", Unforeseen(), server=beanstalkd.address)
        # On a busy machine the time may be up before it waits.
        wait_until(lambda: pool.reserve(0.05) is None and trouble.calls, "the end of a wait")
        wait_until(lambda: bool(unforeseen), "it to be logged")
        wait_until(lambda: not beanstalkd.control.counter("current-waiting"), "nobody to wait")
        beanstalkd.kill()
        wait_until(lambda: state(pool, beanstalkd) == "down", "its death to be noticed")
    assert {text.splitlines()[0] for text in messages(unforeseen)} == {
        "pool p: closing a connection failed unexpectedly"
    }


def test_what_was_left_to_the_monitor_and_fails_keeps_nothing_else_from_being_done(
    watched: tuple[PoolManager, list[BeanstalkdServer]], unforeseen: Records
) -> None:
    pool, _ = watched
    done = threading.Event()

    def fail() -> None:
        raise Unforeseen

    for call in (fail, done.set):
        inside(pool).cluster.monitor.later(call)
    assert done.wait(10)
    assert len(unforeseen.take()) == 1


def test_a_turn_that_fails_as_a_whole_is_followed_by_others_but_not_at_once(
    beanstalkd: BeanstalkdServer, monkeypatch: pytest.MonkeyPatch, unforeseen: Records
) -> None:
    calls = 0

    def fail() -> None:
        nonlocal calls
        calls += 1
        raise Unforeseen

    with PoolManager(beanstalkd.url, name="p", health_interval=0.05) as pool:
        with monkeypatch.context() as patch:
            started = time.monotonic()
            patch.setattr(inside(pool).cluster.monitor, "_members", fail)
            wait_until(lambda: calls >= 3, "it to be tried again")
            assert calls <= 2 + (time.monotonic() - started) / 0.4
        beanstalkd.kill()
        wait_until(lambda: state(pool, beanstalkd) == "down", "the death to be noticed")
    assert len(unforeseen.take()) == 1


@pytest.mark.parametrize("error", [Unforeseen(), SystemExit(1)])
def test_a_background_task_that_fails_keeps_nothing_else_from_being_done(
    cluster: Cluster, unforeseen: Records, error: BaseException
) -> None:
    done = threading.Event()

    def fail() -> None:
        raise error

    with PoolManager([server.address for server in cluster(2)], name="p") as pool:
        assert pool.reserve(0.01) is None
        assert thread_names("beanpool-background-p")
        for task in (fail, done.set):
            inside(pool).cluster.background.submit(task)
        assert done.wait(10)
    assert len(unforeseen.take()) == 1
