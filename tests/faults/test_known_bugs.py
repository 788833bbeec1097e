"""Bugs that clients and pools have had elsewhere, each as a test. Those that have a test of their own are not repeated.

docs/reliability.md has the list of both.
"""

from __future__ import annotations

import functools
import gc
import random
import threading
import time
from collections.abc import Callable

import pytest
from support.inside import inside
from support.processes import assert_baseline
from support.scripted import ScriptedConnection, ScriptedServer, answering, stall, stats_reply
from support.server_pools import all_in_use
from support.servers import BeanstalkdServer
from support.threads import background, run_together
from support.waiting import wait_until, within

from beanpool import PoolManager
from beanpool.errors import BeanpoolError, JobLost, PoolTimeout, PutAmbiguous
from beanpool.protocol.commands import STATS, encode_bare

Cluster = Callable[..., list[BeanstalkdServer]]


def test_a_reply_that_comes_late_is_nobody_elses(scripted_server: Callable[..., ScriptedServer]) -> None:
    # A client that kept its socket after a timeout returned the job id of the put before.
    late = threading.Event()
    count = 0

    def put(connection: ScriptedConnection, line: bytes, body: bytes) -> bytes:
        nonlocal count
        count += 1
        number = count
        if body == b"slow":
            connection.wait(late)
        return b"INSERTED %d\r\n" % number

    server = scripted_server(default=answering({"stats": stats_reply(), "put": put}))
    with PoolManager(server.url, timeout=0.3, health_interval=30) as pool:
        with pytest.raises(PutAmbiguous):
            pool.put("slow", on_ambiguous="raise")
        late.set()
        assert [int(pool.put("quick")) for _ in range(3)] == [2, 3, 4]


def test_a_connection_is_given_back_once(beanstalkd: BeanstalkdServer) -> None:
    # Given back twice, two callers had it at once.
    with PoolManager(beanstalkd.url, max_connections=2) as pool:
        pool.put("x")
        job = pool.reserve(0)
        assert job is not None
        lease = job._lease
        assert lease is not None
        job.delete()
        lease.end(job.id)
        lease.end(job.id)
        del lease, job
        gc.collect()
        [status] = pool.servers
        assert (status.open, status.idle) == (1, 1)
        held = [background(lambda: pool.reserve(5, tubes="none"), "holder") for _ in range(1)]
        wait_until(lambda: beanstalkd.control.counter("current-waiting") == 1, "the reserve to wait")
        assert pool.put("y")
        beanstalkd.control.put(b"end", "none")
        [found] = [holder.result() for holder in held]
        assert found is not None
        found.delete()


def test_a_waiter_that_gave_up_is_handed_no_connection(beanstalkd: BeanstalkdServer, rng: random.Random) -> None:
    # A waiter that timed out was handed the next connection, which then belonged to nobody.
    with PoolManager(beanstalkd.url, max_connections=1, timeout=1) as pool:
        pool.put("x")
        for _ in range(20):
            with all_in_use(pool):
                waiters = [background(lambda: _times_out(pool, rng), f"waiter {number}") for number in range(3)]
                waiters[0].result()
            for waiter in waiters:
                waiter.result()
            # Whose time was up has learnt nothing of the server, and has broken nothing.
            [status] = pool.servers
            assert (status.open, status.idle, status.state) == (1, 1, "up")


def _times_out(pool: PoolManager, rng: random.Random) -> None:
    connections = inside(pool).connections_of(0)
    try:
        connection = connections.acquire(time.monotonic() + rng.uniform(0.001, 0.01), "elsewhere")
    except PoolTimeout:
        return
    # Its turn came at the last moment.
    connections.checkin(connection)


def test_waiters_are_served_in_the_order_in_which_they_came(beanstalkd: BeanstalkdServer) -> None:
    with PoolManager(beanstalkd.url, max_connections=1, timeout=5) as pool:
        served: list[int] = []

        def put(number: int) -> None:
            pool.put(f"{number}", tube="elsewhere")

        waiters = []
        with all_in_use(pool):
            for number in range(6):
                waiters.append(background(lambda number=number: put(number), f"waiter {number}"))  # type: ignore[misc]  # mypy infers no type for a lambda with defaults
                wait_until(lambda number=number: pool.get_stats()["requests_waiting"] == number + 1, "it to wait")  # type: ignore[misc]  # As above.
        for waiter in waiters:
            waiter.result()
        while (found := pool.reserve(0, tubes="elsewhere")) is not None:
            served.append(int(found.body))
            found.delete()
        assert served == list(range(6))


def test_touch_and_delete_never_wait_behind_a_reserve(beanstalkd: BeanstalkdServer) -> None:
    # On a shared connection a touch was answered when the reserve had ended.
    with PoolManager(beanstalkd.url, timeout=2) as pool:
        pool.put("x")
        job = pool.reserve(0)
        assert job is not None
        waiter = background(lambda: pool.reserve(20), "the waiter")
        wait_until(lambda: beanstalkd.control.counter("current-waiting") == 1, "the reserve to wait")
        for call in (job.touch, job.stats, job.delete):
            started = time.monotonic()
            call()
            assert time.monotonic() - started < 0.25
        pool.put("end")
        found = waiter.result(1)
        assert found is not None
        found.delete()


def test_workers_get_stuck_on_no_empty_server(cluster: Cluster) -> None:
    # A client waited on a random server that had no job while the others had many.
    servers = cluster(3)
    with PoolManager([server.address for server in servers]) as pool:
        for server in servers:
            for _ in range(4):
                started = time.monotonic()
                waiter = background(lambda: pool.reserve(10), "the waiter")
                server.control.put(b"x")
                job = waiter.result(2)
                assert job is not None
                assert time.monotonic() - started < 1.0
                job.delete()


def test_no_server_starves(cluster: Cluster) -> None:
    servers = cluster(3)
    with PoolManager([server.address for server in servers]) as pool:
        for server in servers:
            for _ in range(30):
                server.control.put(b"x")
        taken = []
        for _ in range(30):
            job = pool.reserve(0)
            assert job is not None
            taken.append(job.server)
            job.delete()
        assert all(taken.count(server.address) >= 5 for server in servers)


def test_a_connect_that_hangs_holds_no_other_thread_up(scripted_server: Callable[..., ScriptedServer]) -> None:
    # A pool that connected under its lock stood still for all.
    server = scripted_server(stall(), default=answering({"stats": stats_reply(), "put": b"INSERTED 1\r\n"}))
    with PoolManager(server.url, timeout=1.5, connect_timeout=1, health_interval=30) as pool:
        hanging = background(lambda: pool.put("hangs"), "the one that hangs")
        server.wait_accepts(1)
        with within(0.1, slack=0.15):
            assert pool.put("x") == 1
            assert pool.servers[0].open == 2
            assert pool.get_stats()["pool_size"] == 2
        assert not hanging.done
        # It finds another connection when its own was silent for too long.
        hanging.error(3)


def test_a_topology_that_changes_breaks_no_lookup(cluster: Cluster) -> None:
    # Rings that were changed in place raised KeyError and IndexError in readers.
    servers = cluster(1)
    with PoolManager([servers[0].address, "127.0.0.1:1", "127.0.0.1:2"]) as pool:
        stop = threading.Event()

        def look() -> None:
            rng = random.Random(1)
            while not stop.is_set():
                route = pool.route(f"{rng.random()}")
                # Those with weight 0 are in no route.
                assert len(route) == len(set(route)) >= 2
                assert len(pool.servers) >= 3

        readers = [background(look, f"reader {number}") for number in range(4)]
        for number in range(150):
            pool.add_server(f"127.0.0.1:{3 + number}")
            pool.set_weight("127.0.0.1:1", number % 3)
            pool.remove_server(f"127.0.0.1:{3 + number}")
        stop.set()
        for reader in readers:
            reader.result()


def test_the_clock_on_the_wall_is_nobodys_business(
    beanstalkd: BeanstalkdServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Time-outs by time.time() ended at once, or never, when the clock was set.
    rng = random.Random(1)
    monkeypatch.setattr(time, "time", lambda: rng.uniform(-1e9, 4e9))
    with PoolManager(beanstalkd.url, timeout=2, health_interval=0.1) as pool:
        for _ in range(20):
            with within(0.5):
                pool.put("x")
                job = pool.reserve(1)
                assert job is not None
                job.delete()
        with within(0.2):
            assert pool.reserve(0.2) is None
        assert pool.servers[0].state == "up"
        assert not any(pool.get_stats()[name] for name in ("outages_num", "connections_lost", "requests_errors"))


def test_a_connection_that_comes_back_to_a_closed_pool_is_closed(beanstalkd: BeanstalkdServer) -> None:
    # It stayed open, in a pool that nobody had any more.
    control = beanstalkd.control.open()
    with assert_baseline():
        pool = PoolManager(beanstalkd.url)
        pool.put("x")
        job = pool.reserve(0)
        assert job is not None
        closer = background(lambda: pool.close(5), "the closer")
        wait_until(lambda: "(closed)" in repr(pool), "the pool to be closing")
        job.delete()
        closer.result(1)
        wait_until(lambda: not control.other_connections(), "no connection to be left", 1)
        del job


def test_the_end_of_an_outage_is_no_storm_of_connects(cluster: Cluster) -> None:
    # Every waiting thread connected at the same moment.
    [server] = cluster(1)
    limit = 4
    with PoolManager(server.url, max_connections=limit, timeout=4, connect_timeout=0.5, health_interval=0.3) as pool:
        pool.put("x")
        server.kill()
        stop = threading.Event()

        def work() -> int:
            puts = 0
            while not stop.is_set():
                try:
                    pool.put("y", timeout=4)
                    puts += 1
                except BeanpoolError:
                    continue
            return puts

        workers = [background(work, f"worker {number}") for number in range(30)]
        wait_until(lambda: pool.servers[0].state == "down", "the death to be noticed")
        server.start()
        wait_until(lambda: server.control.counter("cmd-put") > 200, "puts to come back", 8)
        made = server.control.counter("total-connections")
        stop.set()
        assert sum(worker.result() for worker in workers) > 0
    # Besides the pool's own: the monitor's, and those with which the test looked.
    assert made <= limit + 6


def test_many_threads_and_few_connections_lose_no_place(beanstalkd: BeanstalkdServer) -> None:
    # Pools leaked their places one by one, until everybody waited for ever.
    with PoolManager(beanstalkd.url, max_connections=3, timeout=5, health_interval=0.5) as pool:

        def work(seed: int) -> None:
            own = random.Random(seed)
            for number in range(40):
                tube = f"tube-{own.randrange(3)}"
                pool.put(f"{seed} {number}", tube=tube)
                try:
                    job = pool.reserve(0.01, tubes=tube)
                except PoolTimeout:
                    continue
                if job is None:
                    continue
                way = own.randrange(4)
                try:
                    if way == 0:
                        job.release()
                    elif way == 1:
                        job.connection.close()
                    elif way == 3:
                        job.delete()
                except JobLost:
                    continue
                finally:
                    # A Job, finished or not, holds its connection.
                    job = None

        run_together(*(functools.partial(work, seed) for seed in range(12)), timeout=40)
        wait_until(lambda: pool.servers[0].leased == 0, "no connection to be leased", 2)
        assert pool.servers[0].open <= 3
        wait_until(lambda: not beanstalkd.control.counter("current-jobs-reserved"), "nothing to be reserved", 1)


def test_a_call_whose_time_is_up_gives_its_connection_back_once(beanstalkd: BeanstalkdServer) -> None:
    with PoolManager(beanstalkd.url, max_connections=2) as pool:
        pool.put("x")
        connections = inside(pool).connections_of(0)
        with (
            pytest.raises(BeanpoolError, match="time for stats ran out"),
            connections.lend(time.monotonic() + 5) as connection,
        ):
            connection.channel.exchange(STATS, encode_bare(STATS), time.monotonic() - 1)
        [status] = pool.servers
        assert (status.open, status.idle, status.state) == (1, 1, "up")
