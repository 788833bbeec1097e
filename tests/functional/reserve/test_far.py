"""Reserving from servers that are far away: many take no longer than two, and none is forgotten."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal

import pytest
from support.servers import BeanstalkdServer
from support.threads import run_together
from support.waiting import wait_until, within

from beanpool import PoolManager, Waker

if TYPE_CHECKING:
    from conftest import StartCluster, StartDelayLine

    FarAddresses = Callable[[Sequence[BeanstalkdServer], float], list[str]]


@pytest.fixture
def far(delay_line: StartDelayLine) -> FarAddresses:
    """Call it with servers and a round trip (seconds) for the addresses at which they are that far away."""
    return lambda servers, seconds: [delay_line(server, seconds).address for server in servers]


class TestMany:
    @pytest.mark.parametrize(
        ("timeout", "order", "waker"),
        [(0, "any", None), (5, "any", None), (5, "any", Waker()), (0, "strict", None), (5, "fair", Waker())],
    )
    def test_a_job_of_any_of_them_costs_two_round_trips(
        self,
        cluster: StartCluster,
        far: FarAddresses,
        timeout: float,
        order: Literal["any", "fair", "strict"],
        waker: Waker | None,
    ) -> None:
        servers = cluster(12)
        with PoolManager(far(servers, 0.15), health_interval=60) as pool:
            pool.wait()
            for server in servers[::3]:
                server.control.put(b"here")
                with within(0.3):
                    job = pool.reserve(timeout, order=order, waker=waker)
                assert job is not None
                job.delete()

    @pytest.mark.parametrize(("timeout", "order"), [(0, "any"), (5, "any"), (0, "strict"), (5, "fair")])
    def test_a_few_jobs_of_any_of_them_cost_no_more(
        self, cluster: StartCluster, far: FarAddresses, timeout: float, order: Literal["any", "fair", "strict"]
    ) -> None:
        """They are not asked in groups of as many as are wanted."""
        servers = cluster(12)
        with PoolManager(far(servers, 0.15), health_interval=60) as pool:
            pool.wait()
            for server in servers[::4]:
                server.control.put(b"here", "second")
                with within(0.45 if order == "any" else 0.6):
                    jobs = pool.reserve_many(1, timeout, tubes=("first", "second"), order=order)
                assert len(jobs) == 1
                jobs[0].delete()

    @pytest.mark.parametrize("many", [False, True])
    def test_what_was_asked_for_too_much_goes_back(self, cluster: StartCluster, far: FarAddresses, many: bool) -> None:
        servers = cluster(6)
        with PoolManager(far(servers, 0.15), health_interval=60) as pool:
            pool.wait()
            for server in servers[1:]:
                server.control.put(b"here")
            for count in range(1, 6):
                with within(0.45):
                    (job,) = pool.reserve_many(1, 0) if many else [pool.reserve(0)]
                assert job is not None
                wait_until(
                    lambda: sum(server.control.counter("current-jobs-reserved") for server in servers) == 1,
                    "the other jobs to be given back",
                )
                job.delete()
                ready = sum(server.control.counter("current-jobs-ready") for server in servers)
                assert ready == 5 - count


class TestOneOfThem:
    def test_is_not_forgotten_for_the_near_ones(self, cluster: StartCluster, far: FarAddresses) -> None:
        """Its turn lasts as long as it usually takes to answer."""
        near, distant = cluster(2)
        for server, count in ((near, 40), (distant, 10)):
            for _ in range(count):
                server.control.put(b"job")
        (address,) = far([distant], 0.35)
        with PoolManager([near.address, address], health_interval=60) as pool:
            pool.wait()
            servers: Counter[str] = Counter()
            for _ in range(10):
                job = pool.reserve(5)
                assert job is not None
                servers[job.server] += 1
                job.delete()
        # Five, on a quiet machine.
        assert servers[address] >= 2, servers

    @pytest.mark.parametrize("many", [False, True])
    @pytest.mark.parametrize("order", ["fair", "strict"])
    def test_that_is_frozen_keeps_no_tube_of_others_back(
        self, cluster: StartCluster, order: Literal["fair", "strict"], many: bool
    ) -> None:
        """It is waited for when all tubes of the others were asked for."""
        frozen, *others = cluster(4)
        with PoolManager(
            [server.address for server in (frozen, *others)], health_interval=60, timeout=20, max_connections=2
        ) as pool:
            pool.wait()
            frozen.freeze()
            for server in others:
                server.control.put(b"here", "third")
                with within(1.5):
                    if many:
                        jobs = pool.reserve_many(1, 0, tubes=("first", "second", "third"), order=order)
                        job = jobs[0] if jobs else None
                    else:
                        job = pool.reserve(0, tubes=("first", "second", "third"), order=order)
                assert job is not None
                job.delete()
            frozen.thaw()

    def test_is_heard_while_another_one_is_frozen(self, cluster: StartCluster, far: FarAddresses) -> None:
        frozen, distant = cluster(2)
        (address,) = far([distant], 0.35)
        with PoolManager([frozen.address, address], health_interval=60, timeout=20) as pool:
            pool.wait()
            frozen.freeze()
            for _ in range(2):
                distant.control.put(b"job")
                with within(0.7):
                    job = pool.reserve(0)
                assert job is not None
                job.delete()
            frozen.thaw()


class TestFewConnections:
    @pytest.mark.parametrize("many", [False, True])
    def test_looks_at_the_same_time_do_not_wait_for_each_other(
        self, cluster: StartCluster, far: FarAddresses, many: bool
    ) -> None:
        """Who queues for one server's connection picks up what the others answer meanwhile."""
        servers = cluster(3)
        with PoolManager(far(servers, 0.35), max_connections=1, health_interval=60, timeout=60) as pool:
            pool.wait()

            def look() -> None:
                for _ in range(3):
                    assert not (pool.reserve_many(2, 0) if many else pool.reserve(0))

            run_together(*[look] * 4, timeout=45)
