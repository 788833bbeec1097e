"""Many deletes at once: one outcome per item, that of a single delete, whatever becomes of its neighbours."""

from __future__ import annotations

import functools
import itertools
import threading
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
from support.batches import cut, leased
from support.pools import unprobed
from support.processes import assert_baseline
from support.scripted import ScriptedConnection, expect_line, send, stats_reply, with_data
from support.servers import BeanstalkdServer
from support.threads import background, run_together
from support.waiting import wait_until, within

from beanpool import CommandFailed, CommandTimeout, ConnectionFailed, Job, JobId, JobLost, NotFound, PoolManager
from beanpool.connection.connection import Connection
from beanpool.events import Event, ReservationLost
from beanpool.server.pooled_connection import PooledConnection

if TYPE_CHECKING:
    from conftest import StartCluster, StartDelayLine, StartScripted


def put(pool: PoolManager, count: int) -> list[JobId]:
    ids = pool.put_many(str(number) for number in range(count))
    return [jid for jid in ids if isinstance(jid, JobId)]


def take(pool: PoolManager, count: int) -> list[Job]:
    put(pool, count)
    jobs = pool.reserve_many(count, 2)
    assert len(jobs) == count
    return jobs


def jobs_left(*servers: BeanstalkdServer) -> int:
    return sum(
        server.control.counter(f"current-jobs-{state}")
        for server in servers
        for state in ("ready", "reserved", "buried", "delayed")
    )


def kinds(outcomes: list[Exception | None]) -> list[type]:
    return [type(outcome) for outcome in outcomes]


class TestOutcomes:
    def test_nothing_of_nothing(self) -> None:
        pool = PoolManager("127.0.0.1:1")
        assert pool.delete_many([]) == []
        pool.close()

    def test_jobs_of_all_servers(self, cluster: StartCluster) -> None:
        servers = cluster(3)
        with unprobed(*servers) as pool:
            jobs = take(pool, 2500)
            assert pool.delete_many(job for job in jobs) == [None] * 2500
            assert jobs_left(*servers) == 0
            assert sum(server.control.counter("cmd-delete") for server in servers) == 2500
            assert not any(job.reserved or job.lost for job in jobs)
            assert [(status.leased, status.idle) for status in pool.servers] == [(0, 1)] * 3, "in step, and of use"

    def test_a_part_of_the_jobs_of_a_connection(self, beanstalkd: BeanstalkdServer) -> None:
        with unprobed(beanstalkd) as pool:
            jobs = take(pool, 10)
            assert pool.delete_many(jobs[::2]) == [None] * 5
            assert [job.reserved for job in jobs] == [False, True] * 5
            assert leased(pool) == 1
            assert pool.delete_many(jobs[1::2]) == [None] * 5
            assert leased(pool) == 0

    def test_jobs_that_were_reserved_one_by_one(self, cluster: StartCluster) -> None:
        servers = cluster(2)
        with unprobed(*servers, max_connections=100) as pool:
            put(pool, 150)
            jobs = [pool.reserve(0) for _ in range(150)]
            assert pool.delete_many(job for job in jobs if job is not None) == [None] * 150
            assert leased(pool) == 0
            assert jobs_left(*servers) == 0

    def test_ids_of_ready_jobs_and_of_jobs_in_hand(self, cluster: StartCluster) -> None:
        servers = cluster(2)
        with unprobed(*servers) as pool:
            ids = put(pool, 40)
            jobs = pool.reserve_many(10, 0)
            assert pool.delete_many(ids) == [None] * 40
            assert jobs_left(*servers) == 0
            assert not any(job.reserved for job in jobs)
            assert leased(pool) == 0
            assert kinds(pool.delete_many(ids)) == [NotFound] * 40

    def test_items_of_all_kinds(self, cluster: StartCluster) -> None:
        servers = cluster(2)
        other = servers[0].raw()
        with (
            unprobed(*servers) as pool,
            unprobed(servers[1]) as second,
            Connection(servers[1].host, servers[1].port) as plain,
        ):
            of_second = take(second, 3)
            plain.put("plain")
            of_plain = plain.reserve(0)
            assert of_plain is not None
            put(pool, 12)
            jobs = pool.reserve_many(8, 0)
            peeked = pool.peek_ready()
            stranger = pool.put("reserved by a stranger", key="x", tube="strange")
            server = servers[0] if stranger.server == servers[0].address else servers[1]
            other = server.raw()
            other.watch_only("strange")
            assert other.reserve() is not None
            finished, released, lost = jobs[0], jobs[1], jobs[2]
            finished.delete()
            released.release(delay=60)
            items: list[Any] = [
                *of_second,
                of_plain,
                peeked,
                peeked,
                stranger,
                finished,
                released,
                jobs[3],
                jobs[3],
                17,
                "17",
                0,
                None,
                True,
                JobId(1, servers[0].address, "another process"),
                JobId(1, "127.0.0.1:1", "a server that is none of ours"),
                lost,
                jobs[4],
            ]
            outcomes = pool.delete_many(items)
            assert kinds(outcomes) == [
                *[type(None)] * 3,
                type(None),
                type(None),
                NotFound,
                NotFound,
                NotFound,
                type(None),
                type(None),
                NotFound,
                ValueError,
                TypeError,
                ValueError,
                TypeError,
                TypeError,
                JobLost,
                ValueError,
                type(None),
                type(None),
            ]
            assert sum(job.reserved for job in jobs) == 3
            assert set(pool.delete_many(jobs)) >= {None}
            other.close()

    def test_what_a_second_delete_says(self, beanstalkd: BeanstalkdServer) -> None:
        with unprobed(beanstalkd) as pool:
            jobs = take(pool, 3)
            outcomes = pool.delete_many([*jobs, *jobs])
            assert kinds(outcomes) == [type(None)] * 3 + [NotFound] * 3
            with pytest.raises(NotFound):
                jobs[0].delete()

    def test_one_whose_time_ran_out(self, beanstalkd: BeanstalkdServer) -> None:
        events: list[Event] = []
        with unprobed(beanstalkd) as pool:
            pool.add_listener(events.append)
            pool.put("short", ttr=1)
            put(pool, 4)
            jobs = pool.reserve_many(5, 0)
            short = next(job for job in jobs if job.body == "short")
            wait_until(lambda: short.stats()["state"] == "ready", "the TTR to run out")
            other = beanstalkd.raw()
            taken = other.reserve()
            assert taken is not None
            assert taken.id == short.id
            outcomes = pool.delete_many(jobs)
            assert kinds(outcomes) == [JobLost if job is short else type(None) for job in jobs]
            assert short.lost
            assert beanstalkd.control.state(short.id) == "reserved", "the other one's"
            assert leased(pool) == 0
            assert [event.job_id for event in events if isinstance(event, ReservationLost)] == [short.id]
            other.close()

    def test_a_stream_that_nobody_could_hold(self, beanstalkd: BeanstalkdServer) -> None:
        with unprobed(beanstalkd) as pool:
            done = 0

            def ids() -> Iterator[JobId]:
                nonlocal done
                for _ in range(20):
                    yield from put(pool, 1000)

            outcomes = pool.delete_many(ids())
            assert Counter(outcomes) == {None: 20_000}
            assert jobs_left(beanstalkd) == 0

    def test_items_that_raise_leave_nothing_behind(self, cluster: StartCluster) -> None:
        servers = cluster(2)
        with unprobed(*servers) as pool:
            jobs = take(pool, 1500)

            def stream() -> Iterator[Job]:
                yield from jobs
                raise KeyboardInterrupt

            with pytest.raises(KeyboardInterrupt):
                pool.delete_many(stream())
            assert sum(job.reserved for job in jobs) == 500
            assert pool.delete_many(job for job in jobs if job.reserved) == [None] * 500
            assert leased(pool) == 0


class TestFar:
    def test_ids_of_many_servers_take_as_long_as_those_of_one(
        self, cluster: StartCluster, delay_line: StartDelayLine
    ) -> None:
        """A round trip to open the connections, and one for the deletes."""
        servers = cluster(6)
        addresses = [delay_line(server, 0.2).address for server in servers]
        with PoolManager(addresses, health_interval=60) as pool:
            ids = put(pool, 12)
        with PoolManager(addresses, health_interval=60) as pool, within(0.4, slack=0.4):
            assert pool.delete_many(ids) == [None] * 12

    def test_jobs_that_lost_their_connections_are_recovered_on_all_servers_at_once(
        self, cluster: StartCluster, delay_line: StartDelayLine
    ) -> None:
        """One round trip to connect, and one each to look, to reserve and to delete."""
        servers = cluster(5)
        lines = [delay_line(server, 0.15) for server in servers]
        for server in servers:
            server.control.put(b"first")
            server.control.put(b"second")
        with PoolManager([line.address for line in lines], health_interval=60) as pool:
            pool.wait(5)
            jobs = pool.reserve_many(10, 5)
            for line in lines:
                line.cut()
            with within(0.6, slack=0.6):
                assert pool.delete_many(jobs) == [None] * len(jobs)
        assert jobs_left(*servers) == 10 - len(jobs)

    def test_callers_with_few_connections_do_not_wait_for_each_other(
        self, cluster: StartCluster, delay_line: StartDelayLine
    ) -> None:
        addresses = [delay_line(server, 0.05).address for server in cluster(2)]
        with PoolManager(addresses, max_connections=1, health_interval=60) as pool:
            ids = put(pool, 40)
        with PoolManager(addresses, max_connections=1, health_interval=60) as pool:
            batches = [ids[number * 10 : number * 10 + 10] for number in range(4)]
            for number, batch in enumerate(batches):
                # Half of them ask one server first, half of them the other.
                batch.sort(key=lambda jid: jid.server, reverse=bool(number % 2))
            with within(1.5):
                outcomes = run_together(*[functools.partial(pool.delete_many, batch) for batch in batches])
            assert outcomes == [[None] * 10] * 4


class TestThreads:
    def test_the_same_jobs_by_many_threads(self, cluster: StartCluster) -> None:
        """Each job is deleted once; who comes second is told what a second delete is told."""
        servers = cluster(2)
        with unprobed(*servers) as pool:
            for _ in range(10):
                jobs = take(pool, 60)
                orders = [jobs, jobs[::-1], jobs[30:] + jobs[:30]]

                def one_by_one(jobs: list[Job] = jobs) -> list[Exception | None]:
                    return [background(job.delete).error() for job in jobs]  # type: ignore[misc]  # no BaseException

                outcomes = run_together(
                    *[functools.partial(pool.delete_many, order) for order in orders], one_by_one, timeout=30
                )
                for job, *told in zip(
                    jobs, outcomes[0], outcomes[1][::-1], outcomes[2][30:] + outcomes[2][:30], outcomes[3], strict=True
                ):
                    assert sorted(kind.__name__ for kind in kinds(told)) == ["NoneType", *["NotFound"] * 3], job
                assert jobs_left(*servers) == 0
                assert leased(pool) == 0
            assert pool.get_stats()["jobs_lost"] == 0

    def test_other_ends_at_the_same_time(self, beanstalkd: BeanstalkdServer) -> None:
        """Whoever is first, nothing is left reserved, and nobody gets another's reply."""
        with unprobed(beanstalkd, max_connections=2) as pool:
            for _ in range(15):
                jobs = take(pool, 40)

                def finish(jobs: list[Job] = jobs) -> None:
                    for end, job in zip(itertools.cycle([Job.touch, Job.bury, Job.release, Job.touch]), jobs):
                        end(job)

                outcomes = run_together(functools.partial(pool.delete_many, jobs), finish)
                assert outcomes[0] is not None
                assert set(kinds(outcomes[0])) <= {type(None), NotFound}
                assert beanstalkd.control.counter("current-jobs-reserved") == 0
                assert leased(pool) == 0
                beanstalkd.control.drain_all()
            assert pool.get_stats()["jobs_lost"] == 0

    def test_the_connection_is_not_taken_from_who_has_it_next(self, beanstalkd: BeanstalkdServer) -> None:
        """Batches and other callers take turns on few connections, and each gets replies of its own."""
        with unprobed(beanstalkd, max_connections=2, timeout=20) as pool:
            stop = threading.Event()

            def others() -> int:
                turns = 0
                while not stop.is_set():
                    jid = pool.put(f"canary {turns}", tube="canary")
                    assert pool.stats_job(jid)["id"] == jid
                    pool.delete(jid)
                    turns += 1
                return turns

            def batches() -> int:
                try:
                    for _ in range(20):
                        pool.put_many(["x"] * 20)
                        jobs = pool.reserve_many(20, 20)
                        # The same ones twice, so that one of the two often comes too late for the connection.
                        outcomes = run_together(
                            functools.partial(pool.delete_many, jobs), functools.partial(pool.delete_many, jobs[::-1])
                        )
                        for told in zip(outcomes[0], outcomes[1][::-1], strict=True):
                            assert sorted(kind.__name__ for kind in kinds(list(told))) == ["NoneType", "NotFound"]
                finally:
                    stop.set()
                return 1

            assert all(run_together(others, batches, timeout=60))
            assert pool.get_stats()["connections_lost"] == 0

    def test_behind_a_command_of_a_sibling(self, cluster: StartCluster) -> None:
        servers = cluster(2)
        with unprobed(*servers, timeout=3) as pool:
            jobs = take(pool, 20)
            first = next(job for job in jobs if job.server == servers[0].address)
            servers[0].freeze()
            touching = background(first.touch)
            assert isinstance(first.connection, PooledConnection)
            wait_until(first.connection.guard.locked, "the touch to be under way")
            deleting = background(lambda: pool.delete_many(jobs))
            servers[0].thaw()
            touching.result()
            assert deleting.result() == [None] * 20


class TestTrouble:
    def test_a_connection_that_was_lost(self, cluster: StartCluster) -> None:
        servers = cluster(2)
        with unprobed(*servers, max_connections=1) as pool:
            jobs = take(pool, 20)
            broken = next(job for job in jobs if job.server == servers[0].address)
            cut(broken.connection)
            wait_until(lambda: servers[0].control.counter("current-jobs-ready") == 10, "the server to take them back")
            assert pool.delete_many(jobs) == [None] * 20
            assert jobs_left(*servers) == 0
            wait_until(lambda: leased(pool) == 0, "the connections to come back")

    def test_a_connection_that_was_lost_and_some_have_other_hands(self, beanstalkd: BeanstalkdServer) -> None:
        with unprobed(beanstalkd) as pool:
            jobs = take(pool, 10)
            cut(jobs[0].connection)
            wait_until(lambda: beanstalkd.control.counter("current-jobs-ready") == 10, "the server to take them back")
            other = beanstalkd.raw()
            theirs = {job.id for job in (other.reserve(), other.reserve()) if job is not None}
            assert jobs[9].id not in theirs
            # Not deleted by a command that was never sent.
            assert other.delete(jobs[9].id)
            outcomes = pool.delete_many(jobs)
            assert kinds(outcomes[:9]) == [JobLost if job.id in theirs else type(None) for job in jobs[:9]]
            assert type(outcomes[9]) is JobLost
            assert {jid: beanstalkd.control.state(jid) for jid in theirs} == dict.fromkeys(theirs, "reserved")
            other.close()

    def test_a_server_that_was_restarted_loses_no_other_job(self, beanstalkd: BeanstalkdServer) -> None:
        with unprobed(beanstalkd) as pool:
            jobs = take(pool, 10)
            ids = put(pool, 3)
            beanstalkd.restart()
            witnesses = {beanstalkd.control.put(b"0") for _ in range(13)}
            assert witnesses == {int(jid) for jid in [*ids, *(job.id for job in jobs)]}
            outcomes = pool.delete_many([*jobs, *ids])
            assert kinds(outcomes[:10]) == [JobLost] * 10
            # A connection that was used a moment ago is used again unseen.
            assert all(isinstance(outcome, JobLost | ConnectionFailed) for outcome in outcomes[10:])
            assert {jid: beanstalkd.control.state(jid) for jid in witnesses} == dict.fromkeys(witnesses, "ready")

    def test_a_dead_server_among_others(self, cluster: StartCluster) -> None:
        servers = cluster(3)
        with unprobed(*servers, timeout=2) as pool:
            jobs = take(pool, 30)
            ids = put(pool, 30)
            servers[0].kill()
            with within(4.0, slack=1.0):
                outcomes = pool.delete_many([*jobs, *ids])
            for job, outcome in zip(jobs, outcomes[:30], strict=True):
                assert type(outcome) is (JobLost if job.server == servers[0].address else type(None))
            for jid, outcome in zip(ids, outcomes[30:], strict=True):
                assert type(outcome) is (ConnectionFailed if jid.server == servers[0].address else type(None))
            assert jobs_left(*servers[1:]) == 0

    def test_a_frozen_server_among_others(self, cluster: StartCluster) -> None:
        servers = cluster(3)
        with unprobed(*servers, timeout=1, connect_timeout=0.5) as pool:
            jobs = take(pool, 300)
            servers[0].freeze()
            # A server has its time to answer, and what is left over has as much again.
            with within(2.0, slack=1.5):
                outcomes = pool.delete_many(jobs)
            for job, outcome in zip(jobs, outcomes, strict=True):
                if job.server == servers[0].address:
                    assert isinstance(outcome, JobLost)
                else:
                    assert outcome is None
            servers[0].thaw()
            # What was sent may be carried out, and the rest is given back.
            reserved = functools.partial(servers[0].control.counter, "current-jobs-reserved")
            wait_until(lambda: reserved() == 0, "the jobs to be given back")
            wait_until(lambda: leased(pool) == 0, "the connections to come back")

    def test_only_what_was_sent_may_have_been_carried_out(self, scripted_server: StartScripted) -> None:
        count = 6

        def serve(connection: ScriptedConnection) -> None:
            for number in range(count):
                connection.expect_line(b"reserve-with-timeout 0")
                connection.send(with_data(b"RESERVED %d" % (number + 1), b"x"))
            for number in range(count):
                connection.expect_line(b"delete %d" % (number + 1))
            connection.send(b"DELETED\r\nNOT_FOUND\r\nOUT_OF_MEMORY\r\nDELETED\r\n")
            connection.close()

        fake = scripted_server([expect_line(b"stats"), send(stats_reply()), serve], default=ScriptedConnection.close)
        with PoolManager([fake.address], health_interval=60) as pool:
            jobs = pool.reserve_many(count, 0)
            assert len(jobs) == count
            outcomes = pool.delete_many(jobs)
        assert kinds(outcomes[:2]) == [type(None), JobLost]
        assert isinstance(outcomes[2], CommandFailed)
        assert outcomes[3] is None
        assert kinds(outcomes[4:]) == [JobLost] * 2

    @pytest.mark.parametrize("reply", [b"INSERTED 1\r\n", b"DELETED\r\n" * 9, b"DELETE", b"RESERVED 1 1\r\nx\r\n"])
    def test_a_reply_that_no_delete_may_have(self, scripted_server: StartScripted, reply: bytes) -> None:
        def serve(connection: ScriptedConnection) -> None:
            for number in range(3):
                connection.expect_line(b"reserve-with-timeout 0")
                connection.send(with_data(b"RESERVED %d" % (number + 1), b"x"))
            for number in range(3):
                connection.expect_line(b"delete %d" % (number + 1))
            connection.send(reply)
            connection.read_until_closed()

        fake = scripted_server([expect_line(b"stats"), send(stats_reply()), serve], default=ScriptedConnection.close)
        with PoolManager([fake.address], health_interval=60, timeout=0.5) as pool:
            jobs = pool.reserve_many(3, 0)
            with within(1.0, slack=1.5):
                outcomes = pool.delete_many(jobs)
            assert {type(outcome) for outcome in outcomes} <= {type(None), JobLost}
            assert jobs[0].connection.closed
            wait_until(lambda: leased(pool) == 0, "the connections to come back")

    def test_a_frozen_server_costs_a_long_batch_two_timeouts(self, cluster: StartCluster) -> None:
        """One for its silence, whatever the number of jobs and connections, and one for what could be mended."""
        servers = cluster(2)
        with unprobed(*servers) as putting:
            ids = put(putting, 4000)
            put(putting, 2000)
        with unprobed(*servers, timeout=1, connect_timeout=0.5) as pool:
            reserved = [job for _ in range(5) for job in pool.reserve_many(500, 5)]
            held = {job.id for job in reserved}
            ids = [jid for jid in ids if jid not in held]
            items: list[Job | JobId] = [*reserved, *ids]
            # All of the one server, then all of the other: no chunk has both.
            items.sort(key=lambda item: item.server == servers[1].address)
            servers[0].freeze()
            with within(2.0, slack=1.5):
                outcomes = pool.delete_many(items)
            for item, outcome in zip(items, outcomes, strict=True):
                frozen = item.server == servers[0].address
                assert isinstance(outcome, JobLost | CommandTimeout) if frozen else outcome is None
            # What was not sent is in hand as before.
            kept = [job for job in reserved if job.reserved]
            assert kept
            servers[0].thaw()
            assert set(pool.delete_many(kept)) == {None}

    def test_many_that_lost_their_connection_to_a_far_server(
        self, beanstalkd: BeanstalkdServer, delay_line: StartDelayLine
    ) -> None:
        """A few round trips for all of them, not for each."""
        with PoolManager([delay_line(beanstalkd, 0.1).address], timeout=5, health_interval=60) as pool:
            jobs = take(pool, 1200)
            kept = jobs.pop()
            cut(kept.connection)
            wait_until(lambda: beanstalkd.control.counter("current-jobs-ready") == 1200, "them to be taken back")
            with within(3.0, slack=1.5):
                assert pool.delete_many(jobs) == [None] * 1199
            assert pool.get_stats()["jobs_lost"] == 0
            assert pool.delete_many([kept, *jobs[:2]])[0] is None
            assert jobs_left(beanstalkd) == 0

    def test_many_that_are_no_longer_reserved(self, beanstalkd: BeanstalkdServer) -> None:
        with unprobed(beanstalkd) as pool:
            jobs = take(pool, 20)
            for job in jobs[:10]:
                job.release()
            for job in jobs[10:]:
                job.bury()
            before = beanstalkd.control.counter("total-connections")
            assert kinds(pool.delete_many([*jobs, *jobs])) == [type(None)] * 20 + [NotFound] * 20
            assert beanstalkd.control.counter("total-connections") <= before + 1
            assert jobs_left(beanstalkd) == 0

    def test_many_left_over_end_in_time(self, beanstalkd: BeanstalkdServer) -> None:
        with unprobed(beanstalkd, timeout=0.5, connect_timeout=0.3) as pool:
            jobs = take(pool, 50)
            for job in jobs:
                job.release()
            beanstalkd.freeze()
            with within(1.0, slack=1.5):
                outcomes = pool.delete_many(jobs)
            assert all(isinstance(outcome, ConnectionFailed | JobLost) for outcome in outcomes)
            assert isinstance(outcomes[-1], CommandTimeout)
            beanstalkd.thaw()

    def test_no_descriptor_is_left(self, cluster: StartCluster) -> None:
        servers = cluster(3)
        with assert_baseline(), unprobed(*servers) as pool:
            assert set(pool.delete_many(take(pool, 100))) == {None}
