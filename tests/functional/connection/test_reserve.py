"""Reserves of a Connection that wait for a part of a second, which no server knows."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
from support.connections import Connect
from support.scripted import expect_line, send, with_data
from support.servers import BeanstalkdServer
from support.threads import background
from support.waiting import wait_until, within

from beanpool import Connection, ConnectionFailed, JobLost

if TYPE_CHECKING:
    from conftest import StartDelayLine, StartScripted


def empty(connection: Connection, seconds: float) -> None:
    """Reserve nothing, in exactly that time."""
    started = time.monotonic()
    with within(seconds, "the reserve"):
        assert connection.reserve(seconds) is None
    assert time.monotonic() - started >= seconds - 0.001


class TestPartsOfASecond:
    def test_end_to_the_point_and_nobody_notices(self, beanstalkd: BeanstalkdServer, connect: Connect) -> None:
        connection = connect(beanstalkd)
        connection.use("a")
        for tube in ("b", "c"):
            connection.watch(tube)
        connection.ignore("default")
        for seconds in (0.1, 0.3):
            empty(connection, seconds)
            assert not connection.closed
            assert connection.closed_because == ""
        # On a slow way the end of a connection may come later than the job.
        wait_until(lambda: beanstalkd.control.counter("current-waiting") == 0, "the waits to be given up")
        beanstalkd.control.put(b"meanwhile", tube="c")
        # Nobody has taken it, and nobody keeps it.
        assert beanstalkd.control.counter("current-jobs-reserved") == 0
        assert connection.using() == "a"
        assert set(connection.watching()) == {"b", "c"} == set(connection.watched)
        with connection.reserve(0.2) as job:  # type: ignore[union-attr]  # It is there.
            assert job.body == "meanwhile"
        wait_until(lambda: beanstalkd.control.counter("current-connections") == 2, "the old ones to be gone")

    def test_a_job_that_comes_in_time_comes_at_once(self, beanstalkd: BeanstalkdServer, connect: Connect) -> None:
        connection = connect(beanstalkd)
        for seconds in (0.9, 1.5, 31.5):
            waiting = background(functools.partial(connection.reserve, seconds))
            wait_until(lambda: beanstalkd.control.counter("current-waiting") == 1, "the server to have a waiter")
            beanstalkd.control.put(b"x")
            with within(0.2, "the job"):
                job = waiting.result(5)
            assert job is not None
            job.delete()
        assert connection._epoch == 1

    @pytest.mark.parametrize("way", ["job", "id", "pipeline"])
    def test_a_job_in_hand_is_kept(self, beanstalkd: BeanstalkdServer, connect: Connect, way: str) -> None:
        connection = connect(beanstalkd)
        connection.put("x")
        finish: Callable[[], object]
        if way == "job":
            job = connection.reserve(0.5)
            assert job is not None
            jid, finish = job.id, job.delete
        elif way == "id":
            # The Job is dropped at once, and its reservation goes on.
            jid = connection.reserve_job(1).id
            finish = lambda: connection.delete(jid)  # noqa: E731
        else:
            jid = connection.pipeline().reserve(1.0).execute()[0].id
            finish = lambda: connection.pipeline().delete(jid).execute()[0]  # noqa: E731
        for seconds in (0.2, 1.2):
            empty(connection, seconds)
        assert beanstalkd.control.state(jid) == "reserved"
        connection.touch(jid)
        assert finish() is None
        assert connection._epoch == 1
        empty(connection, 0.1)
        # Now it was given up.
        assert connection.ping()
        assert connection._epoch == 2

    def test_a_job_that_is_lost_is_in_nobodys_way(self, beanstalkd: BeanstalkdServer, connect: Connect) -> None:
        connection = connect(beanstalkd)
        connection.put("x", ttr=1)
        job = connection.reserve(0)
        assert job is not None
        # 1.12 forgets the deadline of who says nothing.
        wait_until(lambda: connection.ping() and beanstalkd.control.state(1) == "ready", "its time to run out")
        with pytest.raises(JobLost):
            job.touch()
        again = connection.reserve(0.5)
        assert again is not None
        again.bury()
        empty(connection, 0.1)
        # Who knows which process answers now, and whose job has the id there?
        connection.ping()
        with pytest.raises(JobLost, match="made anew"):
            again.kick()

    @pytest.mark.parametrize("seconds", [0.05, 0.25, 0.7])
    def test_what_is_ready_comes_from_afar(
        self, beanstalkd: BeanstalkdServer, delay_line: StartDelayLine, seconds: float
    ) -> None:
        beanstalkd.control.put(b"x")
        line = delay_line(beanstalkd, 0.3)
        with Connection(line.host, line.port) as connection:
            job = connection.reserve(seconds)
            assert job is not None
            job.delete()

    def test_a_job_that_has_begun_to_come_is_waited_for(self, scripted_server: StartScripted, connect: Connect) -> None:
        whole = with_data(b"RESERVED 7", b"x" * 100)
        server = scripted_server(
            [
                expect_line(b"reserve-with-timeout 0"),
                send(b"TIMED_OUT\r\n"),
                expect_line(b"reserve-with-timeout 1"),
                send(whole[:50]),
                lambda _: time.sleep(0.4),
                send(whole[50:]),
            ]
        )
        connection = connect(server)
        job = connection.reserve(0.2)
        assert job is not None
        assert len(job.data) == 100
        assert connection._epoch == 1

    def test_on_the_wire_it_is_rounded_up(self, scripted_server: StartScripted, connect: Connect) -> None:
        server = scripted_server(
            [
                *(expect_line(b"reserve-with-timeout 0"), send(b"TIMED_OUT\r\n")),
                *(expect_line(b"reserve-with-timeout 30"), send(b"TIMED_OUT\r\n")),
                *(expect_line(b"reserve-with-timeout 30"), send(with_data(b"RESERVED 7", b"x"))),
                *(expect_line(b"delete 7"), send(b"DELETED\r\n")),
                *(expect_line(b"reserve-with-timeout 0"), send(b"TIMED_OUT\r\n")),
                *(expect_line(b"reserve-with-timeout 2"), send(with_data(b"RESERVED 8", b"y"))),
            ]
        )
        connection = connect(server)
        for seconds in (31.5, 1.5):
            job = connection.reserve(seconds)
            assert job is not None
            if seconds > 30:
                job.delete()


class TestTheEnd:
    def test_close_while_it_waits(self, beanstalkd: BeanstalkdServer, connect: Connect) -> None:
        connection = connect(beanstalkd)
        waiting = background(lambda: connection.reserve(20.5))
        wait_until(lambda: beanstalkd.control.counter("current-waiting") == 1, "the server to have a waiter")
        connection.close()
        with pytest.raises(ConnectionFailed, match=r"closed by close\(\)"):
            waiting.result(5)
        assert connection.closed

    def test_close_after_it_has_waited(self, beanstalkd: BeanstalkdServer, connect: Connect) -> None:
        connection = connect(beanstalkd)
        empty(connection, 0.1)
        connection.close()
        assert connection.closed
        for call in (connection.ping, lambda: connection.reserve(0.1), lambda: connection.put("x")):
            with pytest.raises(ConnectionFailed, match=r"closed by close\(\)"):
                call()
        connection.connect()
        assert connection.ping()

    def test_a_server_that_is_gone_is_said_and_looked_for_again(
        self, beanstalkd: BeanstalkdServer, connect: Connect
    ) -> None:
        connection = connect(beanstalkd)
        connection.use("a")
        empty(connection, 0.1)
        beanstalkd.kill()
        with pytest.raises(ConnectionFailed, match="cannot connect"):
            connection.put("x")
        beanstalkd.start()
        assert connection.using() == "a"
        assert connection.put("x") == 1
