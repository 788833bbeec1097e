"""Handles from before a restart: job ids are used again, and the jobs that have them now are none of ours."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import pytest
from support.putting import BY_ID
from support.servers import BeanstalkdServer, ServerFactory
from support.waiting import wait_until

from beanpool import Connection, Job, PoolManager
from beanpool.errors import BeanpoolError, JobLost, NoServerAvailable, NotFound
from beanpool.events import Event, ReservationLost, ServerStateChanged

COUNT = 10
# As many bytes as the old jobs, and the very same ones: not even an equal body makes it the same job.
BODY = b"same body"
STATES = ("ready", "delayed", "buried")

Use = Callable[[PoolManager, Job], object]


def leave(server: BeanstalkdServer) -> None:
    """Restart the server so that its ids start at 1 again."""
    server.restart()
    if server.wal_dir is not None:
        # With a log ids go on after the highest one that is left: so none may be left.
        server.control.drain_all()
        server.restart()


def witnesses(server: BeanstalkdServer) -> dict[int, dict[str, str]]:
    """Put ten jobs that get the ids 1 to 10, in every state that a job may be in, and return their statistics."""
    control = server.control
    for index in range(COUNT):
        jid = control.put(BODY, delay=1000 if index % 3 == 1 else 0)
        assert jid == index + 1
        if index % 3 == 2:
            control.command(f"reserve-job {jid}")
            control.command(f"bury {jid} {2**31}")
    return statistics(server)


def statistics(server: BeanstalkdServer) -> dict[int, dict[str, str]]:
    """What the server says of the witnesses, without what time alone changes."""
    found = {}
    for jid in range(1, COUNT + 1):
        fields = server.control.stats_job(jid)
        assert fields is not None, f"witness {jid} is gone"
        found[jid] = {name: value for name, value in fields.items() if name not in ("age", "time-left", "file")}
    return found


OF_A_JOB: dict[str, Use] = {
    "delete": lambda pool, job: job.delete(),
    "release": lambda pool, job: job.release(),
    "release with a priority": lambda pool, job: job.release(5),
    "bury": lambda pool, job: job.bury(),
    "touch": lambda pool, job: job.touch(),
    "kick": lambda pool, job: job.kick(),
    "stats": lambda pool, job: job.stats(),
    "reacquire": lambda pool, job: job.reacquire(),
    "with block": lambda pool, job: job.__exit__(None, None, None),
}


@pytest.mark.parametrize("wal", [False, True], ids=["without -b", "with -b"])
@pytest.mark.parametrize("noticed", [False, True], ids=["not noticed yet", "noticed"])
def test_old_handles_touch_none_of_ten_witnesses(beanstalkd_factory: ServerFactory, wal: bool, noticed: bool) -> None:
    server = beanstalkd_factory(wal=wal)
    lost: list[Event] = []
    # Without notice the monitor must not look either.
    with PoolManager(server.url, timeout=1, connect_timeout=1, health_interval=0.1 if noticed else 60) as pool:
        pool.add_listener(lambda event: lost.append(event) if isinstance(event, ReservationLost) else None)
        ids = [pool.put(BODY) for _ in range(COUNT)]
        jobs = [pool.reserve(0) for _ in range(COUNT)]
        assert all(job is not None for job in jobs)
        looked_at = [pool.peek(jid) for jid in ids]
        assert sorted(int(jid) for jid in ids) == list(range(1, COUNT + 1))

        leave(server)
        expected = witnesses(server)
        if noticed:
            old = ids[0].instance
            wait_until(lambda: pool.servers[0].instance not in (None, old), "the new process to be noticed")

        for job in jobs:
            assert job is not None
            for name, use in OF_A_JOB.items():
                try:
                    use(pool, job)
                except (JobLost, NotFound):
                    pass
                else:
                    # The end of the block finds a job that is known to be lost: there is nothing left to do.
                    assert name == "with block", f"{name} of a lost job did not raise"
            assert job.lost
            assert not job.reserved
        for seen in looked_at:
            assert seen is not None
            for name in ("delete", "kick", "stats"):
                with pytest.raises(JobLost):
                    OF_A_JOB[name](pool, seen)
        for jid in ids:
            for use_id in BY_ID.values():
                with pytest.raises((JobLost, NotFound)):
                    use_id(pool, jid)
        assert statistics(server) == expected
        assert len(lost) == COUNT
        # The pool itself is none the worse for it.
        fresh = pool.put("fresh")
        assert fresh == COUNT + 1
        pool.delete(fresh)


@pytest.mark.parametrize("wal", [False, True], ids=["without -b", "with -b"])
def test_old_jobs_of_a_plain_connection_touch_no_witness_after_reconnect(
    beanstalkd_factory: ServerFactory, wal: bool
) -> None:
    server = beanstalkd_factory(wal=wal)
    with Connection(server.host, server.port, timeout=1) as connection:
        for _ in range(COUNT):
            connection.put(BODY)
        looked_at = connection.peek(COUNT)
        jobs = [connection.reserve(0) for _ in range(COUNT)]
        leave(server)
        expected = witnesses(server)
        connection.reconnect()
        assert looked_at is not None
        for job in [*jobs, looked_at]:
            assert job is not None
            for name in ("delete", "release", "bury", "touch", "kick", "stats", "reacquire"):
                uses = getattr(job, name)
                if job is looked_at and name in ("release", "bury", "touch"):
                    uses()
                    continue
                with pytest.raises(JobLost):
                    uses()
            assert job is looked_at or job.lost
            assert not job.reserved
        assert statistics(server) == expected
        assert connection.using() == "default"


def test_a_job_of_a_plain_connection_is_lost_by_a_reconnect_to_the_same_process(beanstalkd: BeanstalkdServer) -> None:
    with Connection(beanstalkd.host, beanstalkd.port, timeout=1) as connection:
        connection.put("once")
        job = connection.reserve(0)
        assert job is not None
        connection.reconnect()
        # The server has given it to another meanwhile: it is not this Job's to delete any more.
        again = connection.reserve(0)
        assert again is not None
        assert again.id == job.id
        with pytest.raises(JobLost):
            job.delete()
        assert beanstalkd.control.state(job.id) == "reserved"
        again.delete()


def test_the_monitor_tells_workers_of_a_restart_before_they_ask(beanstalkd_factory: ServerFactory) -> None:
    server = beanstalkd_factory(wal=True)
    events: list[ServerStateChanged] = []
    with PoolManager(server.url, timeout=1, health_interval=0.1) as pool:
        pool.add_listener(lambda event: events.append(event) if isinstance(event, ServerStateChanged) else None)
        pool.put("long work")
        job = pool.reserve(0)
        assert job is not None
        assert not job.lost
        server.restart()
        wait_until(lambda: any(event.restarted for event in events), "the restart to be told")
        wait_until(lambda: job.lost, "the job to be known as lost")
        with pytest.raises(JobLost, match="restarted"):
            job.delete()
        # Its server kept it, for others.
        again = pool.reserve(1)
        assert again is not None
        assert again.number == job.number
        again.delete()


def test_a_delete_whose_connection_broke_is_finished_in_the_same_process(beanstalkd: BeanstalkdServer) -> None:
    with PoolManager(beanstalkd.url, timeout=1) as pool:
        done = pool.put("done")
        job = pool.reserve(0)
        assert job is not None
        job.connection.close()
        wait_until(lambda: beanstalkd.control.state(done) == "ready", "the server to take it back")
        job.delete()
        assert beanstalkd.control.state(done) is None
        assert not job.lost


@pytest.mark.parametrize("state", ["reserved", "delayed", "buried", "gone"])
def test_a_delete_whose_connection_broke_leaves_alone_what_others_have_decided(
    beanstalkd: BeanstalkdServer, state: str
) -> None:
    with PoolManager(beanstalkd.url, timeout=1) as pool:
        jid = pool.put("done")
        job = pool.reserve(0)
        assert job is not None
        job.connection.close()
        other = beanstalkd.raw()
        wait_until(lambda: beanstalkd.control.state(jid) == "ready", "the server to take it back")
        assert other.reserve(0) is not None
        if state == "delayed":
            other.command(f"release {jid} 0 1000")
        elif state == "buried":
            other.command(f"bury {jid} 0")
        elif state == "gone":
            other.delete(jid)
        before = beanstalkd.control.stats_job(jid)
        with pytest.raises(JobLost):
            job.delete()
        after = beanstalkd.control.stats_job(jid)
        assert (before and before["state"]) == (after and after["state"]) == (None if state == "gone" else state)


@pytest.mark.parametrize("again", ["touch", "release", "bury"])
def test_a_lost_job_can_be_had_again_in_the_same_process(beanstalkd: BeanstalkdServer, again: str) -> None:
    with PoolManager(beanstalkd.url, timeout=1) as pool:
        jid = pool.put("work")
        job = pool.reserve(0)
        assert job is not None
        job.connection.close()
        wait_until(lambda: beanstalkd.control.state(jid) == "ready", "the server to take it back")
        with pytest.raises(JobLost):
            getattr(job, again)()
        assert job.lost
        job.reacquire()
        assert not job.lost
        assert beanstalkd.control.state(jid) == "reserved"
        getattr(job, again)()
        assert beanstalkd.control.state(jid) == {"touch": "reserved", "release": "ready", "bury": "buried"}[again]
        # Closing waits for jobs that are being worked on.
        del job


def test_ids_without_a_server_process_are_refused_in_a_cluster(cluster: Callable[..., list[BeanstalkdServer]]) -> None:
    servers = cluster(2)
    for server in servers:
        server.control.put(b"witness")
    with PoolManager([server.address for server in servers]) as pool:
        for use in BY_ID.values():
            with pytest.raises(ValueError, match="different job"):
                use(pool, 1)  # A bare int is the mistake that is tested.
    assert [server.control.state(1) for server in servers] == ["ready", "ready"]


def test_a_restart_between_put_and_delete_is_found_on_the_connection_that_would_carry_the_delete(
    beanstalkd: BeanstalkdServer,
) -> None:
    with PoolManager(beanstalkd.url, timeout=1, health_interval=60) as pool:
        jid = pool.put("mine")
        beanstalkd.restart()
        assert beanstalkd.control.put(b"theirs") == jid
        with pytest.raises(BeanpoolError) as caught:
            pool.delete(jid)
        assert "restarted" in str(caught.value) or "connection" in str(caught.value)
        assert beanstalkd.control.peek(jid) == b"theirs"


def test_a_job_that_a_kill_has_torn_is_named_and_can_be_deleted(beanstalkd_factory: ServerFactory) -> None:
    server = beanstalkd_factory(wal=True, merge_log=False)
    server.control.put(b"the torn one")
    server.control.put(b"a whole one")
    server.kill()
    # What beanstalkd makes of a record whose last piece was not written (see support.write_ahead_log).
    assert server.wal_dir is not None
    (log,) = server.wal_dir.glob("binlog.*")
    log.chmod(0o600)
    log.write_bytes(log.read_bytes().replace(b"the torn one\r\n", bytes(14)))
    server.start()
    with PoolManager(server.url, health_interval=0.1) as pool:

        def named() -> bool:
            with contextlib.suppress(NoServerAvailable):
                assert pool.reserve(0) is None
            return "a body of job 1 that" in (pool.servers[0].last_error or "")

        wait_until(named, "the torn job to be named")
        pool.delete(1, server=server.address)
        wait_until(lambda: pool.servers[0].state == "up", "the server to be taken for one again")
        job = pool.reserve(5)
        assert job is not None
        assert job.body == "a whole one"
        job.delete()
