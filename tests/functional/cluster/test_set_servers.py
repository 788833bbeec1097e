"""``set_servers``: which servers there are, decided in one step."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest
from support.inside import inside
from support.pools import pool_of, unprobed
from support.putting import key_of
from support.servers import BeanstalkdServer
from support.threads import background
from support.waiting import wait_until, within

from beanpool import NoServerAvailable, PoolClosed, PoolManager, Server
from beanpool.events import Event, ServersChanged

if TYPE_CHECKING:
    from conftest import StartCluster


def addresses(pool: PoolManager) -> list[str]:
    return [status.address for status in pool.servers]


def leaving(pool: PoolManager) -> list[str]:
    return [status.address for status in pool.servers if status.leaving]


@contextlib.contextmanager
def short_timeout(*servers: BeanstalkdServer) -> Iterator[PoolManager]:
    """A pool whose servers may leave soon: not before a put that had chosen one can have begun."""
    with pool_of(*servers, health_interval=0.1, timeout=0.3) as pool:
        yield pool


def await_checks(pool: PoolManager, server: BeanstalkdServer, count: int = 8) -> None:
    """Wait for checks of a server, of which each looks for jobs from the timeout of the pool on."""
    member = next(member for member in inside(pool).members if member.address == server.address)
    first = member.pool.stats()["requests_num"]
    wait_until(lambda: member.pool.stats()["requests_num"] >= first + count, "some checks")


class TestThoseThatStay:
    def test_keep_their_connections_and_take_their_weights(self, cluster: StartCluster) -> None:
        a, b, c = cluster(3)
        with unprobed(a, b) as pool:
            members = inside(pool).members
            pool.stats()
            pool.set_servers([Server(*split(c)), Server(*split(b), weight=0), a.address])
            assert addresses(pool) == [c.address, b.address, a.address]
            assert inside(pool).members[1:] == members[::-1]
            assert [status.open for status in pool.servers] == [0, 1, 1]
            assert {pool.put("x").server for _ in range(8)} == {a.address, c.address}
            pool.set_servers([a.address, b.address])
            assert {pool.put("x", key=str(key)).server for key in range(20)} == {a.address, b.address}

    def test_the_order_in_which_they_are_named_moves_no_key(self, cluster: StartCluster) -> None:
        servers = cluster(3)
        with unprobed(*servers) as pool:
            routes = [pool.route(str(key)) for key in range(50)]
            pool.set_servers([server.address for server in servers[::-1]])
            assert [pool.route(str(key)) for key in range(50)] == routes

    def test_nothing_changes_when_all_are_named_again(self, cluster: StartCluster) -> None:
        a, b = cluster(2)
        events: list[Event] = []
        with unprobed(a, b) as pool:
            pool.add_listener(events.append)
            topology = inside(pool).cluster.topology
            pool.set_servers([a.address, b.address])
            assert inside(pool).cluster.topology is topology
            assert not events

    def test_a_weight_that_was_set_stays_when_another_joins(self, cluster: StartCluster) -> None:
        a, b, c = cluster(3)
        with unprobed(a, b) as pool:
            pool.set_weight(a.address, 0)
            pool.add_server(c.address)
            assert [status.weight for status in pool.servers] == [0, 1, 1]
            assert {pool.put("x").server for _ in range(6)} == {b.address, c.address}


class TestThoseThatLeave:
    def test_are_reserved_from_until_they_are_empty(self, cluster: StartCluster) -> None:
        a, b = cluster(2)
        events: list[Event] = []
        with short_timeout(a, b) as pool:
            pool.add_listener(lambda event: events.append(event) if isinstance(event, ServersChanged) else None)
            a.control.put(b"ready", "work")
            buried = a.control.put(b"buried", "work")
            pool.reserve_job(buried, server=a.address).bury()
            pool.set_servers([b.address])
            assert leaving(pool) == [a.address]
            assert pool.servers[-1].weight == 0
            assert {pool.put("x", key=str(key)).server for key in range(20)} == {b.address}
            assert {pool.put("x").server for _ in range(4)} == {b.address}
            assert set(pool.route("key")) == {b.address}
            job = pool.reserve(1, tubes="work")
            assert job is not None
            assert (job.server, job.data) == (a.address, b"ready")
            # Neither the job in hand nor the buried one lets it go.
            await_checks(pool, a)
            job.delete()
            await_checks(pool, a)
            assert leaving(pool) == [a.address]
            assert pool.kick(tube="work") == 1
            last = pool.reserve(1, tubes="work")
            assert last is not None
            last.delete()
            # Also where it need not be asked whether it lives.
            wait_until(
                lambda: pool.reserve(0, tubes="nothing") is None and addresses(pool) == [b.address], "it to leave"
            )
            wait_until(lambda: not a.control.other_connections(), "no connection to it")
            assert events == [
                ServersChanged(pool.name, (), (a.address,), ()),
                ServersChanged(pool.name, (), (), (a.address,)),
            ]

    def test_go_not_before_the_time_that_others_may_take(self, cluster: StartCluster) -> None:
        a, b = cluster(2)
        with short_timeout(a, b) as pool:
            pool.set_servers([b.address], drain_for=600)
            await_checks(pool, a)
            a.control.put(b"by one that had not heard of it")
            job = pool.reserve(1)
            assert job is not None
            assert job.server == a.address
            job.delete()
            pool.set_servers([a.address], drain=False)
            assert addresses(pool) == [a.address]

    def test_stay_while_a_command_may_store_a_job_there(self, cluster: StartCluster) -> None:
        a, b = cluster(2)
        with short_timeout(a, b) as pool, contextlib.ExitStack() as block:
            connection = block.enter_context(pool.connection(a.address))
            pool.set_servers([b.address])
            await_checks(pool, a)
            connection.put("late")
            block.close()
            job = pool.reserve(1)
            assert job is not None
            assert job.data == b"late"
            job.delete()
            wait_until(lambda: addresses(pool) == [b.address], "it to leave")

    def test_are_taken_back_when_they_are_named_again(self, cluster: StartCluster) -> None:
        a, b = cluster(2)
        with unprobed(a, b) as pool:
            pool.stats()
            keys = {pool.put("x", key=str(key)).server for key in range(20)}
            for name_again in ("set_servers", "add_server"):
                pool.set_servers([b.address])
                assert leaving(pool) == [a.address]
                with pytest.raises(ValueError, match="is leaving"):
                    pool.set_weight(a.address, 1)
                if name_again == "set_servers":
                    pool.set_servers([a.address, b.address])
                else:
                    pool.add_server(a.address)
                assert not leaving(pool)
                assert {pool.put("x", key=str(key)).server for key in range(20)} == keys
            assert pool.get_stats()["connections_num"] == 2

    def test_that_are_down_for_long_are_given_up(self, cluster: StartCluster, monkeypatch: pytest.MonkeyPatch) -> None:
        a, b = cluster(2)
        with short_timeout(a, b) as pool:
            pool.wait(2)
            a.control.put(b"never reserved")
            pool.set_servers([b.address])
            a.kill()
            wait_until(lambda: pool.servers[-1].state == "down", "its death to be noticed")
            assert leaving(pool) == [a.address]
            monkeypatch.setattr("beanpool.server.member.GONE_AFTER", 0.2)
            wait_until(lambda: addresses(pool) == [b.address], "it to be given up")

    def test_go_at_once_without_drain(self, cluster: StartCluster) -> None:
        a, b = cluster(2)
        jid = a.control.put(b"in hand")
        with unprobed(a, b) as pool:
            job = pool.reserve(1)
            assert job is not None
            pool.set_servers([b.address], drain=False)
            assert addresses(pool) == [b.address]
            job.touch()
            job.delete()
            assert a.control.state(jid) is None
            wait_until(lambda: not a.control.other_connections(), "no connection to it")


def split(server: BeanstalkdServer) -> tuple[str, int]:
    return server.host, server.port


def test_a_name_that_gets_another_address_keeps_its_keys(cluster: StartCluster) -> None:
    a, b, c = cluster(3)
    with unprobed(a) as pool:
        pool.set_servers([Server(*split(a), name="one"), Server(*split(b), name="two")], drain=False)
        key = key_of(pool, a.address)
        pool.put("in hand", key=key)
        job = pool.reserve(1)
        assert job is not None
        pool.put("left behind", key=key)
        pool.set_servers([Server(*split(c), name="one"), Server(*split(b), name="two")])
        assert [(s.name, s.address, s.leaving) for s in pool.servers] == [
            ("one", c.address, False),
            ("two", b.address, False),
            (f"one at {a.address}", a.address, True),
        ]
        assert pool.put("moved", key=key).server == c.address
        job.touch()
        job.delete()
        bodies = {job.body for job in pool.reserve_many(10, 1)}
        assert bodies == {"left behind", "moved"}
        # And back again: it is the member that it was.
        pool.set_servers([Server(*split(a), name="one"), Server(*split(b), name="two")])
        assert [(s.name, s.leaving) for s in pool.servers] == [
            ("one", False),
            ("two", False),
            (f"one at {c.address}", True),
        ]
        assert pool.put("back", key=key).server == a.address
        pool.close(0)


def test_a_server_that_gets_another_name_is_the_same_process(cluster: StartCluster) -> None:
    a, b = cluster(2)
    with unprobed(a, b) as pool:
        a.control.put(b"job")
        pool.set_servers([Server(*split(a), name="one"), b.address])
        assert [(s.name, s.leaving) for s in pool.servers] == [("one", False), (b.address, False)]
        job = pool.reserve(1)
        assert job is not None
        job.delete()


class TestNoServers:
    def test_puts_say_so_and_reserves_wait(self, cluster: StartCluster) -> None:
        a, b = cluster(2)
        with pool_of(a) as pool:
            counted = set(pool.get_stats())
            pool.set_servers([], drain=False)
            assert pool.servers == ()
            assert set(pool.get_stats()) == counted
            for key in (None, "key"):
                with within(0.2), pytest.raises(NoServerAvailable, match="the pool has no servers"):
                    pool.put("x", key=key, timeout=0.2)
            [outcome] = pool.put_many(["x"], timeout=0.2)
            assert isinstance(outcome, NoServerAvailable)
            looks: list[Callable[[], object]] = [
                lambda: pool.reserve(0),
                lambda: pool.reserve(0.1),
                lambda: pool.reserve_many(5, 0),
                pool.stats,
                lambda: pool.delete(7),
            ]
            for look in looks:
                with within(0.3), pytest.raises(NoServerAvailable, match="the pool has no servers"):
                    look()
            one = background(lambda: pool.reserve(None))
            some = background(lambda: pool.reserve_many(5, 10))
            put = background(lambda: pool.put("late", timeout=10))
            ready = background(lambda: pool.wait(timeout=10))
            wait_until(lambda: sum(wait.waiting for wait in inside(pool).waits.values()) == 2, "the reserves to wait")
            pool.set_servers([b.address])
            assert put.result(2).server == b.address
            ready.result(2)
            b.control.put(b"another")
            taken = [job for job in [one.result(2), *some.result(2)] if job is not None]
            assert sorted(job.data for job in taken) == [b"another", b"late"]
            for job in taken:
                job.delete()

    def test_those_that_leave_are_reserved_from(self, cluster: StartCluster) -> None:
        [a] = cluster(1)
        with unprobed(a) as pool:
            a.control.put(b"job")
            pool.set_servers([])
            with pytest.raises(NoServerAvailable, match="leaving the pool"):
                pool.put("x", timeout=0.1)
            job = pool.reserve(1)
            assert job is not None
            job.delete()

    @pytest.mark.parametrize("wrong", ["", " ", None, ["q1", "q1"], "q1?timeout=2", b"q1"])
    def test_only_an_empty_list_says_that(self, wrong: object) -> None:
        with PoolManager("q1:1") as pool:
            with pytest.raises((ValueError, TypeError)):
                pool.set_servers(wrong)  # type: ignore[arg-type]  # that is the point
            assert addresses(pool) == ["q1:1"]
        with pytest.raises(ValueError):
            PoolManager([])
        with pytest.raises(PoolClosed):
            pool.set_servers(["q1:1"])
