"""A job and the connection that it holds, from the reserve to the end, whatever that is."""

from __future__ import annotations

import contextlib
import functools
import gc
import itertools
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest
from support.batches import cut
from support.forgetting import forget
from support.inside import inside
from support.pools import unprobed
from support.processes import assert_baseline
from support.servers import BeanstalkdServer
from support.threads import background, run_together
from support.waiting import wait_until, within

from beanpool import Job, JobLost, NotFound, PoolClosed, PoolManager
from beanpool.events import Event, ReservationLost
from beanpool.server.pooled_connection import PooledConnection

if TYPE_CHECKING:
    from conftest import StartCluster


def reserve(pool: PoolManager, timeout: float = 2, **options: Any) -> Job:
    job = pool.reserve(timeout, **options)
    assert job is not None
    return job


def lose(server: BeanstalkdServer, job: Job) -> None:
    """Break a job's connection, and wait until the server has taken the job back."""
    cut(job.connection)
    wait_until(lambda: server.control.state(job.id) == "ready", "the server to take the job back")


FINISHERS: dict[str, Callable[[Job], None]] = {
    "delete": Job.delete,
    "release": Job.release,
    "bury": Job.bury,
    "touch": Job.touch,
}


class TestFinishing:
    def test_a_finished_job_frees_its_connection(self, beanstalkd: BeanstalkdServer) -> None:
        with unprobed(beanstalkd, max_connections=1) as pool:
            for finish, state in ((Job.bury, "buried"), (functools.partial(Job.release, delay=60), "delayed")):
                jid = pool.put("job")
                job = reserve(pool)
                assert job.id == jid
                assert pool.servers[0].leased == 1
                job.touch()
                assert pool.servers[0].leased == 1
                finish(job)
                assert (pool.servers[0].leased, pool.servers[0].idle) == (0, 1)
                assert beanstalkd.control.state(jid) == state
                for nothing in (job.touch, job.release, job.bury):
                    nothing()
                job.kick()
                assert beanstalkd.control.state(jid) == "ready"
                reserve(pool).delete()
                with pytest.raises(NotFound):
                    job.delete()

    def test_in_another_thread(self, cluster: StartCluster) -> None:
        servers = cluster(2)
        with unprobed(*servers) as pool:
            for number in range(8):
                pool.put(str(number))
            jobs = [reserve(pool) for _ in range(8)]
            run_together(*[job.touch for job in jobs])
            run_together(*[job.delete for job in jobs])
            assert not any(server.control.counter("current-jobs-reserved") for server in servers)
            assert sum(server.control.counter("cmd-delete") for server in servers) == 8
            assert all(status.leased == 0 for status in pool.servers)

    def test_by_two_threads_at_once(self, beanstalkd: BeanstalkdServer) -> None:
        with unprobed(beanstalkd) as pool:
            pool.put("job")
            job = reserve(pool)
            outcomes = run_together(*[lambda: type(background(job.delete).error())] * 4)
            assert sorted(outcome.__name__ for outcome in outcomes) == ["NoneType", *["NotFound"] * 3]

    def test_a_block(self, beanstalkd: BeanstalkdServer) -> None:
        with unprobed(beanstalkd) as pool:
            jid = pool.put("job", 77)
            with pytest.raises(ZeroDivisionError), reserve(pool):
                raise ZeroDivisionError
            stored = beanstalkd.control.stats_job(jid)
            assert stored is not None
            assert (stored["state"], stored["pri"]) == ("ready", "77")
            with reserve(pool) as job:
                assert job.body == "job"
            assert beanstalkd.control.state(jid) is None

    def test_a_body_that_is_not_text_can_be_buried(self, beanstalkd: BeanstalkdServer) -> None:
        with unprobed(beanstalkd) as pool:
            jid = beanstalkd.control.put(b"\xff\xfe not UTF-8")
            job = reserve(pool)
            with pytest.raises(UnicodeDecodeError):
                _ = job.body
            assert job.data == b"\xff\xfe not UTF-8"
            job.bury()
            assert beanstalkd.control.state(jid) == "buried"

    def test_a_job_that_was_looked_at(self, cluster: StartCluster) -> None:
        servers = cluster(2)
        with unprobed(*servers) as pool:
            jid = pool.put("job")
            job = pool.peek_ready()
            assert job is not None
            assert not job.reserved
            assert all(status.leased == 0 for status in pool.servers)
            assert job.stats()["state"] == "ready"
            job.delete()
            assert pool.peek(jid) is None

    def test_no_reserve_waits_on_a_connection_that_holds_a_job(self, beanstalkd: BeanstalkdServer) -> None:
        with unprobed(beanstalkd) as pool:
            pool.put("in hand", ttr=60)
            job = reserve(pool)
            threads = [background(functools.partial(pool.reserve, tubes=tube)) for tube in ("a", "a", "b", "default")]
            wait_until(lambda: beanstalkd.control.counter("current-waiting") == 3, "the threads to wait")
            assert job.connection not in waiting_connections(pool)
            with within(0.1, "commands on the job in hand"):
                for _ in range(10):
                    job.touch()
                assert job.stats()["state"] == "reserved"
                job.delete()
            for tube in ("a", "a", "b", "default"):
                pool.put("for who waits", tube=tube)
            for thread in threads:
                waited_for = thread.result()
                assert waited_for is not None
                waited_for.delete()


def waiting_connections(pool: PoolManager) -> list[PooledConnection]:
    return [
        waiter.connection
        for shared in inside(pool).waits.values()
        if shared.waiters is not None
        for waiter in list(shared.waiters.by_post.values())
    ]


class TestDropping:
    def test_a_job_that_is_forgotten_is_given_back(self, beanstalkd: BeanstalkdServer) -> None:
        with unprobed(beanstalkd, max_connections=1) as pool:
            jid = pool.put("job")
            job = reserve(pool)
            connection = job.connection
            del job
            wait_until(lambda: beanstalkd.control.state(jid) == "ready", "the job to be given back")
            wait_until(lambda: not pool.servers[0].leased, "its connection to be given up")
            assert connection.closed
            again = reserve(pool)
            assert again.id == jid
            again.delete()

    def test_also_one_in_a_circle_of_references(self, beanstalkd: BeanstalkdServer) -> None:
        class Work:
            def __init__(self, job: Job) -> None:
                self.job = job
                self.myself = self

        with unprobed(beanstalkd) as pool:
            jid = pool.put("job")
            work = Work(reserve(pool))
            assert work.job.reserved
            del work
            gc.collect()
            wait_until(lambda: beanstalkd.control.state(jid) == "ready", "the job to be given back")

    def test_who_waits_for_a_connection_gets_it_at_once(self, beanstalkd: BeanstalkdServer) -> None:
        with unprobed(beanstalkd, max_connections=1) as pool:
            pool.put("job")
            job = reserve(pool)
            del job
            with within(0.1):
                pool.put("another")

    def test_whatever_the_finalizer_interrupts(self, beanstalkd: BeanstalkdServer) -> None:
        """A finalizer may run while its own thread holds the pool's lock: it must not want it."""
        with unprobed(beanstalkd) as pool:
            jid = pool.put("job")
            job = reserve(pool)
            server_pool = inside(pool).connections_of(0)
            with within(0.1), server_pool._lock:
                del job
            wait_until(lambda: beanstalkd.control.state(jid) == "ready", "the job to be given back")


class TestLosing:
    @pytest.mark.parametrize("finish", [Job.touch, Job.release, Job.bury], ids=lambda finish: finish.__name__)
    def test_after_its_connection_broke_only_delete_is_worth_trying(
        self, beanstalkd: BeanstalkdServer, finish: Callable[[Job], None]
    ) -> None:
        events: list[Event] = []
        with unprobed(beanstalkd) as pool:
            pool.add_listener(events.append)
            jid = pool.put("job")
            job = reserve(pool)
            assert not job.lost
            lose(beanstalkd, job)
            with pytest.raises(
                JobLost, match=f"job {jid} of {beanstalkd.address} is lost: its connection is gone"
            ) as e:
                finish(job)
            assert e.value.reason
            assert job.lost
            assert not job.reserved
            assert beanstalkd.control.state(jid) == "ready", "somebody else's now"
            lost = [event for event in events if isinstance(event, ReservationLost)]
            assert [(event.server, event.job_id) for event in lost] == [(beanstalkd.address, jid)]
            assert pool.get_stats()["jobs_lost"] == 1
            assert pool.servers[0].leased == 0

    def test_it_is_seen_without_asking(self, beanstalkd: BeanstalkdServer) -> None:
        with unprobed(beanstalkd) as pool:
            pool.put("job")
            job = reserve(pool)
            assert not job.lost
            beanstalkd.kill()
            wait_until(lambda: job.lost, "the loss to be seen", timeout=1)
            with within(0.5, "closing a pool where nobody can finish anything"):
                pool.close()

    def test_the_work_is_done_and_the_delete_finds_another_way(self, beanstalkd: BeanstalkdServer) -> None:
        with unprobed(beanstalkd) as pool:
            jid = pool.put("job")
            job = reserve(pool)
            lose(beanstalkd, job)
            job.delete()
            assert beanstalkd.control.state(jid) is None
            assert beanstalkd.control.counter("current-jobs-reserved") == 0
            assert pool.servers[0].leased == 0
            assert pool.get_stats()["jobs_lost"] == 0

    def test_the_delete_was_carried_out_before_the_connection_broke(self, beanstalkd: BeanstalkdServer) -> None:
        with unprobed(beanstalkd) as pool:
            jid = pool.put("job")
            job = reserve(pool)
            beanstalkd.freeze()
            deleting = background(job.delete)
            connection = job.connection
            assert isinstance(connection, PooledConnection)
            wait_until(lambda: connection.channel.state.value == "in the middle of a command", "the delete to be sent")
            connection.interrupt()
            beanstalkd.thaw()
            deleting.result()
            assert beanstalkd.control.state(jid) is None
            assert beanstalkd.control.counter("current-jobs-reserved") == 0

    @pytest.mark.parametrize("fate", ["reserved", "buried", "delayed", "deleted"])
    def test_somebody_else_was_faster(self, beanstalkd: BeanstalkdServer, fate: str) -> None:
        with unprobed(beanstalkd) as pool:
            jid = pool.put("job")
            job = reserve(pool)
            lose(beanstalkd, job)
            other = beanstalkd.raw()
            taken = other.reserve()
            assert taken is not None
            end = {
                "reserved": "touch {}",
                "buried": "bury {} 0",
                "delayed": "release {} 0 60",
                "deleted": "delete {}",
            }[fate]
            other.command(end.format(jid))
            with pytest.raises(JobLost):
                job.delete()
            assert beanstalkd.control.state(jid) == (None if fate == "deleted" else fate)
            with pytest.raises(JobLost, match="before"):
                job.delete()

    def test_its_server_was_restarted_with_its_log(self, cluster: StartCluster) -> None:
        server = cluster(1, wal=True)[0]
        with unprobed(server) as pool:
            jid = pool.put("job")
            job = reserve(pool)
            server.restart()
            assert server.control.peek(jid) == b"job"
            with pytest.raises(JobLost, match="restarted"):
                job.delete()
            assert server.control.state(jid) == "ready", "it is done once more, and not lost"

    @pytest.mark.parametrize("finish", FINISHERS.values(), ids=FINISHERS.keys())
    def test_its_server_was_restarted_and_the_ids_are_those_of_others(
        self, beanstalkd: BeanstalkdServer, finish: Callable[[Job], None]
    ) -> None:
        with unprobed(beanstalkd) as pool:
            for _ in range(10):
                pool.put("old")
            jobs = [reserve(pool) for _ in range(10)]
            beanstalkd.restart()
            witnesses = {beanstalkd.control.put(b"old") for _ in range(10)}
            assert witnesses == {job.id for job in jobs}, "the same numbers, the same bodies"
            for job in jobs:
                with pytest.raises(JobLost):
                    finish(job)
            assert {jid: beanstalkd.control.state(jid) for jid in witnesses} == dict.fromkeys(witnesses, "ready")
            assert beanstalkd.control.counter("total-jobs") == 10

    def test_its_time_ran_out(self, beanstalkd: BeanstalkdServer) -> None:
        with unprobed(beanstalkd) as pool:
            jid = pool.put("job", ttr=1)
            job = reserve(pool)
            # Asked by its own connection: beanstalkd 1.12 may forget the TTR of a connection that says nothing.
            wait_until(lambda: job.stats()["state"] == "ready", "the TTR to run out")
            with pytest.raises(JobLost, match="its TTR ran out"):
                job.touch()
            assert job.lost
            assert not job.connection.closed, "nothing is wrong with it"
            assert pool.servers[0].leased == 0
            again = reserve(pool)
            assert again.id == jid
            with pytest.raises(JobLost):
                job.delete()
            again.delete()

    def test_to_go_on_with_it(self, beanstalkd: BeanstalkdServer) -> None:
        with unprobed(beanstalkd) as pool:
            jid = pool.put("job")
            job = reserve(pool)
            lose(beanstalkd, job)
            assert job.lost
            job.reacquire()
            assert job.reserved
            assert beanstalkd.control.state(jid) == "reserved"
            job.touch()
            job.delete()
            assert beanstalkd.control.state(jid) is None
            with pytest.raises(JobLost):
                job.reacquire()

    def test_a_server_that_is_taken_for_down_keeps_what_it_gave(self, cluster: StartCluster) -> None:
        """The connection of a job outlives what is believed about its server."""
        servers = cluster(2)
        with unprobed(*servers, health_interval=0.3, connect_timeout=1, timeout=5) as pool:
            for server in servers:
                server.control.put(b"job")
            jobs = [reserve(pool), reserve(pool)]
            servers[0].freeze()
            wait_until(lambda: pool.servers[0].state == "down", "the silence to be noticed")
            job = next(job for job in jobs if job.server == servers[0].address)
            assert job.reserved
            assert not job.lost
            servers[0].thaw()
            for job in jobs:
                job.delete()
            assert not any(server.control.counter("current-jobs-reserved") for server in servers)


class TestKeptByAnError:
    """An error that is kept in a frame of its own traceback is a cycle: the collector frees what that frame has."""

    @pytest.fixture(autouse=True)
    def _no_collector(self) -> Iterator[None]:
        gc.collect()
        gc.disable()
        yield
        gc.enable()

    @staticmethod
    def fail(job: Job) -> None:
        kept: list[BaseException] = []
        try:
            raise ValueError(job.number)
        except ValueError as error:
            kept.append(error)

    def test_a_block_gives_its_job_back_at_its_end(self, beanstalkd: BeanstalkdServer) -> None:
        with unprobed(beanstalkd) as pool:
            pool.put("x")

            def work() -> None:
                kept: list[BaseException] = []
                try:
                    with reserve(pool) as job:
                        raise ValueError(job.number)
                except ValueError as error:
                    kept.append(error)

            work()
            assert beanstalkd.control.counter("current-jobs-ready") == 1
            gc.collect()

    def test_without_a_block_it_is_given_back_when_it_is_freed(self, beanstalkd: BeanstalkdServer) -> None:
        with unprobed(beanstalkd) as pool:
            pool.put("x")
            self.fail(reserve(pool))
            assert beanstalkd.control.counter("current-jobs-reserved") == 1
            gc.collect()
            wait_until(lambda: beanstalkd.control.counter("current-jobs-ready") == 1, "the job to be given back")


class TestClosing:
    def test_jobs_in_hand_may_be_finished(self, beanstalkd: BeanstalkdServer) -> None:
        beanstalkd.control.open()
        with assert_baseline():
            pool = unprobed(beanstalkd)
            jid = pool.put("job")
            job = reserve(pool)
            closing = background(functools.partial(pool.close, 5))
            wait_until(
                lambda: isinstance(background(lambda: pool.put("more")).error(), PoolClosed), "the pool to close"
            )
            assert not closing.done
            job.touch()
            job.delete()
            with within(0.3, "the rest of the close"):
                closing.result()
            assert beanstalkd.control.state(jid) is None

    def test_jobs_that_are_not_are_given_back(self, beanstalkd: BeanstalkdServer) -> None:
        beanstalkd.control.open()
        with assert_baseline():
            pool = unprobed(beanstalkd)
            jid = pool.put("job")
            job = reserve(pool)
            with within(0.2):
                pool.close(timeout=0.2)
            wait_until(lambda: beanstalkd.control.state(jid) == "ready", "the job to be given back")
            assert job.lost
            for finish in FINISHERS.values():
                with pytest.raises(JobLost):
                    finish(job)
            pool.close()

    def test_a_pool_that_is_forgotten_gives_all_back(self, beanstalkd: BeanstalkdServer) -> None:
        beanstalkd.control.open()
        with assert_baseline():
            pool = unprobed(beanstalkd)
            jid = pool.put("job")
            held: list[object] = [pool, reserve(pool)]
            del pool

            with pytest.warns(ResourceWarning, match="never closed"):
                forget(held)
            wait_until(lambda: beanstalkd.control.state(jid) == "ready", "the job to be given back")
            wait_until(lambda: beanstalkd.control.other_connections() == 0, "the connections to end")


def test_many_threads_and_all_ends_that_a_job_can_have(cluster: StartCluster) -> None:
    """After ends of all kinds nothing is reserved, leased or left open."""
    servers = cluster(2)
    for server in servers:
        server.control.open()
    deleted = 0
    lock = threading.Lock()

    def work(number: int) -> None:
        nonlocal deleted
        for turn in itertools.count(number):
            if deleted == 300:
                return
            job = pool.reserve(timeout=0.2)
            if job is None:
                continue
            with contextlib.suppress(JobLost):
                if turn % 5 == 0:
                    job.release()
                elif turn % 7 == 0:
                    cut(job.connection)
                    job.touch()
                elif turn % 11 == 0:
                    del job
                    continue
                elif turn % 13 == 0:
                    job.bury()
                    job.kick()
                else:
                    job.delete()
                    with lock:
                        deleted += 1

    with assert_baseline():
        with unprobed(*servers) as pool:
            for number in range(300):
                pool.put(str(number))
            run_together(*[functools.partial(work, number) for number in range(6)], timeout=30)
            assert deleted == 300
            wait_until(lambda: all(status.leased == 0 for status in pool.servers), "the connections to come back")
        for server in servers:
            assert server.control.counter("current-jobs-reserved") == 0
            assert server.control.counter("current-jobs-ready") == 0
