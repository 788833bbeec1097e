"""Several threads and one connection that holds jobs: each has its turn, in time, and only while its job is there."""

from __future__ import annotations

import contextlib
import functools
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest
from support.batches import fill, leased
from support.pools import pool_with_jobs_in_hand, unprobed
from support.servers import BeanstalkdServer
from support.threads import Background, background
from support.waiting import wait_until, within

from beanpool import CommandTimeout, Job, JobLost, NotFound, PoolManager
from beanpool.server.pooled_connection import PooledConnection

if TYPE_CHECKING:
    from conftest import StartCluster, StartDelayLine


def connection_of(job: Job) -> PooledConnection:
    assert isinstance(job.connection, PooledConnection)
    return job.connection


def stands_in_the_queue(call: Background[object]) -> bool:
    """Whether a thread waits for its turn on a connection."""
    frame = sys._current_frames().get(call.thread.ident or 0)
    while frame is not None:
        if frame.f_code.co_name == "queue_up":
            return True
        frame = frame.f_back
    return False


@contextlib.contextmanager
def many_switches() -> Iterator[None]:
    """Let threads be switched at nearly every line."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


COMMANDS: list[Callable[[Job], object]] = [Job.touch, Job.release, Job.bury, Job.delete, Job.stats, Job.kick]


class TestWhoseConnectionItIs:
    def test_a_command_that_waits_while_a_batch_ends_its_job_is_not_sent(self, beanstalkd: BeanstalkdServer) -> None:
        """By then the connection is another caller's."""
        fill(beanstalkd, len(COMMANDS))
        with unprobed(beanstalkd, max_connections=1) as pool:
            jobs = pool.reserve_many(len(COMMANDS), 1)
            guard = connection_of(jobs[0]).guard
            beanstalkd.freeze()
            deleting = background(functools.partial(pool.delete_many, jobs))
            wait_until(guard.locked, "the deletes to be under way")
            calls = [background(functools.partial(command, job)) for command, job in zip(COMMANDS, jobs, strict=True)]
            for call in calls:
                wait_until(functools.partial(stands_in_the_queue, call), "the command to wait for its turn")
            assert not any(job.lost for job in jobs)
            putting = background(lambda: pool.put("from who has the connection next"))
            beanstalkd.thaw()
            assert deleting.result() == [None] * len(jobs)
            assert [type(call.error()) for call in calls] == [type(None)] * 3 + [NotFound] * 3
            assert beanstalkd.control.state(putting.result()) == "ready"
            sent = [beanstalkd.control.counter(f"cmd-{name}") for name in ("touch", "release", "bury")]
            assert sent == [0, 0, 0]
            assert pool.get_stats()["connections_lost"] == 0
            assert leased(pool) == 0

    def test_a_heartbeat_beside_workers_that_delete_in_batches(self, cluster: StartCluster) -> None:
        servers = cluster(2)
        working: dict[int, list[Job]] = {}
        wrong: list[BaseException] = []
        with many_switches(), unprobed(*servers, max_connections=4, timeout=20) as pool:
            end = time.monotonic() + 1.5

            def heartbeat() -> None:
                while time.monotonic() < end:
                    for job in [job for jobs in working.copy().values() for job in jobs]:
                        job.touch()
                        assert not job.lost

            def work(number: int) -> int:
                done = 0
                while time.monotonic() < end:
                    pool.put_many(["x"] * 20)
                    working[number] = pool.reserve_many(20, 5)
                    wrong.extend(outcome for outcome in pool.delete_many(working[number]) if outcome is not None)
                    done += len(working[number])
                return done

            beats = [background(heartbeat) for _ in range(2)]
            workers = [background(functools.partial(work, number)) for number in range(3)]
            assert all(worker.result(30) for worker in workers)
            for beat in beats:
                beat.result(30)
            counts = pool.get_stats()
        assert not wrong
        assert {name: counts[name] for name in ("connections_lost", "jobs_lost", "outages_num")} == {
            "connections_lost": 0,
            "jobs_lost": 0,
            "outages_num": 0,
        }


class TestTime:
    @pytest.mark.parametrize("command", COMMANDS)
    def test_a_command_waits_for_its_turn_no_longer_than_it_may_take(
        self, beanstalkd: BeanstalkdServer, command: Callable[[Job], object]
    ) -> None:
        fill(beanstalkd, 2)
        with pool_with_jobs_in_hand(beanstalkd, timeout=0.5) as pool:
            job, _ = jobs = pool.reserve_many(2, 1)
            # A batch on a slow server has it for as long as it comes on.
            with connection_of(job).guard, within(0.5), pytest.raises(CommandTimeout, match="nothing was sent"):
                command(job)
            assert job.reserved
            assert not job.lost
            assert pool.delete_many(jobs) == [None] * 2

    def test_so_does_a_batch(self, cluster: StartCluster) -> None:
        servers = cluster(2)
        for server in servers:
            fill(server, 20)
        with pool_with_jobs_in_hand(*servers, timeout=0.3) as pool:
            jobs = pool.reserve_many(40, 1)
            held = connection_of(jobs[0])
            with held.guard, within(0.3, slack=0.5):
                outcomes = pool.delete_many(jobs)
            for job, outcome in zip(jobs, outcomes, strict=True):
                assert type(outcome) is (CommandTimeout if job.connection is held else type(None))
                assert job.reserved == (job.connection is held)
            assert set(pool.delete_many(job for job in jobs if job.reserved)) == {None}

    @pytest.mark.parametrize("command", [Job.stats, Job.touch])
    def test_what_is_under_way_is_waited_for(
        self, beanstalkd: BeanstalkdServer, command: Callable[[Job], object]
    ) -> None:
        fill(beanstalkd, 2)
        with pool_with_jobs_in_hand(beanstalkd) as pool:
            first, second = pool.reserve_many(2, 1)
            beanstalkd.freeze()
            touching = background(first.touch)
            wait_until(connection_of(first).guard.locked, "the touch to be under way")
            call = background(functools.partial(command, second))
            wait_until(functools.partial(stands_in_the_queue, call), "the command to wait for its turn")
            kicking = background(second.kick)
            beanstalkd.thaw()
            touching.result()
            call.result()
            # It is reserved, and such a job cannot be kicked.
            assert isinstance(kicking.error(), NotFound)


@contextlib.contextmanager
def working_without_a_pause(job: Job) -> Iterator[None]:
    """A thread whose commands on a job follow each other at once, so that nearly always one is under way."""
    ended = threading.Event()

    def work() -> None:
        while not ended.is_set():
            job.stats()

    working = background(work)
    try:
        yield
    finally:
        ended.set()
        working.result()


class TestOrder:
    """Nobody is overtaken for ever by who uses the connection again and again."""

    def test_jobs_are_kept_alive(self, beanstalkd: BeanstalkdServer) -> None:
        with unprobed(beanstalkd) as pool:
            pool.put_many(["x"] * 5, ttr=1)
            jobs = pool.reserve_many(5, 1)
            with working_without_a_pause(jobs[0]), pool.keep(jobs) as kept:
                wait_until(
                    lambda: beanstalkd.control.counter("cmd-touch") >= 5 * 5 or bool(kept.lost), "touches for 1.5 s"
                )
                assert not kept.lost
                assert not beanstalkd.control.counter("job-timeouts")
            assert pool.delete_many(jobs) == [None] * 5

    def test_dropped_jobs_are_given_back(self, beanstalkd: BeanstalkdServer) -> None:
        fill(beanstalkd, 5)
        with pool_with_jobs_in_hand(beanstalkd) as pool:
            jobs = pool.reserve_many(5, 1)
            with working_without_a_pause(jobs[0]):
                del jobs[1:]
                wait_until(lambda: beanstalkd.control.counter("current-jobs-ready") == 4, "the jobs to be given back")

    def test_a_batch_waits_for_all_that_are_in_use_at_once(
        self, cluster: StartCluster, delay_line: StartDelayLine
    ) -> None:
        servers = cluster(5)
        for server in servers:
            fill(server, 2)
        addresses = [delay_line(server, 0.2).address for server in servers]
        with PoolManager(addresses, health_interval=60) as pool:
            jobs = pool.reserve_many(10, 1)
            one_of_each = {job.server: job for job in jobs}.values()
            touching = [background(job.touch) for job in one_of_each]
            wait_until(
                lambda: all(connection_of(job).guard.locked() for job in one_of_each), "the touches to be under way"
            )
            with within(0.4):
                assert pool.delete_many(jobs) == [None] * 10
            for call in touching:
                call.result()


class TestEndings:
    def test_each_job_is_finished_once_by_many_threads(self, beanstalkd: BeanstalkdServer) -> None:
        fill(beanstalkd, 30)
        with many_switches(), unprobed(beanstalkd) as pool:
            jobs = pool.reserve_many(30, 1)
            gate = threading.Barrier(4)

            def finish(end: Callable[[Job], None]) -> list[BaseException]:
                gate.wait(10)
                told: list[BaseException] = []
                for job in jobs:
                    try:
                        end(job)
                    except NotFound as error:
                        told.append(error)
                return told

            calls = [
                background(functools.partial(finish, end)) for end in (Job.delete, Job.delete, Job.touch, Job.delete)
            ]
            assert sum(len(call.result()) for call in calls) == 60
            assert beanstalkd.control.counter("cmd-delete") >= 30
            assert leased(pool) == 0
            assert pool.get_stats()["jobs_lost"] == 0

    def test_a_lost_job_refuses_what_waited(self, beanstalkd: BeanstalkdServer) -> None:
        fill(beanstalkd, 2)
        with unprobed(beanstalkd) as pool:
            first, second = pool.reserve_many(2, 1)
            beanstalkd.freeze()
            touching = background(lambda: first.touch(timeout=0.5))
            wait_until(connection_of(first).guard.locked, "the touch to be under way")
            with within(0.5), pytest.raises(JobLost):
                second.touch(timeout=10)
            assert isinstance(touching.error(), JobLost)
            beanstalkd.thaw()
