"""Many threads that wait for jobs of many servers, by one connection per server."""

from __future__ import annotations

import errno
import functools
import math
import os
import random
import socket
import sys
import threading
import time
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from support.inside import inside
from support.interrupts import Rounds, interrupted_when
from support.ledger import Ledger
from support.pools import pool_of
from support.processes import assert_baseline
from support.servers import BeanstalkdServer
from support.threads import Background, background, run_together
from support.waiting import wait_until, within

from beanpool import BeanpoolError, Event, Job, PoolClosed, PoolManager, PoolTimeout, ServerStateChanged
from beanpool.net.channel import Channel
from beanpool.net.poller import SelectorPoller, new_poller
from beanpool.reserve.server_waiter import Begun, ServerWaiter, taken
from beanpool.reserve.sweep import Sweeper
from beanpool.reserve.waiters import WaiterSet
from beanpool.server.connection_pool import ConnectionPool

if TYPE_CHECKING:
    from conftest import StartCluster, StartDelayLine


def threads_waiting(pool: PoolManager) -> int:
    return sum(shared.waiting for shared in inside(pool).waits.values())


def waiters(servers: list[BeanstalkdServer]) -> list[int]:
    """How many connections wait for a job, as each server sees it."""
    return [server.control.counter("current-waiting") for server in servers]


def wait_for_goodbye(servers: list[BeanstalkdServer]) -> None:
    """Wait until no server sees a connection of a pool any more."""
    wait_until(lambda: not any(server.control.other_connections() for server in servers), "all connections to end")


def reserved(servers: list[BeanstalkdServer]) -> int:
    return sum(server.control.counter("current-jobs-reserved") for server in servers)


def start_waiting(pool: PoolManager, call: Callable[[], Job | None]) -> Background[Job | None]:
    """Start a thread that waits behind all that wait already."""
    before = threads_waiting(pool)
    thread = background(call)
    wait_until(lambda: threads_waiting(pool) == before + 1 or thread.done, "the thread to wait")
    return thread


def job_of(thread: Background[Job | None]) -> Job:
    job = thread.result()
    assert job is not None
    return job


def body_of(thread: Background[Job | None]) -> bytes:
    job = job_of(thread)
    job.delete()
    return job.data


class TestOneWaiterPerServer:
    def test_32_threads_on_8_servers(self, cluster: StartCluster) -> None:
        servers = cluster(8)
        with pool_of(*servers) as pool:
            threads = [background(pool.reserve) for _ in range(32)]
            wait_until(lambda: threads_waiting(pool) == 32, "all threads to wait")
            wait_until(lambda: waiters(servers) == [1] * 8, "one waiter on each server")
            bodies = {b"%d" % number for number in range(32)}
            for body in bodies:
                servers[3].control.put(body)
            jobs = [job_of(thread) for thread in threads]
            assert {job.data for job in jobs} == bodies
            assert {job.server for job in jobs} == {servers[3].address}
            assert reserved(servers) == 32
            wait_until(lambda: waiters(servers) == [0] * 8, "the waiters to leave with the threads", timeout=1)
            for job in jobs:
                job.delete()
            assert reserved(servers) == 0
        wait_for_goodbye(servers)

    def test_while_threads_still_wait_each_server_gets_a_new_waiter(self, cluster: StartCluster) -> None:
        servers = cluster(3)
        with pool_of(*servers) as pool:
            threads = [start_waiting(pool, pool.reserve) for _ in range(4)]
            for number in range(4):
                wait_until(lambda: waiters(servers) == [1] * 3, "one waiter on each server")
                servers[0].control.put(b"%d" % number)
                assert body_of(threads[number]) == b"%d" % number
            wait_until(lambda: waiters(servers) == [0] * 3, "the waiters to leave")

    def test_same_tubes_share_and_different_tubes_do_not(self, cluster: StartCluster) -> None:
        servers = cluster(2)
        with pool_of(*servers) as pool:
            one = start_waiting(pool, functools.partial(pool.reserve, tubes="a"))
            both = start_waiting(pool, functools.partial(pool.reserve, tubes=["a", "b"]))
            too = start_waiting(pool, functools.partial(pool.reserve, tubes=["b", "a"]))
            other = start_waiting(pool, functools.partial(pool.reserve, tubes="c"))
            wait_until(lambda: waiters(servers) == [3, 3], "a waiter for each set of tubes")
            servers[0].control.put(b"for c", tube="c")
            assert body_of(other) == b"for c"
            servers[1].control.put(b"for b", tube="b")
            servers[1].control.put(b"for b", tube="b")
            assert {body_of(both), body_of(too)} == {b"for b"}
            assert not one.done
            servers[1].control.put(b"for a", tube="a")
            assert body_of(one) == b"for a"
            wait_until(lambda: waiters(servers) == [0, 0], "the waiters to leave")

    def test_who_has_waited_longest_comes_first(self, cluster: StartCluster) -> None:
        servers = cluster(2)
        with pool_of(*servers) as pool:
            threads = [start_waiting(pool, pool.reserve) for _ in range(5)]
            for number, thread in enumerate(threads):
                servers[number % 2].control.put(b"%d" % number)
                assert body_of(thread) == b"%d" % number
                assert not any(later.done for later in threads[number + 1 :])

    def test_idle_waiting_costs_at_most_two_commands(self, cluster: StartCluster) -> None:
        servers = cluster(8)
        seconds = 2
        doubted: list[str] = []

        def note(event: Event) -> None:
            if isinstance(event, ServerStateChanged) and event.after == "suspect":
                doubted.append(event.server)

        # The pool as it is made by default.
        with PoolManager([server.address for server in servers]) as pool:
            pool.add_listener(note)
            for server in servers:
                server.control.put(b"warm up")
            for _ in servers:
                job = pool.reserve(timeout=5)
                assert job is not None
                job.delete()
            wait_until(lambda: all(status.idle for status in pool.servers), "a connection to each server")
            before = [commands(server) for server in servers]
            with within(seconds):
                assert pool.reserve(timeout=seconds) is None
            # The look itself is one.
            spent = [commands(server) - 1 - count for server, count in zip(servers, before, strict=True)]
        # On a busy machine one is taken for slow, and checked.
        assert all(count <= 2 or server.address in doubted for server, count in zip(servers, spent, strict=True)), spent


def commands(server: BeanstalkdServer) -> int:
    return sum(int(value) for name, value in server.control.stats().items() if name.startswith("cmd-"))


class TestExactlyOnce:
    def test_6_threads_4_servers_2000_jobs(self, cluster: StartCluster, ledger: Ledger) -> None:
        servers = cluster(4)
        count = 2_000
        bodies = ledger.tokens(count)
        for server in servers:
            server.control.open()

        def produce(number: int) -> None:
            server = servers[number]
            for body in bodies[number::4]:
                ledger.acked(body, server.address, server.control.put(body))

        def consume() -> None:
            while ledger.deleted_count < count:
                job = pool.reserve(timeout=0.2)
                if job is not None:
                    ledger.delivered(job.data, job.server, job.id)
                    job.delete()
                    ledger.deleted(job.data)

        with assert_baseline():
            with pool_of(*servers) as pool:
                run_together(*[functools.partial(produce, number) for number in range(4)], *[consume] * 6, timeout=60)
                wait_until(lambda: waiters(servers) == [0] * 4, "the waiters to leave")
                assert reserved(servers) == 0
            wait_for_goodbye(servers)
        report = ledger.reconcile([server.control for server in servers], exactly_once=True)
        assert report.deleted == count

    def test_jobs_that_come_when_the_time_is_up(
        self, cluster: StartCluster, ledger: Ledger, rng: random.Random
    ) -> None:
        """What races in while a wait is cancelled is taken back by the server, not lost and not kept."""
        servers = cluster(2)
        count = 300
        bodies = ledger.tokens(count)
        taken = threading.Semaphore(0)

        def produce() -> None:
            for body in bodies:
                server = rng.choice(servers)
                ledger.acked(body, server.address, server.control.put(body))
                taken.acquire(timeout=5)

        def consume(times: random.Random) -> None:
            while ledger.deleted_count < count:
                job = pool.reserve(timeout=times.choice([0, 0.0005, 0.001, 0.002]))
                if job is not None:
                    ledger.delivered(job.data, job.server, job.id)
                    job.delete()
                    ledger.deleted(job.data)
                    taken.release()

        with pool_of(*servers) as pool:
            consumers = [functools.partial(consume, random.Random(rng.random())) for _ in range(2)]
            run_together(produce, *consumers, timeout=30)
        ledger.reconcile([server.control for server in servers], exactly_once=True)


class TestLeadership:
    def test_a_leader_whose_time_is_up_hands_over(self, cluster: StartCluster) -> None:
        servers = cluster(2)
        with pool_of(*servers) as pool:
            leader = start_waiting(pool, functools.partial(pool.reserve, timeout=0.15))
            second = start_waiting(pool, pool.reserve)
            third = start_waiting(pool, pool.reserve)
            assert leader.result() is None
            servers[0].control.put(b"first")
            servers[1].control.put(b"second")
            assert {body_of(second), body_of(third)} == {b"first", b"second"}

    def test_a_follower_whose_time_is_up_leaves_alone(self, cluster: StartCluster) -> None:
        servers = cluster(2)
        with pool_of(*servers) as pool:
            leader = start_waiting(pool, pool.reserve)
            with within(0.15):
                assert pool.reserve(timeout=0.15) is None
            assert waiters(servers) == [1, 1]
            servers[1].control.put(b"late")
            assert body_of(leader) == b"late"

    def test_control_c_in_the_leader(self, cluster: StartCluster) -> None:
        servers = cluster(3)
        with pool_of(*servers) as pool:
            followers: list[Background[Job | None]] = []

            def follow() -> None:
                wait_until(lambda: threads_waiting(pool) == 1, "the main thread to lead")
                followers.extend(start_waiting(pool, pool.reserve) for _ in range(2))

            starter = background(follow)
            with interrupted_when(lambda: len(followers) == 2):
                pool.reserve()
            starter.result()
            assert threads_waiting(pool) == 2
            wait_until(lambda: waiters(servers) == [1, 1, 1], "the next thread to lead")
            for server in servers[1:]:
                server.control.put(b"after the interrupt")
            assert {body_of(follower) for follower in followers} == {b"after the interrupt"}
            wait_until(lambda: waiters(servers) == [0, 0, 0], "the waiters to leave")
            assert reserved(servers) == 0

    def test_control_c_in_the_only_thread(self, cluster: StartCluster) -> None:
        servers = cluster(2)
        for server in servers:
            server.control.open()
        with assert_baseline(), pool_of(*servers) as pool:
            with interrupted_when(lambda: waiters(servers) == [1, 1]):
                pool.reserve()
            wait_until(lambda: waiters(servers) == [0, 0], "the waiters to leave")
            jid = servers[0].control.put(b"for the next one")
            assert servers[0].control.state(jid) == "ready"
            job = pool.reserve(timeout=0)
            assert job is not None
            job.delete()

    def test_control_c_in_a_follower(self, cluster: StartCluster) -> None:
        servers = cluster(2)
        with pool_of(*servers) as pool:
            leader = start_waiting(pool, pool.reserve)
            wait_until(lambda: waiters(servers) == [1, 1], "a waiter on each server")
            with interrupted_when(lambda: threads_waiting(pool) == 2):
                pool.reserve()
            assert threads_waiting(pool) == 1
            assert waiters(servers) == [1, 1]
            servers[0].control.put(b"for the leader")
            assert body_of(leader) == b"for the leader"

    @pytest.mark.skipif(
        sys.version_info >= (3, 14),
        reason="there an interrupt between the start of a with and its block leaves a lock taken for ever (gh-148874)",
    )
    # A socket that was struck while it was being made is closed when it is collected.
    @pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
    def test_interrupts_at_any_line(
        self, cluster: StartCluster, rng: random.Random, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Whoever is struck, and wherever: no job stays behind, and nobody waits in vain."""
        # What comes in a finalizer is reported, not raised. pytest keeps it, and with its frames whatever these have.
        monkeypatch.setattr(sys, "unraisablehook", lambda _: None)
        servers = cluster(3)
        closed = threading.Event()
        with pool_of(*servers, max_connections=16) as pool:

            def work(times: random.Random) -> None:
                try:
                    job = pool.reserve(timeout=times.choice([None, 0.1, 0.1]))
                    if job is not None:
                        job.delete()
                except PoolClosed:
                    closed.wait(10)

            # The pool's threads: for CPython, one that is being started has the id of who starts it, and may be struck.
            assert pool.reserve(timeout=0.01) is None
            workers = [Rounds(functools.partial(work, random.Random(rng.random()))) for _ in range(6)]
            struck = 0
            end = time.monotonic() + 3.0
            while struck < 150 and time.monotonic() < end:
                for _ in range(rng.randrange(3)):
                    rng.choice(servers).control.put(b"job")
                if rng.random() < 0.3:
                    struck += rng.choice(workers).strike()
                time.sleep(rng.random() * 0.002)
            assert struck > 20
            for server in servers:
                server.control.put(b"one more")
            wait_until(
                lambda: (
                    not any(server.control.counter("current-jobs-ready") for server in servers)
                    and not reserved(servers)
                ),
                "all jobs to be done by those who still wait",
            )
            for worker in workers:
                worker.stop()
        closed.set()
        for worker in workers:
            worker.result()

    def test_who_waits_on_keeps_nothing_of_who_has_gone(self, beanstalkd: BeanstalkdServer) -> None:
        """What an interrupt leaves behind goes with its last reference, a job that nobody will see, too."""
        with pool_of(beanstalkd) as pool:
            first = start_waiting(pool, pool.reserve)
            wait_until(lambda: waiters([beanstalkd]) == [1], "the waiter")
            [shared] = inside(pool).waits.values()
            assert shared._leader is not None
            gone = weakref.ref(shared._leader)
            second = start_waiting(pool, pool.reserve)
            wait_until(lambda: shared.waiting == 2, "both to wait")
            for thread in (first, second):
                beanstalkd.control.put(b"job")
                job_of(thread).delete()
                wait_until(lambda: gone() is None, "the first one to be forgotten")


class TestServersComeAndGo:
    def test_one_that_was_down_from_the_start_is_joined_when_it_comes_up(self, cluster: StartCluster) -> None:
        servers = cluster(3)
        servers[0].kill()
        with pool_of(*servers) as pool:
            thread = start_waiting(pool, pool.reserve)
            servers[0].start()
            servers[0].control.put(b"new")
            assert body_of(thread) == b"new"

    def test_all_were_down_from_the_start(self, cluster: StartCluster) -> None:
        servers = cluster(2)
        for server in servers:
            server.kill()
        with pool_of(*servers) as pool:
            thread = start_waiting(pool, pool.reserve)
            servers[1].start()
            servers[1].control.put(b"new")
            assert body_of(thread) == b"new"

    def test_one_that_is_restarted_is_joined_again(self, cluster: StartCluster) -> None:
        servers = cluster(2)
        with pool_of(*servers) as pool:
            threads = [start_waiting(pool, pool.reserve) for _ in range(2)]
            for thread in threads:
                wait_until(lambda: waiters(servers) == [1, 1], "a waiter on each server")
                servers[0].restart()
                servers[0].control.put(b"after the restart")
                assert body_of(thread) == b"after the restart"

    def test_one_that_joins_the_pool(self, cluster: StartCluster) -> None:
        servers = cluster(3)
        with pool_of(*servers[:2]) as pool:
            thread = start_waiting(pool, pool.reserve)
            pool.add_server(servers[2].address)
            servers[2].control.put(b"from the new one")
            assert body_of(thread) == b"from the new one"

    def test_one_that_leaves_the_pool(self, cluster: StartCluster) -> None:
        servers = cluster(2)
        with pool_of(*servers) as pool:
            thread = start_waiting(pool, pool.reserve)
            wait_until(lambda: waiters(servers) == [1, 1], "a waiter on each server")
            pool.remove_server(servers[0].address)
            wait_until(lambda: waiters(servers) == [0, 1], "the waiter to leave")
            wait_until(lambda: servers[0].control.other_connections() == 0, "all connections to end")
            servers[1].control.put(b"from the other one")
            assert body_of(thread) == b"from the other one"

    @pytest.mark.parametrize("fate", ["killed", "frozen", "terminated"])
    def test_one_that_fails_disturbs_nobody(self, cluster: StartCluster, fate: str) -> None:
        servers = cluster(3)
        victim, *others = servers
        with pool_of(*servers, connect_timeout=0.3, timeout=0.5) as pool:
            threads = [start_waiting(pool, pool.reserve) for _ in range(4)]
            wait_until(lambda: waiters(servers) == [1, 1, 1], "a waiter on each server")
            {"killed": victim.kill, "frozen": victim.freeze, "terminated": victim.terminate}[fate]()
            for number, thread in enumerate(threads[:2]):
                with within(0.5, "a delivery beside the failure"):
                    others[number].control.put(b"%d" % number)
                    assert body_of(thread) == b"%d" % number
            wait_until(lambda: pool.servers[0].state == "down", "the failure to be noticed")
            with within(0.5, "a delivery after it"):
                others[0].control.put(b"2")
                assert body_of(threads[2]) == b"2"
            if fate == "frozen":
                victim.thaw()
            else:
                victim.start()
            victim.control.put(b"it is back")
            assert body_of(threads[3]) == b"it is back"

    @pytest.mark.parametrize("timeout", [0, 0.05])
    def test_one_that_is_removed_in_mid_reserve_is_no_end_of_the_pool(
        self, cluster: StartCluster, monkeypatch: pytest.MonkeyPatch, timeout: float
    ) -> None:
        servers = cluster(2)
        try_acquire = ConnectionPool.try_acquire
        with pool_of(*servers) as pool:

            def remove_first(self: ConnectionPool, *args: Any) -> Any:
                for status in pool.servers[1:]:
                    pool.remove_server(status.address)
                return try_acquire(self, *args)

            assert pool.reserve(timeout=0) is None
            monkeypatch.setattr(ConnectionPool, "try_acquire", remove_first)
            # From whichever it starts.
            for _ in range(2):
                with within(timeout, slack=1.0):
                    assert pool.reserve(timeout=timeout) is None
                pool.add_server(servers[1].address if len(pool.servers) == 1 else servers[0].address)
            with within(timeout, slack=1.0):
                assert pool.reserve_many(2, timeout=timeout) == []

    def test_workers_outlive_servers_that_come_and_go(self, cluster: StartCluster) -> None:
        servers = cluster(2)
        done = threading.Event()
        with pool_of(*servers) as pool:

            def work() -> None:
                while not done.is_set():
                    assert pool.reserve(timeout=0.002) is None
                    assert pool.reserve_many(2, timeout=0.002) == []

            def change() -> None:
                try:
                    for _ in range(60):
                        pool.remove_server(servers[1].address)
                        time.sleep(0.003)
                        pool.add_server(servers[1].address)
                        time.sleep(0.003)
                finally:
                    done.set()

            run_together(*[work] * 3, change, timeout=20)


class TestClosing:
    def test_everybody_is_woken(self, cluster: StartCluster) -> None:
        servers = cluster(4)
        for server in servers:
            server.control.open()
        with assert_baseline():
            pool = pool_of(*servers)
            threads = [start_waiting(pool, functools.partial(pool.reserve, tubes=tube)) for tube in "aaaaabbbbb"]
            wait_until(lambda: waiters(servers) == [2] * 4, "a waiter on each server for each tube")
            # Nobody who is asleep may be in the way.
            servers[2].freeze()
            with within(0.5, "waking all threads", slack=0):
                closing = background(pool.close)
                errors = [thread.error() for thread in threads]
            assert [type(error) for error in errors] == [PoolClosed] * 10
            with within(1.5):
                closing.result()
            servers[2].thaw()
            wait_for_goodbye(servers)
            with pytest.raises(PoolClosed):
                pool.reserve(timeout=0)


class TestOnTheWay:
    """A caller that has begun a reserve, and has not come to its wait yet."""

    @pytest.fixture
    def hold(self, monkeypatch: pytest.MonkeyPatch) -> Callable[[], tuple[threading.Event, threading.Event]]:
        """Stops the next sweep at its end; returns what says that it has come there, and what lets it go on."""
        sweep = Sweeper.run
        holds: list[tuple[threading.Event, threading.Event]] = []

        def sweep_and_hold(self: Sweeper, *args: Any) -> Any:
            held = holds.pop() if holds else None
            found = sweep(self, *args)
            if held is not None:
                held[0].set()
                assert held[1].wait(10)
            return found

        def next_one() -> tuple[threading.Event, threading.Event]:
            holds.append((threading.Event(), threading.Event()))
            return holds[-1]

        monkeypatch.setattr(Sweeper, "run", sweep_and_hold)
        return next_one

    def test_it_is_reached_however_many_others_come_in_between(
        self, beanstalkd: BeanstalkdServer, hold: Callable[[], tuple[threading.Event, threading.Event]]
    ) -> None:
        pool = pool_of(beanstalkd)
        come, go = hold()
        first = background(functools.partial(pool.reserve, tubes="awaited"))
        assert come.wait(5)
        for number in range(300):
            assert pool.reserve(timeout=0, tubes=f"tube-{number}") is None
        go.set()
        wait_until(lambda: threads_waiting(pool) == 1, "it to wait")
        second = start_waiting(pool, functools.partial(pool.reserve, tubes="awaited"))
        wait_until(lambda: waiters([beanstalkd]) == [1], "one connection to wait for both")
        beanstalkd.control.put(b"job", tube="awaited")
        assert body_of(first) == b"job"
        pool.close()
        assert isinstance(second.error(), PoolClosed)

    def test_close_reaches_it(
        self, beanstalkd: BeanstalkdServer, hold: Callable[[], tuple[threading.Event, threading.Event]]
    ) -> None:
        pool = pool_of(beanstalkd)
        come, go = hold()
        thread = background(pool.reserve)
        assert come.wait(5)
        pool.close(0.1)
        go.set()
        assert isinstance(thread.error(), PoolClosed)

    def test_what_is_kept_of_sets_of_tubes_is_bounded(self, beanstalkd: BeanstalkdServer) -> None:
        with pool_of(beanstalkd) as pool:
            for number in range(600):
                assert pool.reserve(timeout=0, tubes=f"tube-{number}") is None
            assert len(inside(pool).waits) <= 256


class TestManyTubes:
    def test_a_job_of_the_last_of_10_000(self, cluster: StartCluster, monkeypatch: pytest.MonkeyPatch) -> None:
        def with_small_buffers(sock: socket.socket, server: str) -> Channel:
            """As over a real network, where the commands do not fit into what the system takes at once."""
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
            return Channel(sock, server)

        monkeypatch.setattr("beanpool.server.pooled_connection.Channel", with_small_buffers)
        servers = cluster(1)
        tubes = [f"one-of-very-many-tubes-{number:06}" for number in range(10_000)]
        with pool_of(*servers) as pool:
            thread = start_waiting(pool, functools.partial(pool.reserve, timeout=40, tubes=tubes))
            wait_until(lambda: waiters(servers) == [1], "the waiter", timeout=20)
            servers[0].control.put(b"job", tube=tubes[-1])
            assert body_of(thread) == b"job"
            assert [status.state for status in pool.servers] == ["up"]
            # Back to few, and to as many: the connection is the same one.
            servers[0].control.put(b"another one")
            servers[0].control.put(b"and one more", tube=tubes[0])
            for some in (["default"], tubes):
                job = pool.reserve(timeout=40, tubes=some)
                assert job is not None
                job.delete()

    def test_a_set_up_is_linear(self, beanstalkd: BeanstalkdServer) -> None:
        """0.1 s of the processor; it was 4 when each tube was compared with all others."""
        tubes = [f"tube-{number}" for number in range(8_000)]
        with pool_of(beanstalkd, timeout=20) as pool:
            started = time.thread_time()
            assert pool.reserve(timeout=0, tubes=tubes) is None
            assert time.thread_time() - started < 1.5


class TestFewConnections:
    def test_a_put_gets_through_while_the_only_connection_waits(self, cluster: StartCluster) -> None:
        servers = cluster(2)
        with pool_of(*servers, max_connections=1) as pool:
            thread = start_waiting(pool, functools.partial(pool.reserve, tubes="other"))
            wait_until(lambda: waiters(servers) == [1, 1], "a waiter on each server")
            for _ in range(4):
                with within(0.5, "the put"):
                    pool.put("while it waits")
            pool.put("for it", tube="other")
            with within(1.0, "the delivery"):
                assert body_of(thread) == b"for it"

    def test_who_waits_beside_another_thread_is_told_that_there_is_no_job(self, cluster: StartCluster) -> None:
        """The server is asked, by the connection of the other thread: nothing is wrong."""
        servers = cluster(2)
        with pool_of(*servers, max_connections=1) as pool:
            thread = start_waiting(pool, pool.reserve)
            wait_until(lambda: waiters(servers) == [1, 1], "a waiter on each server")
            assert pool.reserve(timeout=0) is None
            assert pool.reserve(timeout=0.1) is None
            servers[0].control.put(b"job")
            assert body_of(thread) == b"job"

    def test_puts_and_reserves_by_many_threads(self, cluster: StartCluster) -> None:
        servers = cluster(2)
        done = threading.Semaphore(0)
        with pool_of(*servers, max_connections=1, timeout=20) as pool:

            def produce() -> None:
                for _ in range(10):
                    pool.put("job")

            def consume() -> None:
                for _ in range(10):
                    job = None
                    while job is None:
                        job = pool.reserve(timeout=5)
                    job.delete()
                    done.release()

            run_together(*[produce] * 3, *[consume] * 3, timeout=40)
        assert done._value == 30
        assert reserved(servers) == 0

    def test_when_unfinished_jobs_hold_all_connections(self, cluster: StartCluster) -> None:
        servers = cluster(2)
        with pool_of(*servers, max_connections=1) as pool:
            for server in servers:
                server.control.put(b"job")
            jobs = [pool.reserve(timeout=0), pool.reserve(timeout=0)]
            for seconds in (0.0, 0.1):
                with within(seconds), pytest.raises(PoolTimeout, match=r"1 of 1 are in use.*unfinished jobs"):
                    pool.reserve(timeout=seconds)
            servers[0].control.put(b"another one")
            waiting = start_waiting(pool, functools.partial(pool.reserve, timeout=5))
            for job in jobs:
                assert job is not None
                job.delete()
            assert body_of(waiting) == b"another one", "a connection that comes free joins the wait"


class TestShortOfConnections:
    """A server that was not asked is not empty: reserves queue for connections like everybody else."""

    def test_many_puts_keep_no_job_from_few_workers(self, cluster: StartCluster) -> None:
        """With more threads that put than connections there is always somebody who wants the next one."""
        servers = cluster(1)
        done = threading.Event()
        with pool_of(*servers, max_connections=4, timeout=20) as pool:

            def put() -> None:
                while not done.is_set():
                    pool.put("job", tube="work")

            def take() -> None:
                for _ in range(10):
                    job = pool.reserve(timeout=10, tubes="work")
                    assert job is not None
                    job.delete()

            def take_many() -> None:
                for timeout in (10, 0):
                    jobs = pool.reserve_many(2, timeout=timeout, tubes="work")
                    assert jobs
                    pool.delete_many(jobs)

            def look() -> None:
                for _ in range(3):
                    job = pool.reserve(timeout=0, tubes="work")
                    assert job is not None
                    job.delete()

            puts = [background(put) for _ in range(12)]
            wait_until(lambda: servers[0].control.counter("current-jobs-ready") > 100, "jobs to be there")
            try:
                run_together(*[take] * 4, take_many, look, timeout=30)
            finally:
                done.set()
                for thread in puts:
                    thread.result()

    def test_more_sets_of_tubes_than_connections(self, cluster: StartCluster) -> None:
        servers = cluster(2)
        with pool_of(*servers, max_connections=2) as pool:

            def take(tube: str) -> bytes:
                job = pool.reserve(timeout=20, tubes=tube)
                assert job is not None
                job.delete()
                return job.data

            tubes = [f"tube-{number}" for number in range(7)]
            for turn in range(2):
                threads = [background(functools.partial(take, tube)) for tube in tubes]
                wait_until(lambda: threads_waiting(pool) == len(tubes), "all to wait")
                if turn:
                    # One that has just come finds what is there at once.
                    servers[0].control.put(b"at once", tube="another")
                    with within(1.0, "the delivery"):
                        assert take("another") == b"at once"
                for number, tube in enumerate(tubes):
                    servers[(number + turn) % 2].control.put(tube.encode(), tube=tube)
                with within(3.0, "all deliveries"):
                    assert [thread.result() for thread in threads] == [tube.encode() for tube in tubes]
            assert [status.state for status in pool.servers] == ["up", "up"]

    @pytest.mark.parametrize("timeout", [0, 5])
    def test_a_server_whose_connections_are_in_use_is_asked_when_one_comes_free(
        self, cluster: StartCluster, timeout: float
    ) -> None:
        busy, other = cluster(2)
        with pool_of(busy, other, max_connections=1) as pool:
            connections = inside(pool).connections_of(0)
            held = connections.acquire(time.monotonic() + 5)
            busy.control.put(b"job")
            thread = background(functools.partial(pool.reserve, timeout=timeout))
            wait_until(lambda: connections.queue.contended, "it to queue")
            connections.checkin(held)
            with within(0.2, "the delivery"):
                assert body_of(thread) == b"job"

    def test_who_waits_in_vain_for_a_connection_does_not_wait_longer_than_asked(self, cluster: StartCluster) -> None:
        (server,) = cluster(1)
        with pool_of(server, max_connections=1, timeout=0.3) as pool:
            connections = inside(pool).connections_of(0)
            held = connections.acquire(time.monotonic() + 5)
            for timeout in (0, 0.3):
                with within(0.3), pytest.raises(PoolTimeout, match="no connection became free in time"):
                    pool.reserve(timeout=timeout)
            connections.checkin(held)
            assert not connections.queue.contended
            assert pool.reserve(timeout=0) is None

    def test_one_that_waits_for_a_connection_is_reached_by_others_and_by_close(self, cluster: StartCluster) -> None:
        busy, other = cluster(2)
        with pool_of(busy, other, max_connections=1) as pool:
            held = inside(pool).connections_of(0).acquire(time.monotonic() + 5)
            threads = [start_waiting(pool, pool.reserve) for _ in range(2)]
            other.control.put(b"from the other one")
            wait_until(lambda: any(thread.done for thread in threads), "the delivery")
            inside(pool).connections_of(0).checkin(held)
            pool.close(0)
        errors = [thread.error() for thread in threads]
        assert sorted(errors, key=bool)[0] is None
        assert isinstance(sorted(errors, key=bool)[1], PoolClosed)


class TestDelivered:
    """A connection that has brought a job is its caller's, also where the wait goes on and has not let go of it."""

    @pytest.fixture(params=[new_poller, SelectorPoller], ids=["best", "portable"], autouse=True)
    def poller(self, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("beanpool.reserve.waiters.new_poller", request.param)

    @pytest.fixture
    def looks(self, monkeypatch: pytest.MonkeyPatch) -> list[WaiterSet]:
        """Grows by one whenever a leader is woken."""
        looks: list[WaiterSet] = []
        look = WaiterSet.poll

        def look_and_count(waiters: WaiterSet, deadline: float) -> None:
            look(waiters, deadline)
            looks.append(waiters)

        monkeypatch.setattr(WaiterSet, "poll", look_and_count)
        return looks

    def test_nobody_reads_what_its_job_is_answered(self, cluster: StartCluster, looks: list[WaiterSet]) -> None:
        servers = cluster(2)
        with pool_of(*servers) as pool:
            first, second = start_waiting(pool, pool.reserve), start_waiting(pool, pool.reserve)
            servers[0].control.put(b"first")
            job = job_of(first)
            wait_until(lambda: waiters(servers) == [1, 1], "the second to lead")
            woken = len(looks)
            for _ in range(200):
                job.touch()
            # A little, for other reasons.
            assert len(looks) - woken < 10
            # Back to the pool, and to the same wait.
            job.delete()
            servers[0].control.put(b"second")
            assert body_of(second) == b"second"

    def test_its_end_wakes_nobody(self, cluster: StartCluster, looks: list[WaiterSet]) -> None:
        servers = cluster(2)
        with pool_of(*servers) as pool:
            first, second = start_waiting(pool, pool.reserve), start_waiting(pool, pool.reserve)
            servers[0].control.put(b"first")
            job = job_of(first)
            wait_until(lambda: waiters(servers) == [1, 1], "the second to lead")
            connections = servers[0].control.other_connections()
            job.delete()
            woken = len(looks)
            descriptor = job.connection.fileno()
            job.connection.close()
            # Somebody else gets its number, and it is readable.
            ours, theirs = socket.socketpair()
            if ours.fileno() != descriptor:
                os.dup2(ours.fileno(), descriptor)
            theirs.send(b"RESERVED 1 1\r\nx\r\n")
            wait_until(lambda: servers[0].control.other_connections() < connections, "its end")
            assert len(looks) - woken < 10
            servers[1].control.put(b"second")
            assert body_of(second) == b"second"
            assert ours.recv(100) == b"RESERVED 1 1\r\nx\r\n"
            if ours.fileno() != descriptor:
                os.close(descriptor)
            ours.close()
            theirs.close()

    def test_one_that_is_closed_while_it_is_armed_is_lost_and_no_more(
        self, beanstalkd: BeanstalkdServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Epoll says so at once, where poll() takes every number."""
        armed = []

        class Closed(SelectorPoller):
            def arm(self, descriptor: int, *, write: bool) -> None:
                armed.append(descriptor)
                # The first one is the leader's own pipe.
                if len(armed) == 2:
                    raise OSError(errno.EBADF, "Bad file descriptor")
                super().arm(descriptor, write=write)

        monkeypatch.setattr("beanpool.reserve.waiters.new_poller", Closed)
        with pool_of(beanstalkd) as pool:
            thread = start_waiting(pool, pool.reserve)
            wait_until(lambda: len(armed) > 2, "another connection to wait")
            beanstalkd.control.put(b"job")
            assert body_of(thread) == b"job"

    def test_a_job_that_comes_in_pieces(self, cluster: StartCluster) -> None:
        """More than one read gives."""
        servers = cluster(2)
        with pool_of(*servers) as pool:
            for size in (4_000, 4_096, 60_000):
                thread = start_waiting(pool, pool.reserve)
                wait_until(lambda: waiters(servers) == [1, 1], "a waiter on each server")
                servers[1].control.put(b"x" * size)
                with within(0.5, "the delivery"):
                    assert body_of(thread) == b"x" * size

    def test_a_server_whose_wait_has_ended_is_asked_again(
        self, cluster: StartCluster, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("beanpool.reserve.waiters.RESERVE_SLICE", 1)
        servers = cluster(2)
        with pool_of(*servers) as pool:
            thread = start_waiting(pool, pool.reserve)
            wait_until(lambda: waiters(servers) == [1, 1], "a waiter on each server")
            counts = [server.control.counter("cmd-reserve-with-timeout") for server in servers]
            for server, count in zip(servers, counts, strict=True):
                wait_until(
                    lambda server=server, count=count: server.control.counter("cmd-reserve-with-timeout") > count,  # type: ignore[misc]  # mypy infers no type for a lambda with defaults
                    "the next one",
                )
            wait_until(lambda: waiters(servers) == [1, 1], "a waiter on each server again")
            servers[0].control.put(b"late")
            assert body_of(thread) == b"late"


def test_the_background_thread_takes_no_core_from_others(cluster: StartCluster) -> None:
    if sys.platform != "linux":
        pytest.skip("there is no way to ask for it")
    with pool_of(*cluster(2)) as pool:
        thread = start_waiting(pool, functools.partial(pool.reserve, timeout=5))

        def is_patient() -> bool:
            thread = pool._reserver._background._thread
            return thread is not None and os.sched_getscheduler(thread.native_id or 0) == os.SCHED_BATCH

        wait_until(is_patient, "its policy")
        assert os.sched_getscheduler(0) == os.SCHED_OTHER
        pool.put("job")
        assert body_of(thread) == b"job"


class TestSilence:
    """A connection that waits, and on which nothing arrives any more, as after a NAT has forgotten it."""

    def test_a_job_is_kept_from_nobody_for_long(
        self, beanstalkd: BeanstalkdServer, delay_line: StartDelayLine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("beanpool.reserve.waiters.RESERVE_SLICE", 1)
        line = delay_line(beanstalkd, 0.0)
        # As it is made by default: nothing is found out by frequent checks.
        with PoolManager([line.address]) as pool:
            threads = [start_waiting(pool, pool.reserve) for _ in range(4)]
            wait_until(lambda: waiters([beanstalkd]) == [1], "the waiter")
            line.forget()
            # One of them goes to the connection, and is back when the server learns of its end.
            for _ in range(5):
                beanstalkd.control.put(b"job")
            # The slice, and a second of patience.
            with within(2.5, "the first delivery", slack=1.0):
                wait_until(lambda: any(thread.done for thread in threads), "a job")
            assert [status.state for status in pool.servers] == ["up"]
            for thread in threads:
                assert body_of(thread) == b"job"

    def test_an_idle_connection_that_was_forgotten_costs_little(
        self, beanstalkd: BeanstalkdServer, delay_line: StartDelayLine
    ) -> None:
        line = delay_line(beanstalkd, 0.0)
        with PoolManager([line.address]) as pool:
            assert pool.reserve(timeout=0) is None
            line.forget()
            beanstalkd.control.put(b"job")
            with within(2.0, "the delivery", slack=1.0):
                job = pool.reserve(timeout=10)
            assert job is not None
            job.delete()

    def test_a_server_that_is_slow_keeps_its_connection(
        self, beanstalkd: BeanstalkdServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("beanpool.reserve.waiters.RESERVE_SLICE", 1)
        with PoolManager([beanstalkd.address]) as pool:
            thread = start_waiting(pool, pool.reserve)
            wait_until(lambda: waiters([beanstalkd]) == [1], "the waiter")
            [shared] = inside(pool).waits.values()
            assert shared.waiters is not None
            [waiter] = shared.waiters.by_post.values()
            beanstalkd.freeze()
            time.sleep(1.6)
            beanstalkd.thaw()
            beanstalkd.control.put(b"job")
            job = job_of(thread)
            assert job.connection is waiter.connection
            job.delete()
            assert [status.state for status in pool.servers] == ["up"]

    def test_waiting_on_many_servers_is_work_for_those_alone_that_answer(
        self, cluster: StartCluster, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("beanpool.reserve.waiters.RESERVE_SLICE", 1)
        looked_at = 0
        join = WaiterSet._go_on

        def count(waiters: WaiterSet, waiter: ServerWaiter, now: float, longest_wait: float) -> None:
            nonlocal looked_at
            looked_at += 1
            join(waiters, waiter, now, longest_wait)

        servers = cluster(8)
        with PoolManager([server.address for server in servers]) as pool:
            thread = start_waiting(pool, functools.partial(pool.reserve, timeout=30))
            wait_until(lambda: waiters(servers) == [1] * 8, "a waiter on each server")
            wait_until(lambda: all(status.round_trip is not None for status in pool.servers), "all to be known")
            asked = sum(server.control.counter("cmd-reserve-with-timeout") for server in servers)
            monkeypatch.setattr(WaiterSet, "_go_on", count)
            wait_until(
                lambda: sum(server.control.counter("cmd-reserve-with-timeout") for server in servers) >= asked + 16,
                "two more slices",
            )
            # Each of the 16 at its own answer, and all of them now and then for other reasons.
            assert looked_at < 60
            servers[0].control.put(b"job")
            assert body_of(thread) == b"job"


def test_a_wait_of_any_length_is_cut_into_slices(beanstalkd: BeanstalkdServer) -> None:
    """The server's own timeouts are bounded, whatever the caller's is, so that nobody is a ghost waiter for long."""
    with pool_of(beanstalkd) as pool:
        for timeout in (None, 1e6, 86_400):
            thread = start_waiting(pool, functools.partial(pool.reserve, timeout=timeout))
            wait_until(lambda: waiters([beanstalkd]) == [1], "the waiter")
            [shared] = inside(pool).waits.values()
            assert shared.waiters is not None
            [waiter] = shared.waiters.by_post.values()
            assert waiter.ends_at - time.monotonic() <= 4
            assert math.isfinite(waiter.connection.give_up_at)
            beanstalkd.control.put(b"job")
            assert body_of(thread) == b"job"


def test_two_threads_take_everything_from_a_list_once() -> None:
    """A caller that is interrupted takes its connections back from the leader that takes them over."""
    rounds, interval = 2_000, sys.getswitchinterval()
    lists: list[Begun] = [[(number, n) for n in range(3)] for number in range(rounds)]  # type: ignore[misc]  # Anything will do.
    found: list[Begun] = [[], []]

    def take(number: int) -> None:
        for begun in lists:
            found[number] += taken(begun)

    sys.setswitchinterval(1e-6)
    try:
        run_together(functools.partial(take, 0), functools.partial(take, 1))
    finally:
        sys.setswitchinterval(interval)
    assert sorted(found[0] + found[1]) == [(number, n) for number in range(rounds) for n in range(3)]  # type: ignore[comparison-overlap]


def test_an_error_of_one_caller_is_not_that_of_another(beanstalkd: BeanstalkdServer) -> None:
    with pool_of(beanstalkd) as pool:
        threads = [start_waiting(pool, pool.reserve) for _ in range(2)]
        pool.close()
        errors = [thread.error() for thread in threads]
    assert all(isinstance(error, BeanpoolError) for error in errors)
    assert errors[0] is not errors[1]
