"""The pool is called from a signal handler, or from a finalizer, which comes at whatever line of another call to it."""

from __future__ import annotations

import contextlib
import gc
import importlib
import signal
import threading
from collections.abc import Callable, Iterator

import pytest
from faults.interrupting import STRIDE, Detour, first_place
from support.inside import inside
from support.servers import BeanstalkdServer
from support.threads import background

from beanpool import BeanpoolError, Job, PoolClosed, PoolManager, ReentrantCall

# Loaded by the first need: what is loaded within a trace function is not what is tried here.
importlib.import_module("tenacity")
importlib.import_module("yaml")

Prepare = Callable[[], Callable[[], object]]


class Stage:
    """A pool with an operation to be interrupted."""

    def __init__(self, server: BeanstalkdServer, kind: str) -> None:
        self.server = server
        self.jobs: list[Job] = []
        self.pool = self.new_pool()
        self.prepare: Prepare = getattr(self, f"_{kind}")

    def new_pool(self) -> PoolManager:
        pool = PoolManager(self.server.url, timeout=3, connect_timeout=3, health_interval=60, max_connections=6)
        pool.put("to begin with", tube="other")
        return pool

    def _put(self) -> Callable[[], object]:
        return lambda: self.pool.put("x", tube="filled")

    def _put_on_a_new_connection(self) -> Callable[[], object]:
        for member in inside(self.pool).members:
            while member.pool.counts()[1]:
                connection = member.pool.try_acquire(())
                assert connection is not None
                member.pool.discard(connection)
        return lambda: self.pool.put("x", tube="filled")

    def _put_many(self) -> Callable[[], object]:
        return lambda: self.pool.put_many(["x"] * 3, tube="filled")

    def _reserve_a_ready_job(self) -> Callable[[], object]:
        self.pool.put("ready", tube="ready")
        return self._reserve

    def _reserve(self) -> None:
        job = self.pool.reserve(0, tubes="ready")
        if job is not None:
            self.jobs = [job]
        # From 3.13 on a frame that was traced may live longer than its call.
        del job

    def _reserve_in_vain(self) -> Callable[[], object]:
        return lambda: self.pool.reserve(0.002, tubes="empty")

    def _reserve_many_in_vain(self) -> Callable[[], object]:
        return lambda: self.pool.reserve_many(5, 0.002, tubes="empty")

    def _delete(self) -> Callable[[], object]:
        self.pool.put("ready", tube="ready")
        self._reserve()
        return self.jobs[0].delete

    def _stats(self) -> Callable[[], object]:
        return self.pool.stats

    def _change_servers(self) -> Callable[[], object]:
        def change() -> None:
            self.pool.add_server("127.0.0.1:1")
            self.pool.set_weight("127.0.0.1:1", 2)
            self.pool.remove_server("127.0.0.1:1")

        return change

    def _close(self) -> Callable[[], object]:
        self.pool.close(0.5)
        self.pool = self.new_pool()
        return lambda: self.pool.close(0.5)

    def check(self) -> None:
        """Both calls have left a pool that works, or is closed."""
        if inside(self.pool).cluster.closing.is_set():
            with pytest.raises(PoolClosed):
                self.pool.put("x")
            self.pool = self.new_pool()
        if max(status.leased for status in self.pool.servers) > 3:
            # From 3.14 on a frame that was traced lives until the collector comes, and the job in it, too.
            gc.collect()
        tube = "canary"
        jid = self.pool.put("alive", tube=tube)
        job = self.pool.reserve(3, tubes=tube)
        assert job is not None
        assert job.id == jid
        job.delete()
        self.jobs.clear()

    # What is called in between.

    def look(self) -> None:
        [status] = [status for status in self.pool.servers if status.address == self.server.address]
        assert status.open >= 0
        assert self.pool.get_stats()["pool_max"] >= 6
        assert "pool" in repr(self.pool)
        assert self.pool.watching() == ["default"]
        for job in self.jobs:
            assert job.lost in (True, False)

    def close(self) -> None:
        self.pool.close(0.01)

    def work(self) -> None:
        """What may be refused: by an error, in time."""
        with contextlib.suppress(BeanpoolError):
            self.pool.put("from the handler", tube="handled")
        with contextlib.suppress(BeanpoolError):
            handled = self.pool.reserve(0.01, tubes="handled")
            if handled is not None:
                handled.delete()
        with contextlib.suppress(BeanpoolError):
            self.pool.reserve(0.001, tubes="empty")
        for job in self.jobs:
            with contextlib.suppress(BeanpoolError):
                job.touch()


@pytest.fixture(autouse=True)
def no_warnings_of_dropped_pools() -> Iterator[None]:
    yield
    gc.collect()


KINDS = [
    *("put", "put_on_a_new_connection", "put_many", "reserve_a_ready_job", "reserve_in_vain", "reserve_many_in_vain"),
    *("delete", "stats", "change_servers", "close"),
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("action", "step"), [("look", 1), ("close", 11), ("work", 5)])
def test_at_every_line(beanstalkd: BeanstalkdServer, kind: str, action: str, step: int) -> None:
    stage = Stage(beanstalkd, kind)
    places = first_place()
    try:
        while True:
            call = stage.prepare()
            detour = Detour(places, getattr(stage, action))

            def run(call: Callable[[], object] = call, detour: Detour = detour) -> None:
                with contextlib.suppress(BeanpoolError):
                    detour.run(call)

            interrupted = background(run, f"{kind}, interrupted by {action} at place {places}")
            try:
                # In a thread of its own: one that dead-locks would take the whole test run with it.
                interrupted.result(10)
            except BaseException as error:
                error.add_note(detour.where)
                raise
            stage.check()
            if not detour.happened:
                break
            places += step * STRIDE
    finally:
        stage.pool.close(0)
    assert places > 20


def test_a_reserve_within_the_wait_for_the_same_tubes_is_refused(beanstalkd: BeanstalkdServer) -> None:
    # It would wait for what only the interrupted one can take in.
    refused: list[BaseException | None] = []
    with PoolManager(beanstalkd.url) as pool:

        def within(*_: object) -> None:
            with contextlib.suppress(BeanpoolError):
                pool.put("for whoever waits")
            try:
                pool.reserve(None)
            except ReentrantCall as error:
                refused.append(error)

        before = signal.signal(signal.SIGALRM, within)
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.1)
            job = pool.reserve(10)
        finally:
            signal.signal(signal.SIGALRM, before)
        assert job is not None
        assert job.body == "for whoever waits"
        assert "set a flag" in str(refused[0])
        job.delete()


def test_a_finalizer_that_asks_the_pool_while_its_thread_holds_every_lock(beanstalkd: BeanstalkdServer) -> None:
    asked: list[int] = []

    class Nosy:
        def __del__(self) -> None:
            asked.append(len(pool.servers) + len(pool.get_stats()))
            with pytest.raises(ReentrantCall):
                pool.put("x")

    with PoolManager(beanstalkd.url) as pool:
        member = inside(pool).members[0]
        # Empty, so that the put has to decide something under the lock.
        idle = member.pool.try_acquire(())
        assert idle is not None
        member.pool.discard(idle)

        def hold() -> None:
            with (
                inside(pool).cluster._lock,
                member._lock,
                member.pool._lock,
                inside(pool).cluster.reporter.counters._lock,
                inside(pool).cluster.monitor._lock,
            ):
                circle: list[object] = [Nosy()]
                circle.append(circle)
                del circle
                gc.collect()

        background(hold, "collector").result(5)
    assert asked


def test_close_in_a_handler_ends_a_wait_for_ever(beanstalkd: BeanstalkdServer) -> None:
    pool = PoolManager(beanstalkd.url)
    waiting = threading.Event()

    def close(*_: object) -> None:
        pool.close()

    before = signal.signal(signal.SIGALRM, close)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        waiting.set()
        with pytest.raises(PoolClosed):
            pool.reserve(None)
    finally:
        signal.signal(signal.SIGALRM, before)
