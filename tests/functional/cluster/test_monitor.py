"""The monitor's thread: that it starts in the end, what is done where it cannot, and what it costs to be idle."""

from __future__ import annotations

import errno
import functools
import os
import selectors
import sys
import threading
from types import FrameType
from typing import Any

import pytest
from support.inside import inside
from support.processes import run_python, thread_names
from support.servers import BeanstalkdServer
from support.waiting import wait_until

from beanpool import BeanpoolError, PoolManager
from beanpool.cluster.upkeep import Upkeep
from beanpool.server.partial_release import PartialRelease
from beanpool.telemetry.log import ErrorLog


class Limit:
    """No more threads, or descriptors, as long as it is there."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.there = True
        self._patch = monkeypatch

    def of_threads(self) -> None:
        start = threading.Thread.start

        def limited(thread: threading.Thread) -> None:
            if self.there and thread.name.startswith("beanpool-"):
                raise RuntimeError("can't start new thread")
            start(thread)

        self._patch.setattr(threading.Thread, "start", limited)

    def of_pipes(self) -> None:
        pipe = os.pipe

        def limited() -> tuple[int, int]:
            if self.there and sys._getframe(1).f_globals["__name__"] == "beanpool.net.poller":
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            return pipe()

        self._patch.setattr(os, "pipe", limited)

    def of_selectors(self) -> None:
        make = selectors.DefaultSelector

        def limited() -> selectors.BaseSelector:
            if self.there:
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            return make()

        self._patch.setattr(selectors, "DefaultSelector", limited)


@pytest.fixture
def limit(monkeypatch: pytest.MonkeyPatch) -> Limit:
    monkeypatch.setattr("beanpool.cluster.monitor._START_AGAIN_AFTER", 0.05)
    return Limit(monkeypatch)


def check_outage(pool: PoolManager, server: BeanstalkdServer) -> None:
    """A server that was away is used again: somebody looks after it."""
    server.kill()

    def down() -> bool:
        with pytest.raises(BeanpoolError):
            pool.put("x", timeout=0.2)
        return pool.servers[0].state == "down"

    wait_until(down, "its death to be noticed")
    server.start()
    assert pool.put("x", timeout=10)


@pytest.mark.parametrize("of", ["threads", "pipes", "selectors"])
def test_a_limit_that_is_met_for_a_moment_is_no_end_of_the_monitor(
    beanstalkd_factory: Any, limit: Limit, unforeseen: Any, of: str
) -> None:
    server = beanstalkd_factory()
    getattr(limit, f"of_{of}")()
    with PoolManager(server.url, name="limited", timeout=5, health_interval=0.1) as pool:
        pool.put("with the limit")
        limit.there = False

        def runs() -> bool:
            pool.put("without")
            return bool(thread_names("beanpool-monitor-limited"))

        wait_until(runs, "the monitor's thread to run")
        server.kill()
        wait_until(lambda: pool.servers[0].state == "down", "its death to be noticed by the monitor alone")
        server.start()
        wait_until(lambda: pool.servers[0].state == "up", "its return to be noticed by the monitor alone")
    unforeseen.take()


def test_without_any_thread_the_calls_look_after_the_servers(beanstalkd_factory: Any, limit: Limit) -> None:
    server = beanstalkd_factory()
    limit.of_threads()
    with PoolManager(server.url, name="alone", timeout=5) as pool:
        check_outage(pool, server)
        job = pool.reserve(1)
        assert job is not None
        jid = job.id
        del job
        # Given back by whoever calls next.
        wait_until(lambda: bool(pool.put("y")) and server.control.state(jid) == "ready", "it to be given back")
        assert not thread_names("beanpool-")


def test_the_thread_goes_on_with_what_the_calls_have_begun(
    beanstalkd: BeanstalkdServer, limit: Limit, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, begun, goes_on = PartialRelease.step, threading.Event(), threading.Event()

    def begin_only(release: PartialRelease) -> bool:
        begun.set()
        return goes_on.is_set() and step(release)

    monkeypatch.setattr(PartialRelease, "step", begin_only)
    limit.of_threads()
    with PoolManager(beanstalkd.url, name="late", timeout=5) as pool:
        pool.put_many(["a", "b"])
        dropped, kept = pool.reserve_many(2, 5)
        jid = dropped.id
        del dropped
        wait_until(lambda: bool(pool.put("x", delay=60)) and begun.is_set(), "its release to begin")
        limit.there = False
        wait_until(lambda: bool(pool.put("x", delay=60)) and bool(thread_names("beanpool-monitor-late")), "the thread")
        goes_on.set()
        wait_until(lambda: beanstalkd.control.state(jid) == "ready", "it to be given back")
        kept.delete()


def test_where_no_thread_can_be_started_everything_works_or_says_so(beanstalkd: BeanstalkdServer) -> None:
    run = run_python(
        f"""
import threading
threading.stack_size(1 << 40)
from beanpool import BeanpoolError, PoolManager
with PoolManager([{beanstalkd.address!r}, "127.0.0.1:1"], timeout=2) as pool:
    pool.put("x")
    print(pool.stats()["current-jobs-ready"])
    pool.reserve(1).delete()
    print(pool.reserve(0.1), pool.reserve_many(3, 0.1))
    print(len(pool.put_many(["a", "b"])), pool.delete_many(pool.reserve_many(2, 1))[0])
    try:
        pool.producer()
    except BeanpoolError as error:
        print("put_many" in str(error))
""",
        timeout=20,
    )
    assert run.stdout.split("\n")[:5] == ["1", "None []", "2 None", "True", ""], run.stdout + run.stderr


def _calls_in(turn: Any) -> int:
    count = 0

    def note(frame: FrameType, event: str, argument: object) -> None:
        nonlocal count
        count += event == "call"

    sys.setprofile(note)
    try:
        turn()
    finally:
        sys.setprofile(None)
    return count


def test_a_turn_in_which_nothing_is_due_costs_the_same_however_many_servers_there_are() -> None:
    counts = set()
    for number in (1, 300):
        pool = PoolManager([f"127.0.0.1:{port}" for port in range(1, number + 1)], health_interval=3600)
        members = inside(pool).members
        selector = selectors.DefaultSelector()
        upkeep = Upkeep(selector, 3600, ErrorLog("p"), lambda: None)
        upkeep.tend(members)
        # Far from the next tick.
        upkeep._tick_at += 3600
        counts.add(_calls_in(functools.partial(upkeep.tend, members)))
        upkeep.end()
        selector.close()
    assert len(counts) == 1
