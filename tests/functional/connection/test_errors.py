"""The errors of a Connection: they can be pickled, and tell no secret."""

from __future__ import annotations

import copy
import errno
import pickle
import re
import socket
import traceback
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest
from support.scripted import close, expect, expect_line, send, stall, with_data
from support.servers import BeanstalkdServer

import beanpool
import beanpool.errors
from beanpool import (
    BeanpoolError,
    CommandFailed,
    CommandTimeout,
    Connection,
    ConnectionFailed,
    DeadlineSoon,
    JobLost,
    JobTooBig,
    NoServerAvailable,
    NotFound,
    PoolClosed,
    PoolManager,
    PoolTimeout,
    PutAmbiguous,
    UnexpectedResponse,
)
from beanpool.errors import Phase, refusal

if TYPE_CHECKING:
    from conftest import StartCluster, StartScripted
from support.connections import Connect, reserved

ERROR_CLASSES = [
    kind for kind in vars(beanpool.errors).values() if isinstance(kind, type) and issubclass(kind, BeanpoolError)
]


class Mine(NotFound):
    """Of a user."""


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
            Mine("touch", "NOT_FOUND", ["of a subclass"]),
            UnexpectedResponse("message", server="q1:1", may_have_taken_effect=False),
            UnexpectedResponse("put", "OK", [], message="message", server="q1:1"),
            ConnectionFailed("message", server="q1:1", phase=Phase.WAITING, may_have_taken_effect=True),
            ConnectionFailed("message", server="q1:1", phase=Phase.CONNECTING, errno=errno.ECONNREFUSED),
            ConnectionFailed(errno.EPIPE, "Broken pipe"),
            *(kind() for kind in ERROR_CLASSES),
            CommandTimeout("message", server="q1:1", phase=Phase.SENDING),
            PutAmbiguous("message", server="q1:1", attempts=[ValueError("x")]),
            JobLost("message", reason="why"),
            NoServerAvailable("message", errors={"q1:1": PoolTimeout("y")}),
            PoolTimeout("message"),
            PoolClosed("message"),
        ],
        ids=lambda error: type(error).__name__,
    )
    @pytest.mark.parametrize("way", [copy.copy, copy.deepcopy, lambda error: pickle.loads(pickle.dumps(error))])
    def test_errors_survive_pickling(self, error: BeanpoolError, way: Callable[[Any], Any]) -> None:
        error.add_note("seen by a user")
        twin = way(error)
        assert type(twin) is type(error)
        assert twin.args == error.args or repr(twin.args) == repr(error.args)
        assert repr(vars(twin)) == repr(vars(error))
        assert str(twin) == str(error)
        for number in ("errno", "strerror"):
            assert getattr(twin, number, None) == getattr(error, number, None)

    @pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
    def test_classes_are_pickled_by_name(self, protocol: int) -> None:
        assert len(ERROR_CLASSES) >= 15
        for kind in [*ERROR_CLASSES, Mine]:
            assert pickle.loads(pickle.dumps(kind, protocol)) is kind
            assert pickle.loads(pickle._dumps(kind, protocol)) is kind  # type: ignore[attr-defined]  # The one in Python.
            assert copy.deepcopy(kind) is kind

    def test_what_stands_on_connections_refuses(self, beanstalkd: BeanstalkdServer, connect: Connect) -> None:
        connection = connect(beanstalkd)
        connection.put("x")
        with PoolManager([beanstalkd.address]) as pool, pool.producer() as producer:
            pool.put("y")
            job = pool.reserve(0)
            assert job is not None
            refusing = [connection, reserved(connection), pool, job, pool.tube("a"), producer]
            for thing in refusing:
                for way in (pickle.dumps, copy.copy, copy.deepcopy):
                    with pytest.raises(TypeError, match=rf"^a {type(thing).__name__} .*make a pool in each process"):
                        way(thing)
            job.delete()


class TestTheirKinds:
    """What code written for beanstalkc, for plain sockets, or for its tests expects of them."""

    def test_of_a_connection_that_nobody_accepts(self) -> None:
        with socket.socket() as closed:
            closed.bind(("127.0.0.1", 0))
            with pytest.raises(ConnectionError) as refused:
                Connection("127.0.0.1", closed.getsockname()[1])
        assert isinstance(refused.value, ConnectionFailed)
        assert refused.value.errno == errno.ECONNREFUSED
        assert str(refused.value).startswith("127.0.0.1:")

    def test_of_silence(self, scripted_server: StartScripted, connect: Connect) -> None:
        with pytest.raises(TimeoutError) as late:
            connect(scripted_server([stall()]), timeout=0.05).using()
        assert isinstance(late.value, CommandTimeout)
        assert late.value.may_have_taken_effect

    def test_of_a_server_that_hangs_up(self, scripted_server: StartScripted, connect: Connect) -> None:
        with pytest.raises(OSError) as broken:
            connect(scripted_server([expect_line(), close()])).using()
        # As it was raised first, not wrapped as what a socket says.
        assert (type(broken.value), broken.value.__cause__) == (ConnectionFailed, None)

    @pytest.mark.parametrize("kind", ERROR_CLASSES)
    def test_they_can_be_raised_with_any_arguments(self, kind: type[BeanpoolError]) -> None:
        with pytest.raises(kind):
            mock.Mock(side_effect=kind)()
        for arguments in (("text",), (errno.EPIPE, "Broken pipe"), ("put", "FOO", ["1"])):
            assert str(kind(*arguments))
        assert beanpool.SocketError("gone").args == ("gone",)
        assert (beanpool.SocketError(errno.EPIPE, "Broken pipe").errno, str(beanpool.SocketError("gone"))) == (
            errno.EPIPE,
            "gone",
        )

    @pytest.mark.parametrize(
        ("reply", "arguments"),
        [
            (b"FOUND 1 5\r\nhello\r\n", ("list-tube-used", "FOUND", [])),
            (b"hello\r\n", ("list-tube-used", "", [])),
        ],
    )
    def test_an_unexpected_response_has_the_arguments_of_beanstalkc(
        self, scripted_server: StartScripted, connect: Connect, reply: bytes, arguments: tuple[str, str, list[str]]
    ) -> None:
        with pytest.raises(UnexpectedResponse, match=r"^127.* answered list-tube-used with ") as caught:
            connect(scripted_server([expect_line(), send(reply)])).using()
        error = caught.value
        assert error.args == (error.command, error.status, error.results) == arguments

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
        assert line.startswith(f"beanpool.NotFound: job 5 of {beanstalkd.address}: there is no such job, or another ")


class TestRefusals:
    """Each verb names what it was about, whatever carries it."""

    BY_JOB: Mapping[str, Callable[[Any], object]] = {
        "delete": lambda verbs: verbs.delete(5),
        "release": lambda verbs: verbs.release(5),
        "bury": lambda verbs: verbs.bury(5),
        "touch": lambda verbs: verbs.touch(5),
        "kick-job": lambda verbs: verbs.kick_job(5),
        "stats-job": lambda verbs: verbs.stats_job(5),
        "reserve-job": lambda verbs: verbs.reserve_job(5),
    }

    @pytest.mark.parametrize("command", BY_JOB)
    def test_a_job(self, beanstalkd: BeanstalkdServer, connect: Connect, command: str) -> None:
        connection, ask = connect(beanstalkd), self.BY_JOB[command]
        told = rf"^job 5 of {beanstalkd.address}: .*\(NOT_FOUND in answer to {command}\)$"
        with PoolManager([beanstalkd.address]) as pool:
            for verbs in (connection, pool):
                with pytest.raises(NotFound, match=told) as caught:
                    ask(verbs)
                assert (caught.value.job, caught.value.server) == (5, beanstalkd.address)
        with connection.pipeline() as pipeline:
            ask(pipeline)
        assert re.match(told, str(pipeline.results[0]))

    def test_a_tube(self, beanstalkd: BeanstalkdServer, connect: Connect) -> None:
        told = rf"^tube gone of {beanstalkd.address}: there is no such tube.*\(NOT_FOUND in answer to "
        connection = connect(beanstalkd)
        with PoolManager([beanstalkd.address]) as pool:
            for verbs in (connection, pool):
                with pytest.raises(NotFound, match=told) as caught:
                    verbs.stats_tube("gone")
                assert caught.value.tube == "gone"
                with pytest.raises(NotFound, match=told) as caught:
                    verbs.pause_tube("gone", 1)
                assert caught.value.tube == "gone"

    def test_a_tube_that_no_server_has_names_all_of_them(self, cluster: StartCluster) -> None:
        addresses = [server.address for server in cluster(2)]
        with PoolManager(addresses) as pool:
            with pytest.raises(NotFound, match=r"^tube gone of ") as caught:
                pool.stats_tube("gone")
            assert set(caught.value.server.split(", ")) == set(addresses)

    def test_a_body_that_is_too_big(self, beanstalkd: BeanstalkdServer, connect: Connect) -> None:
        with pytest.raises(JobTooBig, match=rf"^{beanstalkd.address}: a body of 65,536 bytes is larger ") as caught:
            connect(beanstalkd).put("x" * 65536)
        assert (caught.value.size, caught.value.limit) == (65536, None)
        with PoolManager([beanstalkd.address]) as pool:
            (outcome,) = pool.put_many(["x" * 65536])
            assert isinstance(outcome, JobTooBig)
            with pytest.raises(
                JobTooBig, match=r"65,536 bytes is larger than .* max-job-size of 65,535 bytes"
            ) as caught:
                pool.put("x" * 65536)
            assert (caught.value.size, caught.value.limit) == (outcome.size, outcome.limit) == (65536, 65535)

    def test_a_job_in_its_last_second(self, beanstalkd: BeanstalkdServer, connect: Connect) -> None:
        connection = connect(beanstalkd)
        jid = connection.put("x", ttr=1)
        job = reserved(connection)
        with pytest.raises(DeadlineSoon, match=rf"on this connection \(job {jid}\) is in its last second") as caught:
            connection.reserve(0)
        assert caught.value.held == (job.id,)


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
