"""Ending reserves early: by wakers, and all of them for good."""

from __future__ import annotations

import functools
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest
from support.inside import inside
from support.ledger import Ledger
from support.pools import pool_of
from support.servers import BeanstalkdServer
from support.threads import background, run_together
from support.waiting import wait_until, within

from beanpool import PoolManager, Waker
from beanpool.reserve import sweep
from beanpool.reserve.batch import Take
from beanpool.reserve.sweep import Sweeper
from beanpool.runtime import ReentrantEvent

if TYPE_CHECKING:
    from conftest import StartCluster, StartDelayLine

FAR = 0.3

Reserve = Callable[..., Any]


def reserve(pool: PoolManager, *args: Any, **options: Any) -> Any:
    return pool.reserve(*args, **options)


def reserve_many(pool: PoolManager, *args: Any, **options: Any) -> Any:
    return pool.reserve_many(5, *args, **options) or None


both = pytest.mark.parametrize("call", [reserve, reserve_many])


def threads_waiting(pool: PoolManager) -> int:
    return sum(shared.waiting for shared in inside(pool).waits.values())


@pytest.fixture
def on_signal() -> Iterator[Callable[[Callable[[], None]], None]]:
    """Has a call made by the handler of SIGUSR1."""
    before = signal.getsignal(signal.SIGUSR1)

    def handle(call: Callable[[], None]) -> None:
        signal.signal(signal.SIGUSR1, lambda *_: call())

    yield handle
    signal.signal(signal.SIGUSR1, before)


class TestWaker:
    @both
    def test_all_calls_that_have_it_return_and_no_others(self, cluster: StartCluster, call: Reserve) -> None:
        servers = cluster(2)
        waker = Waker()
        with pool_of(*servers) as pool:
            # One that has it leads.
            with_it = [background(functools.partial(call, pool, waker=waker))]
            wait_until(lambda: threads_waiting(pool) == 1, "it to wait")
            without = background(functools.partial(call, pool))
            with_it += [background(functools.partial(call, pool, 30, waker=waker)) for _ in range(2)]
            other_tubes = background(functools.partial(call, pool, tubes="other", waker=waker))
            wait_until(lambda: threads_waiting(pool) == 5, "all to wait")
            with within(0.0, "the end of all that have it"):
                waker.set()
                assert [thread.result() for thread in (*with_it, other_tubes)] == [None] * 4
            assert threads_waiting(pool) == 1
            servers[0].control.put(b"job")
            assert without.result() is not None
            pool.close(0)

    @both
    def test_while_it_is_set_nobody_is_asked(self, cluster: StartCluster, call: Reserve) -> None:
        (server,) = cluster(1)
        server.control.put(b"job")
        waker = Waker()
        waker.set()
        with pool_of(server) as pool:
            assert call(pool, waker=waker) is None
            assert server.control.counter("cmd-reserve-with-timeout") == 0
            waker.clear()
            assert call(pool, waker=waker) is not None
            pool.close(0)

    @both
    @pytest.mark.parametrize("timeout", [0, 30])
    def test_far_servers_hold_nobody_up(
        self, cluster: StartCluster, delay_line: StartDelayLine, call: Reserve, timeout: float
    ) -> None:
        """Also while they are asked, one after the other; and if somebody clears it at once."""
        servers = cluster(3)
        lines = [delay_line(server, 2.0) for server in servers]
        waker = Waker()
        with PoolManager([line.address for line in lines], health_interval=60) as pool:
            thread = background(functools.partial(call, pool, timeout, waker=waker))
            asked = any if timeout else all
            wait_until(lambda: asked(status.open for status in pool.servers), "them to be asked")
            with within(0.1, "its end"):
                waker.set()
                waker.clear()
                assert thread.result() is None

    @both
    def test_who_waits_for_a_connection_is_woken(self, beanstalkd: BeanstalkdServer, call: Reserve) -> None:
        waker = Waker()
        with pool_of(beanstalkd, max_connections=1, timeout=20) as pool:
            connections = inside(pool).connections_of(0)
            held = connections.acquire(time.monotonic() + 5)
            for timeout in (0, 20):
                thread = background(functools.partial(call, pool, timeout, waker=waker))
                wait_until(lambda: connections.queue.contended, "it to queue")
                with within(0.0, "its end"):
                    waker.set()
                    assert thread.result() is None
                waker.clear()
            connections.checkin(held)

    def test_a_signal_handler_may_set_it(
        self, cluster: StartCluster, on_signal: Callable[[Callable[[], None]], None]
    ) -> None:
        servers = cluster(2)
        waker = Waker()
        on_signal(waker.set)
        me = threading.get_ident()
        with pool_of(*servers) as pool:

            def strike() -> None:
                wait_until(lambda: threads_waiting(pool) == 1, "the main thread to wait")
                signal.pthread_kill(me, signal.SIGUSR1)

            thread = background(strike)
            assert pool.reserve(waker=waker) is None
            thread.result()

    def test_a_signal_handler_may_set_it_at_any_line(
        self, cluster: StartCluster, on_signal: Callable[[Callable[[], None]], None], rng: random.Random
    ) -> None:
        servers = cluster(2)
        waker = Waker()
        on_signal(waker.set)
        me = threading.get_ident()
        begin, done = threading.Semaphore(0), threading.Event()
        with pool_of(*servers) as pool:

            def strike() -> None:
                while begin.acquire() and not done.is_set():
                    if rng.random() < 0.3:
                        servers[rng.randrange(2)].control.put(b"job")
                    time.sleep(rng.random() * 0.002)
                    signal.pthread_kill(me, signal.SIGUSR1)

            thread = background(strike)
            # Another one comes and goes, so that locks are in use.
            follower = background(lambda: [pool.reserve(0.001) for _ in iter(done.is_set, True)])
            taken = 0
            for _ in range(150):
                waker.clear()
                begin.release()
                with within(1.0, "the reserve", slack=1.0):
                    job = pool.reserve(waker=waker)
                if job is not None:
                    job.delete()
                    taken += 1
                wait_until(waker.is_set, "the signal")
            done.set()
            begin.release()
            thread.result()
            for job in follower.result():
                if job is not None:
                    job.delete()

    def test_no_job_is_lost_or_kept(self, cluster: StartCluster, ledger: Ledger, rng: random.Random) -> None:
        servers = cluster(2)
        count = 200
        bodies = ledger.tokens(count)
        waker = Waker()

        def produce() -> None:
            for body in bodies:
                server = rng.choice(servers)
                ledger.acked(body, server.address, server.control.put(body))
                waker.set()
                waker.clear()

        def consume() -> None:
            while ledger.deleted_count < count:
                job = pool.reserve(0.5, waker=waker)
                if job is not None:
                    ledger.delivered(job.data, job.server, job.id)
                    job.delete()
                    ledger.deleted(job.data)

        with pool_of(*servers) as pool:
            run_together(produce, consume, consume, timeout=30)
        ledger.reconcile([server.control for server in servers], exactly_once=True)


class TestStopReserving:
    @both
    def test_nobody_has_a_job_any_more(self, cluster: StartCluster, call: Reserve) -> None:
        servers = cluster(2)
        with pool_of(*servers) as pool:
            servers[0].control.put(b"in hand")
            job = pool.reserve()
            assert job is not None
            threads = [background(functools.partial(call, pool, waker=waker)) for waker in (None, None, Waker())]
            wait_until(lambda: threads_waiting(pool) == 3, "all to wait")
            with within(0.0, "the end of all reserves"):
                pool.stop_reserving()
                assert [thread.result() for thread in threads] == [None] * 3
            # The rest goes on.
            job.delete()
            pool.put("job")
            pool.stop_reserving()
            for timeout in (None, 0, 5):
                assert call(pool, timeout) is None
        assert sum(server.control.counter("current-jobs-ready") for server in servers) == 1

    @both
    @pytest.mark.parametrize("timeout", [0, 30])
    def test_far_servers_hold_nobody_up(
        self, cluster: StartCluster, delay_line: StartDelayLine, call: Reserve, timeout: float
    ) -> None:
        servers = cluster(3)
        lines = [delay_line(server, 1.0) for server in servers]
        with PoolManager([line.address for line in lines], health_interval=60) as pool:
            thread = background(functools.partial(call, pool, timeout))
            wait_until(lambda: any(status.open for status in pool.servers), "one to be asked")
            with within(FAR, "its end"):
                pool.stop_reserving()
                assert thread.result() is None

    @both
    def test_a_job_that_comes_at_the_same_moment_goes_back(
        self, beanstalkd: BeanstalkdServer, monkeypatch: pytest.MonkeyPatch, call: Reserve
    ) -> None:
        jid = beanstalkd.control.put(b"job")
        sweep, sort_out = Sweeper.run, Take.sort_out
        with pool_of(beanstalkd) as pool:

            def sweep_and_stop(*args: Any) -> Any:
                found = sweep(*args)
                pool.stop_reserving()
                return found

            def sort_out_and_stop(take: Take) -> None:
                sort_out(take)
                pool.stop_reserving()

            monkeypatch.setattr(Sweeper, "run", sweep_and_stop)
            monkeypatch.setattr(Take, "sort_out", sort_out_and_stop)
            assert call(pool) is None
            assert beanstalkd.control.counter("cmd-reserve-with-timeout") > 0
            wait_until(lambda: beanstalkd.control.state(jid) == "ready", "the job's return")

    def test_a_signal_handler_may_do_it(
        self, cluster: StartCluster, on_signal: Callable[[Callable[[], None]], None]
    ) -> None:
        me = threading.get_ident()
        with pool_of(*cluster(2)) as pool:
            on_signal(pool.stop_reserving)

            def strike() -> None:
                wait_until(lambda: threads_waiting(pool) == 1, "the main thread to wait")
                signal.pthread_kill(me, signal.SIGUSR1)

            thread = background(strike)
            assert pool.reserve() is None
            thread.result()


@both
def test_one_that_comes_as_a_look_begins_to_queue_is_not_missed(
    beanstalkd: BeanstalkdServer, call: Reserve, monkeypatch: pytest.MonkeyPatch
) -> None:
    waker = Waker()

    class Event(ReentrantEvent):
        def clear(self) -> None:
            waker.set()
            super().clear()

    monkeypatch.setattr(sweep, "ReentrantEvent", Event)
    with pool_of(beanstalkd, max_connections=1, timeout=30, health_interval=60) as pool:
        connections = inside(pool).connections_of(0)
        held = connections.acquire(time.monotonic() + 10)
        with within(0):
            assert call(pool, 0, waker=waker) is None
        connections.checkin(held)
