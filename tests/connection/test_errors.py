"""The errors of a Connection: they can be pickled, and tell no secret."""

from __future__ import annotations

import pickle
import traceback
from typing import TYPE_CHECKING, Any

import pytest
from support.scripted import close, expect, expect_line, send, stall, with_data
from support.servers import BeanstalkdServer

from beanpool import (
    BeanpoolError,
    CommandFailed,
    CommandTimeout,
    ConnectionFailed,
    JobLost,
    NoServerAvailable,
    NotFound,
    PoolClosed,
    PoolTimeout,
    PutAmbiguous,
    UnexpectedResponse,
)
from beanpool.errors import Phase, refusal

if TYPE_CHECKING:
    from conftest import StartScripted
from support.connections import Connect, reserved


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
