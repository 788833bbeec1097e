"""The embedded server's own promises: its clock, its life, and what only shows in time or in mid-command."""

from __future__ import annotations

import contextlib
import socket
import textwrap
from collections.abc import Iterator

import pytest
from support.processes import assert_baseline, run_python
from support.servers import BeanstalkdServer
from support.threads import background
from support.waiting import wait_until

import beanpool
from beanpool.testing import EmbeddedServer, ServerFailed
from beanpool.testing.raw_client import RawClient, StoredJob

Server = EmbeddedServer | BeanstalkdServer


@pytest.fixture
def embedded() -> Iterator[EmbeddedServer]:
    with EmbeddedServer() as server:
        yield server


@pytest.fixture(params=["embedded", "real"])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """One after the other: what is asserted of the embedded server holds for the real one."""
    started: Server = EmbeddedServer() if request.param == "embedded" else BeanstalkdServer()
    with started:
        yield started


@contextlib.contextmanager
def connected(server: Server) -> Iterator[socket.socket]:
    with socket.create_connection((server.host, server.port), 10) as connection:
        yield connection


def client(server: Server) -> RawClient:
    return RawClient((server.host, server.port), 10)


def read_to_the_end(connection: socket.socket) -> bytes:
    with connection.makefile("rb") as reader:
        return reader.read()


class TestTimePasses:
    """In real time, on both servers; each waits for what must come."""

    def test_a_delay_ends(self, server: Server) -> None:
        with client(server) as control, client(server) as worker:
            jid = control.put(b"later", delay=1)
            assert control.state(jid) == "delayed"
            job = worker.reserve(timeout=10)
            assert job is not None
            assert job.id == jid

    def test_a_reservation_runs_out(self, server: Server) -> None:
        with client(server) as control, client(server) as slow, client(server) as next_one:
            jid = control.put(b"job", ttr=1)
            assert slow.reserve() is not None
            # Its last second has begun at once, and nothing else is there.
            assert slow.command("reserve-with-timeout 10") == b"DEADLINE_SOON"

            def released() -> StoredJob | None:
                # The real one may forget the deadline of a connection that is silent (see docs/testing.md).
                assert slow.command("ping") == b"UNKNOWN_COMMAND"
                return next_one.reserve()

            job = wait_until(released, "the job's return", 20)
            assert job is not None
            assert job.id == jid
            stats = control.stats_job(jid)
            assert stats is not None
            assert (stats["timeouts"], stats["reserves"]) == ("1", "2")
            assert control.counter("job-timeouts") == 1
            assert slow.command(f"touch {jid}") == b"NOT_FOUND"

    def test_a_deadline_comes_while_it_waits(self, server: Server) -> None:
        with client(server) as control, client(server) as worker:
            control.put(b"job", ttr=2)
            assert worker.reserve() is not None
            assert worker.command("reserve") == b"DEADLINE_SOON"

    def test_touch_moves_the_deadline(self, server: Server) -> None:
        with client(server) as control, client(server) as worker:
            jid = control.put(b"job", ttr=1)
            worker.reserve()
            wait_until(lambda: worker.command("reserve-with-timeout 0") == b"DEADLINE_SOON", "the last second")
            assert worker.command(f"touch {jid}") == b"TOUCHED"
            assert worker.command(f"delete {jid}") == b"DELETED"

    def test_a_pause_ends(self, server: Server) -> None:
        with client(server) as control, client(server) as worker:
            control.put(b"job")
            assert control.command("pause-tube default 1") == b"PAUSED"
            assert worker.reserve() is None
            assert worker.reserve(timeout=10) is not None
            stats = control.stats_tube("default")
            assert (stats["pause"], stats["pause-time-left"], stats["cmd-pause-tube"]) == ("0", "0", "1")

    def test_a_pause_hides_jobs_and_not_the_deadline(self, server: Server) -> None:
        with client(server) as control, client(server) as worker:
            control.put(b"job", ttr=1)
            worker.reserve()
            control.put(b"ready, and paused")
            control.command("pause-tube default 1000")
            assert worker.command("reserve-with-timeout 0") == b"DEADLINE_SOON"

    def test_a_reserve_times_out(self, server: Server) -> None:
        with client(server) as worker:
            assert worker.command("reserve-with-timeout 1") == b"TIMED_OUT"


class TestHalfClose:
    @pytest.mark.parametrize("command", [b"reserve\r\n", b"reserve-with-timeout 1000\r\n"])
    def test_a_waiting_reserve_ends(self, server: Server, command: bytes) -> None:
        with connected(server) as connection, client(server) as control:
            connection.sendall(command)
            wait_until(lambda: control.counter("current-waiting") == 1, "the wait")
            connection.shutdown(socket.SHUT_WR)
            assert read_to_the_end(connection) == b"TIMED_OUT\r\n"
            wait_until(lambda: control.other_connections() == 0, "the end")

    def test_a_job_that_raced_in_is_given_back(self, server: Server) -> None:
        with connected(server) as connection, client(server) as control:
            jid = control.put(b"job")
            connection.sendall(b"reserve\r\n")
            connection.shutdown(socket.SHUT_WR)
            assert read_to_the_end(connection) == b"RESERVED %d 3\r\njob\r\n" % jid
            wait_until(lambda: control.state(jid) == "ready", "the job's return")
            stats = control.stats_job(jid)
            assert stats is not None
            assert (stats["reserves"], stats["releases"]) == ("1", "0")

    def test_what_is_behind_the_reserve_is_still_carried_out(self, server: Server) -> None:
        with connected(server) as connection:
            connection.sendall(b"reserve\r\nput 0 0 60 1\r\nx\r\nreserve\r\nquit\r\n")
            connection.shutdown(socket.SHUT_WR)
            assert read_to_the_end(connection) == b"TIMED_OUT\r\nINSERTED 1\r\nRESERVED 1 1\r\nx\r\n"

    def test_half_a_put_is_no_put(self, server: Server) -> None:
        with connected(server) as connection, client(server) as control:
            connection.sendall(b"use mail\r\nput 0 0 60 10\r\nhalf")
            connection.shutdown(socket.SHUT_WR)
            assert read_to_the_end(connection) == b"USING mail\r\n"
            wait_until(lambda: control.tubes() == ["default"], "the end of the tube")
            assert control.counter("total-jobs") == 0


class TestKick:
    def test_delayed_jobs_only_when_none_is_buried(self, server: Server) -> None:
        with client(server) as control:
            delayed = [control.put(b"", delay=1000) for _ in range(2)]
            first, second = control.put(b""), control.put(b"")
            for _ in range(2):
                job = control.reserve()
                assert job is not None
            # In the order of their burials, not of their ids.
            assert control.command(f"bury {second} 0") == control.command(f"bury {first} 0") == b"BURIED"
            assert control.command("kick 1") == b"KICKED 1"
            assert [control.state(jid) for jid in (first, second)] == ["buried", "ready"]
            assert control.command("kick 100") == b"KICKED 1"
            assert [control.state(jid) for jid in delayed] == ["delayed", "delayed"]
            assert control.command("kick 1") == b"KICKED 1"
            assert [control.state(jid) for jid in delayed] == ["ready", "delayed"]


class TestBytes:
    def test_a_client_that_does_not_read_is_not_served_on(self, server: Server) -> None:
        with connected(server) as connection, client(server) as control:
            jid = control.put(b"x" * 60000)
            connection.setblocking(False)
            question = b"peek %d\r\n" % jid * 5000
            sent = 0
            with contextlib.suppress(BlockingIOError):
                while sent < 100 * len(question):
                    sent += connection.send(question)
            asked = control.counter("cmd-peek")
            assert asked < sent // len(b"peek 1\r\n")
            # Reading sets it going again.
            connection.setblocking(True)
            with connection.makefile("rb") as reader:
                for _ in range(asked + 100):
                    assert reader.readline() == b"FOUND %d 60000\r\n" % jid
                    assert len(reader.read(60002)) == 60002

    def test_any_fragmentation_reads_the_same(self, server: Server) -> None:
        with connected(server) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            script = b"use mail\r\nput 5 0 60 4\r\n\r\n\r\n\r\nwatch mail\r\nreserve\r\n"
            for byte in script + b"put 0 0 60 9\r\ntoo longer\r\nquit\r\n":
                connection.sendall(bytes([byte]))
            connection.shutdown(socket.SHUT_WR)
            replies = b"USING mail\r\nINSERTED 1\r\nWATCHING 2\r\nRESERVED 1 4\r\n\r\n\r\n\r\n"
            # One byte short of the line break: what follows is read as a command, from its last byte on.
            assert read_to_the_end(connection) == replies + b"EXPECTED_CRLF\r\nUNKNOWN_COMMAND\r\n"

    def test_what_is_refused_is_swallowed(self, server: Server) -> None:
        with client(server) as control:
            assert control.command("put 0 0 60 65536", b"x" * 65536) == b"JOB_TOO_BIG"
            assert control.command("put 0 0 60 65535", b"x" * 65535).startswith(b"INSERTED")
            server.drain()
            assert control.command("put 0 0 60 3", b"job") == b"DRAINING"
            assert control.command("list-tube-used") == b"USING default"
            assert control.stats()["draining"] == "true"
            assert control.reserve() is not None

    def test_a_wrong_number_lets_the_body_be_read_as_commands(self, server: Server) -> None:
        with connected(server) as connection:
            connection.sendall(b"put 4294967296 0 60 14\r\nlist-tube-used\r\nquit\r\n")
            assert read_to_the_end(connection) == b"BAD_FORMAT\r\nUSING default\r\n"

    def test_many_connections(self, server: Server) -> None:
        with contextlib.ExitStack() as stack:
            control = stack.enter_context(client(server))
            waiting = [stack.enter_context(connected(server)) for _ in range(200)]
            for connection in waiting:
                connection.sendall(b"reserve\r\n")
            wait_until(lambda: control.counter("current-waiting") == 200, "all to wait", 20)
            jids = [control.put(b"%d" % number) for number in range(200)]
            received = sorted(int(connection.recv(100).split()[1]) for connection in waiting)
            assert received == jids
        with client(server) as control:
            wait_until(lambda: control.counter("current-jobs-ready") == 200, "the jobs' return", 20)


class TestClock:
    def test_delays_end_in_their_order(self, embedded: EmbeddedServer) -> None:
        with client(embedded) as control, client(embedded) as worker:
            later, sooner = control.put(b"", delay=200), control.put(b"", delay=100)
            embedded.advance(99)
            assert worker.reserve() is None
            embedded.advance(1)
            assert control.state(sooner) == "ready"
            assert control.state(later) == "delayed"
            job = worker.reserve()
            assert job is not None
            assert job.id == sooner
            embedded.advance(1000)
            assert control.state(later) == "ready"

    def test_all_that_is_due_on_the_way_happens(self, embedded: EmbeddedServer) -> None:
        with client(embedded) as control, client(embedded) as slow, client(embedded) as other:
            control.put(b"", ttr=60)
            assert slow.reserve() is not None
            first = background(lambda: slow.command("reserve"))
            second = background(lambda: other.command("reserve-with-timeout 300"))
            wait_until(lambda: control.counter("current-waiting") == 2, "both to wait")
            embedded.advance(100)
            # The deadline first, then the job, which the other one gets.
            assert (first.result(), second.result()) == (b"DEADLINE_SOON", b"RESERVED 1 0\r\n")
            stats = control.stats_job(1)
            assert stats is not None
            assert (stats["timeouts"], stats["reserves"]) == ("1", "2")
            assert 100 <= int(stats["age"]) < 110
            # 60 seconds from the moment at which the first reservation ran out, 40 seconds ago.
            assert 15 <= int(stats["time-left"]) <= 20

    def test_the_uptime_grows(self, embedded: EmbeddedServer) -> None:
        embedded.advance(3600)
        with client(embedded) as control:
            assert 3600 <= int(control.stats()["uptime"]) < 3700

    def test_a_pause_ends(self, embedded: EmbeddedServer) -> None:
        with client(embedded) as control:
            control.put(b"")
            control.command("pause-tube default 1000")
            assert control.stats_tube("default")["pause"] == "1000"
            embedded.advance(1000)
            assert control.stats_tube("default")["pause"] == "0"
            assert control.reserve() is not None

    @pytest.mark.parametrize("seconds", [-1, -0.1])
    def test_it_does_not_go_back(self, embedded: EmbeddedServer, seconds: float) -> None:
        with pytest.raises(ValueError, match="at least 0"):
            embedded.advance(seconds)

    def test_a_ttr_of_nothing_is_a_second(self, server: Server) -> None:
        with client(server) as control:
            assert control.command("put 0 0 0 0", b"") == b"INSERTED 1"
            stats = control.stats_job(1)
            assert stats is not None
            assert stats["ttr"] == "1"


class TestLife:
    def test_it_leaves_nothing(self) -> None:
        EmbeddedServer().stop()
        with assert_baseline():
            server = EmbeddedServer()
            with server, client(server) as control:
                control.put(b"job")
                assert (server.running, control.counter("current-connections")) == (True, 1)
            assert not server.running

    def test_it_keeps_its_address_and_nothing_else(self, embedded: EmbeddedServer) -> None:
        with client(embedded) as control:
            before = control.stats()["id"]
            control.put(b"job")
            embedded.kill()
            assert not embedded.running
            with pytest.raises(ConnectionError):
                control.stats()
            with pytest.raises(ConnectionRefusedError):
                control.stats()
            embedded.start()
            assert (control.stats()["id"] == before, control.counter("total-jobs")) == (False, 0)
            embedded.restart()
            with pytest.raises(ConnectionError):
                control.stats()

    def test_a_frozen_one_takes_connections_and_answers_nothing(self, embedded: EmbeddedServer) -> None:
        with client(embedded) as control:
            control.put(b"job", delay=100)
            embedded.freeze()
            embedded.advance(1000)
            with connected(embedded) as connection:
                connection.sendall(b"reserve\r\n")
                connection.settimeout(0.05)
                with pytest.raises(TimeoutError):
                    connection.recv(1)
                embedded.thaw()
                connection.settimeout(10)
                assert connection.recv(100) == b"RESERVED 1 3\r\njob\r\n"
        embedded.freeze()

    def test_what_needs_a_running_one_says_so(self) -> None:
        server = EmbeddedServer()
        try:
            for call in (server.freeze, server.thaw, server.drain, lambda: server.advance(1)):
                with pytest.raises(ServerFailed, match=f"{server.address} is not running"):
                    call()
        finally:
            server.stop()

    def test_a_port_in_use_is_named(self, embedded: EmbeddedServer) -> None:
        with (
            assert_baseline(),
            pytest.raises(ServerFailed, match=rf"127\.0\.0\.1 port {embedded.port}: Address already"),
        ):
            EmbeddedServer(port=embedded.port)

    def test_an_address_that_is_not_here_is_named(self) -> None:
        with assert_baseline(), pytest.raises(ServerFailed, match=r"192\.0\.2\.1 port 0: "):
            EmbeddedServer("192.0.2.1")

    def test_an_unknown_version(self) -> None:
        with pytest.raises(ValueError, match=r"1\.12, 1\.13, not '2'"):
            EmbeddedServer(version="2")

    def test_two_are_two(self, embedded: EmbeddedServer) -> None:
        with EmbeddedServer() as other, client(embedded) as here, client(other) as there:
            here.put(b"job")
            assert there.counter("total-jobs") == 0

    def test_ipv6(self) -> None:
        try:
            server = EmbeddedServer("::1")
        except ServerFailed as error:
            pytest.skip(str(error))
        with server, beanpool.PoolManager(server.url) as pool:
            assert server.address == f"[::1]:{server.port}"
            assert pool.put("job").server == server.address

    def test_a_forked_child_lets_go_of_it(self) -> None:
        ended = run_python(
            textwrap.dedent(
                """
                    import os, socket, sys, warnings
                    from beanpool.testing import EmbeddedServer

                    warnings.simplefilter("ignore", DeprecationWarning)
                    with EmbeddedServer() as server:
                        with socket.create_connection((server.host, server.port), 10) as connection:
                            connection.sendall(b"stats\\r\\n")
                            assert connection.recv(1)
                            reading, writing = os.pipe()
                            child = os.fork()
                            if not child:
                                os.close(writing)
                                os.read(reading, 1)
                                os._exit(0)
                            os.close(reading)
                            server.kill()
                            while connection.recv(65536):
                                pass
                            try:
                                socket.create_connection((server.host, server.port), 10)
                            except ConnectionRefusedError:
                                print("gone")
                            os.close(writing)
                            os.waitpid(child, 0)
                """
            )
        )
        assert (ended.returncode, ended.stdout, ended.stderr) == (0, "gone\n", "")


class TestVersions:
    def test_1_13_quotes_names_and_is_strict_with_timeouts(self) -> None:
        with EmbeddedServer(version="1.13") as server, client(server) as control:
            control.put(b"", "no")
            assert b'\nname: "no"\n' in control.command("stats-tube no")
            assert b'\ntube: "no"\n' in control.command("stats-job 1")
            assert b'\nos: "' in control.command("stats")
            assert control.command("reserve-with-timeout -1") == b"BAD_FORMAT"
            assert control.command("reserve-with-timeout x") == b"BAD_FORMAT"
            assert control.command(f"reserve-with-timeout {2**31}") == b"BAD_FORMAT"
            assert control.command("reserve-with-timeout 0.5") == b"TIMED_OUT"

    def test_1_12_does_neither(self) -> None:
        with EmbeddedServer(version="1.12") as server, client(server) as control:
            control.put(b"", "no")
            assert b"\nname: no\n" in control.command("stats-tube no")
            assert b"\ntube: no\n" in control.command("stats-job 1")
            assert control.command("reserve-with-timeout x") == b"TIMED_OUT"
            assert control.command(f"reserve-with-timeout {2**32}") == b"TIMED_OUT"
            with connected(server) as connection:
                connection.sendall(b"reserve-with-timeout -1\r\n")
                wait_until(lambda: control.counter("current-waiting") == 1, "the wait for ever")
                connection.shutdown(socket.SHUT_WR)
                assert read_to_the_end(connection) == b"TIMED_OUT\r\n"


class TestImports:
    def test_beanpool_does_not_load_it_and_it_does_not_load_pytest(self) -> None:
        ended = run_python(
            "import sys, beanpool; print('beanpool.testing' in sys.modules)\n"
            "import beanpool.testing; print([name for name in ('pytest', 'yaml') if name in sys.modules])"
        )
        assert (ended.stdout, ended.stderr) == ("False\n[]\n", "")
