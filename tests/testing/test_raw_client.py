"""The raw client says what the server says."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
from support.scripted import close, expect_line, send
from support.servers import BeanstalkdServer
from support.threads import run_together
from support.waiting import wait_until

from beanpool.testing.raw_client import RawClient, StoredJob

if TYPE_CHECKING:
    from conftest import StartScripted


class TestRawClient:
    def test_every_value_is_text(self, beanstalkd: BeanstalkdServer) -> None:
        names = ["123", "no", "null", "1.10", "0x1F"]
        for name in names:
            beanstalkd.control.put(b"", name)
        assert set(beanstalkd.control.tubes()) == {"default", *names}
        stats = beanstalkd.control.stats()
        assert stats["current-jobs-ready"] == "5"
        assert '"' not in stats["version"]

    def test_drain_takes_all_but_reserved_jobs(self, beanstalkd: BeanstalkdServer) -> None:
        control, worker = beanstalkd.control, beanstalkd.raw()
        for body in (b"reserved", b"buried", b"ready 1", b"ready 2"):
            control.put(body)
        control.put(b"late", delay=100)
        assert worker.command(b"reserve-job 1").startswith(b"RESERVED 1 ")
        assert worker.command(b"reserve-job 2").startswith(b"RESERVED 2 ")
        assert worker.command(b"bury 2 1") == b"BURIED"
        control.put(b"elsewhere", "other")
        assert control.drain_jobs() == [
            StoredJob(3, b"ready 1", "ready", "default"),
            StoredJob(4, b"ready 2", "ready", "default"),
            StoredJob(5, b"late", "delayed", "default"),
            StoredJob(2, b"buried", "buried", "default"),
        ]
        assert [job.body for job in control.drain_all()] == [b"elsewhere"]
        worker.close()
        wait_until(lambda: control.state(1) == "ready", "the job to come back")
        assert [job.body for job in control.drain_all()] == [b"reserved"]

    def test_threads_share_a_client(self, beanstalkd: BeanstalkdServer) -> None:
        tubes = [f"tube-{number}" for number in range(4)]

        def fill(tube: str) -> Callable[[], set[int]]:
            return lambda: {beanstalkd.control.put(tube.encode(), tube) for _ in range(50)}

        assert len(set().union(*run_together(*[fill(tube) for tube in tubes]))) == 200
        for tube in tubes:
            assert [job.body for job in beanstalkd.control.drain_jobs(tube)] == [tube.encode()] * 50

    def test_it_notices_a_cut_reply(self, scripted_server: StartScripted) -> None:
        server = scripted_server([expect_line(b"stats"), send(b"OK 10\r\n---\n"), close()], [close()])
        with RawClient((server.host, server.port)) as client:
            for _ in range(2):
                with pytest.raises(ConnectionResetError):
                    client.stats()
