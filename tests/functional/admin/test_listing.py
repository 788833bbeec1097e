"""Looking at jobs, and finding some by their bodies."""

from __future__ import annotations

import re
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
from support.servers import BeanstalkdServer, ServerFactory
from support.tubes import FAR, count_in, fill, put_in
from support.waiting import within

from beanpool import PoolManager
from beanpool.admin import Progress, find, jobs, total

if TYPE_CHECKING:
    from conftest import StartCluster


def test_all_jobs_of_a_tube_are_seen_and_stay_as_they_are(cluster: StartCluster) -> None:
    servers = cluster(3)
    for server in servers:
        fill(server, "a", ready=300, delayed=3, buried=2)
        fill(server, "b", ready=5)
    with PoolManager([server.url for server in servers]) as pool:
        listing = jobs(pool, "a")
        found = list(listing)
        assert len({job.id for job in found}) == len(found) == 3 * 305
        assert {job.tube for job in found} == {"a"}
        for server in servers:
            own = [job for job in found if job.server == server.address]
            assert [int(job.id) for job in own] == sorted(int(job.id) for job in own)
        assert [outcome.done for outcome in listing.outcomes.values()] == [305] * 3
        assert total(listing.outcomes).skipped == 0
        # Its id is one that the pool takes.
        pool.delete(found[0].id)
    assert count_in(servers, "a", ["ready"]) == 899
    assert count_in(servers, "a", ["buried"]) == 6


def test_what_is_known_of_a_job(beanstalkd: BeanstalkdServer) -> None:
    put_in(beanstalkd.control, "a", "delayed", b"\xff", 7)
    put_in(beanstalkd.control, "a", "buried", b"secret", 9)
    with PoolManager(beanstalkd.url, encoding=None) as pool:
        delayed, buried = jobs(pool, "a")
    assert (delayed.state, delayed.data, delayed.priority, delayed.ttr) == ("delayed", b"\xff", 7, 67)
    assert FAR + 7 - 60 < delayed.time_left < delayed.delay <= FAR + 7
    assert (buried.state, buried.buries, buried.reserves, buried.delay) == ("buried", 1, 1, 0)
    assert "secret" not in repr(buried)


def test_reserved_jobs_are_seen_when_asked_for(beanstalkd: BeanstalkdServer) -> None:
    fill(beanstalkd, "a", ready=3)
    with PoolManager(beanstalkd.url) as pool:
        held = pool.reserve_many(2, 1, tubes="a")
        assert len(list(jobs(pool, "a"))) == 1
        assert len(list(jobs(pool, "a", ["ready", "reserved"]))) == 3
        assert {job.id for job in jobs(pool, "a", "reserved")} == {int(job.id) for job in held}
        pool.delete_many(held)


def test_a_limit_sees_the_newest_and_the_rest_is_not_looked_for(beanstalkd: BeanstalkdServer) -> None:
    fill(beanstalkd, "a", ready=1200)
    with PoolManager(beanstalkd.url) as pool:
        before = beanstalkd.control.counter("cmd-peek")
        assert [int(job.id) for job in jobs(pool, "a", limit=3)] == [1198, 1199, 1200]
        assert beanstalkd.control.counter("cmd-peek") - before == 3
        assert list(jobs(pool, "a", limit=0)) == []


def test_jobs_that_are_too_deep_are_counted(beanstalkd: BeanstalkdServer) -> None:
    fill(beanstalkd, "a", ready=10)
    with PoolManager(beanstalkd.url) as pool:
        # The job that tells how far to go has an id as well.
        listing = jobs(pool, "a", depth=5)
        assert len(list(listing)) == 4
        assert total(listing.outcomes).skipped == 6


def test_servers_that_do_not_answer_are_errors_and_the_others_are_seen(cluster: StartCluster) -> None:
    servers = cluster(3)
    for server in servers:
        fill(server, "a", ready=2)
    servers[0].kill()
    servers[1].freeze()
    seen: list[Progress] = []
    with PoolManager([server.url for server in servers], connect_timeout=1) as pool:
        listing = jobs(pool, timeout=1, progress=seen.append)
        assert {job.server for job in listing} == {servers[2].address}
    assert [outcome.error is None for outcome in listing.outcomes.values()] == [False, False, True]
    assert seen[-1].handled == 2
    servers[1].thaw()


def test_a_silent_server_holds_up_no_jobs_of_the_others(cluster: StartCluster) -> None:
    servers = cluster(3)
    for server in servers:
        fill(server, "a", ready=2)
    with PoolManager([server.url for server in servers]) as pool:
        pool.ping()
        servers[0].freeze()
        try:
            with within(5), closing(jobs(pool, "a", timeout=30)) as listing:
                assert {next(listing).server for _ in range(4)} == {server.address for server in servers[1:]}
        finally:
            servers[0].thaw()


def test_one_that_is_closed_early_gives_its_connections_back(beanstalkd: BeanstalkdServer) -> None:
    fill(beanstalkd, "a", ready=600)
    with PoolManager(beanstalkd.url, max_connections=1) as pool:
        listing = jobs(pool, "a")
        next(listing)
        listing.close()
        assert list(listing) == []
        assert listing.outcomes[beanstalkd.address].done == 1
        assert pool.servers[0].leased == 0


@pytest.mark.parametrize(
    "pattern",
    [r"user 1\d$", rb"user 1\d$", re.compile("USER 1[0-9]", re.IGNORECASE), re.compile(rb"user 1[0-9]")],
    ids=["str", "bytes", "compiled", "compiled bytes"],
)
def test_jobs_are_found_by_their_bodies_in_all_tubes(cluster: StartCluster, pattern: Any) -> None:
    servers = cluster(2)
    with PoolManager([server.url for server in servers]) as pool:
        for tube in ("a", "b"):
            pool.put_many([b"\xffuser %d" % number for number in range(20)], tube=tube)
        assert len(list(find(pool, pattern))) == 20
        assert {job.tube for job in find(pool, pattern, "b")} == {"b"}
        assert len(list(find(pool, pattern, limit=7))) == 7
        with pytest.raises(ValueError, match="regular expression"):
            find(pool, "(")


def test_a_server_that_takes_no_puts_is_asked_for_what_it_has_counted(beanstalkd_factory: ServerFactory) -> None:
    server = beanstalkd_factory(wal=True)
    for _ in range(50):
        server.control.delete(server.control.put(b"", "a"))
    fill(server, "a", ready=3, delayed=1, buried=1)
    # It counts anew, and its ids go on.
    server.restart()
    fill(server, "a", ready=1)
    server.drain()
    with PoolManager(server.url) as pool:
        assert [int(job.id) for job in jobs(pool, "a")] == [51, 52, 53, 54, 55, 56]


def test_the_job_that_tells_the_newest_id_is_gone_afterwards(beanstalkd: BeanstalkdServer) -> None:
    fill(beanstalkd, "a", ready=2)
    # Left by one whose connection broke.
    beanstalkd.control.put(b"", "beanpool.admin.newest-id", delay=FAR)
    with PoolManager(beanstalkd.url) as pool:
        assert len(list(jobs(pool))) == 2
    assert beanstalkd.control.counter("current-jobs-delayed") == 0
