"""``pool.connection(server)``: all verbs of one connection, to one server, for a while."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from support.inside import inside
from support.pools import unprobed
from support.threads import background
from support.waiting import wait_until, within

from beanpool import CommandTimeout, Connection, ConnectionFailed, JobLost, NotFound, PoolManager, PoolTimeout

if TYPE_CHECKING:
    from conftest import StartCluster


def connects(pool: PoolManager) -> int:
    return pool.get_stats()["connections_num"]


def idle(pool: PoolManager) -> list[int]:
    return [status.idle for status in pool.servers]


def test_it_has_the_verbs_of_a_connection_to_that_server(cluster: StartCluster) -> None:
    first, second = cluster(2)
    with unprobed(first, second, tube="mine", watch="theirs", encoding=None) as pool:
        for server in (first, second):
            with pool.connection(server.address) as connection:
                assert isinstance(connection, Connection)
                assert connection.server == server.address
                assert (connection.using(), connection.watching()) == ("mine", ["theirs"])
                jid = connection.put(b"raw")
                assert server.control.state(jid) == "ready"
                peeked = connection.peek(jid)
                assert peeked is not None
                assert peeked.body == b"raw"
                job = connection.reserve_job(jid)
                job.bury(7)
                assert connection.kick() == 1
                assert connection.stats_job(jid)["pri"] == 7
                connection.pause_tube("mine", 1)
                with connection.pipeline() as pipeline:
                    pipeline.delete(jid).stats_tube("mine").delete(jid)
                deleted, tube, again = pipeline.results
                assert deleted is None
                assert tube["cmd-pause-tube"] == 1
                assert isinstance(again, NotFound)
        assert connects(pool) == 2
        assert idle(pool) == [1, 1]


def test_what_it_uses_and_watches_concerns_nobody_else(cluster: StartCluster) -> None:
    [server] = cluster(1)
    with unprobed(server) as pool:
        with pool.connection(server.address, tube="elsewhere") as connection:
            assert (connection.using(), connection.watching()) == ("elsewhere", ["elsewhere"])
            connection.watch("more")
            with connection.pipeline() as pipeline:
                pipeline.use("last").ignore("elsewhere")
        # The same socket: its next user brings it to where it has to be.
        jid = pool.put("for the default tube")
        assert pool.stats_job(jid)["tube"] == "default"
        server.control.put(b"not watched any more", "more")
        job = pool.reserve(0)
        assert job is not None
        assert job.id == jid
        job.delete()
        assert pool.reserve(0) is None
        with pool.connection(server.address) as connection:
            assert (connection.using(), connection.watching()) == ("default", ["default"])
        assert connects(pool) == 1


def test_a_job_that_is_not_finished_is_given_back(cluster: StartCluster) -> None:
    [server] = cluster(1)
    jid, aside = server.control.put(b"ready"), server.control.put(b"aside")
    with unprobed(server) as pool:
        with pool.connection(server.address) as connection:
            connection.reserve_job(aside).bury()
            done, job, buried = connection.reserve_job(jid), None, connection.reserve_job(aside)
            job = done
            assert {server.control.state(j) for j in (jid, aside)} == {"reserved"}
        wait_until(lambda: {server.control.state(j) for j in (jid, aside)} == {"ready"}, "them to be given back")
        assert job.lost
        assert buried.lost
        with pytest.raises(JobLost, match="given back to its pool"):
            job.delete()
        for command in (connection.stats, connection.reconnect, connection.connect):
            with pytest.raises(ConnectionFailed, match="given back to its pool"):
                command()
        assert idle(pool) == [0]
        # Where all are finished, the connection stays.
        with pool.connection(server.address) as connection:
            found = [connection.reserve_job(j) for j in (jid, aside)]
            found[0].delete()
            connection.delete(aside)
        assert idle(pool) == [1]


def test_it_counts_against_the_limit_as_a_job_in_hand_does(cluster: StartCluster) -> None:
    [server] = cluster(1)
    with unprobed(server, max_connections=1) as pool:
        with pool.connection(server.address) as connection:
            # What is done meanwhile needs a connection of its own.
            jid = pool.put("x")
            assert connection.stats_job(jid)["state"] == "ready"
            for reserve in (pool.reserve, lambda timeout: pool.reserve_many(1, timeout)):
                with within(1), pytest.raises(PoolTimeout, match=r"1 of them by unfinished jobs, or lent"):
                    reserve(0)
            with within(0.3), pytest.raises(PoolTimeout), pool.connection(server.address, timeout=0.3):
                pass
            other = background(lambda: borrowed_put(pool, server.address))
            wait_until(lambda: pool.get_stats()["requests_waiting"], "another one to wait for it")
        other.result(2)
        job = pool.reserve(0)
        assert job is not None
        assert job.id == jid
        job.delete()
        # Of the connections that commands have beyond the limit nothing is left to who waits for a job.
        assert inside(pool).connections_of(0).places.may_hold_more_jobs()


def borrowed_put(pool: PoolManager, address: str) -> int:
    with pool.connection(address) as connection:
        return connection.put("from another thread", 2**32 - 1)


def test_a_reserve_that_waits_gives_way_to_it(cluster: StartCluster) -> None:
    [server] = cluster(1)
    with unprobed(server, max_connections=1) as pool:
        waiting = background(lambda: pool.reserve(10))
        wait_until(lambda: server.control.counter("current-waiting") == 1, "the reserve to wait")
        with pool.connection(server.address) as connection:
            connection.put("x")
        job = waiting.result(5)
        assert job is not None
        job.delete()


@pytest.mark.parametrize("error", [KeyboardInterrupt, GeneratorExit])
def test_after_an_interrupt_it_is_not_used_again(cluster: StartCluster, error: type[BaseException]) -> None:
    [server] = cluster(1)
    with unprobed(server) as pool:
        with pytest.raises(error), pool.connection(server.address) as connection:
            connection.stats()
            raise error
        assert pool.servers[0].open == 0
        with pytest.raises(ZeroDivisionError), pool.connection(server.address):
            raise ZeroDivisionError
        assert idle(pool) == [1]


def test_an_interrupt_between_a_reply_and_its_note_leaves_no_wrong_tube(cluster: StartCluster) -> None:
    [server] = cluster(1)
    with unprobed(server) as pool:
        with pool.connection(server.address) as connection:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("beanpool.connection.results.use", interrupted)
                with pytest.raises(KeyboardInterrupt):
                    connection.use("elsewhere")
            # Whoever catches that goes on with a connection of which nobody knows what it uses.
            assert connection.used == "default"
        assert pool.stats_job(pool.put("x"))["tube"] == "default"


def interrupted(*_: object) -> str:
    raise KeyboardInterrupt


def test_one_that_breaks_can_be_opened_again(cluster: StartCluster) -> None:
    [server] = cluster(1)
    with unprobed(server, timeout=0.3) as pool:
        with pool.connection(server.address, tube="mine") as connection:
            server.freeze()
            with pytest.raises(CommandTimeout):
                connection.stats()
            server.thaw()
            assert connection.closed
            with pytest.raises(ConnectionFailed):
                connection.stats()
            connection.connect()
            assert (connection.using(), connection.watching()) == ("mine", ["mine"])
            connection.close()
            connection.reconnect()
            assert connection.using() == "mine"
        # The check of its health, after the trouble, may have found none that was free, and made one that stays.
        wait_until(lambda: pool.servers[0].idle == pool.servers[0].open, "the check of its health to end")
        assert pool.servers[0].open in (1, 2)


def test_a_reserve_on_it_ends_with_the_pool(cluster: StartCluster) -> None:
    [server] = cluster(1)
    with unprobed(server) as pool, pool.connection(server.address) as connection:
        waiting = background(connection.reserve)
        wait_until(lambda: server.control.counter("current-waiting") == 1, "the reserve to wait")
        pool.close(5)
        with pytest.raises(ConnectionFailed):
            waiting.result(2)


def test_it_is_given_back_while_another_thread_uses_it(cluster: StartCluster) -> None:
    [server] = cluster(1)
    with unprobed(server) as pool:
        with pool.connection(server.address) as connection:
            waiting = background(connection.reserve)
            wait_until(lambda: server.control.counter("current-waiting") == 1, "the reserve to wait")
        with pytest.raises(ConnectionFailed):
            waiting.result(2)
        del connection, waiting
        wait_until(lambda: not inside(pool).connections_of(0).counts()[0], "its place to be free")


def test_what_cannot_be(cluster: StartCluster) -> None:
    [server] = cluster(1)
    with unprobed(server) as pool:
        with pytest.raises(ValueError, match="server must be one of"):
            pool.connection("elsewhere:11300")
        with pytest.raises(ValueError):
            pool.connection(server.address, tube="two words")
        with pytest.raises(ValueError):
            pool.connection(server.address, timeout=0)
        server.kill()
        with within(5), pytest.raises(ConnectionFailed), pool.connection(server.address):
            pass
