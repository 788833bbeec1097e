"""Reserves that ask their tubes in turns, or in the order in which they are named; and those that ask one server."""

from __future__ import annotations

import functools
import itertools
import random
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pytest
from support.inside import inside
from support.pools import pool_of
from support.servers import BeanstalkdServer
from support.threads import Background, background, run_together
from support.waiting import wait_until, within

from beanpool import Job, NoServerAvailable, PoolManager, Server
from beanpool.reserve import Order

if TYPE_CHECKING:
    from conftest import StartCluster, StartDelayLine

FAR = 0.3
TUBES = ("urgent", "mail", "bulk", "again", "clean-up")


def put(server: BeanstalkdServer, tube: str, count: int = 1) -> None:
    for _ in range(count):
        server.control.put(tube.encode(), tube=tube)


def fill(servers: Sequence[BeanstalkdServer], counts: dict[str, int], rng: random.Random) -> None:
    jobs = [tube for tube, count in counts.items() for _ in range(count)]
    rng.shuffle(jobs)
    for server, tube in zip(itertools.cycle(servers), jobs, strict=False):
        put(server, tube)


def take(pool: PoolManager, timeout: float | None = 0, most: int = 10_000, **options: Any) -> list[tuple[str, str]]:
    """Take everything, or so many; returns the servers and tubes, in order."""
    taken: list[tuple[str, str]] = []
    while len(taken) < most and (job := pool.reserve(timeout, **options)) is not None:
        assert job.tube is not None
        assert job.data == job.tube.encode()
        taken.append((job.server, job.tube))
        job.delete()
    return taken


def tube_of(thread: Background[Job | None]) -> str:
    job = thread.result()
    assert job is not None
    job.delete()
    assert job.tube is not None
    return job.tube


def waiting(server: BeanstalkdServer) -> int:
    return server.control.counter("current-waiting")


def start_waiting(pool: PoolManager, **options: Any) -> Background[Job | None]:
    before = sum(shared.waiting for shared in inside(pool).waits.values())
    thread = background(functools.partial(pool.reserve, 20, **options))
    wait_until(lambda: sum(s.waiting for s in inside(pool).waits.values()) == before + 1, "the thread to wait")
    return thread


class TestStrict:
    def test_1000_jobs_of_5_tubes_and_3_servers(self, cluster: StartCluster, rng: random.Random) -> None:
        servers = cluster(3)
        fill(servers, dict.fromkeys(TUBES, 200), rng)
        with pool_of(*servers) as pool:
            taken = take(pool, tubes=TUBES, order="strict")
        assert [tube for _, tube in taken] == [tube for tube in TUBES for _ in range(200)]
        assert len(Counter(server for server, _ in taken)) == 3
        assert all(server.control.counter("cmd-stats-job") == 0 for server in servers)

    def test_by_several_threads(self, cluster: StartCluster, rng: random.Random) -> None:
        servers = cluster(3)
        fill(servers, dict.fromkeys(TUBES, 40), rng)
        with pool_of(*servers) as pool:
            work = functools.partial(take, pool, tubes=TUBES, order="strict")
            found = run_together(*[work] * 4, timeout=30)
        assert sum(map(len, found)) == 200
        for taken in found:
            assert [tube for _, tube in taken] == sorted([tube for _, tube in taken], key=TUBES.index)

    def test_from_afar(self, cluster: StartCluster, delay_line: StartDelayLine) -> None:
        """Its answers come later than those of the others, and count as much."""
        servers = cluster(2)
        line = delay_line(servers[0], FAR)
        with PoolManager([line.address, servers[1].address], health_interval=60) as pool:
            pool.wait(2)
            for server in servers:
                for tube in ("c", "b", "a"):
                    put(server, tube)
            taken = take(pool, 3, 6, tubes=["a", "b", "c"], order="strict")
        for address in (line.address, servers[1].address):
            assert [tube for one, tube in taken if one == address] == ["a", "b", "c"]

    @pytest.mark.parametrize("far", [False, True], ids=["near", "far"])
    def test_who_waits_longest_has_what_comes_first(
        self, beanstalkd: BeanstalkdServer, delay_line: StartDelayLine, far: bool
    ) -> None:
        """A server that has given a job has others, maybe, which come before what another tube has."""
        address = delay_line(beanstalkd, FAR).address if far else beanstalkd.address
        with PoolManager([address], health_interval=60) as pool:
            threads = [start_waiting(pool, tubes=["b", "a"], order="strict") for _ in range(3)]
            wait_until(lambda: waiting(beanstalkd) == 2, "a waiter for each tube")
            put(beanstalkd, "b", 2)
            put(beanstalkd, "a")
            assert [tube_of(thread) for thread in threads] == ["b", "b", "a"]

    def test_what_has_come_in_for_nobody_comes_after_what_is_ready_before_it(
        self, cluster: StartCluster, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("beanpool.reserve.wait.GRACE", 30.0)
        servers = cluster(2)
        options: dict[str, Any] = {"tubes": ["b", "a"], "order": "strict"}
        with pool_of(*servers) as pool:
            for many in (False, True):
                thread = start_waiting(pool, **options)
                wait_until(lambda: [*map(waiting, servers)] == [2, 2], "a waiter for each tube")
                put(servers[0], "b")
                assert tube_of(thread) == "b"
                put(servers[0], "a")
                wait_until(lambda: servers[0].control.counter("current-jobs-reserved"), "the waiter to have it")
                put(servers[0], "b")
                jobs = pool.reserve_many(5, 5, **options) if many else [pool.reserve(5, **options) for _ in range(2)]
                assert [job and job.tube for job in jobs] == ["b", "a"]
                pool.delete_many([job for job in jobs if job is not None])

    def test_nothing_is_held_for_long_until_its_turn_comes(
        self, beanstalkd: BeanstalkdServer, delay_line: StartDelayLine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("beanpool.reserve.choice._LONGEST_HELD", 0.05)
        with PoolManager([delay_line(beanstalkd, 0.5).address], health_interval=60, timeout=20) as pool:
            threads = [start_waiting(pool, tubes=["b", "a"], order="strict") for _ in range(2)]
            wait_until(lambda: waiting(beanstalkd) == 2, "a waiter for each tube")
            put(beanstalkd, "b")
            put(beanstalkd, "a")
            assert tube_of(threads[0]) == "b"
            wait_until(lambda: beanstalkd.control.counter("current-jobs-ready"), "its return")
            assert tube_of(threads[1]) == "a"

    def test_who_comes_back_at_once_finds_the_tubes_before_still_known_to_be_empty(
        self, beanstalkd: BeanstalkdServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Else what comes after them is not waited for, or its job is held, until they have been asked anew."""
        monkeypatch.setattr("beanpool.reserve.wait.GRACE", 30.0)
        # The end of a slice tells it, too.
        monkeypatch.setattr("beanpool.reserve.waiters.RESERVE_SLICE", 60)
        with pool_of(beanstalkd) as pool:
            for _ in range(3):
                thread = start_waiting(pool, tubes=["b", "a"], order="strict")
                wait_until(lambda: waiting(beanstalkd) == 2, "a waiter for each tube")
                put(beanstalkd, "a")
                job = thread.result()
                assert job is not None
                assert job.stats()["reserves"] == 1
                job.delete()

    def test_many_at_once(self, cluster: StartCluster, rng: random.Random) -> None:
        servers = cluster(3)
        fill(servers, {"c": 30, "b": 30, "a": 30}, rng)
        with pool_of(*servers) as pool:
            for expected in ({"c": 25}, {"c": 5, "a": 20}, {"a": 10, "b": 15}, {"b": 15}):
                jobs = pool.reserve_many(25, 0, tubes=["c", "a", "b"], order="strict")
                assert Counter(job.tube for job in jobs) == expected
                assert all(job.tube is not None and job.data == job.tube.encode() for job in jobs)
                pool.delete_many(jobs)
            assert pool.reserve_many(25, 0, tubes=["c", "a", "b"], order="strict") == []

    def test_many_that_are_waited_for(self, cluster: StartCluster) -> None:
        servers = cluster(2)
        with pool_of(*servers) as pool:
            thread = background(functools.partial(pool.reserve_many, 10, 10, tubes=["b", "a"], order="strict"))
            wait_until(lambda: [*map(waiting, servers)] == [2, 2], "a waiter for each tube")
            put(servers[1], "a")
            jobs = thread.result()
            assert [job.tube for job in jobs] == ["a"]
            pool.delete_many(jobs)


class TestFair:
    def test_no_tube_starves(self, cluster: StartCluster, rng: random.Random) -> None:
        servers = cluster(3)
        fill(servers, {"full": 800, **dict.fromkeys("abcd", 50)}, rng)
        with pool_of(*servers) as pool:
            taken = [tube for _, tube in take(pool, tubes=["full", *"abcd"], order="fair")]
        assert len(taken) == 1_000
        # In turns, as long as there are any.
        assert Counter(taken[:250]) == dict.fromkeys(["full", *"abcd"], 50)

    def test_while_waiting(self, cluster: StartCluster) -> None:
        servers = cluster(2)
        with pool_of(*servers) as pool:
            for tube in ("b", "a", "c", "a"):
                thread = start_waiting(pool, tubes=["a", "b", "c"], order="fair")
                wait_until(lambda: [*map(waiting, servers)] == [3, 3], "a waiter for each tube")
                put(servers[1], tube)
                assert tube_of(thread) == tube
        wait_until(lambda: not any(server.control.other_connections() for server in servers), "all connections to end")

    def test_many_begin_with_the_next_tube(self, beanstalkd: BeanstalkdServer) -> None:
        for tube in "abc":
            put(beanstalkd, tube, 20)
        with pool_of(beanstalkd) as pool:
            for tube in "abca":
                jobs = pool.reserve_many(5, 0, tubes=["a", "b", "c"], order="fair")
                assert [job.tube for job in jobs] == [tube] * 5
                pool.delete_many(jobs)


class TestMoreTubesThanConnections:
    """One connection waits for all of them, and who has a job asks which tube it is from."""

    TUBES = tuple(f"t{number:02}" for number in range(20))

    @pytest.mark.parametrize("order", ["fair", "strict"])
    def test_one_after_the_other(self, cluster: StartCluster, order: Order) -> None:
        servers = cluster(2)
        with pool_of(*servers, max_connections=2) as pool:
            for server, tube in zip(servers, ("t17", "t12"), strict=True):
                put(server, tube)
            taken = [tube for _, tube in take(pool, tubes=self.TUBES, order=order)]
            # A look at each of them in turn would take a worker too long.
            assert (sorted(taken) if order == "fair" else taken) == ["t12", "t17"]
            for tube in ("t15", "t19", "t15"):
                thread = start_waiting(pool, tubes=self.TUBES, order=order)
                wait_until(lambda: [*map(waiting, servers)] == [1, 1], "one waiter on each server")
                put(servers[1], tube)
                assert tube_of(thread) == tube

    @pytest.mark.parametrize("order", ["fair", "strict"])
    def test_many(self, cluster: StartCluster, order: Order) -> None:
        servers = cluster(2)
        with pool_of(*servers, max_connections=3) as pool:
            many = functools.partial(pool.reserve_many, 5, tubes=self.TUBES, order=order)
            for server in servers:
                for tube in ("t17", "t12"):
                    put(server, tube, 2)
            for expected in ({"t12": 4, "t17": 1}, {"t17": 3}):
                jobs = many(0)
                assert Counter(job.tube for job in jobs) == expected
                pool.delete_many(jobs)
            assert many(0) == []
            thread = background(functools.partial(many, 10))
            wait_until(lambda: [*map(waiting, servers)] == [1, 1], "one waiter on each server")
            put(servers[1], "t15")
            jobs = thread.result()
            assert [job.tube for job in jobs] == ["t15"]
            pool.delete_many(jobs)

    def test_whose_server_does_not_say_the_tube_in_time_comes_all_the_same(
        self, beanstalkd: BeanstalkdServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("beanpool.reserve.many_tubes.name_tubes", lambda *_: None)
        with pool_of(beanstalkd, max_connections=2) as pool:
            many = functools.partial(pool.reserve_many, 1, tubes=self.TUBES, order="fair")
            put(beanstalkd, "t12")
            pool.delete_many(many(0))
            thread = background(functools.partial(many, 10))
            wait_until(lambda: waiting(beanstalkd) == 1, "one waiter")
            put(beanstalkd, "t15")
            jobs = thread.result()
            assert [(job.tube, job.data) for job in jobs] == [(None, b"t15")]
            pool.delete_many(jobs)
            # That says nothing of whose turn is next.
            for tube in ("t10", "t14"):
                put(beanstalkd, tube)
            jobs = many(0)
            assert [job.data for job in jobs] == [b"t14"]
            pool.delete_many(jobs)
            # Of so many only a few are asked by themselves.
            job = pool.reserve(0, tubes=self.TUBES, order="fair")
            assert job is not None
            assert (job.tube, job.data) == (None, b"t10")
            job.delete()

    def test_no_tube_starves(self, beanstalkd: BeanstalkdServer) -> None:
        put(beanstalkd, "t00", 100)
        for tube in self.TUBES:
            put(beanstalkd, tube)
        with pool_of(beanstalkd, max_connections=2) as pool:
            taken = take(pool, 0, 40, tubes=self.TUBES, order="fair")
        assert {tube for _, tube in taken} == {*self.TUBES}

    def test_from_afar(self, beanstalkd: BeanstalkdServer, delay_line: StartDelayLine) -> None:
        """What is too slow to be asked for each tube is asked for all of them."""
        with PoolManager([delay_line(beanstalkd, FAR).address], max_connections=3, health_interval=60) as pool:
            pool.wait()
            put(beanstalkd, "t15")
            assert take(pool, 10, 1, tubes=self.TUBES, order="strict") == [(pool.servers[0].address, "t15")]

    def test_what_watches_all_goes_on_with_that(self, beanstalkd: BeanstalkdServer) -> None:
        """To watch them anew takes longer than all the rest."""
        tubes = [f"t{number}" for number in range(300)]
        with pool_of(beanstalkd) as pool:
            counts = []
            for _ in range(4):
                put(beanstalkd, tubes[-1])
                assert len(take(pool, 5, 1, tubes=tubes, order="fair")) == 1
                counts.append(beanstalkd.control.counter("cmd-watch"))
        assert counts[-1] - counts[0] < len(tubes)

    def test_very_many_within_the_time(self, beanstalkd: BeanstalkdServer) -> None:
        """No work goes with the square of their number."""
        tubes = [f"t{number}" for number in range(3_000)]
        with pool_of(beanstalkd) as pool:
            with within(1, slack=5):
                assert pool.reserve(1, tubes=tubes, order="fair") is None
            put(beanstalkd, tubes[-1])
            assert take(pool, 5, 1, tubes=tubes, order="fair") == [(beanstalkd.address, tubes[-1])]


class TestOneServer:
    @pytest.mark.parametrize("many", [False, True])
    def test_nobody_else_is_asked(self, cluster: StartCluster, many: bool) -> None:
        servers = cluster(3)
        for server in servers:
            put(server, "default", 2)
        one = servers[1]
        with PoolManager([Server(s.host, s.port, name=f"q{n}") for n, s in enumerate(servers)]) as pool:
            for name in ("q1", one.address, Server(one.host, one.port)):
                jobs = pool.reserve_many(5, 0, server=name) if many else [pool.reserve(0, server=name)]
                assert {job.server for job in jobs if job is not None} <= {one.address}
                pool.delete_many([job for job in jobs if job is not None])
            assert pool.reserve(0.05, server="q1") is None
            assert one.control.counter("current-jobs-ready") == 0
            thread = start_waiting(pool, server="q1")
            wait_until(lambda: [*map(waiting, servers)] == [0, 1, 0], "one waiter")
            put(one, "default")
            assert tube_of(thread) == "default"

    def test_one_that_is_not_there(self, cluster: StartCluster) -> None:
        servers = cluster(2)
        with pool_of(*servers) as pool:
            for call in (pool.reserve, functools.partial(pool.reserve_many, 2)):
                with pytest.raises(ValueError, match="nobody"):
                    call(0, server="nobody:11300")
            address = servers[0].address
            thread = background(functools.partial(pool.reserve, 0.5, server=address))
            wait_until(lambda: waiting(servers[0]) == 1, "the waiter")
            pool.remove_server(address)
            assert isinstance(thread.error(), NoServerAvailable)

    @pytest.mark.parametrize("timeout", [0, 0.3])
    def test_one_that_is_down(self, cluster: StartCluster, timeout: float) -> None:
        servers = cluster(2)
        servers[0].kill()
        put(servers[1], "default")
        with pool_of(*servers) as pool:
            for call in (pool.reserve, functools.partial(pool.reserve_many, 2)):
                with within(timeout), pytest.raises(NoServerAvailable) as caught:
                    call(timeout, server=servers[0].address)
                assert list(caught.value.errors) == [servers[0].address]

    def test_with_an_order(self, cluster: StartCluster) -> None:
        servers = cluster(2)
        for server in servers:
            for tube in "abc":
                put(server, tube)
        with pool_of(*servers) as pool:
            taken = take(pool, tubes=["b", "c", "a"], order="strict", server=servers[1].address)
        assert taken == [(servers[1].address, tube) for tube in "bca"]


def test_the_arguments_are_checked(beanstalkd: BeanstalkdServer) -> None:
    with pool_of(beanstalkd) as pool:
        order: Any = "random"
        for call in (pool.reserve, functools.partial(pool.reserve_many, 2)):
            with pytest.raises(ValueError, match="order must be one of"):
                call(0, order=order)
            with pytest.raises(ValueError, match="tube"):
                call(0, order="strict", tubes=["a", "b c"])
