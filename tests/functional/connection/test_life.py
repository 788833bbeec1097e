"""How a Connection ends, comes back, and is left to its parent."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from support.processes import assert_baseline, run_python
from support.scripted import expect_line, send
from support.servers import BeanstalkdServer, ServerFactory
from support.threads import background
from support.waiting import wait_until, within

from beanpool import CommandTimeout, Connection, ConnectionFailed, OutOfMemory
from beanpool.errors import Phase

if TYPE_CHECKING:
    from conftest import StartScripted
from support.connections import Connect, reserved


class TestClosing:
    def test_a_closed_connection_says_why(self, beanstalkd: BeanstalkdServer, connect: Connect) -> None:
        connection = connect(beanstalkd)
        assert (connection.closed, connection.closed_because) == (False, "")
        connection.close()
        connection.close()
        assert connection.closed
        for call in (lambda: connection.put("x"), lambda: connection.reserve(0), connection.stats):
            with pytest.raises(
                ConnectionFailed, match=r"was not sent, the connection is closed: it was closed by close"
            ):
                call()
        assert connection.closed_because == "it was closed by close()"
        assert repr(connection).startswith(f"<Connection to {beanstalkd.address}, closed, ")

    def test_as_a_context_manager(self, beanstalkd: BeanstalkdServer) -> None:
        beanstalkd.control.open()
        with assert_baseline(), Connection(beanstalkd.host, beanstalkd.port) as connection:
            connection.put("x")
            assert beanstalkd.control.other_connections() == 1
        assert connection.closed
        wait_until(lambda: beanstalkd.control.other_connections() == 0, "the server to see the end")

    def test_a_dropped_one_is_closed(self, beanstalkd: BeanstalkdServer) -> None:
        beanstalkd.control.open()
        with assert_baseline():
            connection = Connection(beanstalkd.host, beanstalkd.port)
            connection.put("x")
            reserved(connection)
            del connection
        wait_until(lambda: beanstalkd.control.other_connections() == 0, "the server to see the end")
        assert beanstalkd.control.state(1) == "ready"

    def test_a_timeout_closes_it(self, beanstalkd: BeanstalkdServer, connect: Connect) -> None:
        connection = connect(beanstalkd, timeout=0.1)
        beanstalkd.freeze()
        with within(0.1), pytest.raises(CommandTimeout) as caught:
            connection.put("x")
        assert (caught.value.server, caught.value.phase) == (beanstalkd.address, Phase.WAITING)
        assert caught.value.may_have_taken_effect
        beanstalkd.thaw()
        with pytest.raises(ConnectionFailed, match=r"the connection is closed: .*the time for put ran out"):
            connection.put("x")
        connection.reconnect()
        assert connection.using() == "default"

    def test_a_put_cut_off_in_its_body_is_not_stored(self, beanstalkd_factory: ServerFactory, connect: Connect) -> None:
        server = beanstalkd_factory(max_job_size=100_000_000)
        connection = connect(server, timeout=0.1)
        server.freeze()
        with pytest.raises(CommandTimeout) as caught:
            connection.put("x" * 50_000_000)
        assert not caught.value.may_have_taken_effect
        server.thaw()
        wait_until(lambda: server.control.other_connections() == 0, "the server to see the end")
        assert server.control.counter("total-jobs") == 0

    def test_a_put_sent_whole_may_be_stored(self, beanstalkd: BeanstalkdServer, connect: Connect) -> None:
        connection = connect(beanstalkd, timeout=0.1)
        beanstalkd.freeze()
        with pytest.raises(CommandTimeout) as caught:
            connection.put("x")
        assert caught.value.may_have_taken_effect
        beanstalkd.thaw()
        wait_until(lambda: beanstalkd.control.counter("current-jobs-ready") == 1, "the job to be stored")

    def test_a_server_that_dies_in_a_reserve(self, beanstalkd: BeanstalkdServer, connect: Connect) -> None:
        connection = connect(beanstalkd)
        waiting = background(lambda: connection.reserve())
        wait_until(lambda: beanstalkd.control.counter("current-waiting") == 1, "the server to have a waiter")
        beanstalkd.kill()
        error = waiting.error(5)
        assert isinstance(error, ConnectionFailed)
        assert error.server == beanstalkd.address


class TestReconnect:
    def test_tubes_are_restored(self, beanstalkd: BeanstalkdServer, connect: Connect) -> None:
        connection = connect(beanstalkd)
        connection.use("a")
        connection.watch("b")
        connection.watch("1.10")
        connection.reconnect()
        assert (connection.using(), connection.watching()) == ("a", ["default", "b", "1.10"])
        connection.ignore("default")
        connection.close()
        connection.reconnect()
        assert (connection.using(), set(connection.watching())) == ("a", {"b", "1.10"})
        connection.watch("default")
        connection.use("default")
        connection.reconnect()
        assert (connection.using(), set(connection.watching())) == ("default", {"b", "1.10", "default"})

    def test_exactly_what_is_needed_is_sent(self, scripted_server: StartScripted, connect: Connect) -> None:
        first = [expect_line(), send(b"WATCHING 2\r\n"), expect_line(), send(b"WATCHING 1\r\n")]
        again = [
            *(expect_line(b"watch a"), send(b"WATCHING 2\r\n")),
            *(expect_line(b"ignore default"), send(b"WATCHING 1\r\n")),
            *(expect_line(b"list-tube-used"), send(b"USING default\r\n")),
        ]
        connection = connect(scripted_server(first, again))
        connection.watch("a")
        connection.ignore("default")
        connection.reconnect()
        assert connection.using() == "default"

    def test_it_survives_a_restart(self, beanstalkd: BeanstalkdServer, connect: Connect) -> None:
        connection = connect(beanstalkd)
        connection.use("a")
        connection.watch("a")
        connection.ignore("default")
        beanstalkd.kill()
        with pytest.raises(ConnectionFailed):
            connection.using()
        for _ in range(2):
            with pytest.raises(ConnectionFailed, match="refused"):
                connection.reconnect()
        beanstalkd.start()
        connection.reconnect()
        assert (connection.using(), connection.watching()) == ("a", ["a"])

    def test_half_restored_tubes_are_not_used(self, scripted_server: StartScripted, connect: Connect) -> None:
        first = [expect_line(), send(b"USING a\r\n"), expect_line(), send(b"WATCHING 2\r\n")]
        second = [expect_line(b"use a"), send(b"USING a\r\n"), expect_line(b"watch b"), send(b"OUT_OF_MEMORY\r\n")]
        third = [expect_line(b"use a"), send(b"USING a\r\n"), expect_line(b"watch b"), send(b"WATCHING 2\r\n")]
        connection = connect(scripted_server(first, second, third))
        connection.use("a")
        connection.watch("b")
        with pytest.raises(OutOfMemory):
            connection.reconnect()
        assert connection.closed
        connection.reconnect()
        assert "uses a, watches default,b" in repr(connection)

    def test_connect_makes_a_plain_new_one(self, beanstalkd: BeanstalkdServer, connect: Connect) -> None:
        connection = connect(beanstalkd)
        connection.use("a")
        connection.watch("b")
        connection.connect()
        assert (connection.using(), connection.watching()) == ("a", ["default", "b"])
        connection.close()
        connection.connect()
        assert (connection.using(), connection.watching()) == ("default", ["default"])
        # What it believes is what the server knows.
        assert repr(connection).endswith("uses default, watches default>")
        assert connection.watch("c") == 2


FORKED = """
import os, sys
import beanpool
connection = beanpool.Connection("127.0.0.1", int(sys.argv[1]))
connection.put("x")
job = connection.reserve()
child = os.fork()
if child == 0:
    assert connection.closed and job.lost and not job.reserved
    calls = [job.delete, job.touch, job.release, job.bury, job.stats]
    for call in (lambda: connection.put("y"), lambda: connection.reserve(0), *calls):
        try:
            call()
        except (beanpool.ConnectionFailed, beanpool.JobLost) as error:
            assert "parent process" in str(error), error
        else:
            raise AssertionError("the child has used the parent's connection")
    connection.close()
    connection.reconnect()
    assert connection.put("of the child") == 2
    sys.exit(17)
_, status = os.waitpid(child, 0)
assert os.waitstatus_to_exitcode(status) == 17
assert job.reserved and not job.lost
job.delete()
assert connection.put("of the parent") == 3
print("done")
"""


def test_a_forked_child_leaves_the_connection_to_its_parent(beanstalkd: BeanstalkdServer) -> None:
    ended = run_python(FORKED, str(beanstalkd.port))
    assert (ended.stdout, ended.stderr, ended.returncode) == ("done\n", "", 0)
    assert beanstalkd.control.counter("job-timeouts") == 0
