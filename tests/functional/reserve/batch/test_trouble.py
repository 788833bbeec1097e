"""reserve_many and servers that are dead, silent, or wrong."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest
from support.pools import pool_with_jobs_in_hand
from support.processes import assert_baseline
from support.scripted import ScriptedConnection, answering, expect_line, send, stats_reply, with_data
from support.servers import BeanstalkdServer
from support.waiting import wait_until, within

from beanpool import NoServerAvailable, PoolManager

if TYPE_CHECKING:
    from conftest import StartCluster, StartScripted
from support.batches import fill, leased


class TestTrouble:
    def test_no_server(self, cluster: StartCluster) -> None:
        servers = cluster(2)
        for server in servers:
            server.kill()
        with pool_with_jobs_in_hand(*servers) as pool:
            for timeout in (0, 0.2):
                with pytest.raises(NoServerAvailable) as caught:
                    pool.reserve_many(5, timeout)
                assert set(caught.value.errors) == {server.address for server in servers}

    @pytest.mark.parametrize("timeout", [0, 0.2])
    def test_the_last_server_loses_its_connection(self, scripted_server: StartScripted, timeout: float) -> None:
        """With its reply due, after its handshake."""

        def hang_up(connection: ScriptedConnection, line: bytes, body: bytes) -> None:
            connection.close()

        server = scripted_server(default=answering({"stats": stats_reply(), "reserve-with-timeout": hang_up}))
        with (
            PoolManager([server.address], health_interval=60) as pool,
            within(timeout, slack=0.5),
            contextlib.suppress(NoServerAvailable),
        ):
            assert pool.reserve_many(5, timeout) == []

    def test_a_dead_server_among_others(self, cluster: StartCluster) -> None:
        servers = cluster(3)
        servers[0].kill()
        for server in servers[1:]:
            fill(server, 10)
        with pool_with_jobs_in_hand(*servers) as pool, within(1.0, slack=1.0):
            assert len(pool.reserve_many(20, 0)) == 20

    @pytest.mark.parametrize("timeout", [0, 30, None])
    def test_a_frozen_server_holds_up_what_others_gave_for_a_moment(
        self, cluster: StartCluster, timeout: float | None
    ) -> None:
        servers = cluster(3)
        with pool_with_jobs_in_hand(*servers) as pool:
            pool.wait(3)
            fill(servers[1], 10)
            fill(servers[2], 10)
            servers[0].freeze()
            with within(1.0, slack=1.5):
                jobs = pool.reserve_many(60, timeout)
            assert len(jobs) == 20
            assert pool.delete_many(jobs) == [None] * 20
            states = {status.address: status.state for status in pool.servers}
            assert states[servers[0].address] != "up"
            servers[0].thaw()

    def test_a_frozen_server_alone_ends_in_time(self, beanstalkd: BeanstalkdServer) -> None:
        with pool_with_jobs_in_hand(beanstalkd, timeout=0.6) as pool:
            pool.wait()
            beanstalkd.freeze()
            with within(0.6, slack=1.0), pytest.raises(NoServerAvailable):
                pool.reserve_many(5, 0)
            beanstalkd.thaw()

    def test_a_short_wait_says_nothing_of_a_servers_health(self, cluster: StartCluster) -> None:
        servers = cluster(2)
        with pool_with_jobs_in_hand(*servers) as pool:
            pool.wait(2)
            servers[0].freeze()
            with within(0.1, slack=1.0):
                assert pool.reserve_many(5, 0.1) == []
            servers[0].thaw()
            assert {status.state for status in pool.servers} == {"up"}

    @pytest.mark.parametrize("timeout", [0, 0.4])
    def test_a_server_that_stops_in_the_middle_of_its_share(
        self, cluster: StartCluster, scripted_server: StartScripted, timeout: float
    ) -> None:
        """Its jobs go back with its connection; those of the others are returned."""
        (server,) = cluster(1)
        fill(server, 10)

        def some(connection: ScriptedConnection) -> None:
            for number in range(4):
                connection.expect_line(b"reserve-with-timeout 0")
                connection.send(with_data(b"RESERVED %d" % (number + 1), b"x"))
            connection.send(b"RESERVED 5 100\r\nhalf of")
            connection.read_until_closed()

        fake = scripted_server([expect_line(b"stats"), send(stats_reply()), some], default=ScriptedConnection.close)
        with PoolManager([fake.address, server.address], health_interval=60) as pool:
            with within(1.0, slack=1.5):
                jobs = pool.reserve_many(20, timeout)
            assert {job.server for job in jobs} == {server.address}
            # What may be reserved there until the server sees the end is not asked for elsewhere.
            assert len(jobs) == 10
            assert pool.delete_many(jobs) == [None] * 10
            wait_until(lambda: leased(pool) == 0, "the connections to come back, and the check to end")

    def test_a_reply_that_no_reserve_may_have(self, cluster: StartCluster, scripted_server: StartScripted) -> None:
        (server,) = cluster(1)
        fill(server, 10)
        for reply in (b"INSERTED 1\r\n", b"RESERVED 1 2\r\nxxx\r\n", b"RESERVED 1 x\r\n", b"OUT_OF_MEMORY\r\n"):
            fake = scripted_server(default=answering({"stats": stats_reply(), "reserve-with-timeout": reply}))
            with PoolManager([fake.address, server.address], health_interval=60) as pool:
                jobs = pool.reserve_many(20, 0)
                assert {job.server for job in jobs} == {server.address}
                assert len(jobs) == 10
                for job in jobs:
                    job.release()

    def test_a_draining_server_is_taken_from(self, cluster: StartCluster) -> None:
        servers = cluster(2)
        for server in servers:
            fill(server, 10)
        servers[0].drain()
        with pool_with_jobs_in_hand(*servers) as pool:
            assert len(pool.reserve_many(20, 0)) == 20

    def test_a_server_that_is_removed_keeps_the_connection_of_its_jobs(self, cluster: StartCluster) -> None:
        servers = cluster(2)
        for server in servers:
            fill(server, 10)
        with pool_with_jobs_in_hand(*servers) as pool:
            jobs = pool.reserve_many(20, 0)
            pool.remove_server(servers[0].address)
            assert pool.reserve_many(5, 0) == []
            theirs = [job for job in jobs if job.server == servers[0].address]
            dropped = jobs.pop(jobs.index(theirs.pop())).id
            wait_until(lambda: servers[0].control.state(dropped) == "ready", "a dropped one to be given back")
            theirs[0].touch()
            del theirs
            assert set(pool.delete_many(jobs)) == {None}
            wait_until(lambda: servers[0].control.other_connections() == 0, "the connections to end")

    def test_no_descriptor_is_left(self, cluster: StartCluster) -> None:
        servers = cluster(3)
        for server in servers:
            fill(server, 20)
        with assert_baseline(), pool_with_jobs_in_hand(*servers) as pool:
            assert len(pool.reserve_many(50, 10)) == 50
            assert len(pool.reserve_many(50, 10)) >= 10
