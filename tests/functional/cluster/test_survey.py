"""A look at all servers and tubes at once: what is found, what is left out, and what trouble costs; and health."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
from support.pools import pool_of, unprobed
from support.waiting import wait_until, within

from beanpool import CommandTimeout, ConnectionFailed, PoolClosed, PoolManager
from beanpool.cluster.survey import Scope

if TYPE_CHECKING:
    from conftest import StartCluster, StartDelayLine

SHORT = 1.0


def test_each_server_tells_of_itself_its_tubes_and_what_waits_longest(cluster: StartCluster) -> None:
    a, b = cluster(2)
    with unprobed(a, b) as pool:
        a.control.put(b"older", "mail")
        wait_until(lambda: pool.stats_job(1, server=a.address)["age"] >= 1, "the job to age")
        a.control.put(b"younger", "mail")
        b.control.put(b"delayed", "mail", delay=60)
        b.control.put(b"more", "more")
        found = pool.survey(head_age=True)
        assert list(found) == [a.address, b.address]
        first, second = found.values()
        assert first.stats is not None
        assert (first.stats["current-jobs-ready"], first.error, first.left_out) == (2, None, 0)
        assert set(first.tubes) == {"default", "mail"}
        assert first.tubes["mail"]["current-jobs-ready"] == 2
        # That of the job which comes next, not of the last one; and of tubes with ready jobs alone.
        assert first.head_ages.keys() == {"mail"}
        assert first.head_ages["mail"] >= 1
        assert set(second.tubes) == {"default", "mail", "more"}
        assert second.head_ages.keys() == {"more"}
        assert not pool.survey()[a.address].head_ages
        assert pool.survey("none")[a.address].tubes == {}
        # No ready job, and so no age.
        assert pool.survey("default", head_age=True)[a.address].head_ages == {}
        # No tube is kept by the look at it.
        assert pool.reserve(0, tubes="more", server=b.address) is not None


def test_a_tube_that_was_looked_at_can_end(cluster: StartCluster) -> None:
    (a,) = cluster(1)
    with unprobed(a) as pool:
        jid = pool.put("x", tube="short-lived")
        with pool.connection(a.address) as other:
            # So that the look does not go over the connection that the put has used.
            assert "short-lived" in pool.survey(head_age=True)[a.address].head_ages
            other.use("default")
        pool.delete(jid)
        assert pool.tubes() == ["default"]


@pytest.mark.parametrize(
    ("patterns", "most", "chosen", "left_out"),
    [
        (("*",), None, ["a-1", "a-2", "b-1", "c"], 0),
        (("*",), 3, ["a-1", "a-2", "b-1"], 1),
        (("b*", "*"), 2, ["b-1", "a-1"], 2),
        (("a-?", "*-2"), None, ["a-1", "a-2"], 0),
        (("c", "none"), 1, ["c"], 0),
        (("*",), 0, [], 4),
        ((), None, [], 0),
    ],
)
def test_which_tubes_are_chosen(patterns: tuple[str, ...], most: int | None, chosen: list[str], left_out: int) -> None:
    scope = Scope(patterns, most, False, "default")
    assert scope.choose(["c", "a-2", "b-1", "a-1"]) == (chosen, left_out)


def test_a_silent_server_costs_the_timeout_and_the_others_are_told_in_full(cluster: StartCluster) -> None:
    a, b, c = cluster(3)
    with unprobed(a, b, c) as pool:
        pool.ping()
        a.control.put(b"job", "mail")
        b.freeze()
        c.kill()
        with within(SHORT):
            found = pool.survey(head_age=True, timeout=SHORT)
        b.thaw()
        assert found[a.address].error is None
        assert found[a.address].head_ages.keys() == {"mail"}
        assert found[a.address].seconds < SHORT / 2
        for server, kind in ((b, CommandTimeout), (c, ConnectionFailed)):
            silent = found[server.address]
            assert isinstance(silent.error, kind)
            assert silent.stats is None
            assert not silent.tubes


def test_what_a_far_server_has_said_until_the_deadline_is_returned(
    cluster: StartCluster, delay_line: StartDelayLine
) -> None:
    (a,) = cluster(1)
    a.control.put(b"job", "mail")
    line = delay_line(a, 0.4)
    with PoolManager(line.address, timeout=10, health_interval=60) as pool:
        pool.ping()
        # Four rounds take 1.6 s; the third is not over by then.
        found = pool.survey(head_age=True, timeout=1)[line.address]
        assert found.stats is not None
        assert "mail" in found.tubes
        assert isinstance(found.error, CommandTimeout)
        assert not found.head_ages


def test_bodies_of_all_sizes_of_many_tubes_take_four_round_trips(
    cluster: StartCluster, delay_line: StartDelayLine
) -> None:
    (a,) = cluster(1)
    with unprobed(a) as near:
        for number in range(100):
            near.put(b"x" * 40_000, tube=f"tube-{number}")
    with PoolManager(delay_line(a).address, timeout=60, health_interval=60) as pool:
        pool.ping()
        began = time.monotonic()
        (found,) = pool.survey(head_age=True).values()
        took = time.monotonic() - began
        assert len(found.head_ages) == 100
        # One by one they would take a minute.
        assert took < 20


class TestHealthy:
    def test_it_is_what_the_pool_has_found_out(self, cluster: StartCluster) -> None:
        a, b = cluster(2)
        with pool_of(a, b) as pool:
            wait_until(lambda: pool.healthy(2), "both to have answered")
            assert not pool.healthy(3)
            b.kill()
            wait_until(lambda: not pool.healthy(2), "the loss to be seen")
            assert pool.healthy()
            b.start()
            wait_until(lambda: pool.healthy(2), "the return to be seen")
            with pytest.raises(ValueError):
                pool.healthy(0)
        assert not pool.healthy()
        with pytest.raises(PoolClosed):
            pool.survey()

    def test_a_server_that_never_answered_is_none(self, cluster: StartCluster) -> None:
        (a,) = cluster(1)
        a.freeze()
        with pool_of(a) as pool:
            assert not pool.healthy()
            a.thaw()
            wait_until(pool.healthy, "the first check")
