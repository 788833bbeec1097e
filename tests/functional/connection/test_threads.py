"""A Connection and several threads."""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest
from support.connections import Connect
from support.servers import BeanstalkdServer
from support.threads import background, run_together
from support.waiting import wait_until, within

from beanpool import BeanpoolError, ConnectionFailed


class TestThreads:
    def test_two_at_once_is_refused(self, beanstalkd: BeanstalkdServer, connect: Connect) -> None:
        connection = connect(beanstalkd)
        waiting = background(lambda: connection.reserve(10))
        wait_until(lambda: beanstalkd.control.counter("current-waiting") == 1, "the server to have a waiter")
        calls: list[Callable[[], object]] = [
            lambda: connection.put("x"),
            lambda: connection.reserve(0),
            lambda: connection.stats(),
            lambda: connection.watch("a"),
            lambda: connection.pipeline().put("x").execute(),
        ]
        for call in calls:
            with (
                within(0.1),
                pytest.raises(BeanpoolError, match="is in use by another thread; give each thread its own"),
            ):
                call()
        beanstalkd.control.put(b"hello")
        job = waiting.result(5)
        assert job is not None
        assert (job.body, job.reserved) == ("hello", True)
        assert beanstalkd.control.counter("cmd-put") == 1

    def test_replies_are_never_mixed(self, beanstalkd: BeanstalkdServer, connect: Connect) -> None:
        connection = connect(beanstalkd)
        for number in range(8):
            assert connection.put(f"body {number + 1}") == number + 1

        def hammer(number: int) -> int:
            answered = 0
            for _ in range(300):
                try:
                    job = connection.peek(number)
                except BeanpoolError as error:
                    assert type(error) is BeanpoolError  # noqa: PT017  # Refused, not broken.
                    continue
                assert job is not None
                assert (job.id, job.body) == (number, f"body {number}")
                answered += 1
            return answered

        answered = run_together(*(functools.partial(hammer, number) for number in range(1, 9)))
        assert sum(answered) > 0
        assert not connection.closed

    def test_another_thread_can_close_it(self, beanstalkd: BeanstalkdServer, connect: Connect) -> None:
        connection = connect(beanstalkd)
        waiting = background(lambda: connection.reserve())
        wait_until(lambda: beanstalkd.control.counter("current-waiting") == 1, "the server to have a waiter")
        connection.close()
        error = waiting.error(2)
        assert isinstance(error, ConnectionFailed)
        assert "it was closed by close()" in str(error)
        assert connection.closed_because == "it was closed by close()"
        assert connection._open_channel().fileno() == -1
        connection.reconnect()
        assert connection.put("x") == 1
