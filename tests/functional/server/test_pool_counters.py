"""What a pool counts is what its servers did, whatever way the commands went and however many threads there are."""

from __future__ import annotations

import collections
from typing import TYPE_CHECKING

import pytest
from support.pools import pool_with_jobs_in_hand, unprobed
from support.scripted import answering, stats_reply
from support.servers import BeanstalkdServer
from support.threads import run_together

from beanpool import BeanpoolError, JobLost, PoolManager, Put

if TYPE_CHECKING:
    from conftest import StartCluster, StartScripted

COUNTED = ("puts", "put_errors", "reserved", "deleted", "released", "buried", "touched", "in_hand")
THREADS = 8
EACH = 60


def counted(pool: PoolManager) -> dict[str, int]:
    """The counters that are not 0."""
    stats = pool.get_stats()
    return {name: stats[name] for name in COUNTED if stats[name]}


def test_every_way_to_carry_out_a_command_counts(cluster: StartCluster) -> None:
    servers = cluster(2)
    with unprobed(*servers) as pool:
        assert counted(pool) == {}
        for number in range(6):
            pool.put(str(number))
        pool.put_many(map(str, range(100)))
        with pool.producer() as producer:
            for number in range(10):
                producer.put(str(number))
        assert counted(pool) == {"puts": 116}
        jobs = [pool.reserve(5) for _ in range(4)] + pool.reserve_many(50, 5)
        assert counted(pool) == {"puts": 116, "reserved": 54, "in_hand": 54}
        first, second, third, fourth, *many = [job for job in jobs if job is not None]
        first.touch()
        first.delete()
        second.release(delay=60)
        third.bury()
        fourth.release()
        assert pool.touch_many(many[:20]) == [None] * 20
        assert pool.release_many(many[:10], delay=60) == [None] * 10
        assert pool.bury_many(many[10:20]) == [None] * 10
        assert pool.delete_many(many) == [None] * 50
        pool.delete(second.id)
        expected = {"puts": 116, "reserved": 54, "touched": 21, "released": 12, "buried": 11, "deleted": 52}
        assert counted(pool) == expected
        by_server = pool.get_stats_by_server()
        assert set(by_server) == {server.address for server in servers}
        for server in servers:
            stats = by_server[server.address]
            assert stats["puts"] == server.control.counter("cmd-put")
            assert stats["deleted"] == server.control.counter("cmd-delete")
        sums: collections.Counter[str] = collections.Counter()
        for stats in by_server.values():
            sums.update(stats)
        assert {name: pool.get_stats()[name] for name in sums} == dict(sums)


def test_no_count_is_lost_among_threads(cluster: StartCluster) -> None:
    """Fewer connections than threads, so that every connection goes from thread to thread."""
    with unprobed(*cluster(2), max_connections=5) as pool:

        def work() -> None:
            for number in range(EACH):
                pool.put(str(number))
            for _ in range(EACH):
                job = pool.reserve(10)
                assert job is not None
                job.touch()
                job.delete()

        run_together(*[work] * THREADS, timeout=60)
        assert counted(pool) == dict.fromkeys(("puts", "reserved", "touched", "deleted"), THREADS * EACH)


def test_what_was_counted_stays_when_connections_and_servers_go(cluster: StartCluster) -> None:
    first, second = cluster(2)
    with pool_with_jobs_in_hand(first, second) as pool:
        ids = [pool.put(str(number)) for number in range(20)]
        job = pool.reserve(5)
        assert job is not None
        gone, stays = (first, second) if job.server == first.address else (second, first)
        gone.stop()
        stays.stop()
        with pytest.raises(BeanpoolError):
            pool.put("nowhere", timeout=0.5)
        stats = pool.get_stats()
        assert (stats["puts"], stats["put_errors"]) == (20, 1)
        assert stats["put_attempts_failed"] >= 1
        pool.remove_server(gone.address)
        assert pool.get_stats()["puts"] == len(ids)
        assert pool.get_stats()["reserved"] == 1
        assert list(pool.get_stats_by_server()) == [stays.address]
        with pytest.raises(JobLost):
            job.touch()
        pool.add_server(gone.address)
        assert pool.get_stats_by_server()[gone.address]["puts"] == 0
        for _ in range(2):
            assert pool.get_stats()["puts"] == len(ids)
            pool.remove_server(gone.address)
            assert pool.get_stats()["puts"] == len(ids)
            pool.add_server(gone.address)


def test_a_put_that_was_buried_is_a_put(scripted_server: StartScripted) -> None:
    server = scripted_server(default=answering({"stats": stats_reply(), "put": b"BURIED 12\r\n"}))
    with PoolManager(server.address, health_interval=60) as pool:
        assert pool.put("one").buried
        pool.put_many(["two", Put("three")])
        assert counted(pool) == {"puts": 3}


def test_a_batch_that_no_server_takes_counts_each_put(beanstalkd: BeanstalkdServer) -> None:
    with unprobed(beanstalkd) as pool:
        beanstalkd.stop()
        outcomes = pool.put_many(["a", "b", "c"], timeout=0.1)
        assert all(isinstance(outcome, Exception) for outcome in outcomes)
        assert counted(pool) == {"put_errors": 3}
