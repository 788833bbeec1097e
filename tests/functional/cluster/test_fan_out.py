"""Commands that concern the whole cluster: sums, each server's own answer, and the servers that gave none."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from support.pools import pool_of
from support.scripted import answering, stats_reply, with_data
from support.threads import run_together
from support.waiting import wait_until, within

from beanpool import (
    BeanpoolError,
    CommandFailed,
    CommandTimeout,
    ConnectionFailed,
    Job,
    NoServerAvailable,
    NotFound,
    PoolManager,
    UnexpectedResponse,
)
from beanpool.cluster.fan_out import merge_stats

if TYPE_CHECKING:
    from conftest import StartCluster, StartDelayLine, StartScripted

# What YAML takes for a number, a truth value, a date or nothing.
WEIRD = ["123", "no", "null", "1.10", "0x1F", "2020-01-01", "true", "1e3", "0o17", "1_000", ".5"]


class TestWait:
    @pytest.mark.parametrize("known_before", [False, True])
    def test_a_silent_server_is_not_waited_for_once_enough_have_answered(
        self, cluster: StartCluster, known_before: bool
    ) -> None:
        servers = cluster(3)
        with pool_of(*servers, health_interval=60) as pool:
            if known_before:
                pool.wait(3)
            servers[2].freeze()
            with within(0.5):
                pool.wait(2)
            # It is found out without a caller.
            wait_until(lambda: pool.servers[2].state != "up", "the silent one to be doubted")
            servers[2].thaw()

    def test_a_far_one_is_connected_all_the_same(self, cluster: StartCluster, delay_line: StartDelayLine) -> None:
        near, distant = cluster(2)
        with PoolManager([near.address, delay_line(distant, 0.8).address], health_interval=60) as pool:
            with within(0.5):
                pool.wait(1)
            wait_until(lambda: pool.servers[1].idle == 1, "the connection to the far one")
            assert pool.servers[1].state == "up"


class TestTubes:
    def test_the_union(self, cluster: StartCluster) -> None:
        servers = cluster(3)
        servers[0].control.put(b"x", tube="a")
        servers[1].control.put(b"x", tube="b")
        servers[2].control.put(b"x", tube="a")
        with pool_of(*servers) as pool:
            assert pool.tubes() == ["a", "b", "default"]
            by_server = pool.tubes_by_server()
            assert list(by_server) == [server.address for server in servers]
            assert [set(tubes) - {"default"} for tubes in by_server.values()] == [{"a"}, {"b"}, {"a"}]

    def test_those_that_the_pool_uses_and_watches_are_there_before_the_first_job(self, cluster: StartCluster) -> None:
        servers = cluster(2)
        with pool_of(*servers, tube="used", watch=["default", "watched"]) as pool:
            assert pool.stats_tube("used")["current-using"] >= 2
            assert pool.stats_tube("watched")["current-watching"] >= 2
            with pytest.raises(NotFound):
                pool.stats_tube("other")
            pool.use("a")
            pool.watch("b")
            pool.watch("c")
            pool.ignore("c")
            pool.pause_tube("b", 60)
            for tubes in pool.tubes_by_server().values():
                assert {"default", "a", "b", "watched"} <= set(tubes)
            assert pool.stats_tube("b")["pause"] == 60
            with pytest.raises(NotFound):
                pool.tube("c").stats()
            # A reserve takes from what it is told to, whatever was watched for a look.
            pool.put("x", tube="b")
            assert pool.reserve(0, tubes="watched") is None

    def test_those_that_it_uses_and_watches_no_more_are_gone(self, cluster: StartCluster) -> None:
        with pool_of(*cluster(1), max_connections=1, health_interval=60) as pool:
            pool.use("a")
            pool.watch("b")
            assert pool.tubes() == ["a", "b", "default"]
            pool.use("default")
            pool.ignore("b")
            assert pool.tubes() == ["default"]

    def test_thousands_that_are_watched_come_in_one_go(self, cluster: StartCluster) -> None:
        servers = cluster(2)
        names = [f"tube-{number}" for number in range(3000)]
        with pool_of(*servers, watch=names) as pool:
            with within(2, "the answer"):
                assert set(pool.tubes()) >= set(names)
            assert pool.stats_tube(names[-1])["current-watching"] >= 2

    def test_a_ping(self, cluster: StartCluster) -> None:
        servers = cluster(2)
        with pool_of(*servers) as pool:
            assert pool.ping() is True
            assert all(0 < seconds < 5 for seconds in pool.ping_by_server().values())
            servers[0].kill()
            assert pool.ping()
            assert isinstance(pool.ping_by_server()[servers[0].address], BeanpoolError)
            servers[1].kill()
            with pytest.raises(NoServerAvailable, match="no server answered"):
                pool.ping()

    @pytest.mark.parametrize("tube", WEIRD)
    def test_a_name_stays_that_name_everywhere(self, cluster: StartCluster, tube: str) -> None:
        servers = cluster(2)
        with pool_of(*servers, watch=[tube]) as pool:
            assert pool.use(tube) == tube == pool.using()
            assert pool.watching() == [tube]
            ids = [pool.put("job"), pool.put("job")]
            assert tube in pool.tubes()
            for tubes in pool.tubes_by_server().values():
                assert tube in tubes
            assert pool.stats_tube(tube)["name"] == tube
            for statistics in pool.stats_tube_by_server(tube).values():
                assert statistics["name"] == tube
            assert pool.tube(tube).stats()["current-jobs-ready"] == 2
            assert [pool.stats_job(jid)["tube"] for jid in ids] == [tube, tube]
            for _ in ids:
                job = pool.reserve(timeout=0)
                assert job is not None
                assert job.tube == tube
                assert job.stats()["tube"] == tube
                job.delete()
            assert pool.watch("default") == 2
            assert pool.ignore(tube) == 1
            assert pool.watching() == ["default"]

    def test_the_pools_own_are_for_all_threads(self, cluster: StartCluster) -> None:
        servers = cluster(2)
        with pool_of(*servers) as pool:
            assert pool.using() == "default"
            assert pool.watching() == ["default"]
            assert pool.use("mails") == "mails"
            assert pool.watch("mails") == 2
            assert pool.watch("mails") == 2
            assert pool.ignore("default") == 1
            assert pool.ignore("mails") == 1, "the last one stays"
            assert run_together(pool.using, lambda: pool.watching()[0]) == ["mails", "mails"]
            pool.put("for mails")
            job = run_together(lambda: pool.reserve(timeout=0))[0]
            assert job is not None
            assert job.tube == "mails"
            job.delete()

    def test_changes_by_many_threads(self, cluster: StartCluster) -> None:
        with pool_of(*cluster(1)) as pool:
            names = [f"tube-{number}" for number in range(32)]
            run_together(*[lambda name=name: pool.watch(name) for name in names])
            assert set(pool.watching()) == {"default", *names}
            run_together(*[lambda name=name: pool.ignore(name) for name in names])
            assert pool.watching() == ["default"]


class TestStatistics:
    def test_counters_are_added_up(self, cluster: StartCluster) -> None:
        servers = cluster(3)
        with pool_of(*servers) as pool:
            for number in range(9):
                pool.put("job", tube="mails", delay=60 if number < 3 else 0)
            total = pool.stats()
            assert total["total-jobs"] == 9
            assert (total["current-jobs-ready"], total["current-jobs-delayed"]) == (6, 3)
            assert total["version"] == servers[0].control.stats()["version"]
            assert total["max-job-size"] == 65535, "a limit is no sum"
            assert total["draining"] is False
            assert "pid" not in total
            assert "id" not in total
            by_server = pool.stats_by_server()
            assert [statistics["id"] for statistics in by_server.values()] == [
                server.control.stats()["id"] for server in servers
            ]
            assert sum(statistics["total-jobs"] for statistics in by_server.values()) == 9
            servers[1].drain()
            assert pool.stats()["draining"] is True

    def test_of_a_tube_that_only_some_have(self, cluster: StartCluster) -> None:
        servers = cluster(3)
        for server in servers[:2]:
            for _ in range(2):
                server.control.put(b"x", tube="mails")
        with pool_of(*servers) as pool:
            total = pool.stats_tube("mails")
            assert (total["name"], total["current-jobs-ready"]) == ("mails", 4)
            *have, has_not = pool.stats_tube_by_server("mails").values()
            assert [statistics["current-jobs-ready"] for statistics in have] == [2, 2]
            assert isinstance(has_not, NotFound)
            with pytest.raises(NotFound):
                pool.stats_tube("unheard-of")

    def test_what_is_no_sum(self) -> None:
        one = {
            "id": "a",
            "uptime": 10,
            "pause": 3,
            "x": 1,
            "name": "t",
            "draining": False,
            "rusage-utime": 0.5,
            "os": "A",
        }
        two = {
            "id": "b",
            "uptime": 4,
            "pause": 7,
            "x": 2,
            "name": "t",
            "draining": True,
            "rusage-utime": 0.25,
            "os": "B",
        }
        assert merge_stats([one]) == one
        assert merge_stats([one, two, {"x": 4}]) == {
            "uptime": 4,
            "pause": 7,
            "x": 7,
            "name": "t",
            "draining": True,
            "rusage-utime": 0.75,
        }


# Calls that ask all servers, and their counterparts that tell what each of them said.
ALL: dict[str, tuple[Callable[[PoolManager], Any], Callable[[PoolManager], dict[str, Any]]]] = {
    "tubes": (PoolManager.tubes, PoolManager.tubes_by_server),
    "stats": (PoolManager.stats, PoolManager.stats_by_server),
    "stats_tube": (lambda pool: pool.stats_tube("default"), lambda pool: pool.stats_tube_by_server("default")),
    "pause_tube": (lambda pool: pool.pause_tube("default", 0), lambda pool: pool.pause_tube_by_server("default", 0)),
    "kick": (PoolManager.kick, PoolManager.kick_by_server),
}


class TestServersThatDoNotAnswer:
    @pytest.mark.parametrize(("add", "each"), ALL.values(), ids=ALL.keys())
    def test_one_is_dead(
        self,
        cluster: StartCluster,
        add: Callable[[PoolManager], Any],
        each: Callable[[PoolManager], dict[str, Any]],
    ) -> None:
        servers = cluster(3)
        servers[1].kill()
        with pool_of(*servers) as pool:
            for _ in range(2):
                add(pool)
                answers = each(pool)
                assert list(answers) == [server.address for server in servers]
                dead = answers[servers[1].address]
                assert isinstance(dead, ConnectionFailed)
                assert servers[1].address in str(dead)
                assert "refused" in str(dead)
                assert not [
                    answer for answer in answers.values() if isinstance(answer, Exception) and answer is not dead
                ]

    @pytest.mark.parametrize(("add", "each"), ALL.values(), ids=ALL.keys())
    def test_all_are_dead(
        self,
        cluster: StartCluster,
        add: Callable[[PoolManager], Any],
        each: Callable[[PoolManager], dict[str, Any]],
    ) -> None:
        servers = cluster(2)
        for server in servers:
            server.kill()
        with pool_of(*servers) as pool:
            with pytest.raises(NoServerAvailable) as caught:
                add(pool)
            assert set(caught.value.errors) == {server.address for server in servers}
            assert all(server.address in str(caught.value) for server in servers)
            assert all(isinstance(answer, ConnectionFailed) for answer in each(pool).values())

    @pytest.mark.parametrize("name", list(ALL))
    def test_one_is_frozen(self, cluster: StartCluster, name: str) -> None:
        """Its silence costs the call its time, and nobody else's answer."""
        servers = cluster(3)
        each = ALL[name][1]
        with pool_of(*servers, timeout=0.3, health_interval=60) as pool:
            each(pool)
            servers[0].freeze()
            with within(0.3):
                answers = each(pool)
            assert isinstance(answers[servers[0].address], ConnectionFailed)
            assert not any(isinstance(answers[server.address], Exception) for server in servers[1:])
            servers[0].thaw()

    def test_all_are_frozen_before_anything_was_asked(self, cluster: StartCluster) -> None:
        """A connect, a handshake and the question have one time, and one thread."""
        servers = cluster(6)
        with pool_of(*servers, timeout=0.4, connect_timeout=10) as pool:
            for server in servers:
                server.freeze()
            threads = set(threading.enumerate())
            with within(0.4):
                answers = pool.stats_by_server()
            assert {type(answer) for answer in answers.values()} == {CommandTimeout}
            assert not [
                thread for thread in threading.enumerate() if thread not in threads and "monitor" not in thread.name
            ]
            for server in servers:
                server.thaw()

    def test_a_question_needs_no_free_connection(self, cluster: StartCluster) -> None:
        """Whoever looks why a pool is stuck gets an answer."""
        servers = cluster(1)
        with pool_of(*servers, max_connections=1) as pool:
            pool.put("x")
            job = pool.reserve(0)
            assert job is not None
            assert pool.stats()["current-jobs-reserved"] == 1
            job.delete()
            wait_until(lambda: servers[0].control.other_connections() == 1, "the further connection to be closed")

    def test_who_does_not_have_the_tube_and_who_does_not_answer(self, cluster: StartCluster) -> None:
        """That no server has it is not known while one is silent."""
        servers = cluster(2)
        servers[1].kill()
        with pool_of(*servers) as pool:
            with pytest.raises(NoServerAvailable, match="NOT_FOUND") as caught:
                pool.stats_tube("mails")
            assert isinstance(caught.value.errors[servers[0].address], NotFound)
            assert isinstance(caught.value.errors[servers[1].address], ConnectionFailed)

    def test_one_answers_nonsense(self, cluster: StartCluster, scripted_server: StartScripted) -> None:
        good = cluster(1)[0]
        odd = scripted_server(
            default=answering(
                {"stats": stats_reply(), "list-tubes": with_data(b"OK", b"---\n- [a, b\n"), "kick": b"KICKED x\r\n"}
            )
        )
        with PoolManager([odd.address, good.address]) as pool:
            assert isinstance(pool.tubes_by_server()[odd.address], UnexpectedResponse)
            assert pool.tubes() == ["default"]
            assert pool.kick() == 0


class TestJobs:
    def test_a_bound_is_one_for_all(self, cluster: StartCluster) -> None:
        servers = cluster(3)
        for server in servers:
            for _ in range(4):
                server.control.put(b"x", tube="mails", delay=1000)
        with pool_of(*servers) as pool:
            assert pool.kick(5) == 0, "the used tube is another one"
            pool.use("mails")
            assert pool.kick(5) == 5
            assert pool.kick(0) == 0
            assert sum(pool.kick_by_server(100).values()) == 7
            assert pool.kick(1) == 0
        assert sum(server.control.counter("current-jobs-ready", "mails") for server in servers) == 12

    def test_a_kick_goes_past_a_dead_server(self, cluster: StartCluster) -> None:
        servers = cluster(2)
        servers[1].control.put(b"x", delay=1000)
        servers[0].kill()
        with pool_of(*servers) as pool:
            answers = pool.kick_by_server(3)
            assert isinstance(answers[servers[0].address], ConnectionFailed)
            assert answers[servers[1].address] == 1

    def test_to_pause(self, cluster: StartCluster) -> None:
        servers = cluster(2)
        for server in servers:
            server.control.put(b"x", tube="mails")
        with pool_of(*servers, watch=["mails"]) as pool:
            pool.pause_tube("mails", 1000)
            assert [server.control.counter("pause", "mails") for server in servers] == [1000, 1000]
            assert pool.stats_tube("mails")["pause"] == 1000
            assert pool.reserve(timeout=0) is None
            pool.pause_tube("mails", 0)
            for _ in servers:
                job = pool.reserve(timeout=1)
                assert job is not None
                job.delete()
            with pytest.raises(NotFound):
                pool.pause_tube("unheard-of", 1)

    @pytest.mark.parametrize("where", [0, 1, 2])
    def test_to_look_at_a_job_wherever_it_is(self, cluster: StartCluster, where: int) -> None:
        servers = cluster(3)
        control = servers[where].control
        with pool_of(*servers) as pool:
            assert pool.peek_ready() is pool.peek_delayed() is pool.peek_buried() is None
            ids = {
                "ready": control.put(b"ready"),
                "delayed": control.put(b"delayed", delay=1000),
                "buried": control.put(b"buried", priority=0),
            }
            assert control.reserve() is not None
            control.command(f"bury {ids['buried']} 0")
            pool.use("mails")
            for state, peek in {
                "ready": pool.peek_ready,
                "delayed": pool.peek_delayed,
                "buried": pool.peek_buried,
            }.items():
                assert peek() is None, "the used tube is another one"
                job = peek(tube="default")
                assert job is not None
                assert (job.id, job.body, job.server, job.reserved) == (
                    ids[state],
                    state,
                    servers[where].address,
                    False,
                )
                assert job.stats()["state"] == state
                job.delete()
                assert peek(tube="default") is None

    def test_a_look_goes_past_a_dead_server(self, cluster: StartCluster) -> None:
        servers = cluster(2)
        servers[0].kill()
        with pool_of(*servers) as pool:
            assert pool.peek_ready() is None
            servers[1].control.put(b"x")
            assert pool.peek_ready() is not None
            servers[1].kill()
            with pytest.raises(NoServerAvailable):
                pool.peek_ready()


class TestTubeHandle:
    def test_every_verb_is_bound_to_its_tube(self, cluster: StartCluster) -> None:
        servers = cluster(2)
        with pool_of(*servers) as pool:
            mails = pool.tube("mails")
            assert mails.name == "mails"
            assert "mails" in repr(mails)
            ids = [mails.put(f"mail {number}", 5, 0, 60, key="a") for number in range(2)]
            late = mails.put("later", delay=1000)
            assert {jid.server for jid in ids} == {pool.route("a")[0]}
            assert (pool.using(), pool.watching()) == ("default", ["default"])
            assert pool.reserve(timeout=0) is None
            looked = mails.peek_ready()
            assert looked is not None
            assert looked.id == ids[0]
            delayed = mails.peek_delayed()
            assert delayed is not None
            assert delayed.id == late
            job = mails.reserve(timeout=0)
            assert job is not None
            assert job.tube == "mails"
            job.bury()
            buried = mails.peek_buried()
            assert buried is not None
            assert buried.id == job.id
            # A server kicks delayed jobs only where none are buried.
            kicked = mails.kick(10)
            kicked += mails.kick(10)
            assert kicked == 2
            assert mails.stats()["current-jobs-ready"] == 3
            mails.pause(1000)
            assert mails.reserve(timeout=0) is None
            mails.pause(0)
            for _ in range(3):
                waited: Job | None = mails.reserve(timeout=1)
                assert waited is not None
                waited.delete()

    @pytest.mark.parametrize("name", ["", "a b", "-a", "x" * 201, "a\r\nb"])
    def test_names_are_checked(self, cluster: StartCluster, name: str) -> None:
        with pool_of(*cluster(1)) as pool:
            for call in (
                pool.tube,
                pool.use,
                pool.watch,
                pool.ignore,
                pool.stats_tube,
                pool.stats_tube_by_server,
                lambda tube: pool.pause_tube(tube, 1),
                lambda tube: pool.kick(1, tube=tube),
                lambda tube: pool.peek_ready(tube=tube),
            ):
                with pytest.raises(ValueError, match="tube"):
                    call(name)
            for bound in (-1, 2**32, True, 1.0, "1"):
                with pytest.raises((TypeError, ValueError), match="bound"):
                    pool.kick(bound)  # type: ignore[arg-type] # wrong on purpose
            for seconds in (-1, 2**32, 0.5, "1", True):
                with pytest.raises((TypeError, ValueError), match="seconds"):
                    pool.pause_tube("default", seconds)  # type: ignore[arg-type] # wrong on purpose


def test_nothing_of_this_disturbs_who_waits_for_jobs(cluster: StartCluster) -> None:
    servers = cluster(2)
    with pool_of(*servers, max_connections=2) as pool:
        results = run_together(
            lambda: pool.reserve(timeout=5),
            lambda: [pool.stats() for _ in range(20)],
            lambda: [pool.tubes() for _ in range(20)],
            lambda: wait_until(lambda: pool.put("at last") if pool.stats()["current-waiting"] else None, "a waiter"),
        )
        job = results[0]
        assert isinstance(job, Job)
        job.delete()


def test_a_refusal_names_the_command(cluster: StartCluster) -> None:
    with pool_of(*cluster(2)) as pool:
        with pytest.raises(CommandFailed) as caught:
            pool.stats_tube("unheard-of")
        assert caught.value.args == ("stats-tube", "NOT_FOUND", [])
