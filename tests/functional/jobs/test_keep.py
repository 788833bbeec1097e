"""Keeping jobs alive: touched in time, whatever other servers do, and for no longer than they are kept."""

from __future__ import annotations

import gc
import re
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from support.batches import cut
from support.pools import pool_with_jobs_in_hand, unprobed
from support.scripted import ScriptedServer, answering, stats_reply, with_data
from support.servers import BeanstalkdServer
from support.waiting import wait_until

from beanpool import BeanpoolError, Connection, Job, JobId, KeptJobs, Observer, PoolClosed, PoolManager, Put
from beanpool.events import Event, ReservationLost
from beanpool.server import PooledConnection

if TYPE_CHECKING:
    from conftest import StartCluster, StartScripted


def take(pool: PoolManager, count: int = 1, ttr: int = 120) -> list[Job]:
    pool.put_many(Put(str(number), ttr=ttr) for number in range(count))
    jobs = pool.reserve_many(count, 5)
    assert len(jobs) == count
    return jobs


def touches(*servers: BeanstalkdServer) -> int:
    return sum(server.control.counter("cmd-touch") for server in servers)


class TestAlive:
    def test_jobs_of_healthy_servers_while_another_is_frozen(self, cluster: StartCluster) -> None:
        servers = cluster(3)
        frozen, *healthy = servers
        with pool_with_jobs_in_hand(*servers) as pool:
            # One that has a connection of its own.
            pool.put("alone", ttr=10, tube="alone")
            alone = pool.reserve(5, tubes="alone")
            assert alone is not None
            jobs = [*take(pool, 30, ttr=2), alone]
            living = [job for job in jobs if job.server != frozen.address]
            with pool.keep(jobs) as kept:
                frozen.freeze()
                # That is 0.4 s and three times two thirds of a second.
                enough = 4 * len([job for job in living if job is not alone])
                wait_until(lambda: touches(*healthy) >= enough, "touches for longer than the TTR")
                assert [server.control.counter("job-timeouts") for server in healthy] == [0, 0]
                assert not any(job.lost for job in living)
                assert {job.server for job in kept.lost} <= {frozen.address}
                assert sum(server.control.counter("cmd-stats-job") for server in healthy) == len(living)
            assert pool.delete_many(living) == [None] * len(living)
            frozen.thaw()

    def test_a_job_that_is_soon_finished_costs_nothing(self, beanstalkd: BeanstalkdServer) -> None:
        with unprobed(beanstalkd) as pool:
            quick, slow, old = take(pool, 3)
            with pool.keep(quick), pool.keep([slow, quick]) as kept:
                quick.delete()
                wait_until(lambda: touches(beanstalkd) == 1, "the one that goes on to be touched")
                assert beanstalkd.control.counter("cmd-stats-job") == 1
                assert kept.lost == ()
                # The TTR of that one is known by now, and it was just touched.
                with pool.keep([old, slow]):
                    wait_until(lambda: touches(beanstalkd) == 2, "an old one to be touched")
                    assert beanstalkd.control.counter("cmd-stats-job") == 2
            assert pool.delete_many([slow, old]) == [None] * 2

    def test_one_that_comes_while_the_thread_sleeps(
        self, beanstalkd: BeanstalkdServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("beanpool.cluster.keeper._TICK", 60)
        with unprobed(beanstalkd) as pool:
            jobs = take(pool, 2)
            with pool.keep(jobs[0]) as kept:
                wait_until(lambda: touches(beanstalkd) == 1, "the first touch")
                kept.add(jobs[1])
                wait_until(lambda: touches(beanstalkd) == 2, "that of the other one")
            assert pool.delete_many(jobs) == [None] * 2

    def test_beside_commands_on_the_same_connection(self, beanstalkd: BeanstalkdServer) -> None:
        with unprobed(beanstalkd) as pool:
            jobs = take(pool, 4)
            [later] = take(pool)
            connection = jobs[0].connection
            assert isinstance(connection, PooledConnection)
            with pool.keep([*jobs, later]):
                with connection.guard:
                    wait_until(lambda: touches(beanstalkd) == 1, "the one on another connection")
                wait_until(lambda: touches(beanstalkd) == 5, "their turn to come")
            assert pool.delete_many([*jobs, later]) == [None] * 5

    def test_a_thousand_share_their_round_trips(self, beanstalkd: BeanstalkdServer) -> None:
        with unprobed(beanstalkd) as pool:
            jobs = take(pool, 1000)
            told: list[int] = []

            class Counts(Observer):
                def touched(self, server: str, count: int, seconds: float, ok: bool) -> None:
                    assert ok
                    told.append(count)

            pool.add_observer(Counts())
            with pool.keep(jobs):
                wait_until(lambda: sum(told) == 1000, "all of them to be touched")
                assert len(told) <= 10
            assert pool.delete_many(jobs) == [None] * 1000
            assert pool.get_stats()["touched"] == 1000


class FakeJobs:
    """A server whose jobs have a TTR of a second, and that notes which of them are touched."""

    def __init__(self, start: StartScripted, touch: bytes = b"TOUCHED\r\n") -> None:
        self.numbers = iter(range(1, 100))
        self.touches: list[int] = []
        self.reply = touch

        def reserved(*_: object) -> bytes:
            return with_data(b"RESERVED %d" % next(self.numbers), b"x")

        def touched(_: object, line: bytes, __: object) -> bytes:
            self.touches.append(int(line.split()[1]))
            return self.reply

        answers: dict[str, Any] = {
            "stats": stats_reply(),
            "reserve-with-timeout": reserved,
            "touch": touched,
            "stats-job": with_data(b"OK", b"---\nttr: 1\n"),
            "delete": b"DELETED\r\n",
            "release": b"RELEASED\r\n",
        }
        self.server: ScriptedServer = start(default=answering(answers))

    def pool(self) -> PoolManager:
        return PoolManager([self.server.address], health_interval=60)


class TestWhichAndHowLong:
    def test_what_is_kept_by_whom_and_until_when(self, scripted_server: StartScripted) -> None:
        fake = FakeJobs(scripted_server)
        with fake.pool() as pool:
            first, second, third, fourth, fifth = (pool.reserve(0) for _ in range(5))
            assert first is not None
            assert second is not None
            assert third is not None
            assert fourth is not None
            assert fifth is not None

            def wait_for_more() -> None:
                """Until those that are kept have been touched twice more: by then the others would have been, too."""
                seen = len(fake.touches)
                wait_until(
                    lambda: all(fake.touches[seen:].count(number) >= 2 for number in (1, 4)), "touches of what is kept"
                )

            with pool.keep([first, second, third.id, fifth], until=time.monotonic() + 60) as kept:
                kept.add(fourth.id)
                assert len(kept._kept.jobs) == 5
                wait_until(lambda: set(fake.touches) == {1, 2, 3, 4, 5}, "a touch of each")
                end = time.monotonic() + 0.3
                kept.add(second, until=end)
                kept.discard(third)
                fifth.delete()
                wait_until(lambda: time.monotonic() > end, "the end of one of them")
                # What was under way by then.
                wait_for_more()
                seen = len(fake.touches)
                wait_for_more()
                assert set(fake.touches[seen:]) == {1, 4}
            with pool.keep(first), pool.keep(first):
                pass
            seen = len(fake.touches)
            with pool.keep([fourth, first]):
                # Two blocks in one: it is kept for as long as one of them lasts.
                with pool.keep(first, until=time.monotonic() + 30):
                    pass
                wait_until(lambda: {1, 4} <= set(fake.touches[seen:]), "touches of both")
            repr(kept)
            for job in (first, second, third, fourth):
                job.delete()

    def test_a_job_that_is_lost(self, scripted_server: StartScripted) -> None:
        fake = FakeJobs(scripted_server, b"NOT_FOUND\r\n")
        events: list[Event] = []
        with fake.pool() as pool:
            pool.add_listener(events.append)
            job = pool.reserve(0)
            assert job is not None
            with pool.keep(job) as kept, pool.keep([job]) as other:
                wait_until(lambda: kept.lost and other.lost, "the loss to be seen")
                assert job.lost
                wait_until(lambda: pool.servers[0].leased == 0, "its connection to come back")
            assert kept.lost == other.lost == (job,)
            assert [event.job_id for event in events if isinstance(event, ReservationLost)] == [1]
            assert fake.touches == [1]

    def test_a_server_that_refuses_a_touch_is_asked_again(self, scripted_server: StartScripted) -> None:
        fake = FakeJobs(scripted_server, b"OUT_OF_MEMORY\r\n")
        with fake.pool() as pool:
            job = pool.reserve(0)
            assert job is not None
            with pool.keep(job) as kept:
                wait_until(lambda: len(fake.touches) == 2, "another one")
                assert kept.lost == ()
            job.delete()

    def test_a_job_whose_connection_breaks_can_still_be_deleted(self, beanstalkd: BeanstalkdServer) -> None:
        with unprobed(beanstalkd) as pool:
            job, other = take(pool, 2)
            with pool.keep([job, other]) as kept:
                cut(job.connection)
                wait_until(lambda: len(kept.lost) == 2, "the loss to be seen")
                assert job.lost
                # By the attempt that is made to finish it safely.
                job.delete()
                other.reacquire()
                kept.add(other)
                before = touches(beanstalkd)
                wait_until(lambda: touches(beanstalkd) > before, "it to be kept again")
            other.delete()
            assert pool.get_stats()["jobs_lost"] == 0

    def test_what_nobody_has_is_given_back(self, beanstalkd: BeanstalkdServer) -> None:
        with unprobed(beanstalkd) as pool:
            jobs = take(pool, 1)
            jid = jobs[0].id
            with pool.keep(jobs):
                jobs.clear()
                gc.collect()
                wait_until(lambda: touches(beanstalkd) == 1, "it to be kept for the block")
                assert beanstalkd.control.state(jid) == "reserved"
            wait_until(lambda: beanstalkd.control.state(jid) == "ready", "it to be given back")


class TestUse:
    def test_what_cannot_be_kept(self, beanstalkd: BeanstalkdServer) -> None:
        with unprobed(beanstalkd) as pool, Connection(beanstalkd.host, beanstalkd.port) as plain:
            [job] = take(pool)
            plain.put("plain")
            of_plain = plain.reserve(0)
            assert of_plain is not None
            for wrong in ("12", 7, [of_plain], [JobId(77, beanstalkd.address, "x")], [None]):
                with pytest.raises((TypeError, ValueError, BeanpoolError)):
                    pool.keep(wrong)  # type: ignore[arg-type]  # Meant.
            for until in (60, time.monotonic(), float("nan"), True, "1"):
                message = re.escape("time.monotonic()")
                with pytest.raises((TypeError, ValueError), match=message):
                    pool.keep(job, until=until)  # type: ignore[arg-type]  # Meant.
            job.delete()
            of_plain.delete()

    def test_its_life(self, beanstalkd: BeanstalkdServer) -> None:
        with unprobed(beanstalkd) as pool:
            [job] = take(pool)
            kept = pool.keep([])
            assert isinstance(kept, KeptJobs)
            kept.add(job)
            with kept:
                wait_until(lambda: touches(beanstalkd) == 1, "what was added before")
            with pytest.raises(BeanpoolError, match="has ended"):
                kept.add(job)
            with pytest.raises(BeanpoolError, match="call keep"), kept:
                pass
            job.delete()
        with pytest.raises(PoolClosed), pool.keep([]):
            pass

    def test_the_end_of_the_pool_is_its_end(self, beanstalkd: BeanstalkdServer) -> None:
        with unprobed(beanstalkd) as pool:
            [job] = take(pool)
            with pool.keep(job) as kept:
                pool.close(0)
                assert keepers() == []
                assert job.lost
                kept.discard(job)

    def test_its_thread_ends_when_there_is_nothing_to_keep(
        self, beanstalkd: BeanstalkdServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("beanpool.cluster.keeper._TICK", 0.05)
        with unprobed(beanstalkd) as pool:
            for number in (1, 2):
                [job] = take(pool)
                with pool.keep(job):
                    wait_until(lambda: keepers() != [], "the thread to begin")
                    job.delete()
                wait_until(lambda: keepers() == [], f"the thread to end, time {number}")

    def test_without_a_thread_nobody_is_told_that_a_job_is_kept(
        self, beanstalkd: BeanstalkdServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with unprobed(beanstalkd) as pool:
            [job] = take(pool)

            def fail(_: threading.Thread) -> None:
                raise RuntimeError("can't start new thread")

            with monkeypatch.context() as patch:
                patch.setattr(threading.Thread, "start", fail)
                with pytest.raises(BeanpoolError, match="could not be started"), pool.keep(job):
                    pass
            with pool.keep(job):
                wait_until(lambda: touches(beanstalkd) == 1, "another try")
            job.delete()


def keepers() -> list[str]:
    return [thread.name for thread in threading.enumerate() if "keeper" in thread.name]
