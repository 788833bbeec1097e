"""The delay line does delay: else what is tested behind it would be tested with a near server."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from beanpool.testing.raw_client import RawClient
from support.servers import BeanstalkdServer

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
