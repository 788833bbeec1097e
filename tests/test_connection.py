"""A Connection: every command of the protocol, by the names that users of beanstalkc know."""

from __future__ import annotations

import functools
import inspect
import pickle
import traceback
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest
from support.processes import assert_baseline, run_python
from support.scripted import (
    ScriptedServer,
    answering,
    close,
    expect,
    expect_line,
    send,
    stall,
    stats_reply,
    with_data,
)
from support.servers import BeanstalkdServer, ServerFactory, have_ipv6
from support.threads import background, run_together
from support.waiting import wait_until, within

import beanpool
from beanpool import (
    BeanpoolError,
    Buried,
    CommandFailed,
    CommandTimeout,
    Connection,
    ConnectionFailed,
    DeadlineSoon,
    Draining,
    Job,
    JobLost,
    JobTooBig,
    NoServerAvailable,
    NotFound,
    OutOfMemory,
    PoolClosed,
    PoolTimeout,
    PutAmbiguous,
    UnexpectedResponse,
)
from beanpool.errors import Phase, refusal

if TYPE_CHECKING:
    from conftest import StartScripted

Connect = Callable[..., Connection]


@pytest.fixture
def connect() -> Iterator[Connect]:
    """Call it with a server and options for a Connection; all are closed after the test."""
    connections: list[Connection] = []

    def open_connection(server: BeanstalkdServer | ScriptedServer, **options: Any) -> Connection:
        connections.append(Connection(server.host, server.port, **options))
        return connections[-1]

    yield open_connection
    for connection in connections:
        connection.close()


def reserved(connection: Connection, timeout: int = 0) -> Job:
    job = connection.reserve(timeout)
    assert job is not None
    return job


class TestCommands:
    """Each command on a real server."""

    def test_put_and_reserve(self, beanstalkd: BeanstalkdServer, connect: Connect) -> None:
        connection = connect(beanstalkd)
        assert connection.put("hey!") == 1
        assert connection.put(b"bytes", 5, 0, 60) == 2
        assert connection.put(bytearray(b"later"), priority=7, delay=100, ttr=9) == 3
        assert connection.put("") == 4
        assert [connection.stats_job(jid)["pri"] for jid in (1, 2, 3)] == [2**31, 5, 7]
        assert [connection.stats_job(jid)["delay"] for jid in (1, 2, 3)] == [0, 0, 100]
        assert [connection.stats_job(jid)["ttr"] for jid in (1, 2, 3)] == [120, 60, 9]
        jobs = [reserved(connection) for _ in range(3)]
        assert [(job.id, job.body) for job in jobs] == [(2, "bytes"), (1, "hey!"), (4, "")]
        assert connection.reserve(timeout=0) is None

    def test_reserve_waits(self, beanstalkd: BeanstalkdServer, connect: Connect) -> None:
        connection = connect(beanstalkd)
        for timeout in (10, None):
            waiting = background(functools.partial(connection.reserve, timeout))
            wait_until(lambda: beanstalkd.control.counter("current-waiting") == 1, "the server to have a waiter")
            beanstalkd.control.put(b"hello")
            job = waiting.result(5)
            assert job is not None
            assert job.body == "hello"
            job.delete()

    def test_reserve_ends(self, beanstalkd: BeanstalkdServer, connect: Connect) -> None:
        with within(1):
            assert connect(beanstalkd).reserve(1) is None

    def test_reserve_job(self, beanstalkd: BeanstalkdServer, connect: Connect) -> None:
        connection = connect(beanstalkd)
        ready, delayed, buried = connection.put("ready"), connection.put("delayed", delay=100), connection.put("buried")
        connection.reserve_job(buried).bury()
        for jid, body in ((delayed, "delayed"), (buried, "buried"), (ready, "ready")):
            job = connection.reserve_job(jid)
            assert (job.id, job.body, job.reserved, job.tube) == (jid, body, True, None)
        with pytest.raises(NotFound):
            connection.reserve_job(ready)
        with pytest.raises(NotFound):
            connection.reserve_job(99)

    def test_delete(self, beanstalkd: BeanstalkdServer, connect: Connect) -> None:
        connection = connect(beanstalkd)
        jid = connection.put("x")
        connection.delete(jid)
        with pytest.raises(NotFound):
            connection.delete(jid)

    def test_release_bury_touch_and_kick_job(self, beanstalkd: BeanstalkdServer, connect: Connect) -> None:
        connection, control = connect(beanstalkd), beanstalkd.control
        jid = connection.put("x")
        reserved(connection)
        connection.touch(jid)
        connection.release(jid)
        assert (control.state(jid), connection.stats_job(jid)["pri"]) == ("ready", 2**31)
        reserved(connection)
        connection.release(jid, 3, 100)
        assert (control.state(jid), connection.stats_job(jid)["pri"]) == ("delayed", 3)
        connection.kick_job(jid)
        reserved(connection)
        connection.bury(jid)
        assert (control.state(jid), connection.stats_job(jid)["pri"]) == ("buried", 2**31)
        connection.kick_job(jid)
        reserved(connection)
        connection.bury(jid, priority=9)
        assert (control.state(jid), connection.stats_job(jid)["pri"]) == ("buried", 9)
        for refused in (connection.touch, connection.release, connection.bury):
            with pytest.raises(NotFound):
                refused(jid)
        connection.kick_job(jid)
        with pytest.raises(NotFound):
            connection.kick_job(jid)

    def test_kick(self, beanstalkd: BeanstalkdServer, connect: Connect) -> None:
        connection = connect(beanstalkd)
        for _ in range(3):
            connection.put("x")
            reserved(connection).bury()
        assert connection.kick() == 1
        assert connection.kick(bound=10) == 2
        assert connection.kick(0) == 0

    def test_peeks(self, beanstalkd: BeanstalkdServer, connect: Connect) -> None:
        connection = connect(beanstalkd)
        assert connection.peek_ready() is connection.peek_delayed() is connection.peek_buried() is None
        assert connection.peek(1) is None
        connection.use("a")
        connection.watch("a")
        connection.put("buried")
        reserved(connection).bury()
        connection.put("delayed", delay=100)
        connection.put("ready")
        for jid, body, look in (
            (1, "buried", connection.peek_buried),
            (2, "delayed", connection.peek_delayed),
            (3, "ready", connection.peek_ready),
        ):
            for job, tube in ((look(), "a"), (connection.peek(jid), None)):
                assert job is not None
                assert (job.id, job.body, job.tube, job.reserved, job.lost) == (jid, body, tube, False, False)
        assert beanstalkd.control.counter("current-jobs-reserved") == 0

    def test_tubes(self, beanstalkd: BeanstalkdServer, connect: Connect) -> None:
        connection = connect(beanstalkd)
        assert connection.using() == "default"
        assert connection.use("a") == "a"
        assert connection.using() == "a"
        assert connection.watch("b") == 2
        assert connection.watch("b") == 2
        assert connection.watch("c") == 3
        assert connection.watching() == ["default", "b", "c"]
        assert connection.ignore("default") == 2
        assert connection.ignore("nowhere") == 2
        assert connection.ignore("b") == 1
        assert connection.ignore("c") == 1
        assert connection.ignore("nowhere") == 1
        assert connection.watching() == ["c"]
        assert connection.tubes() == ["default", "a", "c"]
        assert repr(connection) == f"<Connection to {beanstalkd.address}, open, uses a, watches c>"

    @pytest.mark.parametrize("tube", ["123", "no", "null", "1.10", "0x1F", "2020-01-01", "yes", "017"])
    def test_a_tube_keeps_its_name_everywhere(self, beanstalkd: BeanstalkdServer, connect: Connect, tube: str) -> None:
        connection = connect(beanstalkd)
        assert connection.use(tube) == tube
        assert connection.using() == tube
        assert connection.watch(tube) == 2
        assert connection.ignore("default") == 1
        assert connection.watching() == [tube]
        assert connection.tubes() == ["default", tube]
        assert connection.stats_tube(tube)["name"] == tube
        jid = connection.put("x")
        assert connection.stats_job(jid)["tube"] == tube
        assert reserved(connection).tube == tube

    def test_stats(self, beanstalkd: BeanstalkdServer, connect: Connect) -> None:
        connection = connect(beanstalkd)
        jid = connection.put("x", delay=100)
        stats = connection.stats()
        assert (stats["current-jobs-delayed"], stats["pid"], stats["draining"]) == (1, beanstalkd.pid, False)
        assert isinstance(stats["version"], str)
        assert isinstance(stats["id"], str)
        assert connection.stats_tube("default")["current-jobs-delayed"] == 1
        assert connection.stats_job(jid)["state"] == "delayed"
        with pytest.raises(NotFound):
            connection.stats_job(99)
        with pytest.raises(NotFound):
            connection.stats_tube("nowhere")

    def test_pause_tube(self, beanstalkd: BeanstalkdServer, connect: Connect) -> None:
        connection = connect(beanstalkd)
        connection.put("x")
        connection.pause_tube("default", 100)
        assert connection.stats_tube("default")["pause"] == 100
        assert connection.reserve(0) is None
        connection.pause_tube("default", seconds=0)
        assert reserved(connection).body == "x"
        with pytest.raises(NotFound):
            connection.pause_tube("nowhere", 1)

    def test_a_job_in_its_last_second_is_announced(self, beanstalkd: BeanstalkdServer, connect: Connect) -> None:
        connection = connect(beanstalkd)
        connection.put("x", ttr=1)
        job = reserved(connection)
        with pytest.raises(DeadlineSoon) as caught:
            connection.reserve(timeout=0)
        assert caught.value.args == ("reserve-with-timeout", "DEADLINE_SOON", [])
        job.touch()
        job.delete()

    def test_refused_puts(self, beanstalkd: BeanstalkdServer, connect: Connect) -> None:
        connection = connect(beanstalkd)
        connection.put("x" * 65535)
        with pytest.raises(JobTooBig) as too_big:
            connection.put("secret" * 20000)
        assert too_big.value.args == ("put", "JOB_TOO_BIG", [])
        assert connection.put("in step") == 2
        beanstalkd.drain()
        with pytest.raises(Draining) as draining:
            connection.put("secret")
        assert draining.value.args == ("put", "DRAINING", [])
        assert reserved(connection).body == "x" * 65535

    def test_constants_and_defaults(self) -> None:
        assert (beanpool.DEFAULT_HOST, beanpool.DEFAULT_PORT) == ("localhost", 11300)
        assert (beanpool.DEFAULT_PRIORITY, beanpool.DEFAULT_TTR) == (2**31, 120)
        assert beanpool.DEFAULT_TUBE_NAME == "default"
        assert (beanpool.SocketError, beanpool.BeanstalkcException) == (ConnectionFailed, BeanpoolError)
        parameters = inspect.signature(Connection).parameters
        assert list(parameters) == ["host", "port", "parse_yaml", "connect_timeout", "timeout", "encoding"]
        assert (parameters["host"].default, parameters["port"].default) == ("localhost", 11300)
        assert parameters["connect_timeout"].kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
        assert parameters["timeout"].kind is inspect.Parameter.KEYWORD_ONLY
        assert list(inspect.signature(Connection.put).parameters) == ["self", "body", "priority", "delay", "ttr"]


class TestYaml:
    def test_true_parses(self, beanstalkd: BeanstalkdServer, connect: Connect) -> None:
        connection = connect(beanstalkd, parse_yaml=True)
        assert connection.tubes() == connection.watching() == ["default"]
        assert connection.stats_tube("default")["current-using"] == 1

    def test_false_leaves_the_text(self, beanstalkd: BeanstalkdServer, connect: Connect) -> None:
        connection = connect(beanstalkd, parse_yaml=False)
        assert connection.tubes() == connection.watching() == "---\n- default\n"
        assert connection.stats_tube("default").startswith("---\nname: ")
        assert connection.stats().startswith("---\ncurrent-jobs-urgent: 0\n")
        connection.put("x")
        job = reserved(connection)
        assert job.stats().startswith("---\nid: 1\n")
        # Keeping its priority does not depend on how the statistics are shown.
        job.release()

    def test_a_callable_gets_the_text(self, beanstalkd: BeanstalkdServer, connect: Connect) -> None:
        connection = connect(beanstalkd, parse_yaml=lambda text: text.split("\n"))
        assert connection.tubes() == connection.watching() == ["---", "- default", ""]
        assert connection.stats_tube("default")[0] == "---"
        connection.put("x")
        assert reserved(connection).stats()[1] == "id: 1"

    def test_what_a_callable_raises_reaches_the_caller(self, beanstalkd: BeanstalkdServer, connect: Connect) -> None:
        connection = connect(beanstalkd, parse_yaml=int)
        with pytest.raises(ValueError, match="invalid literal for int"):
            connection.stats()
        assert connection.using() == "default"

    def test_a_document_that_is_none_closes_the_connection(
        self, scripted_server: StartScripted, connect: Connect
    ) -> None:
        server = scripted_server(answering({"stats": with_data(b"OK", b"[" * 10_000)}))
        connection = connect(server)
        with pytest.raises(UnexpectedResponse, match=f"{server.address} answered stats with a document"):
            connection.stats()
        assert "a document that is not the flat YAML" in connection.closed_because

    def test_yaml_is_not_loaded_before_it_is_needed(self, beanstalkd: BeanstalkdServer) -> None:
        source = """
import sys
import beanpool
assert "yaml" not in sys.modules
with beanpool.Connection("127.0.0.1", int(sys.argv[1])) as connection:
    connection.put("x")
    connection.reserve().delete()
    assert connection.using() == "default"
    print("yaml" in sys.modules)
    connection.stats()
    print("yaml" in sys.modules)
"""
        ended = run_python(source, str(beanstalkd.port))
        assert (ended.stdout.split(), ended.stderr) == (["False", "True"], "")


class TestEncodings:
    def test_utf_8_unless_told_otherwise(self, beanstalkd: BeanstalkdServer, connect: Connect) -> None:
        connection = connect(beanstalkd)
        connection.put("smörgåsbord")
        job = reserved(connection)
        assert (job.body, job.data) == ("smörgåsbord", "smörgåsbord".encode())

    def test_another_encoding(self, beanstalkd: BeanstalkdServer, connect: Connect) -> None:
        connection = connect(beanstalkd, encoding="latin-1")
        connection.put("smörgåsbord")
        assert beanstalkd.control.peek(1) == "smörgåsbord".encode("latin-1")
        assert reserved(connection).body == "smörgåsbord"
        with pytest.raises(ValueError, match="body cannot be encoded as latin-1"):
            connection.put("€")

    def test_none_is_bytes_only(self, beanstalkd: BeanstalkdServer, connect: Connect) -> None:
        connection = connect(beanstalkd, encoding=None)
        with pytest.raises(TypeError, match="encoding=None"):
            connection.put("text")
        connection.put(b"\xff\x00")
        job = reserved(connection)
        assert job.body == job.data == b"\xff\x00"

    def test_a_body_that_cannot_be_decoded_stays_in_hand(self, beanstalkd: BeanstalkdServer, connect: Connect) -> None:
        connection = connect(beanstalkd)
        beanstalkd.control.put(b"\xff\xfe not text")
        job = reserved(connection)
        with pytest.raises(UnicodeDecodeError):
            job.body  # noqa: B018
        assert job.data == b"\xff\xfe not text"
        assert job.reserved
        job.bury()
        assert beanstalkd.control.state(1) == "buried"
        buried = connection.peek_buried()
        assert buried is not None
        with pytest.raises(UnicodeDecodeError):
            buried.body  # noqa: B018
        buried.delete()


class TestAddresses:
    def test_a_unix_socket(self, beanstalkd_factory: ServerFactory) -> None:
        server = beanstalkd_factory(unix=True)
        with Connection.from_url(server.url, timeout=3, encoding=None, parse_yaml=False) as connection:
            assert connection.put(b"x") == 1
            assert (connection.timeout, connection.encoding, connection.parse_yaml) == (3, None, False)
            assert connection.server == server.address == f"unix:{server.path}"
            assert reserved(connection).server == server.address

    def test_ipv6(self, beanstalkd_factory: ServerFactory) -> None:
        if not have_ipv6():
            pytest.skip("this machine has no ::1")
        server = beanstalkd_factory(host="::1")
        for connection in (Connection("::1", server.port), Connection.from_url(server.url)):
            with connection:
                assert connection.using() == "default"
                assert connection.server == server.address == f"[::1]:{server.port}"
                assert (connection.host, connection.port) == ("::1", server.port)

    def test_a_url(self, beanstalkd: BeanstalkdServer) -> None:
        with Connection.from_url(beanstalkd.url) as connection:
            assert connection.put("x") == 1
            assert connection.server == beanstalkd.address
        with Connection.from_url(f"beanstalk://localhost:{beanstalkd.port}") as connection:
            assert connection.server == f"localhost:{beanstalkd.port}"

    def test_a_bad_url_or_option_connects_to_nothing(self, scripted_server: StartScripted) -> None:
        server = scripted_server()
        for url in ("http://localhost", "beanstalk://", "beanstalk://a:port", f"{server.url}/path", ""):
            with pytest.raises(ValueError):
                Connection.from_url(url)
        with pytest.raises(TypeError, match=r"from_url\(\) got an unexpected argument 'timout'"):
            Connection.from_url(server.url, timout=5)
        assert server.accepts == 0

    def test_nobody_listens(self, beanstalkd: BeanstalkdServer) -> None:
        beanstalkd.kill()
        with pytest.raises(ConnectionFailed, match=rf"{beanstalkd.address}: cannot connect \(.*refused") as caught:
            Connection(beanstalkd.host, beanstalkd.port)
        assert not isinstance(caught.value, CommandTimeout)
        assert (caught.value.server, caught.value.phase) == (beanstalkd.address, Phase.CONNECTING)
        assert not caught.value.may_have_taken_effect

    @pytest.mark.parametrize(
        ("arguments", "kind", "message"),
        [
            ({"host": 5}, TypeError, "host must be a str, not int"),
            ({"host": ""}, ValueError, "host must be "),
            ({"host": "a b"}, ValueError, "host must be "),
            ({"port": "11300"}, TypeError, "port must be an int"),
            ({"port": True}, TypeError, "port must be an int"),
            ({"port": 0}, ValueError, "port must be .*from 1 to 65535"),
            ({"port": 65536}, ValueError, "port must be .*from 1 to 65535"),
            ({"parse_yaml": None}, TypeError, "parse_yaml must be True, False or a callable, not NoneType"),
            ({"parse_yaml": "yes"}, TypeError, "parse_yaml must be True, False or a callable, not str"),
            ({"connect_timeout": 0}, ValueError, "connect_timeout must be a positive"),
            ({"connect_timeout": "2"}, TypeError, "connect_timeout must be a number of seconds"),
            ({"timeout": -1}, ValueError, "timeout must be a positive"),
            ({"timeout": float("nan")}, ValueError, "timeout must be a positive"),
            ({"timeout": float("inf")}, ValueError, "timeout must be a positive"),
            ({"timeout": None}, TypeError, "timeout must be a number of seconds"),
            ({"timeout": True}, TypeError, "timeout must be a number of seconds"),
            ({"encoding": "utf-9"}, ValueError, "encoding must be one that Python knows"),
            ({"encoding": 8}, TypeError, "encoding must be a str or None"),
        ],
    )
    def test_bad_arguments_connect_to_nothing(
        self, scripted_server: StartScripted, arguments: dict[str, Any], kind: type[Exception], message: str
    ) -> None:
        server = scripted_server()
        with pytest.raises(kind, match=message):
            Connection(**{"host": server.host, "port": server.port, **arguments})
        assert server.accepts == 0


NO_JOB = b"NOT_FOUND\r\n"


class TestNothingUnasked:
    """What goes over the wire is what the user asked for, and nothing else."""

    def test_every_call_is_one_command(self, scripted_server: StartScripted, connect: Connect) -> None:
        tube = with_data(b"OK", b"---\n- a\n")
        job = with_data(b"FOUND 7", b"x")
        conversation: list[tuple[Callable[[Connection], object], bytes, bytes]] = [
            (lambda c: c.put("x", 1, 2, 3), b"put 1 2 3 1\r\nx\r\n", b"INSERTED 7\r\n"),
            (lambda c: c.use("a"), b"use a\r\n", b"USING a\r\n"),
            (lambda c: c.using(), b"list-tube-used\r\n", b"USING a\r\n"),
            (lambda c: c.watch("a"), b"watch a\r\n", b"WATCHING 2\r\n"),
            (lambda c: c.ignore("default"), b"ignore default\r\n", b"WATCHING 1\r\n"),
            (lambda c: c.ignore("a"), b"ignore a\r\n", b"NOT_IGNORED\r\n"),
            (lambda c: c.watching(), b"list-tubes-watched\r\n", tube),
            (lambda c: c.tubes(), b"list-tubes\r\n", tube),
            (lambda c: c.reserve(5), b"reserve-with-timeout 5\r\n", with_data(b"RESERVED 7", b"x")),
            (lambda c: c.reserve_job(7), b"reserve-job 7\r\n", with_data(b"RESERVED 7", b"x")),
            (lambda c: c.touch(7), b"touch 7\r\n", b"TOUCHED\r\n"),
            (lambda c: c.release(7, 1, 2), b"release 7 1 2\r\n", b"RELEASED\r\n"),
            (lambda c: c.release(7), b"release 7 2147483648 0\r\n", b"RELEASED\r\n"),
            (lambda c: c.bury(7, 1), b"bury 7 1\r\n", b"BURIED\r\n"),
            (lambda c: c.bury(7), b"bury 7 2147483648\r\n", b"BURIED\r\n"),
            (lambda c: c.kick(), b"kick 1\r\n", b"KICKED 0\r\n"),
            (lambda c: c.kick_job(7), b"kick-job 7\r\n", b"KICKED\r\n"),
            (lambda c: c.peek(7), b"peek 7\r\n", job),
            (lambda c: c.peek_ready(), b"peek-ready\r\n", job),
            (lambda c: c.peek_delayed(), b"peek-delayed\r\n", NO_JOB),
            (lambda c: c.peek_buried(), b"peek-buried\r\n", NO_JOB),
            (lambda c: c.stats(), b"stats\r\n", stats_reply()),
            (lambda c: c.stats_job(7), b"stats-job 7\r\n", stats_reply()),
            (lambda c: c.stats_tube("a"), b"stats-tube a\r\n", stats_reply()),
            (lambda c: c.pause_tube("a", 5), b"pause-tube a 5\r\n", b"PAUSED\r\n"),
            (lambda c: c.delete(7), b"delete 7\r\n", b"DELETED\r\n"),
        ]
        server = scripted_server(
            [step for _, request, reply in conversation for step in (expect(request), send(reply))]
        )
        connection = connect(server)
        for call, _, _ in conversation:
            call(connection)
        connection.close()
        wait_until(server.connections[0].closed.is_set, "the server to see the end")
        assert server.received() == b"".join(request for _, request, _ in conversation)

    def test_connecting_and_closing_say_nothing(self, scripted_server: StartScripted, connect: Connect) -> None:
        server = scripted_server([], [])
        connection = connect(server)
        connection.connect()
        connection.reconnect()
        connection.close()
        wait_until(lambda: server.accepts == 2 and all(c.closed.is_set() for c in server.connections), "both ends")
        assert server.received(0) == server.received(1) == b""

    def test_bad_arguments_say_nothing(self, scripted_server: StartScripted, connect: Connect) -> None:
        server = scripted_server([])
        connection = connect(server)
        pipeline = connection.pipeline()
        job = Job(connection, 7, b"x")
        calls: list[tuple[Callable[[], object], str]] = [
            (lambda: connection.put("x", priority=-1), "priority must be from 0 to 4294967295, not -1"),
            (lambda: connection.put("x", priority=2**32), "priority must be from 0 to 4294967295"),
            (lambda: connection.put("x", delay=0.5), "delay must be an int from 0"),  # type: ignore[arg-type]  # Meant.
            (lambda: connection.put("x", ttr=0), "ttr must be from 1"),
            (lambda: connection.put(None), "body must be str or bytes-like"),  # type: ignore[arg-type]  # Meant.
            (lambda: connection.put("\udc80"), "body cannot be encoded"),
            (lambda: connection.use("a b"), "tube must be 1 to 200 characters"),
            (lambda: connection.watch("a\r\ndelete 1"), "tube must be"),
            (lambda: connection.ignore(""), "tube must be"),
            (lambda: connection.stats_tube("-"), "tube must be"),
            (lambda: connection.pause_tube("a", -1), "seconds must be from 0"),
            (lambda: connection.reserve(-1), "timeout must be from 0 to 2147483647"),
            (lambda: connection.reserve(0.5), "timeout must be an int"),  # type: ignore[arg-type]  # Meant.
            (lambda: connection.reserve(2**31), "timeout must be from 0 to 2147483647"),
            (lambda: connection.reserve_job(0), "job id must be from 1"),
            (lambda: connection.delete("7"), "job id must be an int"),  # type: ignore[arg-type]  # Meant.
            (lambda: connection.release(7, True), "priority must be an int"),
            (lambda: connection.release(7, 1, 2**32), "delay must be from 0"),
            (lambda: connection.bury(7, -1), "priority must be from 0"),
            (lambda: connection.touch(2**64), "job id must be from 1"),
            (lambda: connection.kick(-1), "bound must be from 0"),
            (lambda: connection.kick_job(None), "job id must be an int"),  # type: ignore[arg-type]  # Meant.
            (lambda: connection.peek(-1), "job id must be from 1"),
            (lambda: connection.stats_job(1.0), "job id must be an int"),  # type: ignore[arg-type]  # Meant.
            (lambda: pipeline.put("x", priority=-1), "priority must be from 0"),
            (lambda: pipeline.use("a b"), "tube must be"),
            (lambda: pipeline.delete(0), "job id must be from 1"),
            (lambda: pipeline.reserve(-1), "timeout must be from 0"),
            (lambda: job.release(-1), "priority must be from 0"),
            (lambda: job.release(delay=-1), "delay must be from 0"),
            (lambda: job.bury(2**32), "priority must be from 0"),
        ]
        for call, message in calls:
            with pytest.raises((TypeError, ValueError), match=message):
                call()
        pipeline.execute()
        connection.close()
        wait_until(lambda: server.accepts and server.connections[0].closed.is_set(), "the server to see the end")
        assert server.received() == b""

    def test_a_long_reserve_goes_in_slices(self, scripted_server: StartScripted, connect: Connect) -> None:
        def slices(*seconds: int) -> list[Any]:
            return [
                step
                for number in seconds
                for step in (expect_line(b"reserve-with-timeout %d" % number), send(b"TIMED_OUT\r\n"))
            ]

        last = [expect_line(b"reserve-with-timeout 30"), send(with_data(b"RESERVED 7", b"x"))]
        connection = connect(scripted_server(slices(30, 30, 10) + slices(30) + slices(0) + slices(30, 30) + last))
        assert connection.reserve(70) is None
        assert connection.reserve(30) is None
        assert connection.reserve(0) is None
        assert reserved(connection, None).body == "x"  # type: ignore[arg-type]  # None waits for ever.


class TestViolations:
    """A reply that is well-formed and cannot be true closes the connection."""

    @pytest.mark.parametrize(
        ("call", "reply", "what"),
        [
            (lambda c: c.use("a"), b"USING b\r\n", r"another tube \(b\)"),
            (lambda c: c.watch("a"), b"WATCHING 1\r\n", "1 watched tubes where 2 are due"),
            (lambda c: c.watch("a"), b"WATCHING 3\r\n", "3 watched tubes where 2 are due"),
            (lambda c: c.watch("default"), b"WATCHING 2\r\n", "2 watched tubes where 1 are due"),
            (lambda c: c.ignore("a"), b"WATCHING 2\r\n", "2 watched tubes where 1 are due"),
            (lambda c: c.reserve_job(7), with_data(b"RESERVED 8", b"secret"), "another job"),
            (lambda c: c.peek(7), with_data(b"FOUND 8", b"secret"), "another job"),
            (lambda c: c.put("x"), b"FOUND 8 1\r\n", "FOUND in a form or place"),
            (lambda c: c.tubes(), with_data(b"OK", b"---\na: b\n"), "a document that is not"),
            (lambda c: c.stats_job(7), with_data(b"OK", b"---\n- b\n"), "a document that is not"),
        ],
    )
    def test_closes_the_connection(
        self,
        scripted_server: StartScripted,
        connect: Connect,
        call: Callable[[Connection], object],
        reply: bytes,
        what: str,
    ) -> None:
        server = scripted_server([expect_line(), send(reply)])
        connection = connect(server)
        with pytest.raises(UnexpectedResponse, match=f"{server.address} answered .* with {what}") as caught:
            call(connection)
        assert caught.value.server == server.address
        assert connection.closed
        assert "answered " in connection.closed_because
        with pytest.raises(
            ConnectionFailed, match=r"list-tube-used was not sent, the connection is closed: .* answered "
        ):
            connection.using()

    def test_general_refusals(self, scripted_server: StartScripted, connect: Connect) -> None:
        statuses = ("OUT_OF_MEMORY", "BAD_FORMAT", "UNKNOWN_COMMAND")
        server = scripted_server([step for s in statuses for step in (expect_line(), send(s.encode() + b"\r\n"))])
        connection = connect(server)
        for status in statuses:
            with pytest.raises(CommandFailed) as caught:
                connection.touch(1)
            assert caught.value.args == ("touch", status, [])
        assert not connection.closed

    def test_an_internal_error_closes_the_connection(self, scripted_server: StartScripted, connect: Connect) -> None:
        connection = connect(scripted_server([expect_line(), send(b"INTERNAL_ERROR\r\n")]))
        with pytest.raises(CommandFailed) as caught:
            connection.stats()
        assert caught.value.args == ("stats", "INTERNAL_ERROR", [])
        assert "the server answered INTERNAL_ERROR to stats" in connection.closed_because

    def test_a_put_that_is_buried_says_so(self, scripted_server: StartScripted, connect: Connect) -> None:
        connection = connect(scripted_server(answering({"put": b"BURIED 7\r\n", "release": b"BURIED\r\n"})))
        with pytest.raises(Buried) as put:
            connection.put("x")
        assert (put.value.args, put.value.id) == (("put", "BURIED", ["7"]), 7)
        with pytest.raises(Buried) as release:
            connection.release(7)
        assert (release.value.args, release.value.id) == (("release", "BURIED", []), None)


class TestClosing:
    def test_a_closed_connection_says_why(self, beanstalkd: BeanstalkdServer, connect: Connect) -> None:
        connection = connect(beanstalkd)
        assert (connection.closed, connection.closed_because) == (False, "")
        connection.close()
        connection.close()
        assert connection.closed
        for call in (lambda: connection.put("x"), lambda: connection.reserve(0), connection.stats):
            with pytest.raises(
                ConnectionFailed, match=r"was not sent, the connection is closed: it was closed by close"
            ):
                call()
        assert connection.closed_because == "it was closed by close()"
        assert repr(connection).startswith(f"<Connection to {beanstalkd.address}, closed, ")

    def test_as_a_context_manager(self, beanstalkd: BeanstalkdServer) -> None:
        beanstalkd.control.open()
        with assert_baseline(), Connection(beanstalkd.host, beanstalkd.port) as connection:
            connection.put("x")
            assert beanstalkd.control.other_connections() == 1
        assert connection.closed
        wait_until(lambda: beanstalkd.control.other_connections() == 0, "the server to see the end")

    def test_a_dropped_one_is_closed(self, beanstalkd: BeanstalkdServer) -> None:
        beanstalkd.control.open()
        with assert_baseline():
            connection = Connection(beanstalkd.host, beanstalkd.port)
            connection.put("x")
            reserved(connection)
            del connection
        wait_until(lambda: beanstalkd.control.other_connections() == 0, "the server to see the end")
        assert beanstalkd.control.state(1) == "ready"

    def test_a_timeout_closes_it(self, beanstalkd: BeanstalkdServer, connect: Connect) -> None:
        connection = connect(beanstalkd, timeout=0.1)
        beanstalkd.freeze()
        with within(0.1), pytest.raises(CommandTimeout) as caught:
            connection.put("x")
        assert (caught.value.server, caught.value.phase) == (beanstalkd.address, Phase.WAITING)
        assert caught.value.may_have_taken_effect
        beanstalkd.thaw()
        with pytest.raises(ConnectionFailed, match=r"the connection is closed: .*the time for put ran out"):
            connection.put("x")
        connection.reconnect()
        assert connection.using() == "default"

    def test_a_put_cut_off_in_its_body_is_not_stored(self, beanstalkd_factory: ServerFactory, connect: Connect) -> None:
        server = beanstalkd_factory(max_job_size=100_000_000)
        connection = connect(server, timeout=0.1)
        server.freeze()
        with pytest.raises(CommandTimeout) as caught:
            connection.put("x" * 50_000_000)
        assert not caught.value.may_have_taken_effect
        server.thaw()
        wait_until(lambda: server.control.other_connections() == 0, "the server to see the end")
        assert server.control.counter("total-jobs") == 0

    def test_a_put_sent_whole_may_be_stored(self, beanstalkd: BeanstalkdServer, connect: Connect) -> None:
        connection = connect(beanstalkd, timeout=0.1)
        beanstalkd.freeze()
        with pytest.raises(CommandTimeout) as caught:
            connection.put("x")
        assert caught.value.may_have_taken_effect
        beanstalkd.thaw()
        wait_until(lambda: beanstalkd.control.counter("current-jobs-ready") == 1, "the job to be stored")

    def test_a_server_that_dies_in_a_reserve(self, beanstalkd: BeanstalkdServer, connect: Connect) -> None:
        connection = connect(beanstalkd)
        waiting = background(lambda: connection.reserve())
        wait_until(lambda: beanstalkd.control.counter("current-waiting") == 1, "the server to have a waiter")
        beanstalkd.kill()
        error = waiting.error(5)
        assert isinstance(error, ConnectionFailed)
        assert error.server == beanstalkd.address


class TestReconnect:
    def test_tubes_are_restored(self, beanstalkd: BeanstalkdServer, connect: Connect) -> None:
        connection = connect(beanstalkd)
        connection.use("a")
        connection.watch("b")
        connection.watch("1.10")
        connection.reconnect()
        assert (connection.using(), connection.watching()) == ("a", ["default", "b", "1.10"])
        connection.ignore("default")
        connection.close()
        connection.reconnect()
        assert (connection.using(), set(connection.watching())) == ("a", {"b", "1.10"})
        connection.watch("default")
        connection.use("default")
        connection.reconnect()
        assert (connection.using(), set(connection.watching())) == ("default", {"b", "1.10", "default"})

    def test_exactly_what_is_needed_is_sent(self, scripted_server: StartScripted, connect: Connect) -> None:
        first = [expect_line(), send(b"WATCHING 2\r\n"), expect_line(), send(b"WATCHING 1\r\n")]
        again = [
            *(expect_line(b"watch a"), send(b"WATCHING 2\r\n")),
            *(expect_line(b"ignore default"), send(b"WATCHING 1\r\n")),
            *(expect_line(b"list-tube-used"), send(b"USING default\r\n")),
        ]
        connection = connect(scripted_server(first, again))
        connection.watch("a")
        connection.ignore("default")
        connection.reconnect()
        assert connection.using() == "default"

    def test_it_survives_a_restart(self, beanstalkd: BeanstalkdServer, connect: Connect) -> None:
        connection = connect(beanstalkd)
        connection.use("a")
        connection.watch("a")
        connection.ignore("default")
        beanstalkd.kill()
        with pytest.raises(ConnectionFailed):
            connection.using()
        for _ in range(2):
            with pytest.raises(ConnectionFailed, match="refused"):
                connection.reconnect()
        beanstalkd.start()
        connection.reconnect()
        assert (connection.using(), connection.watching()) == ("a", ["a"])

    def test_half_restored_tubes_are_not_used(self, scripted_server: StartScripted, connect: Connect) -> None:
        first = [expect_line(), send(b"USING a\r\n"), expect_line(), send(b"WATCHING 2\r\n")]
        second = [expect_line(b"use a"), send(b"USING a\r\n"), expect_line(b"watch b"), send(b"OUT_OF_MEMORY\r\n")]
        third = [expect_line(b"use a"), send(b"USING a\r\n"), expect_line(b"watch b"), send(b"WATCHING 2\r\n")]
        connection = connect(scripted_server(first, second, third))
        connection.use("a")
        connection.watch("b")
        with pytest.raises(OutOfMemory):
            connection.reconnect()
        assert connection.closed
        connection.reconnect()
        assert "uses a, watches default,b" in repr(connection)

    def test_connect_makes_a_plain_new_one(self, beanstalkd: BeanstalkdServer, connect: Connect) -> None:
        connection = connect(beanstalkd)
        connection.use("a")
        connection.watch("b")
        connection.connect()
        assert (connection.using(), connection.watching()) == ("a", ["default", "b"])
        connection.close()
        connection.connect()
        assert (connection.using(), connection.watching()) == ("default", ["default"])
        # What it believes is what the server knows.
        assert repr(connection).endswith("uses default, watches default>")
        assert connection.watch("c") == 2


class TestThreads:
    def test_two_at_once_is_refused(self, beanstalkd: BeanstalkdServer, connect: Connect) -> None:
        connection = connect(beanstalkd)
        waiting = background(lambda: connection.reserve(10))
        wait_until(lambda: beanstalkd.control.counter("current-waiting") == 1, "the server to have a waiter")
        calls: list[Callable[[], object]] = [
            lambda: connection.put("x"),
            lambda: connection.reserve(0),
            lambda: connection.stats(),
            lambda: connection.watch("a"),
            lambda: connection.pipeline().put("x").execute(),
        ]
        for call in calls:
            with (
                within(0.1),
                pytest.raises(BeanpoolError, match="is in use by another thread; give each thread its own"),
            ):
                call()
        beanstalkd.control.put(b"hello")
        job = waiting.result(5)
        assert job is not None
        assert (job.body, job.reserved) == ("hello", True)
        assert beanstalkd.control.counter("cmd-put") == 1

    def test_replies_are_never_mixed(self, beanstalkd: BeanstalkdServer, connect: Connect) -> None:
        connection = connect(beanstalkd)
        for number in range(8):
            assert connection.put(f"body {number + 1}") == number + 1

        def hammer(number: int) -> int:
            answered = 0
            for _ in range(300):
                try:
                    job = connection.peek(number)
                except BeanpoolError as error:
                    assert type(error) is BeanpoolError  # noqa: PT017  # Refused, not broken.
                    continue
                assert job is not None
                assert (job.id, job.body) == (number, f"body {number}")
                answered += 1
            return answered

        answered = run_together(*(functools.partial(hammer, number) for number in range(1, 9)))
        assert sum(answered) > 0
        assert not connection.closed

    def test_another_thread_can_close_it(self, beanstalkd: BeanstalkdServer, connect: Connect) -> None:
        connection = connect(beanstalkd)
        waiting = background(lambda: connection.reserve())
        wait_until(lambda: beanstalkd.control.counter("current-waiting") == 1, "the server to have a waiter")
        connection.close()
        error = waiting.error(2)
        assert isinstance(error, ConnectionFailed)
        assert "it was closed by close()" in str(error)
        assert connection.closed_because == "it was closed by close()"
        assert connection._open_channel().fileno() == -1
        connection.reconnect()
        assert connection.put("x") == 1


class TestPickling:
    @pytest.mark.parametrize(
        "error",
        [
            CommandFailed("touch", "BAD_FORMAT", []),
            *(
                refusal("put", status, ["7"])
                for status in ("NOT_FOUND", "JOB_TOO_BIG", "DRAINING", "OUT_OF_MEMORY", "BURIED", "DEADLINE_SOON")
            ),
            BeanpoolError("message"),
            UnexpectedResponse("message", server="q1:1", may_have_taken_effect=False),
            ConnectionFailed("message", server="q1:1", phase=Phase.WAITING, may_have_taken_effect=True),
            CommandTimeout("message", server="q1:1", phase=Phase.SENDING),
            PutAmbiguous("message", server="q1:1", attempts=[ValueError("x")]),
            JobLost("message", reason="why"),
            NoServerAvailable("message", errors={"q1:1": PoolTimeout("y")}),
            PoolTimeout("message"),
            PoolClosed("message"),
        ],
        ids=lambda error: type(error).__name__,
    )
    def test_errors_survive_pickling(self, error: BeanpoolError) -> None:
        copy = pickle.loads(pickle.dumps(error))
        assert type(copy) is type(error)
        assert copy.args == error.args or repr(copy.args) == repr(error.args)
        assert repr(vars(copy)) == repr(vars(error))
        assert str(copy) == str(error)

    def test_the_arguments_of_a_failed_command_are_those_of_beanstalkc(
        self, beanstalkd: BeanstalkdServer, connect: Connect
    ) -> None:
        connection = connect(beanstalkd)
        with pytest.raises(CommandFailed) as caught:
            connection.delete(5)
        command, status, results = caught.value.args
        assert (command, status, results) == ("delete", "NOT_FOUND", [])
        assert (caught.value.command, caught.value.status, caught.value.results) == (command, status, results)
        assert type(caught.value) is NotFound
        line = traceback.format_exception_only(caught.value)[-1]
        assert line == "beanpool.errors.CommandFailed: ('delete', 'NOT_FOUND', [])\n"


SECRET = "hunter2"


class TestSecrets:
    """No error and no repr shows the body of a job."""

    def test_errors_of_puts(self, scripted_server: StartScripted, connect: Connect) -> None:
        body = SECRET * 3
        failing: list[Any] = [
            [expect(b"put "), close()],
            [stall()],
            *(
                [expect_line(), expect(body.encode() + b"\r\n"), send(reply)]
                for reply in (
                    b"DRAINING\r\n",
                    b"BAD_FORMAT\r\n",
                    b"OUT_OF_MEMORY\r\n",
                    b"INTERNAL_ERROR\r\n",
                    b"hunter2\r\n",
                    with_data(b"FOUND 1", SECRET.encode()),
                )
            ),
        ]
        server = scripted_server(*failing)
        for _ in failing:
            connection = connect(server, timeout=0.1)
            with pytest.raises(BeanpoolError) as caught:
                connection.put(body)
            self.assert_silent(caught.value)
            with pytest.raises(BeanpoolError) as closed:
                connection.put(body)
                connection.using()
            self.assert_silent(closed.value)

    def test_errors_of_jobs(self, beanstalkd: BeanstalkdServer, connect: Connect) -> None:
        connection = connect(beanstalkd)
        connection.put(SECRET)
        job = reserved(connection)
        assert repr(job) == f"<Job 1 of {beanstalkd.address}, reserved, 7 bytes>"
        beanstalkd.kill()
        with pytest.raises(JobLost) as caught:
            job.delete()
        self.assert_silent(caught.value)
        assert SECRET not in repr(job)

    @staticmethod
    def assert_silent(error: BaseException | None) -> None:
        while error is not None:
            assert SECRET not in "".join(traceback.format_exception_only(error)) + repr(vars(error))
            error = error.__cause__ or error.__context__


FORKED = """
import os, sys
import beanpool
connection = beanpool.Connection("127.0.0.1", int(sys.argv[1]))
connection.put("x")
job = connection.reserve()
child = os.fork()
if child == 0:
    assert connection.closed and job.lost and not job.reserved
    calls = [job.delete, job.touch, job.release, job.bury, job.stats]
    for call in (lambda: connection.put("y"), lambda: connection.reserve(0), *calls):
        try:
            call()
        except (beanpool.ConnectionFailed, beanpool.JobLost) as error:
            assert "parent process" in str(error), error
        else:
            raise AssertionError("the child has used the parent's connection")
    connection.close()
    connection.reconnect()
    assert connection.put("of the child") == 2
    sys.exit(17)
_, status = os.waitpid(child, 0)
assert os.waitstatus_to_exitcode(status) == 17
assert job.reserved and not job.lost
job.delete()
assert connection.put("of the parent") == 3
print("done")
"""


def test_a_forked_child_leaves_the_connection_to_its_parent(beanstalkd: BeanstalkdServer) -> None:
    ended = run_python(FORKED, str(beanstalkd.port))
    assert (ended.stdout, ended.stderr, ended.returncode) == ("done\n", "", 0)
    assert beanstalkd.control.counter("job-timeouts") == 0
