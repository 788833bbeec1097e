"""The delay line: a server behind it is far, and otherwise the same."""

from __future__ import annotations

import functools
import socket
import time
from typing import TYPE_CHECKING

import pytest
from support.delay_line import DelayLine
from support.processes import assert_baseline
from support.servers import BeanstalkdServer
from support.threads import background, run_together
from support.waiting import wait_until

from beanpool.testing.raw_client import RawClient

if TYPE_CHECKING:
    from conftest import StartDelayLine


def test_each_round_trip_takes_its_time_and_many_commands_take_one(
    beanstalkd: BeanstalkdServer, delay_line: StartDelayLine
) -> None:
    line = delay_line(beanstalkd, 0.2)
    with RawClient((line.host, line.port), 5) as far:
        for count in (1, 50):
            started = time.monotonic()
            far._exchange(b"put 0 0 60 1\r\nx\r\n" * count, count)
            assert 0.2 <= time.monotonic() - started < 5 * 0.2
    assert beanstalkd.control.counter("current-jobs-ready") == 51


def test_the_rate_bounds_what_comes_through(beanstalkd: BeanstalkdServer, delay_line: StartDelayLine) -> None:
    line = delay_line(beanstalkd, 0.0, rate=500_000)
    with RawClient((line.host, line.port), 5) as far:
        started = time.monotonic()
        jid = far.put(b"x" * 50_000)
        assert far.peek(jid) == b"x" * 50_000
        assert time.monotonic() - started >= 0.2


def test_large_streams_and_many_connections_arrive_as_they_were(
    beanstalkd: BeanstalkdServer, delay_line: StartDelayLine
) -> None:
    line = delay_line(beanstalkd, 0.05)

    def there_and_back(letter: bytes) -> None:
        with RawClient((line.host, line.port), 5) as far:
            bodies = [letter * 60_000 + b"%d" % number for number in range(20)]
            far._exchange(b"".join(b"put 0 0 60 %d\r\n%s\r\n" % (len(body), body) for body in bodies), 20)
            # What the server has put together from three streams at once is in step if it takes the next command.
            assert far.stats()["pid"] == str(beanstalkd.pid)

    run_together(*[functools.partial(there_and_back, letter) for letter in (b"a", b"b", b"c")], timeout=30)
    bodies = sorted(job.body for job in beanstalkd.control.drain_jobs())
    assert bodies == sorted(letter * 60_000 + b"%d" % number for number in range(20) for letter in (b"a", b"b", b"c"))


def test_down_refuses_and_up_accepts_again(beanstalkd: BeanstalkdServer, delay_line: StartDelayLine) -> None:
    line = delay_line(beanstalkd, 0.01)
    with RawClient((line.host, line.port), 5) as far:
        far.stats()
        line.down()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((line.host, line.port), 5)
        wait_until(lambda: beanstalkd.control.other_connections() == 0, "the connections to end")
    line.up()
    with RawClient((line.host, line.port), 5) as far:
        assert far.stats()["pid"] == str(beanstalkd.pid)


def test_the_end_of_one_side_is_that_of_the_other(beanstalkd: BeanstalkdServer, delay_line: StartDelayLine) -> None:
    line = delay_line(beanstalkd, 0.1)
    with socket.create_connection((line.host, line.port), 5) as near:
        near.settimeout(5)
        near.sendall(b"reserve\r\n")
        wait_until(lambda: beanstalkd.control.counter("current-waiting"), "the reserve to arrive")
        near.shutdown(socket.SHUT_WR)
        assert near.recv(100) == b"TIMED_OUT\r\n"
        assert near.recv(100) == b""
    with socket.create_connection((line.host, line.port), 5) as near:
        near.settimeout(5)
        near.sendall(b"reserve\r\n")
        wait_until(lambda: beanstalkd.control.counter("current-waiting"), "the reserve to arrive")
        ending = background(lambda: near.recv(100))
        beanstalkd.kill()
        assert ending.result() == b""


def test_nothing_is_left_of_it(beanstalkd: BeanstalkdServer) -> None:
    beanstalkd.control.open()
    with assert_baseline():
        with DelayLine(beanstalkd.host, beanstalkd.port, 60.0) as line:
            held = socket.create_connection((line.host, line.port), 5)
            held.sendall(b"stats\r\n")
            wait_until(lambda: beanstalkd.control.other_connections() == 1, "the connection")
        held.close()
        line.close()
