"""What a put returns, and what can be done with it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
from support.pools import pool_of
from support.servers import BeanstalkdServer

from beanpool import BeanpoolError, ConnectionFailed, JobId, JobLost, NotFound, PoolManager, Server

if TYPE_CHECKING:
    from conftest import StartCluster
from support.putting import BY_ID


class TestIds:
    @pytest.mark.parametrize("command", BY_ID.values(), ids=BY_ID.keys())
    def test_a_bare_number_says_too_little_where_there_are_several_servers(
        self, cluster: StartCluster, command: Callable[..., object]
    ) -> None:
        servers = cluster(2)
        ids = [server.control.put(b"job") for server in servers]
        with pool_of(*servers) as pool:
            with pytest.raises(ValueError, match=r"names a different job on each of the 2 servers: pass the JobId"):
                command(pool, ids[0])
            with pytest.raises(ValueError, match=f"must be one of .*{servers[1].address}.*, not 'q7:11300'"):
                command(pool, ids[0], server="q7:11300")
            jid = JobId(ids[0], servers[0].address, servers[0].control.stats()["id"])
            with pytest.raises(ValueError, match=f"that of the JobId \\({servers[0].address}\\)"):
                command(pool, jid, server=servers[1].address)
            for wrong in (*([] if command is PoolManager.peek else [0]), -1, 2**64, True, "1", 1.0, None):
                with pytest.raises((TypeError, ValueError)):
                    command(pool, wrong, server=servers[0].address)
        assert all(server.control.state(1) == "ready" for server in servers)

    def test_commands_on_a_job_by_what_put_returned(self, cluster: StartCluster) -> None:
        servers = cluster(2)
        with pool_of(*servers) as pool:
            ids = [pool.put(f"job {number}") for number in range(4)]
            for number, jid in enumerate(ids):
                server = next(server for server in servers if server.address == jid.server)
                seen = pool.peek(jid)
                assert seen is not None
                assert seen.body == f"job {number}"
                assert not seen.reserved
                assert pool.stats_job(jid)["state"] == "ready"
                for refused in (pool.release, pool.bury, pool.touch, pool.kick_job):
                    with pytest.raises(NotFound):
                        refused(jid)
                job = pool.reserve_job(jid)
                pool.touch(jid)
                pool.bury(jid)
                assert not job.reserved
                assert server.control.state(jid) == "buried"
                pool.kick_job(jid)
                assert server.control.state(jid) == "ready"
                job = pool.reserve_job(jid)
                pool.release(jid, delay=60)
                assert not job.reserved
                assert server.control.state(jid) == "delayed"
                pool.delete(jid)
                assert server.control.state(jid) is None
                assert pool.peek(jid) is None
                with pytest.raises(NotFound):
                    pool.delete(jid)

    def test_commands_by_the_ids_of_jobs_that_were_reserved(self, cluster: StartCluster) -> None:
        servers = cluster(3)
        for server in servers:
            server.control.put(b"job")
        with pool_of(*servers) as pool:
            jobs = [job for _ in servers if (job := pool.reserve(0)) is not None]
            assert [job.number for job in jobs] == [1, 1, 1]
            assert len({job.id for job in jobs}) == 3
            for job in jobs:
                assert isinstance(job.id, JobId)
                assert (job.jid, job.id.server) == (job.id, job.server)
                pool.touch(job.id)
            pool.release(jobs[0].id)
            pool.bury(jobs[1].id)
            pool.delete(jobs[2].id)
            assert [job.reserved for job in jobs] == [False] * 3
            found = [pool.peek(job.id) for job in jobs]
            assert [job and job.id for job in found] == [jobs[0].id, jobs[1].id, None]
            pool.kick_job(jobs[1].id)
            assert pool.delete_many([jobs[0].id, jobs[1].id]) == [None, None]
            jid = pool.put("again")
            (job,) = pool.reserve_many(5, 0)
            assert job.id == jid
            job.delete()

    def test_by_number_and_the_servers_name_or_address(self, cluster: StartCluster) -> None:
        servers = cluster(2)
        named = [Server(server.host, server.port, name=f"q{index}") for index, server in enumerate(servers)]
        with PoolManager(named) as pool:
            for server in servers:
                for _ in range(2):
                    server.control.put(server.address.encode())
            pool.delete(1, server="q0")
            pool.delete(2, server=servers[1].address)
            seen = pool.peek(1, server="q1")
            assert seen is not None
            assert seen.body == servers[1].address
        assert [servers[0].control.state(1), servers[0].control.state(2)] == [None, "ready"]
        assert [servers[1].control.state(1), servers[1].control.state(2)] == ["ready", None]

    def test_by_number_where_there_is_one_server(self, beanstalkd: BeanstalkdServer) -> None:
        with PoolManager([beanstalkd.address]) as pool:
            pool.put("job")
            assert pool.stats_job(1)["tube"] == "default"
            pool.delete(1)

    @pytest.mark.parametrize("command", BY_ID.values(), ids=BY_ID.keys())
    def test_ids_from_before_a_restart_touch_no_job_of_now(
        self, beanstalkd: BeanstalkdServer, command: Callable[..., object]
    ) -> None:
        with pool_of(beanstalkd) as pool:
            old = [pool.put("old") for _ in range(10)]
            beanstalkd.restart()
            witnesses = [beanstalkd.control.put(b"witness") for _ in range(10)]
            assert witnesses == old, "the same numbers"
            before = [beanstalkd.control.stats_job(jid) for jid in witnesses]
            for jid in old:
                with pytest.raises((JobLost, NotFound, ConnectionFailed)) as caught:
                    command(pool, jid)
                assert isinstance(caught.value, BeanpoolError)
            after = [beanstalkd.control.stats_job(jid) for jid in witnesses]
        for was, now in zip(before, after, strict=True):
            assert was is not None
            assert now is not None
            assert {**was, "age": ""} == {**now, "age": ""}
