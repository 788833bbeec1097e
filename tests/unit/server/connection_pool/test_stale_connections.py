"""Connections that broke, or grew old, while nobody used them."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from support.scripted import answering, expect_line, send, stats_reply, wait_for
from support.servers import BeanstalkdServer
from support.threads import run_together
from support.waiting import wait_until

from beanpool import PoolManager

if TYPE_CHECKING:
    from conftest import StartScripted
from support.server_pools import LONG, ask, connections_of, readable, soon, wait_for_pause


class TestStaleConnections:
    def test_idle_ones_from_before_a_restart_are_replaced_unnoticed(self, beanstalkd: BeanstalkdServer) -> None:
        with connections_of(beanstalkd.host, beanstalkd.port) as (pool, owner):
            old = [pool.acquire(soon()) for _ in range(3)]
            for connection in old:
                pool.checkin(connection)
            wait_for_pause(old)
            beanstalkd.restart()
            with pool.lend(soon()) as connection:
                assert connection not in old
                assert ask(connection) == "NOT_FOUND"
            assert not owner.reports, "nobody failed"
            assert len(owner.instances) == 2
            assert all(connection.closed for connection in old)
            assert pool.counts() == (1, 1)

    def test_puts_after_a_restart_do_not_notice_it(self, beanstalkd: BeanstalkdServer) -> None:
        with PoolManager([beanstalkd.address], health_interval=60) as manager:
            gate = threading.Barrier(3)

            def put_together() -> None:
                gate.wait(LONG)
                manager.put("before")

            run_together(*[put_together] * 3)
            idle_since = time.monotonic()
            wait_until(lambda: time.monotonic() > idle_since + 0.02, "a pause in the traffic")
            beanstalkd.restart()
            assert not manager.put("after").maybe_duplicate
            stats = manager.get_stats()
            assert stats["puts_ambiguous"] == stats["retries_num"] == 0

    def test_one_that_got_bytes_unasked_is_not_used(self, scripted_server: StartScripted) -> None:
        """A reply goes to the command that asked, so nobody may be given a connection with a reply too many."""

        idle = threading.Event()
        server = scripted_server(
            [expect_line(b"stats"), send(stats_reply()), wait_for(idle), send(b"INSERTED 7\r\n")],
            default=answering({"stats": stats_reply(), "touch": b"NOT_FOUND\r\n"}),
        )
        with connections_of(server.host, server.port) as (pool, _):
            with pool.lend(soon()) as first:
                pass
            idle.set()
            wait_until(lambda: readable(first), "the bytes to arrive")
            wait_for_pause([first])
            with pool.lend(soon()) as connection:
                assert connection is not first
                assert ask(connection) == "NOT_FOUND"

    def test_a_new_generation_ends_idle_ones_at_once_and_those_in_use_when_they_return(
        self, beanstalkd: BeanstalkdServer
    ) -> None:
        with connections_of(beanstalkd.host, beanstalkd.port) as (pool, owner):
            in_use, idle = pool.acquire(soon()), pool.acquire(soon())
            pool.checkin(idle)
            owner.generation = 1
            pool.pruning.start_generation(1)
            assert idle.closed
            assert ask(in_use) == "NOT_FOUND", "who is at work is left alone"
            pool.checkin(in_use)
            assert in_use.closed
            assert pool.counts() == (0, 0)
            with pool.lend(soon()) as fresh:
                assert fresh.generation == 1
            assert pool.counts() == (1, 1)
            pool.pruning.start_generation(0)
            assert pool.counts() == (1, 1), "an older generation is no news"

    def test_trim_leaves_the_newest(self, beanstalkd: BeanstalkdServer) -> None:
        with connections_of(beanstalkd.host, beanstalkd.port) as (pool, _):
            connections = [pool.acquire(soon()) for _ in range(3)]
            for connection in connections:
                pool.checkin(connection)
            pool.pruning.trim(60)
            assert pool.counts() == (3, 3)
            wait_until(lambda: time.monotonic() > connections[-1].channel.used_at, "the clock to move")
            pool.pruning.trim(0)
            assert pool.counts() == (1, 1)
            assert pool.acquire(soon()) is connections[-1]
