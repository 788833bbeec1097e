"""What observers are told: each batch once for each server, and in numbers that add up. They disturb no call."""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TypeVar

import pytest
from support.batches import cut
from support.pools import pool_with_jobs_in_hand, unprobed
from support.records import Records
from support.scripted import answering, stats_reply
from support.servers import BeanstalkdServer
from support.threads import background
from support.waiting import wait_until

from beanpool import AttemptOutcome, ConnectionFailed, Job, JobEnd, JobLost, Observer, PoolManager, PutFailed

if TYPE_CHECKING:
    from conftest import StartCluster, StartScripted

T = TypeVar("T")


class Notes(Observer):
    """Writes down what it is told, by the name of the call; times must be times."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def take(self) -> list[tuple[Any, ...]]:
        """What was written down since the last time, but for connects."""
        calls, self.calls = self.calls, []
        return [call for call in calls if call[0] != "connected"]

    def put(self, server: str, tube: str, count: int, size: int, seconds: float, outcome: AttemptOutcome) -> None:
        assert 0 <= seconds < 60
        self.calls.append(("put", server, tube, count, size, outcome))

    def reserved(self, server: str, tube: str | None, count: int, waited: float) -> None:
        assert 0 <= waited < 60
        self.calls.append(("reserved", server, tube, count))

    def finished(self, server: str, tube: str | None, how: JobEnd, count: int, held: float, seconds: float) -> None:
        assert 0 <= seconds <= held < 60
        self.calls.append(("finished", server, tube, how, count))

    def touched(self, server: str, count: int, seconds: float, ok: bool) -> None:
        assert 0 <= seconds < 60
        self.calls.append(("touched", server, count, ok))

    def connected(self, server: str, seconds: float, error: Exception | None) -> None:
        assert 0 <= seconds < 60
        self.calls.append(("connected", server, error))


class Raises(Observer):
    """Is called, and fails."""

    def __init__(self) -> None:
        self.times = 0

    def put(self, *_: object) -> None:
        self.times += 1
        raise RuntimeError("from the observer")


def there(value: T | None) -> T:
    assert value is not None
    return value


@pytest.fixture
def notes() -> Notes:
    return Notes()


@pytest.fixture
def pool(beanstalkd: BeanstalkdServer, notes: Notes) -> Iterator[PoolManager]:
    with unprobed(beanstalkd) as pool:
        pool.add_observer(notes)
        yield pool


def test_single_commands(pool: PoolManager, beanstalkd: BeanstalkdServer, notes: Notes) -> None:
    server = beanstalkd.address
    jid = pool.put("four", tube="mails")
    assert [call for call in notes.calls if call[0] == "connected"] == [("connected", server, None)]
    assert notes.take() == [("put", server, "mails", 1, 4, "stored")]
    job = there(pool.reserve(5, tubes="mails"))
    assert notes.take() == [("reserved", server, "mails", 1)]
    job.touch()
    job.release()
    there(pool.reserve(5, tubes=("mails", "default"))).bury()
    pool.kick_job(jid)
    there(pool.reserve(5, tubes="mails")).delete()
    assert notes.take() == [
        ("touched", server, 1, True),
        ("finished", server, "mails", "released", 1),
        ("reserved", server, None, 1),
        ("finished", server, None, "buried", 1),
        ("reserved", server, "mails", 1),
        ("finished", server, "mails", "deleted", 1),
    ]
    jid = pool.put("by its id")
    pool.reserve_job(jid).delete()
    assert notes.take()[1:] == [("reserved", server, None, 1), ("finished", server, None, "deleted", 1)]
    assert pool.reserve(0) is None
    assert notes.take() == [], "nothing was reserved"


def test_a_batch_is_one_call_for_each_server(cluster: StartCluster, notes: Notes) -> None:
    servers = [server.address for server in cluster(2)]
    with PoolManager(servers, health_interval=60) as pool:
        pool.add_observer(notes)
        pool.put_many(["xx"] * 3000, tube="mails")
        puts = notes.take()
        assert {call[1] for call in puts} == set(servers)
        assert len(puts) < 20, "one that takes long is told every second"
        assert {(call[0], call[2], call[5]) for call in puts} == {("put", "mails", "stored")}
        assert sum(call[3] for call in puts) == 3000
        assert sum(call[4] for call in puts) == 6000
        jobs = pool.reserve_many(3000, 5, tubes="mails")
        reserved = notes.take()
        assert {call[:3] for call in reserved} == {("reserved", server, "mails") for server in servers}
        assert sum(call[3] for call in reserved) == len(jobs)
        assert len(reserved) == 2
        assert pool.delete_many(jobs) == [None] * len(jobs)
        finished = notes.take()
        assert {call[:4] for call in finished} == {("finished", server, "mails", "deleted") for server in servers}
        assert sum(call[4] for call in finished) == len(jobs)
        assert len(finished) == 2


def test_many_jobs_in_hand_are_told_of_once_for_each_server(cluster: StartCluster, notes: Notes) -> None:
    servers = cluster(2)
    with unprobed(*servers) as pool:
        pool.add_observer(notes)
        pool.put_many(["x"] * 40)
        jobs = pool.reserve_many(40, 5)
        broken = next(job for job in jobs if job.server == servers[0].address)
        here = sum(job.server == servers[1].address for job in jobs)
        notes.take()
        assert pool.touch_many(jobs) == [None] * 40
        assert set(notes.take()) == {
            ("touched", servers[0].address, 40 - here, True),
            ("touched", servers[1].address, here, True),
        }
        cut(broken.connection)
        outcomes = pool.touch_many(jobs)
        assert sum(isinstance(outcome, JobLost) for outcome in outcomes) == 40 - here
        assert [call for call in notes.take() if call[1] == servers[1].address] == [
            ("touched", servers[1].address, here, True)
        ]
        kept = [job for job in jobs if job.reserved]
        assert pool.release_many(kept[:2]) == [None] * 2
        assert pool.bury_many(kept[2:]) == [None] * (here - 2)
        assert notes.take() == [
            ("finished", servers[1].address, "default", "released", 2),
            ("finished", servers[1].address, "default", "buried", here - 2),
        ]
        assert {name: pool.get_stats()[name] for name in ("touched", "released", "buried", "in_hand")} == {
            "touched": 40 + here,
            "released": 2,
            "buried": here - 2,
            "in_hand": 0,
        }


def test_attempts_that_failed(cluster: StartCluster, scripted_server: StartScripted, notes: Notes) -> None:
    refuses = scripted_server(default=answering({"stats": stats_reply(), "put": b"OUT_OF_MEMORY\r\n"}))
    buries = scripted_server(default=answering({"stats": stats_reply({"id": "b"}), "put": b"BURIED 12\r\n"}))
    hangs_up = answering({"stats": stats_reply({"id": "s"}), "put": lambda c, line, body: c.close()})
    for server, outcome in ((refuses, "refused"), (scripted_server(default=hangs_up), "ambiguous")):
        with PoolManager(server.address, health_interval=60, on_ambiguous="raise") as pool:
            pool.add_observer(notes)
            with pytest.raises(PutFailed):
                pool.put("four", timeout=0.3)
            assert ("put", server.address, "default", 1, 4, outcome) in notes.take()
    with PoolManager(buries.address, health_interval=60) as pool:
        pool.add_observer(notes)
        pool.put("four")
        pool.put_many(["four", "five"])
        assert notes.take() == [("put", buries.address, "default", n, 4 * n, "buried") for n in (1, 2)]


def test_a_put_that_another_server_took(cluster: StartCluster, notes: Notes) -> None:
    gone, stays = cluster(2)
    with unprobed(gone, stays) as pool:
        pool.add_observer(notes)
        gone.stop()
        key = next(key for key in map(str, range(100)) if pool.route(key)[0] == gone.address)
        pool.put("four", key=key)
        failed, stored = notes.take()
        assert failed == ("put", gone.address, "default", 1, 4, "not_sent")
        assert stored == ("put", stays.address, "default", 1, 4, "stored")


def test_connects_that_failed(cluster: StartCluster, notes: Notes) -> None:
    (server,) = cluster(1)
    with unprobed(server) as pool:
        pool.add_observer(notes)
        server.stop()
        with pytest.raises(PutFailed):
            pool.put("x", timeout=0.1)
        (first, *_) = [call for call in notes.calls if call[0] == "connected"]
        assert first[1] == server.address
        assert isinstance(first[2], ConnectionFailed)


def test_a_job_that_is_lost_and_one_that_is_deleted_after_all(beanstalkd: BeanstalkdServer, notes: Notes) -> None:
    server = beanstalkd.address
    with pool_with_jobs_in_hand(beanstalkd) as pool:
        pool.put_many(["a", "b"])
        first, second = there(pool.reserve(5)), there(pool.reserve(5))
        pool.add_observer(notes)
        for job in (first, second):
            cut(job.connection)
            wait_until(functools.partial(ready, beanstalkd, job), "the server to take the job back")
        with pytest.raises(JobLost):
            first.touch()
        second.delete()
        assert notes.take() == [("touched", server, 1, False), ("finished", server, "default", "deleted", 1)]


def ready(server: BeanstalkdServer, job: Job) -> bool:
    return server.control.state(job.id) == "ready"


def test_one_that_raises_disturbs_nothing_and_is_logged_once(pool: PoolManager, notes: Notes) -> None:
    raises = Raises()
    pool.remove_observer(notes)
    with Records("beanpool.observers") as records:
        for observer in (raises, notes):
            pool.add_observer(observer)
        for _ in range(3):
            pool.put("x")
        pool.put_many(["x", "y"])
        assert raises.times == 4
        assert [call[3] for call in notes.take()] == [1, 1, 1, 2]
        assert [record.levelno for record in records] == [logging.ERROR]


def test_it_may_use_the_pool(pool: PoolManager, notes: Notes) -> None:
    """No lock is held, nor a connection: there is one only, and it puts a job of its own."""

    class Follows(Observer):
        def finished(self, *_: object) -> None:
            pool.put("an audit", tube="audits")

    pool.add_observer(Follows())
    pool.put("x")
    job = there(pool.reserve(5))
    background(job.delete).result()
    assert there(pool.reserve(5, tubes="audits")).body == "an audit"


def test_who_comes_and_goes(pool: PoolManager, notes: Notes) -> None:
    pool.remove_observer(notes)
    pool.put("unseen")
    assert notes.take() == []
    with pytest.raises(ValueError, match="this observer was never added"):
        pool.remove_observer(notes)
    with pytest.raises(TypeError, match="lacks put, reserved, finished, touched, connected"):
        pool.add_observer(object())  # type: ignore[arg-type]  # what is told
