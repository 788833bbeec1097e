"""Many touches, releases and buries at once: one outcome per item, and no server waits for another."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from support.batches import cut, leased
from support.pools import pool_with_jobs_in_hand, unprobed
from support.scripted import ScriptedConnection, expect_line, send, stats_reply, with_data
from support.servers import BeanstalkdServer
from support.threads import background
from support.waiting import wait_until, within

from beanpool import (
    BeanpoolError,
    Buried,
    CommandTimeout,
    Connection,
    Job,
    JobLost,
    NotFound,
    OutOfMemory,
    PoolManager,
    Put,
)
from beanpool.events import Event, ReservationLost
from beanpool.server import PooledConnection

if TYPE_CHECKING:
    from conftest import StartCluster, StartDelayLine, StartScripted

MANY: dict[str, Callable[..., list[Exception | None]]] = {
    "touch": PoolManager.touch_many,
    "release": PoolManager.release_many,
    "bury": PoolManager.bury_many,
}
AFTERWARDS = {"touch": "reserved", "release": "ready", "bury": "buried"}
every_verb = pytest.mark.parametrize("verb", MANY)


def take(pool: PoolManager, count: int, ttr: int = 120) -> list[Job]:
    pool.put_many(Put(str(number), priority=number, ttr=ttr) for number in range(count))
    jobs = pool.reserve_many(count, 5)
    assert len(jobs) == count
    return jobs


def kinds(outcomes: list[Exception | None]) -> list[type]:
    return [type(outcome) for outcome in outcomes]


def counter(servers: list[BeanstalkdServer], name: str) -> int:
    return sum(server.control.counter(name) for server in servers)


def times_left(server: BeanstalkdServer, jobs: list[Job]) -> list[int]:
    stats = [server.control.stats_job(int(job.id)) for job in jobs]
    return [int(found["time-left"]) for found in stats if found is not None]


def stats_of(servers: list[BeanstalkdServer], job: Job) -> tuple[str, int, int]:
    [server] = [server for server in servers if server.address == job.server]
    stats = server.control.stats_job(job.id)
    assert stats is not None
    return stats["state"], int(stats["pri"]), int(stats["delay"])


def connection_of(job: Job) -> PooledConnection:
    connection = job.connection
    assert isinstance(connection, PooledConnection)
    return connection


class TestOutcomes:
    @every_verb
    def test_jobs_of_all_servers_keep_their_priorities(self, cluster: StartCluster, verb: str) -> None:
        servers = cluster(3)
        with unprobed(*servers) as pool:
            # Some share a connection, and some have one of their own.
            jobs = take(pool, 100)
            pool.put("100", 100)
            alone = pool.reserve(5)
            assert alone is not None
            jobs.append(alone)
            assert MANY[verb](pool, (job for job in jobs)) == [None] * 101
            assert counter(servers, f"cmd-{verb}") == 101
            assert counter(servers, "cmd-stats-job") == (0 if verb == "touch" else 101)
            assert [job.reserved for job in jobs] == [verb == "touch"] * 101
            found = [stats_of(servers, job) for job in jobs]
            assert found == [(AFTERWARDS[verb], int(job.data), 0) for job in jobs]
            pool.delete_many(jobs)
            # A reserve that asked a far server may be at its end only now.
            wait_until(lambda: leased(pool) == 0, "the connections")

    def test_what_they_are_told(self, cluster: StartCluster) -> None:
        servers = cluster(2)
        with unprobed(*servers) as pool:
            jobs = take(pool, 20)
            assert pool.release_many(jobs[:10], priority=7, delay=60) == [None] * 10
            assert pool.bury_many(jobs[10:], priority=0) == [None] * 10
            assert counter(servers, "cmd-stats-job") == 0
            found = [stats_of(servers, job) for job in jobs]
            assert found == [("delayed", 7, 60)] * 10 + [("buried", 0, 0)] * 10

    def test_a_touch_starts_the_ttr_anew(self, beanstalkd: BeanstalkdServer) -> None:
        with unprobed(beanstalkd) as pool:
            jobs = take(pool, 3, ttr=2)
            wait_until(lambda: times_left(beanstalkd, jobs)[0] == 0, "the last second")
            assert pool.touch_many(jobs) == [None] * 3
            assert times_left(beanstalkd, jobs) == [1] * 3
            pool.delete_many(jobs)

    @every_verb
    def test_items_of_all_kinds(self, cluster: StartCluster, verb: str) -> None:
        servers = cluster(2)
        with (
            unprobed(*servers) as pool,
            unprobed(servers[1]) as second,
            Connection(servers[1].host, servers[1].port) as plain,
        ):
            of_second = take(second, 1)
            plain.put("plain")
            of_plain = plain.reserve(0)
            assert of_plain is not None
            ready = pool.put("ready", tube="other")
            finished, named, twice, last = take(pool, 4)
            finished.delete()
            alone = pool.tube("alone")
            alone.put("lost")
            broken = alone.reserve(5)
            assert broken is not None
            broken.connection.close()
            items: list[Any] = [
                *(finished, broken, named.id, twice, twice, last, *of_second, of_plain),
                *(ready, 7, "x", None),
            ]
            outcomes = MANY[verb](pool, items)
            assert kinds(outcomes) == [
                *(type(None), JobLost, type(None), type(None), type(None), type(None), type(None), type(None)),
                *(NotFound, ValueError, TypeError, TypeError),
            ]
            assert outcomes[8] is not None
            assert outcomes[8].args == (verb, "NOT_FOUND", [])
            assert [job.reserved for job in (named, twice, last, *of_second, of_plain)] == [verb == "touch"] * 5
            assert broken.lost
            pool.delete_many([named, twice, last, *of_second, of_plain])

    @every_verb
    def test_bad_arguments_are_refused_before_a_byte_is_sent(self, beanstalkd: BeanstalkdServer, verb: str) -> None:
        with unprobed(beanstalkd) as pool:
            [job] = take(pool, 1)
            call = functools.partial(MANY[verb], pool)
            wrong: list[Callable[[], object]] = [lambda: call("12"), lambda: call(job), lambda: call([job], timeout=0)]
            if verb != "touch":
                wrong += [lambda: call([job], priority=-1), lambda: call([job], priority="1")]
            if verb == "release":
                wrong.append(lambda: call([job], delay=-1))
            for bad in wrong:
                with pytest.raises((TypeError, ValueError)):
                    bad()
            assert counter([beanstalkd], f"cmd-{verb}") == 0
            job.delete()


class TestTrouble:
    @every_verb
    def test_a_frozen_server_holds_up_no_other(self, cluster: StartCluster, verb: str) -> None:
        servers = cluster(3)
        frozen, *healthy = servers
        with pool_with_jobs_in_hand(*servers, timeout=60) as pool:
            jobs = take(pool, 60)
            others = [job for job in jobs if job.server != frozen.address]
            frozen.freeze()
            call = background(functools.partial(MANY[verb], pool, jobs))
            wait_until(lambda: counter(healthy, f"cmd-{verb}") == len(others), "the jobs of the others to be done")
            # Their connections are free already.
            if verb == "touch":
                others[0].touch(timeout=5)
                others[-1].touch(timeout=5)
            else:
                wait_until(lambda: sum(status.leased for status in pool.servers[1:]) == 0, "their connections")
            assert not call.done
            frozen.thaw()
            assert call.result() == [None] * 60
            pool.delete_many(jobs)

    @every_verb
    def test_a_frozen_server_costs_its_own_jobs(self, cluster: StartCluster, verb: str) -> None:
        servers = cluster(2)
        with pool_with_jobs_in_hand(*servers, timeout=60) as pool:
            jobs = take(pool, 20)
            of_frozen = [job for job in jobs if job.server == servers[0].address]
            servers[0].freeze()
            with within(0.3, slack=1.5):
                outcomes = MANY[verb](pool, jobs, timeout=0.3)
            for job, outcome in zip(jobs, outcomes, strict=True):
                assert type(outcome) is (JobLost if job in of_frozen else type(None))
                assert job.lost == (job in of_frozen)
            # Nothing is asked of it again.
            with within(0.0, slack=1.0):
                assert kinds(MANY[verb](pool, jobs)).count(JobLost) == len(of_frozen)
            servers[0].thaw()

    @every_verb
    def test_a_connection_that_is_in_use_is_waited_for_last(self, cluster: StartCluster, verb: str) -> None:
        servers = cluster(2)
        with pool_with_jobs_in_hand(*servers) as pool:
            jobs = take(pool, 20)
            held = connection_of(jobs[0])
            others = [job for job in jobs if job.connection is not held]
            with held.guard:
                call = background(functools.partial(MANY[verb], pool, jobs))
                wait_until(lambda: counter(servers, f"cmd-{verb}") == len(others), "the others")
                assert not call.done
            assert call.result() == [None] * 20
            pool.delete_many(jobs)

    @every_verb
    def test_a_connection_that_is_in_use_for_too_long(self, beanstalkd: BeanstalkdServer, verb: str) -> None:
        with pool_with_jobs_in_hand(beanstalkd) as pool:
            jobs = take(pool, 2)
            with connection_of(jobs[0]).guard, within(0.2, slack=1.5):
                assert kinds(MANY[verb](pool, jobs, timeout=0.2)) == [CommandTimeout] * 2
            # Nothing was sent.
            assert all(job.reserved for job in jobs)
            assert pool.delete_many(jobs) == [None] * 2

    def test_jobs_that_were_lost_meanwhile(self, beanstalkd: BeanstalkdServer) -> None:
        events: list[Event] = []
        with unprobed(beanstalkd) as pool:
            pool.add_listener(events.append)
            kept = take(pool, 3)
            jobs = take(pool, 6, ttr=1)
            # By its own connection: a server can forget one that says nothing.
            wait_until(lambda: jobs[0].stats()["state"] == "ready", "the TTR to run out")
            for number, verb in enumerate(MANY):
                lost = jobs[2 * number : 2 * number + 2]
                assert kinds(MANY[verb](pool, [*lost, kept[number]])) == [JobLost, JobLost, type(None)], verb
                assert [job.lost for job in (*lost, kept[number])] == [True, True, False]
            assert [event.job_id for event in events if isinstance(event, ReservationLost)] == [job.id for job in jobs]
            cut(kept[0].connection)
            assert kinds(pool.touch_many(kept)) == [JobLost, type(None), type(None)]
            wait_until(lambda: leased(pool) == 0, "the connections")

    def test_what_a_server_says_when_it_is_asked_for_priorities(self, scripted_server: StartScripted) -> None:
        def serve(connection: ScriptedConnection) -> None:
            for number in range(1, 7):
                connection.expect_line(b"reserve-with-timeout 0")
                connection.send(with_data(b"RESERVED %d" % number, b"x"))
            for number in range(1, 7):
                connection.expect_line(b"stats-job %d" % number)
            known = [with_data(b"OK", b"---\npri: %d\n" % number) for number in range(1, 5)]
            connection.send(b"".join(known) + b"NOT_FOUND\r\nOUT_OF_MEMORY\r\n")
            for number in range(1, 5):
                connection.expect_line(b"release %d %d 5" % (number, number))
            connection.send(b"RELEASED\r\nNOT_FOUND\r\nBURIED\r\nRELEASED\r\n")
            connection.expect_line(b"touch 6")
            connection.send(b"TOUCHED\r\n")
            connection.expect_line(b"delete 6")
            connection.send(b"DELETED\r\n")
            connection.read_until_closed()

        fake = scripted_server([expect_line(b"stats"), send(stats_reply()), serve], default=ScriptedConnection.close)
        with PoolManager([fake.address], health_interval=60) as pool:
            jobs = pool.reserve_many(6, 0)
            outcomes = pool.release_many(jobs, delay=5)
            assert kinds(outcomes) == [type(None), JobLost, Buried, type(None), JobLost, OutOfMemory]
            assert [job.reserved for job in jobs] == [False] * 5 + [True]
            assert [job.lost for job in jobs] == [False, True, False, False, True, False]
            # It is in hand as before, and so is its connection.
            jobs[5].touch()
            assert leased(pool) == 1
            jobs[5].delete()

    @pytest.mark.parametrize("answered", [0, 1, 2])
    def test_a_connection_that_breaks_before_all_is_known(self, scripted_server: StartScripted, answered: int) -> None:
        def serve(connection: ScriptedConnection) -> None:
            for number in (1, 2):
                connection.expect_line(b"reserve-with-timeout 0")
                connection.send(with_data(b"RESERVED %d" % number, b"x"))
            for number in (1, 2):
                connection.expect_line(b"stats-job %d" % number)
            connection.send(with_data(b"OK", b"---\npri: 1\n") * answered)
            if answered == 2:
                connection.expect_line(b"bury 1 1")
                connection.send(b"BURIED\r\n")
            connection.close()

        fake = scripted_server([expect_line(b"stats"), send(stats_reply()), serve], default=ScriptedConnection.close)
        with PoolManager([fake.address], health_interval=60) as pool:
            jobs = pool.reserve_many(2, 0)
            expected = [type(None) if answered == 2 else JobLost, JobLost]
            outcomes = pool.bury_many(jobs)
            assert kinds(outcomes) == expected
            assert isinstance(outcomes[1], JobLost)
            assert isinstance(outcomes[1].__cause__, BeanpoolError)
            assert [job.lost for job in jobs] == [kind is JobLost for kind in expected]
            assert leased(pool) == 0

    def test_a_far_server_costs_a_few_round_trips(
        self, beanstalkd: BeanstalkdServer, delay_line: StartDelayLine
    ) -> None:
        with PoolManager([delay_line(beanstalkd, 0.1).address], timeout=5, health_interval=60) as pool:
            jobs = take(pool, 300)
            with within(0.5, slack=4.5):
                assert pool.touch_many(jobs) == [None] * 300
                assert pool.release_many(jobs) == [None] * 300
            # One by one it would take 90 s.
            assert beanstalkd.control.counter("current-jobs-ready") == 300
