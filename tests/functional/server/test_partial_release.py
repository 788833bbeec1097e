"""Giving back some jobs of a connection while others on it are worked on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from support.batches import fill
from support.servers import BeanstalkdServer
from support.waiting import wait_until

from beanpool import PoolManager

if TYPE_CHECKING:
    from conftest import StartDelayLine


def test_a_server_that_answers_in_time_twice_is_not_late(
    beanstalkd: BeanstalkdServer, delay_line: StartDelayLine
) -> None:
    """Asking for the priority and releasing are two round trips, each shorter than the timeout."""
    fill(beanstalkd, 2)
    with PoolManager(delay_line(beanstalkd, 0.5).address, health_interval=60) as pool:
        kept, dropped = pool.reserve_many(2, 5)
        kept.connection.timeout = 0.8
        del dropped
        wait_until(lambda: beanstalkd.control.counter("current-jobs-ready") == 1, "the job to be given back")
        wait_until(lambda: not kept.connection.guard.locked(), "the answer to the release")
        # A delete would be recovered.
        assert kept.reserved
        kept.delete(timeout=5)
