"""Moving jobs between tubes: each arrives once, as it was."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import pytest
from support.servers import BeanstalkdServer, ServerFactory
from support.threads import background
from support.tubes import FAR, count_in, fill, jobs_in, put_in
from support.waiting import wait_until

from beanpool import JobTooBig, NotFound, PoolManager, Waker
from beanpool.admin import Outcome, Progress, StoredJob, move, total

if TYPE_CHECKING:
    from conftest import StartCluster


def counts(outcome: Outcome) -> tuple[int, int, int, int]:
    return outcome.done, outcome.duplicates, outcome.skipped, outcome.unsure


def urls(servers: list[BeanstalkdServer]) -> list[str]:
    return [server.url for server in servers]


def test_all_states_arrive_as_they_were_and_stay_on_their_servers(cluster: StartCluster) -> None:
    servers = cluster(3)
    for server in servers:
        fill(server, "a", ready=7, delayed=5, buried=4)
        fill(server, "other", ready=2, delayed=1, buried=1)
    before = {server.address: jobs_in([server], "a") for server in servers}
    with PoolManager(urls(servers)) as pool:
        outcomes = move(pool, "a", "b")
    assert set(outcomes) == {server.address for server in servers}
    assert [counts(outcome) for outcome in outcomes.values()] == [(16, 0, 0, 0)] * 3
    assert not any(outcome.error for outcome in outcomes.values())
    assert {server.address: jobs_in([server], "b") for server in servers} == before
    assert count_in(servers, "a") == 0
    assert count_in(servers, "other") == 12


def test_what_is_left_of_a_delay_is_kept_and_never_shortened(beanstalkd: BeanstalkdServer) -> None:
    # Released with a delay: it is that which counts, and not the one of the put.
    control = beanstalkd.control
    jid = control.put(b"late", "a", delay=0)
    control.watch_only("a")
    control.reserve()
    control.command(f"release {jid} 7 {FAR}")
    with PoolManager(beanstalkd.url) as pool:
        move(pool, "a", "b", "delayed")
        moved = pool.peek_delayed(tube="b")
        assert moved is not None
        left = moved.stats()["time-left"]
    original = FAR - 60
    assert original < left <= FAR


def test_a_paused_tube_is_moved_too(beanstalkd: BeanstalkdServer) -> None:
    fill(beanstalkd, "a", ready=9)
    before = jobs_in([beanstalkd], "a")
    beanstalkd.control.command("pause-tube a 1000")
    with PoolManager(beanstalkd.url) as pool:
        assert counts(total(move(pool, "a", "b", "ready"))) == (9, 0, 0, 0)
    assert jobs_in([beanstalkd], "b") == before


@pytest.mark.parametrize("state", ["ready", "delayed", "buried"])
def test_where_ids_are_far_between_jobs_are_taken_one_by_one(beanstalkd: BeanstalkdServer, state: str) -> None:
    control = beanstalkd.control
    for number in range(3):
        put_in(control, "a", state, b"old %d" % number, number)
    skip_ids(beanstalkd, 1500)
    put_in(control, "a", state, b"new", 3)
    before = jobs_in([beanstalkd], "a")
    assert len(before) == 4
    control.command("pause-tube a 1000")
    with PoolManager(beanstalkd.url) as pool:
        assert counts(total(move(pool, "a", "b"))) == (4, 0, 0, 0)
    assert jobs_in([beanstalkd], "b") == before


def skip_ids(server: BeanstalkdServer, count: int) -> None:
    """Let the server give so many ids to jobs that are gone."""
    with PoolManager(server.url) as pool:
        pool.put_many([b"x"] * count, tube="gone")
        pool.delete_many(pool.reserve_many(count, 0, tubes="gone"))


def test_the_limit_is_one_for_all_servers_and_states_have_their_turns(cluster: StartCluster) -> None:
    servers = cluster(2)
    for server in servers:
        fill(server, "a", ready=5, buried=5)
    with PoolManager(urls(servers)) as pool:
        assert total(move(pool, "a", "b", ["buried"], limit=7)).done == 7
        assert total(move(pool, "a", "b", limit=0)).done == 0
    assert count_in(servers, "b", ["buried"]) == 7
    assert count_in(servers, "a", ["buried"]) == 3
    assert count_in(servers, "a", ["ready"]) == 10


def test_a_key_brings_copies_to_its_server(cluster: StartCluster) -> None:
    servers = cluster(3)
    for server in servers:
        fill(server, "a", ready=3, buried=2)

    def key(job: StoredJob) -> str:
        return job.data.decode().rpartition(" ")[2]

    with PoolManager(urls(servers)) as pool:
        assert counts(total(move(pool, "a", "b", key=key))) == (15, 0, 0, 0)
        for server in servers:
            for body in jobs_in([server], "b"):
                assert pool.route(body.decode().rpartition(" ")[2])[0] == server.address
        assert total(move(pool, "b", "c", key="one")).done == 15
        [home] = [server for server in servers if server.address == pool.route("one")[0]]
    assert count_in([home], "c") == 15


def test_a_draining_server_is_emptied_into_the_others(cluster: StartCluster) -> None:
    servers = cluster(2)
    fill(servers[0], "a", ready=4, delayed=3, buried=2)
    before = jobs_in(servers, "a")
    servers[0].drain()
    with PoolManager(urls(servers)) as pool:
        assert counts(total(move(pool, "a", "b"))) == (9, 0, 0, 0)
    assert jobs_in(servers[1:], "b") == before


def test_a_job_that_no_server_takes_is_skipped_and_holds_up_no_other(
    beanstalkd_factory: ServerFactory,
) -> None:
    small, large = beanstalkd_factory(max_job_size=100), beanstalkd_factory()
    large.control.put(b"x" * 200, "a", priority=0)
    # More than one portion: the large one must not be taken up again by the next.
    for number in range(300):
        large.control.put(b"%d" % number, "a", priority=number + 1)
    with PoolManager([small.url, large.url]) as pool:
        pool.set_weight(large.address, 0)
        outcome = move(pool, "a", "b", "ready", key="k")[large.address]
    assert counts(outcome) == (300, 0, 1, 0)
    assert isinstance(outcome.error, JobTooBig)
    assert count_in([large], "a", ["ready"]) == 1
    assert count_in([small], "b") == 300


@pytest.mark.parametrize("state", ["ready", "buried"])
def test_more_than_fits_into_any_buffer(beanstalkd: BeanstalkdServer, state: str) -> None:
    bodies = [b"%d" % number + b"x" * 60_000 for number in range(300)]
    with PoolManager(beanstalkd.url) as pool:
        pool.put_many(bodies, tube="a")
        if state == "buried":
            pool.bury_many(pool.reserve_many(len(bodies), 5, tubes="a"))
        assert counts(total(move(pool, "a", "b"))) == (300, 0, 0, 0)
    assert sorted(jobs_in([beanstalkd], "b")) == sorted(bodies)


def test_servers_that_are_dead_or_frozen_cost_their_own_jobs(cluster: StartCluster) -> None:
    servers = cluster(3)
    for server in servers:
        fill(server, "a", ready=5)
    servers[0].kill()
    servers[1].freeze()
    with PoolManager(urls(servers), connect_timeout=1) as pool:
        outcomes = move(pool, "a", "b", timeout=1)
        assert counts(outcomes[servers[2].address]) == (5, 0, 0, 0)
        for server in servers[:2]:
            outcome = outcomes[server.address]
            assert counts(outcome) == (0, 0, 0, 0)
            assert server.address in str(outcome.error)
        servers[1].thaw()
        assert counts(move(pool, "a", "b", timeout=10)[servers[1].address]) == (5, 0, 0, 0)
    assert count_in([servers[1]], "b") == 5


def test_a_stop_leaves_the_rest_and_a_second_run_finishes_it(beanstalkd: BeanstalkdServer) -> None:
    fill(beanstalkd, "a", ready=600)
    waker = Waker()
    seen: list[Progress] = []

    def progress(news: Progress) -> None:
        seen.append(news)
        waker.set()

    with PoolManager(beanstalkd.url) as pool:
        first = total(move(pool, "a", "b", progress=progress, stop=waker))
        assert 0 < first.done < 600
        assert first.error is None
        assert {news.total for news in seen} == {600}
        assert seen[-1].handled == first.done
        assert count_in([beanstalkd], "a", ["ready"]) == 600 - first.done
        assert total(move(pool, "a", "b", stop=lambda: False)).done == 600 - first.done
    assert len(jobs_in([beanstalkd], "b")) == 600


def test_an_interrupt_says_what_was_done(beanstalkd: BeanstalkdServer) -> None:
    fill(beanstalkd, "a", ready=600)

    def interrupted(_: Progress) -> None:
        raise KeyboardInterrupt

    with PoolManager(beanstalkd.url) as pool:
        with pytest.raises(KeyboardInterrupt) as caught:
            move(pool, "a", "b", progress=interrupted)
        done: int = total(caught.value.outcomes).done  # type: ignore[attr-defined]  # It is given to it.
        assert 0 < done < 600
        assert count_in([beanstalkd], "b") == done
        assert count_in([beanstalkd], "a", ["ready"]) == 600 - done


def test_what_a_function_of_the_caller_raises_is_raised_and_loses_nothing(beanstalkd: BeanstalkdServer) -> None:
    fill(beanstalkd, "a", ready=10)

    def key(job: StoredJob) -> str:
        raise LookupError(job.priority)

    with PoolManager(beanstalkd.url) as pool, pytest.raises(LookupError):
        move(pool, "a", "b", key=key)
    wait_until(lambda: count_in([beanstalkd], "a", ["ready"]) == 10, "the jobs to be back")


def test_workers_take_from_both_tubes_meanwhile_and_each_job_is_done_once(beanstalkd: BeanstalkdServer) -> None:
    count = 1500
    with PoolManager(beanstalkd.url) as pool:
        pool.put_many([b"%d" % number for number in range(count)], tube="a")
        done: list[bytes] = []

        def work() -> None:
            while len(done) < count:
                job = pool.reserve(0.2, tubes=["a", "b"])
                if job is not None:
                    job.delete()
                    done.append(job.data)

        worker = background(work)
        outcome = total(move(pool, "a", "b", "ready"))
        worker.result(30)
    assert outcome.unsure == outcome.duplicates == 0
    assert sorted(done) == sorted(b"%d" % number for number in range(count))


def test_a_job_that_another_has_taken_meanwhile_is_his_and_its_copy_is_taken_back(
    beanstalkd: BeanstalkdServer,
) -> None:
    jid = put_in(beanstalkd.control, "a", "buried", b"mine")

    def kicked_and_reserved(job: StoredJob) -> str:
        # Between the look and the delete.
        beanstalkd.control.command(f"kick-job {jid}")
        beanstalkd.control.watch_only("a")
        assert beanstalkd.control.reserve() is not None
        return "k"

    with PoolManager(beanstalkd.url) as pool:
        outcome = total(move(pool, "a", "b", "buried", key=kicked_and_reserved))
    assert counts(outcome) == (0, 0, 1, 0)
    assert count_in([beanstalkd], "b") == 0
    assert beanstalkd.control.state(jid) == "reserved"


@pytest.mark.parametrize(
    ("arguments", "options", "error"),
    [
        (("a", "a"), {}, ValueError),
        (("a b", "c"), {}, ValueError),
        (("a", "b", "reserved"), {}, ValueError),
        (("a", "b", []), {}, ValueError),
        (("a", "b"), {"limit": -1}, ValueError),
        (("a", "b"), {"limit": True}, TypeError),
        (("a", "b"), {"stop": 5}, TypeError),
    ],
    ids=str,
)
def test_what_cannot_be_is_said_before_anything_is_sent(
    beanstalkd: BeanstalkdServer, arguments: tuple[Any, ...], options: dict[str, Any], error: type[Exception]
) -> None:
    before = beanstalkd.control.counter("total-connections")
    pool = PoolManager(beanstalkd.url)
    with pytest.raises(error, match=r"target|source|states|limit|stop"):
        move(pool, *arguments, **options)
    assert beanstalkd.control.counter("total-connections") == before


def test_an_outcome_holds_no_body(beanstalkd: BeanstalkdServer) -> None:
    outcome = Outcome(error=NotFound("delete", "NOT_FOUND", []))
    assert dataclasses.is_dataclass(outcome)
    beanstalkd.control.put(b"secret", "a")
    with PoolManager(beanstalkd.url) as pool:
        seen: list[StoredJob] = []
        move(pool, "a", "b", key=lambda job: seen.append(job))
    assert "secret" not in repr(seen)
