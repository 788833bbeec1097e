"""Clearing a tube: what was asked for goes, and nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from support.servers import BeanstalkdServer
from support.tubes import count_in, fill, put_in
from support.waiting import within

from beanpool import JobId, PoolManager
from beanpool.admin import clear, total

if TYPE_CHECKING:
    from conftest import StartCluster, StartDelayLine


@pytest.mark.parametrize("paused", [False, True], ids=["", "paused"])
def test_all_states_of_one_tube_go(cluster: StartCluster, paused: bool) -> None:
    servers = cluster(3)
    for server in servers:
        fill(server, "a", ready=300, delayed=5, buried=4)
        fill(server, "b", ready=1, delayed=1, buried=1)
        if paused:
            server.control.command("pause-tube a 1000")
    with PoolManager([server.url for server in servers]) as pool:
        outcomes = clear(pool, "a")
    assert [outcome.done for outcome in outcomes.values()] == [309] * 3
    assert not any(outcome.skipped or outcome.unsure or outcome.error for outcome in outcomes.values())
    assert count_in(servers, "a") == 0
    assert count_in(servers, "b") == 9


@pytest.mark.parametrize("state", ["ready", "delayed", "buried"])
def test_one_state_goes_and_the_others_stay(beanstalkd: BeanstalkdServer, state: str) -> None:
    fill(beanstalkd, "a", ready=3, delayed=3, buried=3)
    with PoolManager(beanstalkd.url) as pool:
        assert total(clear(pool, "a", state, limit=2)).done == 2  # type: ignore[arg-type]  # mypy widens it.
        assert total(clear(pool, "a", [state])).done == 1  # type: ignore[list-item]  # mypy widens it.
    assert count_in([beanstalkd], "a") == 6
    assert count_in([beanstalkd], "a", [state]) == 0


def test_where_ids_are_far_between_jobs_go_one_by_one(beanstalkd: BeanstalkdServer) -> None:
    put_in(beanstalkd.control, "a", "buried", b"old")
    with PoolManager(beanstalkd.url) as pool:
        pool.put_many([b"x"] * 1500, tube="b")
        put_in(beanstalkd.control, "a", "buried", b"new")
        assert total(clear(pool, "a", "buried")).done == 2
    assert count_in([beanstalkd], "b") == 1500


def test_what_a_worker_has_in_hand_stays(beanstalkd: BeanstalkdServer) -> None:
    beanstalkd.control.put(b"first", "a")
    with PoolManager(beanstalkd.url) as pool:
        job = pool.reserve(1, tubes="a")
        assert job is not None
        beanstalkd.control.put(b"second", "a")
        assert total(clear(pool, "a")).done == 1
        job.delete()


def test_a_server_that_is_silent_costs_the_timeout_and_is_named(cluster: StartCluster) -> None:
    servers = cluster(2)
    for server in servers:
        fill(server, "a", ready=5)
    servers[0].freeze()
    with PoolManager([server.url for server in servers], connect_timeout=1) as pool:
        outcomes = clear(pool, "a", timeout=1)
    assert outcomes[servers[1].address].done == 5
    assert servers[0].address in str(outcomes[servers[0].address].error)
    servers[0].thaw()


def test_a_tube_that_there_is_not_is_clear(beanstalkd: BeanstalkdServer) -> None:
    with PoolManager(beanstalkd.url) as pool:
        outcome = clear(pool, "nowhere")[beanstalkd.address]
    assert (outcome.done, outcome.error) == (0, None)


def test_jobs_of_a_far_server_are_found_where_ids_are_far_between(
    beanstalkd: BeanstalkdServer, delay_line: StartDelayLine
) -> None:
    fill(beanstalkd, "a", delayed=100)
    with PoolManager(beanstalkd.url) as pool:
        pool.delete_many(jid for jid in pool.put_many(["x"] * 5000) if isinstance(jid, JobId))
    # One at a time they take twenty seconds.
    with PoolManager(delay_line(beanstalkd, 0.1).address) as pool, within(8, "to clear a tube"):
        assert total(clear(pool, "a")).done == 100
