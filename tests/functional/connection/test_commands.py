"""A Connection: every command of the protocol, by the names that users of beanstalkc know."""

from __future__ import annotations

import functools
import inspect

import pytest
from support.connections import Connect, reserved
from support.servers import BeanstalkdServer
from support.threads import background
from support.waiting import wait_until, within

import beanpool
from beanpool import BeanpoolError, Connection, ConnectionFailed, DeadlineSoon, Draining, JobTooBig, NotFound


class TestCommands:
    """Each command on a real server."""

    def test_put_and_reserve(self, beanstalkd: BeanstalkdServer, connect: Connect) -> None:
        connection = connect(beanstalkd)
        assert connection.put("hey!") == 1
        assert connection.put(b"bytes", 5, 0, 60) == 2
        assert connection.put(bytearray(b"later"), priority=7, delay=100, ttr=9) == 3
        assert connection.put("") == 4
        assert [connection.stats_job(jid)["pri"] for jid in (1, 2, 3)] == [2**31, 5, 7]
        assert [connection.stats_job(jid)["delay"] for jid in (1, 2, 3)] == [0, 0, 100]
        assert [connection.stats_job(jid)["ttr"] for jid in (1, 2, 3)] == [120, 60, 9]
        jobs = [reserved(connection) for _ in range(3)]
        assert [(job.id, job.body) for job in jobs] == [(2, "bytes"), (1, "hey!"), (4, "")]
        assert connection.reserve(timeout=0) is None

    def test_reserve_waits(self, beanstalkd: BeanstalkdServer, connect: Connect) -> None:
        connection = connect(beanstalkd)
        for timeout in (10, None):
            waiting = background(functools.partial(connection.reserve, timeout))
            wait_until(lambda: beanstalkd.control.counter("current-waiting") == 1, "the server to have a waiter")
            beanstalkd.control.put(b"hello")
            job = waiting.result(5)
            assert job is not None
            assert job.body == "hello"
            job.delete()

    def test_reserve_ends(self, beanstalkd: BeanstalkdServer, connect: Connect) -> None:
        with within(1):
            assert connect(beanstalkd).reserve(1) is None

    def test_reserve_job(self, beanstalkd: BeanstalkdServer, connect: Connect) -> None:
        connection = connect(beanstalkd)
        ready, delayed, buried = connection.put("ready"), connection.put("delayed", delay=100), connection.put("buried")
        connection.reserve_job(buried).bury()
        for jid, body in ((delayed, "delayed"), (buried, "buried"), (ready, "ready")):
            job = connection.reserve_job(jid)
            assert (job.id, job.body, job.reserved, job.tube) == (jid, body, True, None)
        with pytest.raises(NotFound):
            connection.reserve_job(ready)
        with pytest.raises(NotFound):
            connection.reserve_job(99)

    def test_delete(self, beanstalkd: BeanstalkdServer, connect: Connect) -> None:
        connection = connect(beanstalkd)
        jid = connection.put("x")
        connection.delete(jid)
        with pytest.raises(NotFound):
            connection.delete(jid)

    def test_release_and_bury_keep_the_priority(self, beanstalkd: BeanstalkdServer, connect: Connect) -> None:
        connection = connect(beanstalkd)
        jid = connection.put("x", 42)
        for give_up in (connection.release, connection.bury):
            for given, expected in (((), 42), ((None,), 42), ((7,), 7), ((0,), 0), ((42,), 42)):
                connection.reserve_job(jid)
                give_up(jid, *given)
                assert connection.stats_job(jid)["pri"] == expected

    def test_release_bury_touch_and_kick_job(self, beanstalkd: BeanstalkdServer, connect: Connect) -> None:
        connection, control = connect(beanstalkd), beanstalkd.control
        jid = connection.put("x")
        reserved(connection)
        connection.touch(jid)
        connection.release(jid)
        assert (control.state(jid), connection.stats_job(jid)["pri"]) == ("ready", 2**31)
        reserved(connection)
        connection.release(jid, 3, 100)
        assert (control.state(jid), connection.stats_job(jid)["pri"]) == ("delayed", 3)
        connection.kick_job(jid)
        reserved(connection)
        connection.bury(jid)
        assert (control.state(jid), connection.stats_job(jid)["pri"]) == ("buried", 3)
        connection.kick_job(jid)
        reserved(connection)
        connection.bury(jid, priority=9)
        assert (control.state(jid), connection.stats_job(jid)["pri"]) == ("buried", 9)
        for refused in (connection.touch, connection.release, connection.bury):
            with pytest.raises(NotFound):
                refused(jid)
        connection.kick_job(jid)
        with pytest.raises(NotFound):
            connection.kick_job(jid)

    def test_kick(self, beanstalkd: BeanstalkdServer, connect: Connect) -> None:
        connection = connect(beanstalkd)
        for _ in range(3):
            connection.put("x")
            reserved(connection).bury()
        assert connection.kick() == 1
        assert connection.kick(bound=10) == 2
        assert connection.kick(0) == 0

    def test_peeks(self, beanstalkd: BeanstalkdServer, connect: Connect) -> None:
        connection = connect(beanstalkd)
        assert connection.peek_ready() is connection.peek_delayed() is connection.peek_buried() is None
        assert connection.peek(1) is None
        connection.use("a")
        connection.watch("a")
        connection.put("buried")
        reserved(connection).bury()
        connection.put("delayed", delay=100)
        connection.put("ready")
        for jid, body, look in (
            (1, "buried", connection.peek_buried),
            (2, "delayed", connection.peek_delayed),
            (3, "ready", connection.peek_ready),
        ):
            for job, tube in ((look(), "a"), (connection.peek(jid), None)):
                assert job is not None
                assert (job.id, job.body, job.tube, job.reserved, job.lost) == (jid, body, tube, False, False)
        assert beanstalkd.control.counter("current-jobs-reserved") == 0

    def test_tubes(self, beanstalkd: BeanstalkdServer, connect: Connect) -> None:
        connection = connect(beanstalkd)
        assert connection.using() == "default"
        assert connection.use("a") == "a"
        assert connection.using() == "a"
        assert connection.watch("b") == 2
        assert connection.watch("b") == 2
        assert connection.watch("c") == 3
        assert connection.watching() == ["default", "b", "c"]
        assert connection.ignore("default") == 2
        assert connection.ignore("nowhere") == 2
        assert connection.ignore("b") == 1
        assert connection.ignore("c") == 1
        assert connection.ignore("nowhere") == 1
        assert connection.watching() == ["c"]
        assert connection.tubes() == ["default", "a", "c"]
        assert repr(connection) == f"<Connection to {beanstalkd.address}, open, uses a, watches c>"

    @pytest.mark.parametrize("tube", ["123", "no", "null", "1.10", "0x1F", "2020-01-01", "yes", "017"])
    def test_a_tube_keeps_its_name_everywhere(self, beanstalkd: BeanstalkdServer, connect: Connect, tube: str) -> None:
        connection = connect(beanstalkd)
        assert connection.use(tube) == tube
        assert connection.using() == tube
        assert connection.watch(tube) == 2
        assert connection.ignore("default") == 1
        assert connection.watching() == [tube]
        assert connection.tubes() == ["default", tube]
        assert connection.stats_tube(tube)["name"] == tube
        jid = connection.put("x")
        assert connection.stats_job(jid)["tube"] == tube
        assert reserved(connection).tube == tube

    def test_stats(self, beanstalkd: BeanstalkdServer, connect: Connect) -> None:
        connection = connect(beanstalkd)
        jid = connection.put("x", delay=100)
        stats = connection.stats()
        assert (stats["current-jobs-delayed"], stats["pid"], stats["draining"]) == (1, beanstalkd.pid, False)
        assert isinstance(stats["version"], str)
        assert isinstance(stats["id"], str)
        assert connection.stats_tube("default")["current-jobs-delayed"] == 1
        assert connection.stats_job(jid)["state"] == "delayed"
        with pytest.raises(NotFound):
            connection.stats_job(99)
        with pytest.raises(NotFound):
            connection.stats_tube("nowhere")

    def test_pause_tube(self, beanstalkd: BeanstalkdServer, connect: Connect) -> None:
        connection = connect(beanstalkd)
        connection.put("x")
        connection.pause_tube("default", 100)
        assert connection.stats_tube("default")["pause"] == 100
        assert connection.reserve(0) is None
        connection.pause_tube("default", seconds=0)
        assert reserved(connection).body == "x"
        with pytest.raises(NotFound):
            connection.pause_tube("nowhere", 1)

    def test_a_job_in_its_last_second_is_announced(self, beanstalkd: BeanstalkdServer, connect: Connect) -> None:
        connection = connect(beanstalkd)
        connection.put("x", ttr=1)
        job = reserved(connection)
        with pytest.raises(DeadlineSoon) as caught:
            connection.reserve(timeout=0)
        assert caught.value.args == ("reserve-with-timeout", "DEADLINE_SOON", [])
        job.touch()
        job.delete()

    def test_refused_puts(self, beanstalkd: BeanstalkdServer, connect: Connect) -> None:
        connection = connect(beanstalkd)
        connection.put("x" * 65535)
        with pytest.raises(JobTooBig) as too_big:
            connection.put("secret" * 20000)
        assert too_big.value.args == ("put", "JOB_TOO_BIG", [])
        assert connection.put("in step") == 2
        beanstalkd.drain()
        with pytest.raises(Draining) as draining:
            connection.put("secret")
        assert draining.value.args == ("put", "DRAINING", [])
        assert reserved(connection).body == "x" * 65535

    def test_constants_and_defaults(self) -> None:
        assert (beanpool.DEFAULT_HOST, beanpool.DEFAULT_PORT) == ("localhost", 11300)
        assert (beanpool.DEFAULT_PRIORITY, beanpool.DEFAULT_TTR) == (2**31, 120)
        assert beanpool.DEFAULT_TUBE_NAME == "default"
        assert (beanpool.SocketError, beanpool.BeanstalkcException) == (ConnectionFailed, BeanpoolError)
        parameters = inspect.signature(Connection).parameters
        assert list(parameters) == ["host", "port", "parse_yaml", "connect_timeout", "timeout", "encoding"]
        assert (parameters["host"].default, parameters["port"].default) == ("localhost", 11300)
        assert parameters["connect_timeout"].kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
        assert parameters["timeout"].kind is inspect.Parameter.KEYWORD_ONLY
        assert list(inspect.signature(Connection.put).parameters) == ["self", "body", "priority", "delay", "ttr"]
