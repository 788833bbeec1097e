"""Copies whose server is another process by now: what has their numbers is none of theirs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from support.servers import BeanstalkdServer
from support.tubes import FAR
from support.waiting import within

from beanpool import JobLost, PoolManager, Put
from beanpool.admin.copies import bury_copies, take_back
from beanpool.admin.outcome import Tally

if TYPE_CHECKING:
    from conftest import StartCluster, StartDelayLine


def test_a_copy_is_buried_and_taken_back_on_the_process_that_has_it(beanstalkd: BeanstalkdServer) -> None:
    with PoolManager(beanstalkd.url) as pool:
        copy = pool.put("copy", delay=FAR)
    beanstalkd.restart()
    witness = beanstalkd.control.put(b"another", delay=FAR)
    assert witness == copy
    with PoolManager(beanstalkd.url) as pool:
        [error] = bury_copies(pool, [(copy, 5)], None)
        assert isinstance(error, JobLost)
        tally = Tally()
        take_back(pool, [copy], None, tally)
        assert tally.duplicates == 1
    assert beanstalkd.control.state(witness) == "delayed"


def test_copies_are_buried_with_their_priorities(beanstalkd: BeanstalkdServer) -> None:
    with PoolManager(beanstalkd.url) as pool:
        copies = [pool.put("copy", delay=FAR) for _ in range(3)]
        assert bury_copies(pool, [(copy, number) for number, copy in enumerate(copies)], None) == [None] * 3
        assert [pool.stats_job(copy)["pri"] for copy in copies] == [0, 1, 2]
    assert beanstalkd.control.counter("current-jobs-buried") == 3


def test_copies_on_far_servers_are_buried_at_the_same_time(cluster: StartCluster, delay_line: StartDelayLine) -> None:
    servers = cluster(8)
    with PoolManager([delay_line(server, 0.2).address for server in servers]) as pool:
        copies = pool.put_many([Put("copy", delay=FAR)] * 80)
        pool.ping()
        # Two round trips; on one server after the other that would be 3.2 seconds.
        with within(1.5, "to bury them"):
            assert bury_copies(pool, [(copy, 5) for copy in copies], None) == [None] * 80
    assert sum(server.control.counter("current-jobs-buried") for server in servers) == 80
