"""What a refusal says: to whom, about what, and why; and what it is called."""

from __future__ import annotations

import copy
import pickle
import traceback

import pytest

import beanpool
from beanpool.errors import About, BeanpoolError, CommandFailed, PutFailed, refusal

SERVER = "q1:11300"


@pytest.mark.parametrize(
    ("command", "status", "about", "text"),
    [
        ("delete", "NOT_FOUND", {"job": 7}, "job 7 of q1:11300: there is no such job, or another connection"),
        ("reserve-job", "NOT_FOUND", {"job": 7}, "job 7 of q1:11300: there is no such job, or it is reserved already"),
        ("release", "NOT_FOUND", {"job": 7}, "job 7 of q1:11300: it is not reserved here"),
        ("bury", "NOT_FOUND", {"job": 7}, "job 7 of q1:11300: it is not reserved here"),
        ("touch", "NOT_FOUND", {"job": 7}, "job 7 of q1:11300: it is not reserved here"),
        ("kick-job", "NOT_FOUND", {"job": 7}, "job 7 of q1:11300: there is no such job, or it is neither buried nor"),
        ("stats-job", "NOT_FOUND", {"job": 7}, "job 7 of q1:11300: there is no such job (NOT_FOUND in answer to stats"),
        ("stats-tube", "NOT_FOUND", {"tube": "a"}, "tube a of q1:11300: there is no such tube"),
        ("pause-tube", "NOT_FOUND", {"tube": "a"}, "tube a of q1:11300: there is no such tube"),
        ("delete", "NOT_FOUND", {}, "q1:11300: there is no such job"),
        ("peek-ready", "NOT_FOUND", {}, "q1:11300: there is none (NOT_FOUND in answer to peek-ready)"),
        (
            *("put", "JOB_TOO_BIG", {"size": 70000, "limit": 65535}),
            "q1:11300: a body of 70,000 bytes is larger than the server's max-job-size of 65,535 bytes; beanstalkd -z",
        ),
        ("put", "JOB_TOO_BIG", {"size": 70000}, "q1:11300: a body of 70,000 bytes is larger than the server's max-job"),
        ("put", "JOB_TOO_BIG", {}, "q1:11300: the body is larger than the server's max-job-size; beanstalkd -z sets"),
        ("put", "DRAINING", {"size": 1}, "q1:11300: the server is draining, and takes no new jobs until"),
        ("put", "OUT_OF_MEMORY", {"size": 1}, "q1:11300: the server has no memory for it"),
        ("put", "BURIED", {}, "q1:11300: the server had no memory to queue job 9, and has buried it: it is stored"),
        ("release", "BURIED", {"job": 7}, "job 7 of q1:11300: the server had no memory to queue the job, and has"),
        (
            *("reserve-with-timeout", "DEADLINE_SOON", {"held": {3}}),
            "q1:11300: a job that is reserved on this connection (job 3) is in its last second: finish it, or touch it",
        ),
        (
            "reserve-with-timeout",
            "DEADLINE_SOON",
            {"held": range(1, 9)},
            "q1:11300: a job that is reserved on this con",
        ),
        ("reserve-with-timeout", "DEADLINE_SOON", {}, "q1:11300: a job that is reserved on this connection is in its"),
        ("put", "BAD_FORMAT", {"size": 1}, "q1:11300: the server refused it (BAD_FORMAT in answer to put)"),
    ],
)
def test_a_refusal_speaks_and_keeps_the_arguments_of_beanstalkc(
    command: str, status: str, about: About, text: str
) -> None:
    results = ["9"] if (command, status) == ("put", "BURIED") else []
    error = refusal(command, status, results, server=SERVER, **about)
    assert str(error).startswith(text)
    assert str(error).endswith(f"({status} in answer to {command})")
    assert error.args == (error.command, error.status, error.results) == (command, status, results)
    assert (error.server, error.job, error.tube) == (SERVER, about.get("job"), about.get("tube"))
    for twin in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert (str(twin), type(twin), vars(twin)) == (str(error), type(error), vars(error))


@pytest.mark.parametrize(
    ("status", "certainly_not"),
    [("BAD_FORMAT", True), ("UNKNOWN_COMMAND", True), ("EXPECTED_CRLF", True), ("INTERNAL_ERROR", False)],
)
def test_a_put_that_is_certainly_not_stored_is_a_put_that_failed(status: str, certainly_not: bool) -> None:
    assert isinstance(refusal("put", status, server=SERVER), PutFailed) is certainly_not
    assert not isinstance(refusal("delete", status, server=SERVER), PutFailed)


def test_no_more_than_a_few_jobs_are_named() -> None:
    error = refusal("reserve-with-timeout", "DEADLINE_SOON", server=SERVER, held=range(9, 0, -1))
    assert "(jobs 1, 2, 3, 4, 5, ...) is in its last second" in str(error)


def test_what_somebody_else_makes_looks_as_that_of_beanstalkc() -> None:
    assert str(CommandFailed("delete", "NOT_FOUND", [])) == "('delete', 'NOT_FOUND', [])"


def test_a_traceback_shows_the_name_that_one_catches() -> None:
    public = {name: getattr(beanpool, name) for name in beanpool.__all__}
    kinds = {name: kind for name, kind in public.items() if isinstance(kind, type) and issubclass(kind, BeanpoolError)}
    assert len(kinds) > 20
    for name, kind in kinds.items():
        (line,) = traceback.format_exception_only(kind("what", "HAPPENED", []))
        # Two names are there for code that comes from beanstalkc.
        shown = {"SocketError": "ConnectionFailed", "BeanstalkcException": "BeanpoolError"}.get(name, name)
        assert line.startswith(f"beanpool.{shown}: ")
