"""Kicking: each server by what it has itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from support.servers import BeanstalkdServer
from support.tubes import count_in, fill, put_in

from beanpool import PoolManager
from beanpool.admin import kick_all, total

if TYPE_CHECKING:
    from conftest import StartCluster


def test_buried_jobs_bring_no_delayed_ones_along(cluster: StartCluster) -> None:
    servers = cluster(2)
    fill(servers[0], "a", buried=5, delayed=3)
    fill(servers[1], "a", delayed=4)
    with PoolManager([server.url for server in servers]) as pool:
        outcomes = kick_all(pool, "a")
    assert [outcomes[server.address].done for server in servers] == [5, 0]
    assert count_in(servers, "a", ["delayed"]) == 7
    assert count_in(servers, "a", ["ready"]) == 5


def test_a_server_is_asked_for_portions(beanstalkd: BeanstalkdServer) -> None:
    with PoolManager(beanstalkd.url) as pool:
        pool.put_many([b""] * 2500, tube="a", delay=1000)
        before = beanstalkd.control.counter("cmd-kick")
        assert total(kick_all(pool, "a", "delayed")).done == 2500
    assert beanstalkd.control.counter("cmd-kick") - before == 3


@pytest.mark.parametrize("far_between", [False, True], ids=["", "far between"])
def test_delayed_jobs_alone_where_others_are_buried(beanstalkd: BeanstalkdServer, far_between: bool) -> None:
    fill(beanstalkd, "a", buried=3, delayed=2)
    with PoolManager(beanstalkd.url) as pool:
        if far_between:
            pool.put_many([b"x"] * 1500, tube="b")
        assert total(kick_all(pool, "a", "delayed")).done == 2
    assert count_in([beanstalkd], "a", ["buried"]) == 3
    assert count_in([beanstalkd], "a", ["ready"]) == 2


def test_both_and_a_limit(beanstalkd: BeanstalkdServer) -> None:
    fill(beanstalkd, "a", buried=3, delayed=4)
    with PoolManager(beanstalkd.url) as pool:
        assert total(kick_all(pool, "a", ["delayed", "buried"], limit=5)).done == 5
        assert count_in([beanstalkd], "a", ["buried"]) == 0
        assert count_in([beanstalkd], "a", ["delayed"]) == 2
        put_in(beanstalkd.control, "a", "buried", b"x")
        assert total(kick_all(pool, "a", ["delayed", "buried"])).done == 3


@pytest.mark.parametrize("states", ["ready", ["buried", "ready"], [], "reserved"], ids=str)
def test_what_cannot_be_kicked(states: Any) -> None:
    with pytest.raises(ValueError, match="states"):
        kick_all(PoolManager("nowhere.invalid"), "a", states)
