"""Puts that a server does not take."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from support.pools import pool_of
from support.scripted import answering, stats_reply
from support.servers import BeanstalkdServer, ServerFactory
from support.threads import background
from support.waiting import wait_until, within

from beanpool import CommandFailed, JobTooBig, NoServerAvailable, PoolManager

if TYPE_CHECKING:
    from conftest import StartCluster, StartScripted
from support.putting import SECRET, key_of, state_of


class TestServersThatDoNotTakeIt:
    def test_one_that_is_down_from_the_start_is_skipped_until_it_is_up(self, cluster: StartCluster) -> None:
        servers = cluster(2)
        servers[0].kill()
        with pool_of(*servers) as pool:
            key = key_of(pool, servers[0].address)
            for _ in range(3):
                with within(0.3):
                    jid = pool.put("job", key=key)
                assert jid.server == servers[1].address
                assert not jid.maybe_duplicate
                assert pool.put("job").server == servers[1].address
            assert state_of(pool, servers[0].address) == "down"
            servers[0].start()
            wait_until(lambda: pool.put("job", key=key).server == servers[0].address, "the server to be used again")

    def test_one_that_drains_gets_no_puts_and_gives_its_jobs(self, cluster: StartCluster) -> None:
        servers = cluster(2)
        with pool_of(*servers) as pool:
            key = key_of(pool, servers[0].address)
            assert pool.put("before", key=key).server == servers[0].address
            servers[0].drain()
            for _ in range(4):
                assert pool.put("meanwhile", key=key).server == servers[1].address
                assert pool.put("meanwhile").server == servers[1].address
            assert servers[0].control.counter("cmd-put") <= 2, "once it has refused it is not asked again"
            assert [status.draining for status in pool.servers] == [True, False]
            assert state_of(pool, servers[0].address) == "up"
            found = []
            while (job := pool.reserve(timeout=0)) is not None:
                found.append(job.body)
                job.delete()
            assert sorted(map(str, found)) == ["before"] + ["meanwhile"] * 8
            servers[0].restart()
            wait_until(lambda: not pool.servers[0].draining, "the new process to be seen")
            assert pool.put("after", key=key).server == servers[0].address

    def test_all_drain(self, cluster: StartCluster) -> None:
        servers = cluster(2)
        with pool_of(*servers) as pool:
            for server in servers:
                server.drain()
            for _ in range(2):
                with within(0.0), pytest.raises(NoServerAvailable, match=r"(?i)draining") as caught:
                    pool.put("job", timeout=5)
                assert set(caught.value.errors) == {server.address for server in servers}
            servers[1].restart()
            assert pool.put("job").server == servers[1].address, "the retry finds it"

    def test_one_drains_and_the_other_one_comes_back(self, cluster: StartCluster) -> None:
        drains, down = cluster(2)
        with pool_of(drains, down) as pool:
            drains.drain()
            down.kill()
            put = background(lambda: pool.put("job", timeout=10))
            wait_until(lambda: pool.servers[1].state == "down", "it to be seen")
            down.start()
            assert put.result().server == down.address

    def test_one_that_is_out_of_memory_rests(self, beanstalkd_factory: ServerFactory) -> None:
        full = beanstalkd_factory(address_space=8 << 20, max_job_size=1 << 20)
        other = beanstalkd_factory(max_job_size=1 << 20)
        body = "x" * 1_000_000
        while full.control.command("put 0 0 10 1000000", body.encode()).startswith(b"INSERTED"):
            pass
        with pool_of(full, other) as pool:
            key = key_of(pool, full.address)
            jid = pool.put(body, key=key)
            assert jid.server == other.address
            assert not jid.maybe_duplicate, "refused is not stored"
            assert state_of(pool, full.address) == "up"
            # It is not asked again at once, though a small body would have its place.
            assert pool.put("small", key=key).server == other.address
            full.control.drain_all()
            wait_until(lambda: pool.put("small", key=key).server == full.address, "the rest to be over")

    @pytest.mark.parametrize("size", [65535, 65536, 10_000_000])
    def test_a_body_that_is_too_big_is_nobodys_fault(self, cluster: StartCluster, size: int) -> None:
        servers = cluster(2)
        with pool_of(*servers, health_interval=60) as pool:
            if size <= 65535:
                assert pool.put(b"x" * size)
                return
            with pytest.raises(JobTooBig) as caught:
                pool.put(b"x" * size)
            assert caught.value.args == ("put", "JOB_TOO_BIG", [])
            assert [status.state for status in pool.servers] == ["up", "up"]
            assert [server.control.counter("cmd-put") for server in servers] == [0, 0], "nobody was sent it"
            pool.put("the connection is as good as before")
            assert pool.get_stats()["returns_bad"] == 0

    def test_a_body_that_is_too_big_for_some_goes_to_the_others(self, beanstalkd_factory: ServerFactory) -> None:
        servers = [beanstalkd_factory(max_job_size=size) for size in (100, 5000, 100)]
        with pool_of(*servers, health_interval=60) as pool:
            for _ in range(6):
                assert pool.put(b"x" * 4000).server == servers[1].address
            with pytest.raises(JobTooBig):
                pool.put(b"x" * 4000, key=key_of(pool, servers[0].address))
            with within(1), pytest.raises(JobTooBig):
                pool.put(b"x" * 6000)

    def test_a_body_that_only_an_absent_server_takes_waits_for_it(self, cluster: StartCluster) -> None:
        small, large = cluster(1, max_job_size=100)[0], cluster(1, max_job_size=5000)[0]
        with pool_of(small, large) as pool:
            pool.wait(2)
            large.kill()
            wait_until(lambda: state_of(pool, large.address) == "down", "the death to be noticed")
            with pytest.raises(NoServerAvailable, match="JOB_TOO_BIG"):
                pool.put(b"x" * 4000, timeout=0.3)
            late = background(lambda: pool.put(b"x" * 4000))
            wait_until(lambda: pool.get_stats()["retries_num"] > 1, "the pause of the put")
            large.start()
            assert late.result().server == large.address

    def test_too_big_for_a_server_that_did_not_say_so(
        self, beanstalkd: BeanstalkdServer, scripted_server: StartScripted
    ) -> None:
        server = scripted_server(default=answering({"stats": stats_reply({"id": "x"}), "put": b"JOB_TOO_BIG\r\n"}))
        with PoolManager([server.address, beanstalkd.address], health_interval=60) as pool:
            key = key_of(pool, server.address)
            with pytest.raises(JobTooBig):
                pool.put(SECRET, key=key)
            assert state_of(pool, server.address) == "up"
            with pytest.raises(JobTooBig):
                pool.put(SECRET, key=key)
            assert server.accepts == 1, "the connection stays in use"
        assert beanstalkd.control.counter("total-jobs") == 0

    @pytest.mark.parametrize("status", ["BAD_FORMAT", "UNKNOWN_COMMAND", "EXPECTED_CRLF"])
    def test_a_refusal_that_no_other_server_would_mend(
        self, beanstalkd: BeanstalkdServer, scripted_server: StartScripted, status: str
    ) -> None:
        server = scripted_server(default=answering({"stats": stats_reply(), "put": f"{status}\r\n".encode()}))
        with (
            PoolManager([server.address, beanstalkd.address]) as pool,
            pytest.raises(CommandFailed, match=status),
        ):
            pool.put(SECRET, key=key_of(pool, server.address))
        assert beanstalkd.control.counter("total-jobs") == 0

    def test_a_job_that_the_server_could_only_bury(self, scripted_server: StartScripted) -> None:
        server = scripted_server(default=answering({"stats": stats_reply(), "put": b"BURIED 12\r\n"}))
        with PoolManager([server.address]) as pool:
            jid = pool.put("job")
            assert (jid, jid.server, jid.buried, jid.maybe_duplicate) == (12, server.address, True, False)
        assert server.received().count(b"put ") == 1, "it is stored: never again"

    def test_one_that_refuses_the_tube(self, beanstalkd: BeanstalkdServer, scripted_server: StartScripted) -> None:
        server = scripted_server(default=answering({"stats": stats_reply(), "use": b"OUT_OF_MEMORY\r\n"}))
        with PoolManager([server.address, beanstalkd.address]) as pool:
            jid = pool.put("job", tube="mails", key=key_of(pool, server.address))
            assert jid.server == beanstalkd.address
            assert not jid.maybe_duplicate
        assert b"put" not in server.received(), "it would have landed in another tube"

    def test_one_that_dies_over_the_use(self, beanstalkd: BeanstalkdServer, scripted_server: StartScripted) -> None:
        """Whatever became of the use: the put was not sent, so there can be no second copy."""
        server = scripted_server(default=answering({"stats": stats_reply(), "use": lambda c, line, body: c.close()}))
        with PoolManager([server.address, beanstalkd.address]) as pool:
            jid = pool.put("job", tube="mails", key=key_of(pool, server.address))
            assert jid.server == beanstalkd.address
            assert not jid.maybe_duplicate
