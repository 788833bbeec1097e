"""What a pool knows of the jobs that it has in hand, by their ids and across its connections."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

import pytest
from support.batches import cut, leased, ready
from support.inside import inside
from support.pools import unprobed
from support.servers import BeanstalkdServer
from support.waiting import wait_until

from beanpool import Job, JobLost, NotFound, PoolManager
from beanpool.events import Event, ReservationLost
from beanpool.server.lease import forget

if TYPE_CHECKING:
    from conftest import StartCluster


def reserve(pool: PoolManager) -> Job:
    job = pool.reserve(5)
    assert job is not None
    return job


def refs_left(pool: PoolManager) -> int:
    return sum(
        len(refs) for member in inside(pool).members for refs in member.reservations.in_hand._by_instance.values()
    )


class TestReservedAgain:
    def test_the_reservation_before_is_lost(self, beanstalkd: BeanstalkdServer) -> None:
        events: list[Event] = []
        with unprobed(beanstalkd) as pool:
            pool.add_listener(events.append)
            jid = pool.put("x", ttr=1)
            before = reserve(pool)
            # Asked over its own connection: beanstalkd may forget the time of one that says nothing.
            wait_until(lambda: before.stats()["state"] == "ready", "the TTR to run out")
            after = reserve(pool)
            assert after.id == before.id == jid
            assert (before.reserved, before.lost) == (False, True)
            assert (after.reserved, after.lost) == (True, False)
            with pytest.raises(JobLost, match="given it out again"):
                before.touch()
            with pytest.raises(JobLost):
                before.delete()
            assert beanstalkd.control.counter("cmd-touch") == 0
            pool.touch(jid)
            assert beanstalkd.control.counter("cmd-touch") == 1
            assert before.lost, "also when the other one is finished"
            after.delete()
            assert (before.lost, after.lost, leased(pool), refs_left(pool)) == (True, False, 0, 0)
        assert [event.job_id for event in events if isinstance(event, ReservationLost)] == [jid]

    def test_in_a_batch(self, beanstalkd: BeanstalkdServer) -> None:
        with unprobed(beanstalkd) as pool:
            pool.put_many(["x"] * 5, ttr=1)
            before = pool.reserve_many(5, 1)
            wait_until(lambda: [job.stats()["state"] for job in before] == ["ready"] * 5, "the TTR to run out")
            after: list[Job] = []
            while len(after) < 5:
                after += pool.reserve_many(5 - len(after), 5)
            assert all(job.lost for job in before)
            assert [type(outcome) for outcome in pool.delete_many(before)] == [JobLost] * 5
            assert pool.delete_many(after) == [None] * 5
            assert (leased(pool), refs_left(pool)) == (0, 0)

    def test_one_that_was_given_back_is_not_lost(self, beanstalkd: BeanstalkdServer) -> None:
        with unprobed(beanstalkd) as pool:
            pool.put("x")
            before = reserve(pool)
            before.release()
            after = reserve(pool)
            assert (before.reserved, before.lost, after.reserved) == (False, False, True)
            after.delete()
            assert pool.get_stats()["jobs_lost"] == 0

    def test_the_ids_of_another_process_are_other_jobs(self, beanstalkd: BeanstalkdServer) -> None:
        with unprobed(beanstalkd) as pool:
            pool.put("x")
            before = reserve(pool)
            beanstalkd.restart()
            jid = pool.put("y")
            after = reserve(pool)
            assert after.number == before.number
            pool.touch(jid)
            assert after.reserved
            after.delete()
            with pytest.raises(JobLost):
                before.touch()


class TestByItsId:
    def test_a_server_was_removed_and_added_again(self, cluster: StartCluster) -> None:
        servers = cluster(2)
        with unprobed(*servers) as pool:
            put = [pool.put("x") for _ in range(6)]
            jobs = pool.reserve_many(6, 1)
            mine = [jid for jid in put if jid.server == servers[0].address]
            pool.remove_server(servers[0].address)
            pool.touch(mine[0])
            assert pool.delete_many([mine.pop()]) == [None]
            pool.add_server(servers[0].address)
            pool.touch(mine[0])
            pool.delete(mine[0])
            assert pool.delete_many(mine[1:]) == [None] * (len(mine) - 1)
            assert sum(job.reserved for job in jobs) == 5 - len(mine)
            assert sum(server.control.counter("cmd-touch") for server in servers) == 2
            assert set(pool.delete_many(job for job in jobs if job.reserved)) == {None}
            with pytest.raises(NotFound):
                pool.touch(mine[0])

    def test_nothing_is_kept_of_what_has_ended(self, beanstalkd: BeanstalkdServer) -> None:
        with unprobed(beanstalkd) as pool:
            pool.put_many(["x"] * 12)
            first, second, third, fourth, *jobs = pool.reserve_many(12, 1)
            assert refs_left(pool) == 12
            first.delete()
            second.release()
            third.bury()
            assert pool.delete_many(jobs[:4]) == [None] * 4
            assert refs_left(pool) == 5
            cut(fourth.connection)
            wait_until(lambda: ready(beanstalkd) == 6, "the server to take the others back")
            with pytest.raises(JobLost):
                fourth.touch()
            assert refs_left(pool) == 0
            del first, second, third, fourth, jobs
            gc.collect()

    def test_forgetting_one_leaves_another_reservation_of_it(self, beanstalkd: BeanstalkdServer) -> None:
        with unprobed(beanstalkd) as pool:
            pool.put_many(["x"] * 2)
            one, other = (reserve(pool) for _ in range(2))
            mine = {7: one.connection.jobs[one.id]}
            theirs = other.connection.jobs[other.id]
            refs = {7: theirs}
            forget(refs, mine, [7, 8])
            assert (mine, refs) == ({}, {7: theirs})
            one.delete()
            other.delete()
