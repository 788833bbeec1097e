"""The helpers of the tests do what the tests rely on."""

from __future__ import annotations

import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.ledger import Ledger
from support.processes import any_child, assert_baseline, children, open_descriptors, run_python, thread_names
from support.raw_client import RawClient, StoredJob, UnexpectedReply
from support.scripted import (
    ScriptedConnection,
    ScriptedServer,
    ScriptMismatch,
    answering,
    close,
    expect,
    expect_line,
    half_close,
    reset,
    send,
    send_bytewise,
    stall,
    stats_reply,
    wait_for,
    with_data,
)
from support.servers import (
    BeanstalkdServer,
    ServerFactory,
    ServerFailed,
    beanstalkd_version,
    find_beanstalkd,
    have_ipv6,
    require_beanstalkd,
    takes_listening_socket,
)
from support.threads import background, run_together
from support.waiting import wait_until, within

import beanpool.testing.finding
import beanpool.testing.servers

if TYPE_CHECKING:
    from conftest import StartCluster, StartScripted


class TestWaiting:
    def test_returns_what_the_predicate_returned(self) -> None:
        answers = iter([None, "", "yes"])
        assert wait_until(lambda: next(answers), "an answer") == "yes"

    def test_says_what_it_waited_for_and_what_it_saw(self) -> None:
        with pytest.raises(AssertionError, match=r"waited 0\.01 s for the moon; the last value was 0"):
            wait_until(lambda: 0, "the moon", timeout=0.01)

    def test_a_predicate_that_raises_is_heard(self) -> None:
        with pytest.raises(ZeroDivisionError):
            wait_until(lambda: 1 / 0, "nothing")

    def test_within_sees_a_late_return_and_a_late_exception(self) -> None:
        with within(1.0):
            pass
        with pytest.raises(AssertionError, match="reserve took"), within(-1.0, "reserve"):
            pass
        with pytest.raises(AssertionError, match="the call took") as caught, within(-1.0):
            raise KeyError
        assert isinstance(caught.value.__context__, KeyError)


class TestThreads:
    def test_results_and_exceptions_come_back(self) -> None:
        assert background(lambda: 5).result() == 5
        call = background(lambda: 1 / 0)
        assert isinstance(call.error(), ZeroDivisionError)
        with pytest.raises(ZeroDivisionError):
            call.result()

    def test_a_hanging_call_fails_the_test(self) -> None:
        release = threading.Event()
        call = background(release.wait, "the sleeper")
        with pytest.raises(AssertionError, match="the sleeper had not ended"):
            call.result(0.01)
        assert not call.done
        release.set()
        assert call.result()
        assert call.done

    def test_together_is_at_once_and_in_order(self) -> None:
        meeting = threading.Barrier(3)

        def meet(number: int) -> Callable[[], int]:
            def run() -> int:
                meeting.wait(5)
                return number

            return run

        assert run_together(meet(1), meet(2), meet(3)) == [1, 2, 3]


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
        monkeypatch.setattr(beanpool.testing.servers, "takes_listening_socket", lambda binary: False)
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
                assert list(children()) == [server.pid]
                server.restart()
                server.freeze()
            assert not any_child()

    def test_the_end_of_the_starting_thread_does_not_end_the_server(self) -> None:
        server = background(BeanstalkdServer).result()
        background(server.start).result()
        assert server.control.stats()["pid"] == str(server.pid)
        server.stop()

    @pytest.mark.parametrize(
        ("end", "status"), [("sys.exit()", 0), ("os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL)]
    )
    def test_no_server_outlives_the_test_process(self, tmp_path: Path, end: str, status: int) -> None:
        require_beanstalkd()
        source = f"""
import os, signal, sys
from support.servers import BeanstalkdServer
server = BeanstalkdServer()
server.start()
print(server.port, flush=True)
{end}
"""
        here = str(Path(__file__).parent)
        run = run_python(source, environment={"PYTHONPATH": here, "TMPDIR": str(tmp_path)})
        assert (run.stderr, run.returncode) == ("", status)

        def refused() -> bool:
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", int(run.stdout))) != 0

        wait_until(refused, "the end of the server")

    def test_a_fork_leaves_the_servers_of_its_parent_alone(self, beanstalkd: BeanstalkdServer) -> None:
        source_pid = os.getpid()
        child = os.fork()
        if child == 0:
            try:
                beanstalkd.stop()
                beanpool.testing.servers._stop_the_rest()
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
        monkeypatch.setattr(beanpool.testing.finding, "_USUAL_FOLDERS", ())
        with pytest.raises(pytest.fail.Exception, match="apt-get install beanstalkd"):
            require_beanstalkd()


class TestRawClient:
    def test_command_returns_the_reply_as_it_came(self, beanstalkd: BeanstalkdServer) -> None:
        control = beanstalkd.control
        assert control.command(b"use mails") == b"USING mails"
        assert control.command("put 5 0 60 2", b"hi") == b"INSERTED 1"
        assert control.command(b"peek-ready") == b"FOUND 1 2\r\nhi"
        assert control.command(b"nonsense") == b"UNKNOWN_COMMAND"
        assert control.stats_tube("mails")["name"] == "mails"
        assert control.counter("current-jobs-ready", "mails") == 1
        assert control.counter("current-jobs-ready", "no-such-tube") == 0
        with pytest.raises(LookupError, match="no-such-tube"):
            control.stats_tube("no-such-tube")

    def test_every_value_is_text(self, beanstalkd: BeanstalkdServer) -> None:
        names = ["123", "no", "null", "1.10", "0x1F"]
        for name in names:
            beanstalkd.control.put(b"", name)
        assert set(beanstalkd.control.tubes()) == {"default", *names}
        stats = beanstalkd.control.stats()
        assert stats["current-jobs-ready"] == "5"
        assert '"' not in stats["version"]

    def test_the_life_of_a_job(self, beanstalkd: BeanstalkdServer) -> None:
        control, worker = beanstalkd.control, beanstalkd.raw()
        job_id = control.put(b"work", "mails", ttr=60)
        assert worker.reserve() is None
        worker.watch_only("mails")
        assert worker.reserve() == (job_id, b"work", "reserved", "")
        assert control.other_connections() == 1
        assert control.state(job_id) == "reserved"
        assert control.peek(job_id) == b"work"
        assert not control.delete(job_id)
        assert worker.delete(job_id)
        assert control.peek(job_id) is None
        assert control.state(job_id) is None
        assert control.stats_job(job_id) is None

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


def connect(server: ScriptedServer) -> socket.socket:
    return socket.create_connection((server.host, server.port), 5.0)


class TestScripted:
    def test_steps_and_records(self, scripted_server: StartScripted) -> None:
        server = scripted_server([expect_line(b"use a"), send(b"USING a\r\n"), expect(b"xy"), close()])
        with connect(server) as client:
            client.sendall(b"use a\r\nxy")
            assert client.makefile("rb").read() == b"USING a\r\n"
        assert server.received() == b"use a\r\nxy"
        assert server.accepts == 1

    def test_a_callable_is_a_script(self, scripted_server: StartScripted) -> None:
        def echo(connection: ScriptedConnection) -> None:
            connection.send(connection.read_line().upper() + connection.read(1))
            connection.close()

        server = scripted_server(echo)
        with connect(server) as client:
            client.sendall(b"hello\r\n!!")
            assert client.makefile("rb").read() == b"HELLO!"

    def test_connections_play_their_scripts_and_then_the_default(self, scripted_server: StartScripted) -> None:
        server = scripted_server([send(b"1"), close()], [send(b"2"), close()], default=[send(b"more"), close()])
        seen = []
        for _ in range(4):
            with connect(server) as client:
                seen.append(client.makefile("rb").read())
        assert seen == [b"1", b"2", b"more", b"more"]
        assert server.wait_accepts(4).number == 3

    def test_a_mismatch_resets_and_is_reported(self, scripted_server: StartScripted) -> None:
        server = scripted_server([expect_line(b"stats")])
        with connect(server) as client:
            client.sendall(b"quit\r\n")
            with pytest.raises(ConnectionResetError):
                client.recv(1)
        server.stop()
        with pytest.raises(ScriptMismatch, match="expected the line b'stats', got b'quit'"):
            server.check()
        server._errors.clear()

    def test_after_its_script_a_connection_stays_open_and_is_recorded(self, scripted_server: StartScripted) -> None:
        server = scripted_server([send(b"hello")])
        with connect(server) as client:
            assert client.recv(5) == b"hello"
            client.sendall(b"still there")
            connection = server.wait_accepts(1)
            wait_until(lambda: connection.received == b"still there", "the bytes")
            assert not connection.closed.is_set()
        assert connection.closed.wait(5)

    def test_close_is_orderly_even_with_unread_input(self, scripted_server: StartScripted) -> None:
        ready = threading.Event()
        server = scripted_server([wait_for(ready), send(b"bye"), close()])
        with connect(server) as client:
            client.sendall(b"unread")
            ready.set()
            assert client.makefile("rb").read() == b"bye"

    def test_reset(self, scripted_server: StartScripted) -> None:
        server = scripted_server([expect(b"x"), reset()])
        with connect(server) as client:
            client.sendall(b"x")
            with pytest.raises(ConnectionResetError):
                client.recv(1)

    def test_half_close(self, scripted_server: StartScripted) -> None:
        server = scripted_server([half_close(), expect(b"still taken")])
        with connect(server) as client:
            assert client.recv(1) == b""
            client.sendall(b"still taken")
            wait_until(lambda: server.received() == b"still taken", "the bytes")

    def test_bytewise(self, scripted_server: StartScripted) -> None:
        server = scripted_server([send_bytewise(b"INSERTED 1\r\n", 0.001), close()])
        with connect(server) as client:
            assert client.makefile("rb").read() == b"INSERTED 1\r\n"

    def test_a_stalling_connection_reads_nothing_and_ends_with_the_server(self, scripted_server: StartScripted) -> None:
        server = scripted_server(stall())
        with connect(server) as client:
            client.sendall(b"lost words")
            assert server.wait_accepts(1).received == b""
            with within(2.0):
                server.stop()
            assert server.received() in (b"", b"lost words")
        with pytest.raises(ConnectionRefusedError):
            connect(server)
        assert not thread_names("scripted")

    def test_answering_by_command(self, scripted_server: StartScripted) -> None:
        bodies = []

        def put(connection: ScriptedConnection, line: bytes, body: bytes) -> bytes:
            bodies.append(body)
            return b"INSERTED %d\r\n" % len(bodies)

        server = scripted_server(
            answering({"put": put, "stats": stats_reply(), "peek": with_data(b"FOUND 7", b"seven"), "quit": b""})
        )
        with RawClient((server.host, server.port)) as client:
            assert client.command(b"put 1 0 60 6", b"a\r\nput") == b"INSERTED 1"
            assert client.stats()["id"] == "0123456789abcdef"
            assert client.stats()["version"] == "1.12"
            assert client.peek(7) == b"seven"
            assert client.command(b"reserve-job 5") == b"UNKNOWN_COMMAND"
        assert bodies == [b"a\r\nput"]

    def test_nothing_is_left_of_a_server(self, scripted_server: StartScripted) -> None:
        with assert_baseline():
            server = scripted_server(stall(), default=stall())
            clients = [connect(server) for _ in range(5)]
            server.wait_accepts(5)
            for client in clients:
                client.close()
            server.stop()
            server.stop()


class TestLedger:
    def test_a_clean_run(self, ledger: Ledger, cluster: StartCluster, rng: random.Random) -> None:
        servers = cluster(2)
        for body in ledger.tokens(20, size=64):
            assert len(body) == 64
            server = rng.choice(servers)
            ledger.acked(body, server.address, server.control.put(body))
        assert ledger.acked_count == 20
        for server in servers:
            while (job := server.control.reserve()) and server.control.counter("current-jobs-ready"):
                ledger.delivered(job.body.decode(), server.address, job.id)
                assert server.control.delete(job.id)
                ledger.deleted(job.body.decode())
            server.control.close()
        assert ledger.deleted_count + len(ledger.outstanding()) == 20
        report = ledger.reconcile([server.control for server in servers], exactly_once=True)
        assert (report.acked, report.deliveries, report.deleted) == (20, ledger.deleted_count, ledger.deleted_count)
        assert report.stored == 20 - report.deleted
        assert "all promises kept" in str(report)

    def test_a_lost_job(self, ledger: Ledger, beanstalkd: BeanstalkdServer) -> None:
        body = ledger.token()
        ledger.acked(body, beanstalkd.address, 1)
        with pytest.raises(AssertionError, match=r"I1 acknowledged, but lost \(1\)"):
            ledger.reconcile([beanstalkd.control])
        ledger.reconcile([beanstalkd.control], storage_lost=[beanstalkd.address])

    def test_a_refused_job_that_is_there(self, ledger: Ledger, beanstalkd: BeanstalkdServer) -> None:
        stored, delivered, absent, forgotten = ledger.tokens(4)
        for body in (stored, delivered, absent):
            ledger.refused(body, "draining")
        beanstalkd.control.put(stored)
        beanstalkd.control.put(forgotten)
        ledger.delivered(delivered, beanstalkd.address, 9)
        report = ledger.audit([beanstalkd.control])
        assert [line.partition(":")[0] for line in report.violations] == [
            "I2 refused, but stored (2)",
            "I2 put without a recorded outcome, but stored (1)",
        ]
        assert "draining" in str(report)

    def test_copies_have_to_be_declared(self, ledger: Ledger, cluster: StartCluster) -> None:
        one, two = cluster(2)
        silent, declared, counted, raised, absent = ledger.tokens(5)
        ledger.acked(silent, one.address)
        ledger.acked(declared, one.address, maybe_duplicate=True)
        ledger.acked(counted, one.address, maybe_duplicate=1)
        ledger.ambiguous(raised, attempts=2)
        ledger.ambiguous(absent)
        for body in (silent, declared, counted, raised):
            for server in (one, two):
                server.control.put(body)
        report = ledger.audit([one.control, two.control])
        [violation] = report.violations
        assert violation.startswith("I3 more copies than declared (1)")
        assert silent.partition(b".")[0].decode() in violation
        assert (report.acked, report.ambiguous, report.maybe_duplicate, report.stored) == (3, 2, 2, 8)

    def test_one_job_delivered_twice_is_one_copy(self, ledger: Ledger, beanstalkd: BeanstalkdServer) -> None:
        body = ledger.token()
        ledger.acked(body, beanstalkd.address, 1)
        ledger.delivered(body, beanstalkd.address, 1)
        ledger.delete_failed(body, "lost")
        ledger.delivered(body, beanstalkd.address, 1)
        ledger.deleted(body)
        report = ledger.reconcile([beanstalkd.control])
        assert (report.redelivered, report.failed_deletes) == (1, 1)
        with pytest.raises(AssertionError, match="I3 delivered more than once"):
            ledger.reconcile([beanstalkd.control], exactly_once=True)

    def test_a_deleted_job_that_is_still_there(self, ledger: Ledger, beanstalkd: BeanstalkdServer) -> None:
        body = ledger.token()
        job_id = beanstalkd.control.put(body)
        ledger.acked(body, beanstalkd.address, job_id)
        ledger.delivered(body, beanstalkd.address, job_id)
        ledger.deleted(body)
        with pytest.raises(AssertionError, match="I3 deleted, but still stored"):
            ledger.reconcile([beanstalkd.control])

    def test_a_hoarded_job(self, ledger: Ledger, beanstalkd: BeanstalkdServer) -> None:
        body = ledger.token()
        ledger.acked(body, beanstalkd.address, beanstalkd.control.put(body))
        hoarder = beanstalkd.raw()
        assert hoarder.reserve()
        report = ledger.audit([beanstalkd.control], quiet=0.05)
        assert report.violations == [f"I4 still reserved, with nobody at work (1): 1 at {beanstalkd.address}"]

    def test_a_body_that_nobody_put(self, ledger: Ledger, beanstalkd: BeanstalkdServer) -> None:
        ledger.delivered(b"INSERTED 5", beanstalkd.address, 1)
        with pytest.raises(AssertionError, match=r"I6 delivered, but never put \(1\): 1 of 10 bytes"):
            ledger.reconcile([beanstalkd.control])


class TestProcesses:
    def test_descriptors(self) -> None:
        before = open_descriptors()
        with socket.socket() as opened:
            assert set(open_descriptors()) - set(before) == {opened.fileno()}
        assert set(open_descriptors()) == set(before)

    def test_a_leaked_descriptor_and_thread_are_named(self) -> None:
        release = threading.Event()
        opened: list[socket.socket] = []
        with pytest.raises(AssertionError, match=r"descriptors.*socket.*the leaker"), assert_baseline(timeout=0.02):
            opened.append(socket.socket())
            call = background(release.wait, "the leaker")
        opened.pop().close()
        release.set()
        call.result()

    def test_the_baseline_is_waited_for(self) -> None:
        release = threading.Event()
        with assert_baseline():
            call = background(release.wait)
            timer = threading.Timer(0.02, release.set)
            timer.start()
        assert call.result()

    def test_children(self) -> None:
        assert children() == {}
        with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
            assert any_child()
            wait_until(lambda: "input()" in children()[child.pid], "the child's program")
            assert list(children()) == [child.pid]
        assert not any_child()

    def test_run_python(self) -> None:
        run = run_python("import sys, os; print(sys.argv[1], os.environ['COLOUR'])", "x", environment={"COLOUR": "red"})
        assert (run.returncode, run.stdout, run.stderr) == (0, "x red\n", "")
        assert run_python("import warnings; warnings.warn('old')").returncode == 1


class TestFixtures:
    def test_the_seed_repeats_the_numbers(
        self, rng: random.Random, request: pytest.FixtureRequest, pytestconfig: pytest.Config
    ) -> None:
        header = pytestconfig.hook.pytest_report_header(config=pytestconfig, start_path=None)
        seeds = [part for line in header if "BEANPOOL_SEED=" in str(line) for part in [str(line).partition("SEED=")[2]]]
        assert random.Random(f"{int(seeds[0])} {request.node.nodeid}").random() == rng.random()

    def test_leftovers_fail_the_test(self, tmp_path: Path) -> None:
        here = Path(__file__).parent
        fixtures = (here / "conftest.py").read_text().replace("_END_WITHIN = 2.0", "_END_WITHIN = 0.1")
        (tmp_path / "conftest.py").write_text(fixtures)
        (tmp_path / "test_leftovers.py").write_text(
            """
import atexit, subprocess, threading

def test_thread():
    threading.Thread(target=threading.Event().wait, name="beanpool monitor", daemon=True).start()

def test_process():
    child = subprocess.Popen(["sleep", "60"])
    atexit.register(child.wait)
    atexit.register(child.kill)

def test_clean():
    pass
"""
        )
        run = run_python(
            "import sys, pytest; sys.exit(pytest.main(sys.argv[1:]))",
            *("--import-mode=importlib", "-p", "no:cacheprovider", f"--rootdir={tmp_path}", str(tmp_path)),
            environment={"PYTHONPATH": os.pathsep.join([str(here), os.environ.get("PYTHONPATH", "")])},
        )
        assert "3 passed, 2 errors" in run.stdout, run.stdout + run.stderr
        assert "the test left behind: {'threads': ['beanpool monitor']}" in run.stdout
        assert re.search(r"the test left behind: \{'processes': \{\d+: 'sleep 60'\}\}", run.stdout)
