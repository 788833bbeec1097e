"""The end of a pool: what was begun is finished, near and far, and nobody waits for a server because of another one."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING

from support.pools import unprobed
from support.servers import BeanstalkdServer
from support.threads import background
from support.waiting import wait_until, within

from beanpool import Job, JobId, PoolManager

if TYPE_CHECKING:
    from conftest import StartCluster, StartDelayLine


class TestFar:
    def test_what_is_under_way_is_waited_for(self, beanstalkd: BeanstalkdServer, delay_line: StartDelayLine) -> None:
        with PoolManager(delay_line(beanstalkd, 0.3).address, health_interval=60) as pool:
            pool.put_many(["x"] * 6)
            jobs = pool.reserve_many(6)
            pool.stats()

            def one_after_the_other(some: list[Job[str]]) -> None:
                while some:
                    some.pop().delete()

            calls: list[Callable[[], object]] = [
                functools.partial(one_after_the_other, [jobs.pop() for _ in range(3)]),
                jobs.pop().release,
                jobs.pop().bury,
                jobs.pop().delete,
            ]
            putting = background(lambda: pool.put("the last one"))
            finishing = [background(call) for call in calls]
            wait_until(lambda: not pool.servers[0].idle, "the put to be under way")
            del calls
            pool.close()
            assert isinstance(putting.result(), JobId)
            for call in finishing:
                call.result()
        states = {name: beanstalkd.control.counter(f"current-jobs-{name}") for name in ("reserved", "ready", "buried")}
        assert states == {"reserved": 0, "ready": 2, "buried": 1}


class TestMany:
    def test_jobs_of_one_are_not_waited_for_before_a_call_to_another_ends(self, cluster: StartCluster) -> None:
        first, second = cluster(2)
        first.control.put(b"held")
        with unprobed(first, second, timeout=20) as pool:
            pool.wait(2)
            job = pool.reserve(5)
            assert job is not None
            second.freeze()
            asking = background(functools.partial(pool.stats_job, 1, server=second.address))
            wait_until(lambda: pool.servers[1].leased == 1, "the question to be under way")
            closing = background(functools.partial(pool.close, 15))
            with within(1):
                assert asking.error() is not None
            assert not closing.done
            job.delete()
            closing.result()
