"""A beanstalkd for tests does what the tests rely on."""

from __future__ import annotations

import os
import signal
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.processes import any_child, assert_baseline, children, run_python
from support.servers import (
    BeanstalkdServer,
    ServerFactory,
    beanstalkd_version,
    find_beanstalkd,
    have_ipv6,
    require_beanstalkd,
    takes_listening_socket,
)
from support.threads import background
from support.waiting import wait_until, within

import beanpool.testing.beanstalkd
from beanpool.testing.failures import ServerFailed
from beanpool.testing.raw_client import RawClient, UnexpectedReply

if TYPE_CHECKING:
    from conftest import StartCluster


class TestBeanstalkd:
    def test_serves_at_its_address_with_its_own_process(self, beanstalkd: BeanstalkdServer) -> None:
        assert beanstalkd.running
        assert beanstalkd.address == f"127.0.0.1:{beanstalkd.port}"
        assert beanstalkd.url == f"beanstalk://127.0.0.1:{beanstalkd.port}"
        assert beanstalkd.control.stats()["pid"] == str(beanstalkd.pid)
        assert beanstalkd.control.counter("current-connections") == 1

    def test_a_killed_server_refuses_and_comes_back_empty_on_its_port(self, beanstalkd: BeanstalkdServer) -> None:
        port, pid = beanstalkd.port, beanstalkd.pid
        identity = beanstalkd.control.stats()["id"]
        beanstalkd.control.put(b"gone")
        connected = beanstalkd.raw().open()
        beanstalkd.kill()
        assert not beanstalkd.running
        with pytest.raises(ServerFailed, match="not running"):
            _ = beanstalkd.pid
        for client in (beanstalkd.control, connected):
            with pytest.raises(ConnectionRefusedError):
                client.stats()
        beanstalkd.start()
        assert (beanstalkd.port, beanstalkd.pid == pid) == (port, False)
        assert beanstalkd.control.stats()["id"] != identity
        assert beanstalkd.control.drain_all() == []

    def test_nobody_gets_the_port_of_a_killed_server(self, beanstalkd: BeanstalkdServer) -> None:
        beanstalkd.kill()
        if sys.platform == "linux":
            with socket.socket() as thief, pytest.raises(OSError, match="in use"):
                thief.bind((beanstalkd.host, beanstalkd.port))
        for _ in range(5):
            beanstalkd.restart()
            assert beanstalkd.control.stats()["pid"] == str(beanstalkd.pid)

    @pytest.mark.parametrize("end", ["kill", "terminate"])
    def test_the_log_outlives_the_process(self, beanstalkd_factory: ServerFactory, end: str) -> None:
        server = beanstalkd_factory(wal=True)
        server.control.put(b"kept", "mails")
        getattr(server, end)()
        server.start()
        assert [(job.body, job.tube, job.state) for job in server.control.drain_all()] == [(b"kept", "mails", "ready")]
        folder = server.wal_dir
        assert folder is not None
        assert folder.is_dir()
        server.stop()
        assert not folder.exists()

    def test_a_log_of_many_files_is_put_together(self, beanstalkd_factory: ServerFactory) -> None:
        server = beanstalkd_factory(wal=True)
        folder = server.wal_dir
        assert folder is not None
        for turn in range(4):
            for number in range(10):
                server.control.put(b"%d.%d" % (turn, number), "mails", delay=1000 * number)
            server.control.delete(10 * turn + 1)
            server.control.command(f"kick-job {10 * turn + 2}")
            server.restart()
            # What was there before, and the file that it writes.
            assert len(list(folder.glob("binlog.*"))) == 2
        jobs = {(job.id, job.body, job.tube, job.state) for job in server.control.drain_all()}
        assert jobs == {
            (10 * turn + number + 1, b"%d.%d" % (turn, number), "mails", "ready" if number == 1 else "delayed")
            for turn in range(4)
            for number in range(1, 10)
        }

    def test_a_record_that_was_not_written_to_its_end_is_no_job(self, beanstalkd_factory: ServerFactory) -> None:
        server = beanstalkd_factory(wal=True)
        server.control.put(b"whole")
        server.control.put(b"body of the torn one")
        server.kill()
        assert server.wal_dir is not None
        (file,) = server.wal_dir.glob("binlog.*")
        file.chmod(0o600)
        content = file.read_bytes()
        file.write_bytes(content.replace(b"body of the torn one\r\n", bytes(22)))
        (server.wal_dir / "binlog.2").write_bytes(bytes(4096))
        server.start()
        assert [job.body for job in server.control.drain_all()] == [b"whole"]

    def test_a_frozen_server_accepts_and_is_silent(self, beanstalkd: BeanstalkdServer) -> None:
        beanstalkd.freeze()
        beanstalkd.freeze()
        assert beanstalkd.running
        with beanstalkd.raw(timeout=0.05) as client:
            client.open()
            with pytest.raises(TimeoutError):
                client.stats()
        beanstalkd.thaw()
        assert beanstalkd.control.stats()["pid"] == str(beanstalkd.pid)

    @pytest.mark.parametrize("end", ["kill", "terminate", "restart", "stop"])
    def test_a_frozen_server_can_be_ended(self, beanstalkd: BeanstalkdServer, end: str) -> None:
        beanstalkd.freeze()
        with within(2.0):
            getattr(beanstalkd, end)()
        assert beanstalkd.running == (end == "restart")

    def test_a_dead_server_cannot_be_frozen(self, beanstalkd: BeanstalkdServer) -> None:
        os.kill(beanstalkd.pid, signal.SIGKILL)
        with pytest.raises(ServerFailed, match="ended with status -9"):
            beanstalkd.freeze()
        beanstalkd.kill()
        beanstalkd.start()

    def test_draining_ends_with_the_process(self, beanstalkd: BeanstalkdServer) -> None:
        beanstalkd.drain()
        with pytest.raises(UnexpectedReply, match="DRAINING"):
            beanstalkd.control.put(b"refused")
        beanstalkd.restart()
        assert beanstalkd.control.put(b"taken") == 1

    def test_limits_and_arguments_reach_the_program(self, beanstalkd_factory: ServerFactory) -> None:
        server = beanstalkd_factory(max_job_size=10, wal=True, args=("-s", "8192"))
        assert server.control.stats()["max-job-size"] == "10"
        assert server.control.stats()["binlog-max-size"] == "8192"
        with pytest.raises(UnexpectedReply, match="JOB_TOO_BIG"):
            server.control.put(b"eleven byte")

    def test_a_server_can_run_out_of_descriptors(self, beanstalkd_factory: ServerFactory) -> None:
        server = beanstalkd_factory(nofile=12)
        server.control.open()
        clients = [server.raw(timeout=0.2) for _ in range(12)]

        def answered(client: RawClient) -> bool:
            try:
                return bool(client.stats())
            except TimeoutError:
                return False

        answers: list[bool] = []
        while not answers or answers[-1]:
            answers.append(answered(clients[len(answers)]))
        assert 0 < len(answers) - 1 < 12
        assert server.control.stats()

    def test_a_server_can_run_out_of_memory(self, beanstalkd_factory: ServerFactory) -> None:
        server = beanstalkd_factory(max_job_size=2**30, address_space=2**26)
        assert server.control.put(b"small") == 1
        with pytest.raises(UnexpectedReply, match="OUT_OF_MEMORY"):
            server.control.put(bytes(2**26))
        assert server.control.stats()

    def test_unix_socket(self, beanstalkd_factory: ServerFactory) -> None:
        server = beanstalkd_factory(unix=True, wal=True)
        assert server.address == f"unix:{server.path}"
        assert server.url == f"beanstalk+unix://{server.path}"
        server.control.put(b"kept")
        server.kill()
        with pytest.raises(ConnectionRefusedError):
            server.control.stats()
        server.start()
        assert [job.body for job in server.control.drain_all()] == [b"kept"]

    @pytest.mark.skipif(not have_ipv6(), reason="no IPv6 loopback here")
    def test_ipv6(self, beanstalkd_factory: ServerFactory) -> None:
        server = beanstalkd_factory(host="::1")
        assert server.address == f"[::1]:{server.port}"
        server.restart()
        assert server.control.stats()["pid"] == str(server.pid)

    def test_without_a_handed_over_socket(
        self, beanstalkd_factory: ServerFactory, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(beanpool.testing.beanstalkd, "takes_listening_socket", lambda binary: False)
        server = beanstalkd_factory(wal=True)
        server.control.put(b"kept")
        server.kill()
        with pytest.raises(ConnectionRefusedError):
            server.control.stats()
        server.start()
        assert [job.body for job in server.control.drain_all()] == [b"kept"]

    def test_a_program_that_ignores_the_socket_is_recognised(self, tmp_path: Path) -> None:
        binary = tmp_path / "old-beanstalkd"
        binary.write_text(f'#!/bin/sh\nunset LISTEN_FDS LISTEN_PID\nexec {require_beanstalkd()} "$@"\n')
        binary.chmod(0o755)
        assert not takes_listening_socket(str(binary))
        with BeanstalkdServer(binary=str(binary)) as server:
            server.restart()
            assert server.control.stats()["pid"] == str(server.pid)

    def test_a_server_that_does_not_start_says_why(self) -> None:
        server = BeanstalkdServer(args=("-u", "no-such-user"))
        with pytest.raises(ServerFailed, match="ended with status") as caught:
            server.start()
        assert "no-such-user" in str(caught.value)
        server.stop()
        with pytest.raises(ServerFailed, match="for good"):
            server.start()

    def test_a_cluster_is_of_different_servers(self, cluster: StartCluster) -> None:
        servers = cluster(3)
        assert len({server.port for server in servers}) == 3
        assert len({server.control.stats()["id"] for server in servers}) == 3

    def test_nothing_is_left_of_a_server(self) -> None:
        takes_listening_socket(require_beanstalkd())
        with assert_baseline():
            with BeanstalkdServer(wal=True) as server:
                server.control.put(b"x")
                # Itself, and who ends it if this process cannot.
                assert len(children()) == 2
                server.restart()
                server.freeze()
            assert not any_child()

    def test_the_end_of_the_starting_thread_does_not_end_the_server(self) -> None:
        server = background(BeanstalkdServer).result()
        background(server.start).result()
        assert server.control.stats()["pid"] == str(server.pid)
        server.stop()

    @pytest.mark.parametrize(
        ("end", "status"),
        [
            ("sys.exit()", 0),
            ("os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL),
            ("server.freeze(); os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL),
            ("server.kill(); os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL),
        ],
    )
    def test_nothing_of_a_server_outlives_the_test_process(self, tmp_path: Path, end: str, status: int) -> None:
        require_beanstalkd()
        source = f"""
import os, signal, sys
from support.servers import BeanstalkdServer
server = BeanstalkdServer(wal=True)
server.start()
print(server.port, flush=True)
{end}
"""
        here = str(Path(__file__).parents[1])
        run = run_python(source, environment={"PYTHONPATH": here, "TMPDIR": str(tmp_path)})
        assert (run.stderr, run.returncode) == ("", status)

        def refused() -> bool:
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", int(run.stdout))) != 0

        wait_until(refused, "the end of the server")
        wait_until(lambda: not list(tmp_path.iterdir()), "the end of its folder")

    def test_a_fork_leaves_the_servers_of_its_parent_alone(self, beanstalkd: BeanstalkdServer) -> None:
        source_pid = os.getpid()
        child = os.fork()
        if child == 0:
            try:
                beanstalkd.stop()
                beanpool.testing.beanstalkd._stop_the_rest()
            finally:
                os._exit(0)
        assert os.getpid() == source_pid
        assert os.waitpid(child, 0)[1] == 0
        assert beanstalkd.control.stats()["pid"] == str(beanstalkd.pid)

    def test_the_program_is_looked_for_where_it_was_named(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        binary = require_beanstalkd()
        monkeypatch.setenv("BEANSTALKD", binary)
        monkeypatch.setenv("PATH", str(tmp_path))
        assert find_beanstalkd() == binary
        assert beanstalkd_version(binary)[0].isdigit()
        monkeypatch.setenv("BEANSTALKD", str(tmp_path / "missing"))
        assert find_beanstalkd() is None
        monkeypatch.delenv("BEANPOOL_REQUIRE_SERVERS", raising=False)
        with pytest.raises(pytest.skip.Exception, match=r"\$BEANSTALKD names .*missing"):
            require_beanstalkd()
        monkeypatch.setenv("BEANPOOL_REQUIRE_SERVERS", "1")
        with pytest.raises(pytest.fail.Exception, match="which is no program"):
            require_beanstalkd()
        monkeypatch.delenv("BEANSTALKD")
        monkeypatch.setattr(beanpool.testing.beanstalkd, "_USUAL_FOLDERS", (str(Path(binary).parent),))
        assert find_beanstalkd() == binary
        monkeypatch.setattr(beanpool.testing.beanstalkd, "_USUAL_FOLDERS", ())
        with pytest.raises(pytest.fail.Exception, match="apt-get install beanstalkd"):
            require_beanstalkd()
