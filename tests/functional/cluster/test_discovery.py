"""A pool whose servers are found out, by a function that the test decides on."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import signal
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest
from support.inside import inside
from support.records import Records
from support.servers import BeanstalkdServer
from support.threads import background
from support.waiting import wait_until, within

import beanpool
from beanpool import Event, Found, NoServerAvailable, PoolClosed, PoolManager, Server, ServersChanged
from beanpool.events import DiscoveryFailed, DiscoveryRecovered

if TYPE_CHECKING:
    from conftest import StartCluster

OFTEN = (0.02, 0.05)


class Directory:
    """What a test decides on: it answers with `servers`, fails with `error`, or says nothing while it is `silent`."""

    def __init__(self, *servers: BeanstalkdServer | Server | str, ttl: float | None = None) -> None:
        self.servers: list[Any] = [getattr(server, "address", server) for server in servers]
        self.ttl = ttl
        self.error: BaseException | None = None
        self.questions = 0
        self.answering = threading.Event()
        self.answering.set()

    def __call__(self) -> Found:
        self.questions += 1
        self.answering.wait()
        if self.error is not None:
            raise self.error
        return Found(self.servers, self.ttl)

    @contextlib.contextmanager
    def silent(self) -> Iterator[None]:
        self.answering.clear()
        try:
            yield
        finally:
            self.answering.set()

    def await_questions(self, count: int = 2) -> None:
        """Wait until the last of so many more has been answered."""
        enough = self.questions + count + 1
        wait_until(lambda: self.questions >= enough, "some questions")


def found_out(directory: Callable[[], Found], **options: Any) -> PoolManager:
    return PoolManager(discovery=directory, **{"discovery_interval": OFTEN, "health_interval": 60, **options})


def addresses(pool: PoolManager) -> set[str]:
    return {status.address for status in pool.servers if not status.leaving}


FIRST_CALLS: dict[str, Callable[[PoolManager], Any]] = {
    "put": lambda pool: pool.put("x"),
    "put with a key": lambda pool: pool.put("x", key="key"),
    "put_many": lambda pool: int(pool.put_many(["x"])[0]),  # type: ignore[arg-type]  # raises if it is an error
    "reserve": lambda pool: pool.reserve(0) is None,
    "reserve_many": lambda pool: pool.reserve_many(5, 0),
    "stats": lambda pool: pool.stats(),
    "stats_tubes": lambda pool: pool.stats_tubes(["default"]),
    "kick": lambda pool: pool.kick(),
    "peek": lambda pool: pool.peek(7),
    "wait": lambda pool: pool.wait(2),
}


class TestTheFirstAnswer:
    @pytest.mark.parametrize("call", FIRST_CALLS.values(), ids=FIRST_CALLS.keys())
    def test_is_waited_for(self, cluster: StartCluster, call: Callable[[PoolManager], Any]) -> None:
        directory = Directory(*cluster(1 if call is FIRST_CALLS["peek"] else 2))
        with directory.silent(), found_out(directory, retry=beanpool_stops_at_once()) as pool:
            answer = background(lambda: call(pool))
            wait_until(lambda: directory.questions, "the question")
            assert not answer.done
            directory.answering.set()
            answer.result()

    def test_costs_no_call_more_than_its_time(self) -> None:
        directory = Directory("q1:1")
        with directory.silent(), found_out(directory, timeout=0.2) as pool:
            calls: list[Callable[[], object]] = [
                *(lambda: pool.put("x"), lambda: pool.reserve(0), lambda: pool.reserve(0.1)),
                *(pool.stats, lambda: pool.delete(7), pool.wait),
            ]
            for call in calls:
                with within(0.2), pytest.raises(NoServerAvailable):
                    call()
            [outcome] = pool.put_many(["x"])
            assert isinstance(outcome, NoServerAvailable)
            with within(0.1):
                assert pool.servers == ()
            waiting = background(lambda: pool.reserve(None))
            looking = background(lambda: pool.stats(timeout=10))
            wait_until(lambda: sum(wait.waiting for wait in inside(pool).waits.values()), "the reserve to wait")
            with within(0.2, "close"):
                pool.close(0)
            for call_ in (waiting, looking):
                assert isinstance(call_.error(1), PoolClosed | NoServerAvailable)

    def test_is_not_waited_for_where_servers_are_given(self, beanstalkd: BeanstalkdServer) -> None:
        directory = Directory("q1:1")
        with directory.silent(), PoolManager(beanstalkd.address, discovery=directory) as pool:
            assert pool.put("x").server == beanstalkd.address

    def test_that_is_an_error_is_no_reason_to_wait_longer(self) -> None:
        directory = Directory()
        with found_out(directory, discovery_interval=(30, 300)) as pool, within(1.0):
            with pytest.raises(NoServerAvailable, match="the pool has no servers"):
                pool.stats()
            with pytest.raises(NoServerAvailable):
                pool.reserve(0)

    def test_is_asked_for_by_the_first_use(self, beanstalkd: BeanstalkdServer) -> None:
        directory = Directory(beanstalkd)
        pool = found_out(directory)
        assert pool.servers == ()
        assert not directory.questions
        with pool:
            wait_until(lambda: pool.servers, "the answer")


def beanpool_stops_at_once() -> Any:
    import tenacity

    return tenacity.stop_after_attempt(1)


class TestAnswers:
    def test_are_the_servers(self, cluster: StartCluster) -> None:
        a, b, c = cluster(3)
        directory = Directory(a, b)
        events: list[Event] = []
        with found_out(directory, drain_for=0, timeout=0.3, health_interval=0.1) as pool:
            pool.wait(2)
            pool.add_listener(lambda event: events.append(event) if isinstance(event, ServersChanged) else None)
            pool.put_many(["x", "x"])
            directory.await_questions()
            assert not events
            directory.servers = [b.address, c.address]
            wait_until(lambda: addresses(pool) == {b.address, c.address}, "the change")
            wait_until(lambda: events, "the event")
            assert events == [ServersChanged(pool.name, (c.address,), (a.address,), ())]
            assert a.address not in {pool.put("y", key=str(key)).server for key in range(20)}
            assert len(pool.servers) == 3
            for job in [*pool.reserve_many(100, 1), *pool.reserve_many(100, 0)]:
                job.delete()
            wait_until(lambda: len(pool.servers) == 2, "the empty one to leave")
            assert pool.get_stats()["discoveries_num"] > 2

    def test_let_those_that_vanish_go_only_when_others_may_have_noticed(self, cluster: StartCluster) -> None:
        a, b = cluster(2)
        directory = Directory(a, b, ttl=1000)
        with found_out(directory, drain_for=100) as pool:
            pool.wait(2)
            directory.servers, directory.ttl = [b.address], 10
            before = time.monotonic()
            wait_until(lambda: addresses(pool) == {b.address}, "the change")
            # The one that was told for how long the former answer holds.
            member = inside(pool).members[-1]
            assert before + 1100 <= member._may_go_at <= time.monotonic() + 1100

    def test_decide_against_what_was_set_by_hand(self, cluster: StartCluster) -> None:
        a, b = cluster(2)
        directory = Directory(a)
        with found_out(directory) as pool:
            pool.wait()
            with directory.silent():
                pool.set_servers([a.address, b.address])
                assert addresses(pool) == {a.address, b.address}
            wait_until(lambda: addresses(pool) == {a.address}, "the next answer")

    def test_leave_the_weights_that_were_set_by_hand(self, cluster: StartCluster) -> None:
        a, b = cluster(2)
        directory = Directory(a, b)
        with found_out(directory) as pool:
            pool.wait(2)
            pool.set_weight(a.address, 0)
            directory.servers = [b.address, Server(a.host, a.port, weight=5)]
            directory.await_questions(3)
            assert {status.address: status.weight for status in pool.servers} == {a.address: 0, b.address: 1}
            # Not beyond the server's own time.
            directory.servers = [b.address]
            wait_until(lambda: addresses(pool) == {b.address}, "it to be taken out")
            directory.servers = [a.address, b.address]
            wait_until(lambda: addresses(pool) == {a.address, b.address}, "it to come back")
            assert {status.weight for status in pool.servers} == {1}

    def test_come_soon_when_a_server_dies(self, cluster: StartCluster) -> None:
        a, b = cluster(2)
        directory = Directory(a, ttl=600)
        with found_out(directory, discovery_interval=(0.1, 600), health_interval=0.1) as pool:
            pool.wait()
            directory.servers = [b.address]
            a.kill()
            wait_until(lambda: addresses(pool) == {b.address}, "the question")
            assert pool.put("x").server == b.address


FAILURES: dict[str, Any] = {
    "an error": lambda directory: setattr(directory, "error", OSError("the directory is on fire")),
    "the end of a thread": lambda directory: setattr(directory, "error", SystemExit()),
    "no servers": lambda directory: setattr(directory, "servers", []),
    "no such servers": lambda directory: setattr(directory, "servers", ["q1", "q1"]),
}


class TestFailures:
    @pytest.mark.parametrize("fail", FAILURES.values(), ids=FAILURES.keys())
    def test_change_nothing_and_are_told_once(self, beanstalkd: BeanstalkdServer, fail: Any) -> None:
        directory = Directory(beanstalkd)
        events: list[Event] = []
        with Records("beanpool.pool", logging.INFO, lower=True) as records, found_out(directory) as pool:
            pool.wait()
            pool.add_listener(lambda event: events.append(event) if "Discovery" in type(event).__name__ else None)
            records.take()
            fail(directory)
            directory.await_questions(4)
            assert addresses(pool) == {beanstalkd.address}
            [told] = events
            assert isinstance(told, DiscoveryFailed)
            assert told.servers == 1
            [text] = records.texts()
            assert told.reason in text
            directory.error, directory.servers = None, [beanstalkd.address]
            wait_until(lambda: len(events) > 1, "the recovery")
            assert isinstance(events[1], DiscoveryRecovered)
            assert events[1].failures == pool.get_stats()["discovery_errors"] >= 4
            assert [record.levelname for record in records] == ["WARNING", "INFO"]

    def test_that_it_returns_something_else_is_one(self) -> None:
        with Records("beanpool.pool", logging.WARNING) as records:
            with found_out(lambda: ["q1"]) as pool:  # type: ignore[arg-type, return-value]  # that is the point
                wait_until(lambda: records, "the warning")
                assert pool.servers == ()
            assert "the discovery must return Found, not list" in records.texts()[0]

    def test_silence_keeps_neither_calls_nor_the_end(self, beanstalkd: BeanstalkdServer) -> None:
        directory = Directory(beanstalkd)
        with directory.silent():
            directory.answering.set()
            with found_out(directory) as pool:
                pool.wait()
                directory.answering.clear()
                wait_until(lambda: inside(pool).cluster._discovery_thread._asking, "a question")  # type: ignore[union-attr]  # it has one
                assert pool.put("x").server == beanstalkd.address
                with within(0.5, "close"):
                    pool.close(0)


def drop(pools: list[PoolManager], cluster: weakref.ref[Any]) -> None:
    pools.clear()
    # A thread of the pool may be at work on it.
    wait_until(lambda: gc.collect() >= 0 and cluster() is None, "the end of the pool")


class TestLife:
    def test_a_pool_that_is_dropped_ends_its_thread(self, beanstalkd: BeanstalkdServer) -> None:
        directory = Directory(beanstalkd, ttl=600)
        pools = [found_out(directory, discovery_interval=(600, 600), name="dropped")]
        pools[0].wait()
        name = "beanpool-discovery-dropped"
        assert name in {thread.name for thread in threading.enumerate()}
        cluster = weakref.ref(inside(pools[0]).cluster)
        with pytest.warns(ResourceWarning, match="dropped was never closed"):
            drop(pools, cluster)
        wait_until(lambda: name not in {thread.name for thread in threading.enumerate()}, "the end of the thread")

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
    @pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
    def test_a_forked_child_goes_on_from_what_was_known_and_asks_for_itself(self, cluster: StartCluster) -> None:
        a, b = cluster(2)
        directory = Directory(a)
        with found_out(directory) as pool:
            pool.wait()
            with directory.silent():
                asked = directory.questions
                wait_until(lambda: directory.questions > asked, "a question that is under way")
                pid = os.fork()
                if not pid:
                    status = 1
                    with contextlib.suppress(BaseException):
                        signal.alarm(20)
                        # The parent's question waits on for the end of its silence.
                        directory.answering = threading.Event()
                        assert pool.put("child", tube="told").server == a.address
                        directory.servers = [b.address]
                        directory.answering.set()
                        wait_until(lambda: addresses(pool) == {b.address}, "the change in the child")
                        pool.close(0)
                        status = 0
                    os._exit(status)
                assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
            directory.await_questions()
            assert addresses(pool) == {a.address}

    def test_a_thread_that_cannot_be_started_is_tried_again(
        self, beanstalkd: BeanstalkdServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        start = threading.Thread.start

        def refuse(thread: threading.Thread) -> None:
            if thread.name.startswith("beanpool-discovery"):
                raise RuntimeError("can't start new thread")
            start(thread)

        with found_out(Directory(beanstalkd), timeout=0.1) as pool:
            pool.close(0)
        monkeypatch.setattr(threading.Thread, "start", refuse)
        with found_out(Directory(beanstalkd), timeout=0.1) as pool:
            with within(0.1), pytest.raises(NoServerAvailable):
                pool.put("x")
            monkeypatch.setattr(threading.Thread, "start", start)
            monkeypatch.setattr("beanpool.cluster.discovery._START_AGAIN_AFTER", 0.0)
            inside(pool).cluster._discovery_thread._start_at = 0.0  # type: ignore[union-attr]  # it has one
            assert pool.put("x", timeout=5)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({}, ValueError),
        ({"discovery": "q1"}, TypeError),
        ({"discovery": Directory(), "discovery_interval": (3, 2)}, ValueError),
        ({"discovery": Directory(), "discovery_interval": (0, 2)}, ValueError),
        ({"discovery": Directory(), "discovery_interval": 3}, TypeError),
        ({"discovery": Directory(), "drain_for": -1}, ValueError),
        ({"servers": "beanstalk+srv://_b._tcp.example", "discovery": Directory()}, ValueError),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        PoolManager(**options)


def test_they_are_exported() -> None:
    assert beanpool.DnsA("q.example", 11301).__class__.__module__ == "beanpool.discovery.dns_a"


def test_no_call_more_is_made_on_a_warm_path(beanstalkd: BeanstalkdServer) -> None:
    counts = []
    for pool in (PoolManager(beanstalkd.address, health_interval=60), found_out(Directory(beanstalkd, ttl=600))):
        with pool:
            pool.wait()
            rounds = []
            for _ in range(20):
                puts = [calls_of(lambda: pool.put("x")), calls_of(lambda: pool.put("x", key="key"))]  # noqa: B023  # It is called here.
                jobs: list[Any] = []
                taken = calls_of(lambda: jobs.append(pool.reserve(1)))  # noqa: B023  # It is called here.
                rounds.append([*puts, taken, calls_of(jobs.pop().delete)])
                for _ in range(2):
                    rest = pool.reserve(0)
                    if rest is not None:
                        rest.delete()
            # Nobody knows what else happens in one of them: a connection that was idle for long is looked at, say.
            counts.append([min(some) for some in zip(*rounds, strict=True)])
    print(counts)
    assert counts[0] == counts[1]


def calls_of(step: Callable[[], Any]) -> int:
    """How many calls of Python one call makes."""
    calls = []
    sys.setprofile(lambda frame, event, _: calls.append(frame.f_code.co_name) if event == "call" else None)
    try:
        step()
    finally:
        sys.setprofile(None)
    return len(calls)
