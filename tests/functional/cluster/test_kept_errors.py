"""An error that a call goes on after keeps nothing of the caller alive: a job that is dropped is given back at once."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest
from support.pools import unprobed
from support.servers import BeanstalkdServer
from support.waiting import wait_until

from beanpool import JobLost, PoolManager

if TYPE_CHECKING:
    from conftest import StartCluster


@pytest.fixture(autouse=True)
def without_garbage_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def kill(pool: PoolManager, server: BeanstalkdServer) -> None:
    server.kill()


def freeze(pool: PoolManager, server: BeanstalkdServer) -> None:
    server.freeze()


def keeps(pool: PoolManager, call: Callable[[PoolManager], object]) -> bool:
    """Whether a local variable of a function that makes this call outlives it."""

    def caller() -> weakref.ref[set[int]]:
        local: set[int] = set()
        call(pool)
        return weakref.ref(local)

    return caller()() is not None


@pytest.mark.parametrize(
    ("trouble", "call"),
    [
        pytest.param(kill, lambda pool: pool.reserve(timeout=1), id="reserve"),
        pytest.param(kill, lambda pool: pool.reserve(timeout=1, tubes="default", order="strict"), id="reserve-strict"),
        pytest.param(kill, lambda pool: pool.reserve_many(1, timeout=1), id="reserve_many"),
        pytest.param(freeze, lambda pool: pool.put("job"), id="put"),
    ],
)
def test_a_call_that_passes_over_a_server(
    cluster: StartCluster,
    trouble: Callable[[PoolManager, BeanstalkdServer], None],
    call: Callable[[PoolManager], object],
) -> None:
    bad, good = cluster(2)
    with unprobed(bad, good, timeout=0.6, connect_timeout=0.3) as pool:
        assert pool.reserve(timeout=0) is None
        for _ in range(20):
            good.control.put(b"job")
        trouble(pool, bad)
        kept = []
        while pool.servers[0].last_error is None:
            kept.append(keeps(pool, call))
        assert kept
        assert not any(kept)
        bad.thaw()


def test_a_job_that_is_dropped_after_another_server_broke(cluster: StartCluster) -> None:
    bad, good = cluster(2)

    def work(pool: PoolManager) -> None:
        job = pool.reserve(timeout=1)
        assert job is not None

    with unprobed(bad, good) as pool:
        assert pool.reserve(timeout=0) is None
        jid = good.control.put(b"job")
        bad.kill()
        while pool.servers[0].last_error is None:
            work(pool)
        wait_until(lambda: good.control.state(jid) == "ready", "the job to be given back")


def test_a_delete_that_cannot_be_made_good(cluster: StartCluster) -> None:
    [server] = cluster(1)
    server.control.put(b"job")
    with unprobed(server) as pool:
        job = pool.reserve(timeout=1)
        assert job is not None
        server.kill()

        def delete(pool: PoolManager) -> None:
            with pytest.raises(JobLost):
                job.delete()

        assert not keeps(pool, delete)
