"""Many questions to all servers at once: statistics of many tubes and jobs, peeks by server, kicks with one bound."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
from support.pools import pool_of, unprobed
from support.scripted import stall
from support.threads import run_together
from support.waiting import within

from beanpool import BeanpoolError, CommandTimeout, Job, JobLost, NotFound, PoolManager
from beanpool.cluster.kick import PORTION, portions, shares
from beanpool.errors import ConnectionFailed, NoServerAvailable

if TYPE_CHECKING:
    from conftest import StartCluster, StartDelayLine, StartScripted

SHORT = 1.5


class TestTubes:
    def test_each_is_added_up_and_each_server_s_own_are_told(self, cluster: StartCluster) -> None:
        a, b = cluster(2)
        with unprobed(a, b) as pool:
            for server, tube in ((a, "both"), (b, "both"), (b, "one")):
                server.control.put(b"job", tube)
            found = pool.stats_tubes(["one", "both", "none", "default"])
            assert list(found) == ["one", "both", "none", "default"]
            ready = {name: doc["current-jobs-ready"] for name, doc in found.items() if isinstance(doc, dict)}
            assert ready == {"one": 1, "both": 2, "default": 0}
            assert isinstance(found["none"], NotFound)
            own = pool.stats_tubes_by_server(["one", "both"])
            assert isinstance(own[a.address]["one"], NotFound)
            assert own[b.address]["one"]["name"] == "one"
            assert own[a.address]["both"]["current-jobs-ready"] == 1
            assert pool.stats_tubes("one").keys() == {"one"}
            assert isinstance(pool.stats_tubes("none")["none"], NotFound)
            assert pool.stats_tubes([]) == {}
            with pytest.raises(ValueError):
                pool.stats_tubes(["two words"])

    def test_thousands_take_one_round_trip(self, cluster: StartCluster, delay_line: StartDelayLine) -> None:
        servers = cluster(2)
        names = [f"tube-{number}" for number in range(2000)]
        with unprobed(*servers, watch=names) as near:
            near.tubes()
            with PoolManager([delay_line(server).address for server in servers], timeout=30) as pool:
                pool.ping()
                began = time.monotonic()
                found = pool.stats_tubes(names)
                took = time.monotonic() - began
                assert all(isinstance(doc, dict) for doc in found.values())
                # One by one they would take ten minutes.
                assert took < 30

    def test_that_do_not_come_in_time_are_errors_in_their_places(self, cluster: StartCluster) -> None:
        a, b, c = cluster(3)
        with unprobed(a, b, c) as pool:
            pool.ping()
            b.freeze()
            c.kill()
            own = pool.stats_tubes_by_server(["default", "none"], timeout=SHORT)
            assert isinstance(own[a.address]["none"], NotFound)
            assert isinstance(own[b.address], CommandTimeout)
            assert isinstance(own[c.address], ConnectionFailed)
            assert isinstance(pool.stats_tubes(["none"], timeout=SHORT)["none"], NoServerAvailable)
            b.thaw()


class TestJobs:
    def test_one_outcome_each_in_order(self, cluster: StartCluster) -> None:
        a, b = cluster(2)
        with unprobed(a, b) as pool:
            ids = [pool.put(f"job {number}", tube=f"tube-{number % 3}") for number in range(30)]
            job = pool.reserve(1, tubes="tube-1")
            assert job is not None
            gone, silly = ids[6], "no id"
            pool.delete(gone)
            outcomes = pool.stats_jobs([job, *ids, 7, silly])  # type: ignore[list-item]  # that it is refused
            told = [(o["id"], o["tube"]) for o in outcomes[1:] if isinstance(o, dict)]
            assert told == [(int(jid), f"tube-{number % 3}") for number, jid in enumerate(ids) if jid != gone]
            assert isinstance(outcomes[0], dict)
            assert (outcomes[0]["id"], outcomes[0]["state"]) == (int(job.id), "reserved")
            assert isinstance(outcomes[7], NotFound)
            assert [type(outcome) for outcome in outcomes[-2:]] == [ValueError, TypeError]
            [there] = pool.stats_jobs([int(ids[0])], server=ids[0].server)
            assert isinstance(there, dict)
            assert pool.stats_jobs([]) == []
            job.delete()
            with pytest.raises(TypeError):
                pool.stats_jobs("jobs")  # type: ignore[arg-type]  # that it is refused

    def test_of_another_process_or_a_silent_server_are_errors_in_their_places(self, cluster: StartCluster) -> None:
        a, b = cluster(2)
        with pool_of(a, b) as pool:
            ids = [pool.put("job") for _ in range(4)]
            a.restart()
            pool.wait(2)
            outcomes = dict(zip(ids, pool.stats_jobs(ids), strict=True))
            assert {type(outcomes[i]) for i in ids if i.server == a.address} == {JobLost}
            assert {type(outcomes[i]) for i in ids if i.server == b.address} == {dict}
            b.freeze()
            with within(SHORT):
                outcomes = dict(zip(ids, pool.stats_jobs(ids, timeout=SHORT), strict=True))
            assert {type(outcomes[i]) for i in ids if i.server == b.address} <= {CommandTimeout, ConnectionFailed}
            b.thaw()


def test_peeks_by_server(cluster: StartCluster) -> None:
    a, b = cluster(2)
    with unprobed(a, b) as pool:
        a.control.put(b"ready", "tube")
        b.control.put(b"delayed", "tube", delay=100)
        for server in (a, b):
            server.control.put(b"aside", "other")
            pool.reserve_job(2, server=server.address).bury()
        ready = pool.peek_ready_by_server("tube")
        assert ready[b.address] is None
        found = ready[a.address]
        assert isinstance(found, Job)
        assert found.data == b"ready"
        # Its commands go through the pool.
        found.delete()
        assert pool.peek_ready(tube="tube") is None
        assert pool.peek_delayed_by_server("tube")[b.address].data == b"delayed"
        assert {job.data for job in pool.peek_buried_by_server("other").values()} == {b"aside"}
        assert pool.peek_buried_by_server() == {a.address: None, b.address: None}


QUESTIONS: dict[str, Callable[[PoolManager], object]] = {
    "ping_by_server": lambda pool: pool.ping_by_server(timeout=SHORT),
    "tubes_by_server": lambda pool: pool.tubes_by_server(timeout=SHORT),
    "stats_by_server": lambda pool: pool.stats_by_server(timeout=SHORT),
    "stats_tube_by_server": lambda pool: pool.stats_tube_by_server("default", timeout=SHORT),
    "stats_tubes_by_server": lambda pool: pool.stats_tubes_by_server(["default"], timeout=SHORT),
    "kick_by_server": lambda pool: pool.kick_by_server(timeout=SHORT),
    "pause_tube_by_server": lambda pool: pool.pause_tube_by_server("default", 0, timeout=SHORT),
    "peek_ready_by_server": lambda pool: pool.peek_ready_by_server(timeout=SHORT),
    "peek_delayed_by_server": lambda pool: pool.peek_delayed_by_server(timeout=SHORT),
    "peek_buried_by_server": lambda pool: pool.peek_buried_by_server(timeout=SHORT),
}
SUMS: dict[str, Callable[[PoolManager], object]] = {
    "ping": lambda pool: pool.ping(timeout=SHORT),
    "tubes": lambda pool: pool.tubes(timeout=SHORT),
    "stats": lambda pool: pool.stats(timeout=SHORT),
    "stats_tube": lambda pool: pool.stats_tube("default", timeout=SHORT),
    "stats_tubes": lambda pool: pool.stats_tubes(["default"], timeout=SHORT),
    "kick": lambda pool: pool.kick(timeout=SHORT),
    "pause_tube": lambda pool: pool.pause_tube("default", 0, timeout=SHORT),
    "peek_ready": lambda pool: pool.peek_ready(timeout=SHORT),
    "peek_delayed": lambda pool: pool.peek_delayed(timeout=SHORT),
    "peek_buried": lambda pool: pool.peek_buried(timeout=SHORT),
    "tube.stats": lambda pool: pool.tube("default").stats(timeout=SHORT),
    "tube.kick": lambda pool: pool.tube("default").kick(timeout=SHORT),
    "tube.pause": lambda pool: pool.tube("default").pause(0, timeout=SHORT),
    "tube.peek_ready": lambda pool: pool.tube("default").peek_ready(timeout=SHORT),
}


def test_a_silent_server_costs_the_timeout_and_is_an_error_in_its_place(
    cluster: StartCluster, scripted_server: StartScripted
) -> None:
    [a] = cluster(1)
    silent = scripted_server(default=stall()).address

    def ask(name: str, question: Callable[[PoolManager], object]) -> None:
        # The pool's own timeout would be noticed.
        with PoolManager([a.address, silent], timeout=30, connect_timeout=30, health_interval=60) as pool:
            with within(SHORT, name, slack=1.0):
                answers = question(pool)
            if name in QUESTIONS:
                assert isinstance(answers, dict)
                assert not isinstance(answers[a.address], BaseException), name
                assert isinstance(answers[silent], CommandTimeout), name

    run_together(*(functools.partial(ask, *item) for item in {**QUESTIONS, **SUMS}.items()))


class TestKick:
    @staticmethod
    def fill(pool: PoolManager, server: str, *, buried: int = 0, delayed: int = 0) -> None:
        with pool.connection(server) as connection:
            for _ in range(buried):
                connection.reserve_job(connection.put("buried")).bury()
            for _ in range(delayed):
                connection.put("delayed", delay=1000)

    def test_delayed_jobs_stay_as_long_as_any_server_has_buried_ones(self, cluster: StartCluster) -> None:
        a, b = cluster(2)
        with unprobed(a, b) as pool:
            self.fill(pool, a.address, delayed=4)
            self.fill(pool, b.address, buried=3, delayed=1)
            assert pool.kick_by_server(10) == {a.address: 0, b.address: 3}
            assert pool.stats_tube("default")["current-jobs-delayed"] == 5
            assert pool.kick_by_server(3) == {a.address: 3, b.address: 0}
            assert pool.kick(10) == 2
            assert pool.kick(10) == 0

    def test_one_bound_for_all(self, cluster: StartCluster) -> None:
        servers = cluster(3)
        with unprobed(*servers) as pool:
            for server in servers:
                self.fill(pool, server.address, buried=3)
            assert pool.kick(0) == 0
            assert pool.kick(5) == 5
            assert pool.tube("default").kick(100) == 4

    def test_a_tube_that_is_nowhere_is_not_made(self, cluster: StartCluster) -> None:
        a, b = cluster(2)
        with unprobed(a, b) as pool:
            assert pool.kick_by_server(5, tube="nowhere") == {a.address: 0, b.address: 0}
            assert "nowhere" not in a.control.tubes()

    @pytest.mark.parametrize(
        ("buried", "delayed", "bound", "expected"),
        [
            ([3, 0], [0, 5], 10, {"a": 3}),
            ([3, 4], [9, 9], 5, {"a": 3, "b": 2}),
            ([0, 0], [2, 2], 3, {"a": 2, "b": 1}),
            ([0, 0], [0, 0], 3, {}),
        ],
    )
    def test_shares(self, buried: list[int], delayed: list[int], bound: int, expected: dict[str, int]) -> None:
        counts = {
            name: {"current-jobs-buried": buried[place], "current-jobs-delayed": delayed[place]}
            for place, name in enumerate("ab")
        }
        assert shares(counts, bound) == expected

    def test_portions(self) -> None:
        assert list(portions(2 * PORTION + 1)) == [PORTION, PORTION, 1]
        assert list(portions(PORTION)) == [PORTION]


def test_nobody_answers(cluster: StartCluster) -> None:
    [a] = cluster(1)
    with unprobed(a) as pool:
        a.kill()
        for ask in SUMS.values():
            with pytest.raises(NoServerAvailable):
                ask(pool)
        for ask in QUESTIONS.values():
            answers = ask(pool)
            assert isinstance(answers, dict)
            assert isinstance(answers[a.address], BeanpoolError)
