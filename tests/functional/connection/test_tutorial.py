"""What users of beanstalkc know by heart goes on working: each call that its tutorial makes, and what it shows."""

from __future__ import annotations

import contextlib
import doctest
import io
import re
import sys
import traceback
from typing import Any

import pytest
from support.servers import BeanstalkdServer

import beanpool

TRY = "job = conn.reserve(); print(job.body); job.delete()"
ALL_JOBS = "'current-jobs-buried': 0, 'current-jobs-delayed': 0, 'current-jobs-ready': 0, 'current-jobs-reserved': 0,"
# The class that one catches, and what it is about; its arguments are those that the tutorial shows.
GONE = "NotFound: job ... of localhost:...: there is no such job (NOT_FOUND in answer to stats-job)"

# A call, as typed at the prompt, and what the prompt prints. "..." stands for anything, white space for white space.
STEPS: list[tuple[str, str]] = [
    # Connecting, and the life of a job.
    ("import beanpool", ""),
    ("conn = beanpool.Connection(host='localhost', port=port)", ""),
    ("conn.put('hey!')", "1"),
    ("job = conn.reserve()", ""),
    ("job.body", "'hey!'"),
    ("job.delete()", ""),
    ("conn.reserve(timeout=0) is None", "True"),
    # Tubes.
    ("conn.tubes()", "['default']"),
    ("conn.using()", "'default'"),
    ("conn.use('foo')", "'foo'"),
    ("conn.using()", "'foo'"),
    ("conn.tubes()", "['default', 'foo']"),
    ("conn.use('default')", "'default'"),
    ("conn.using()", "'default'"),
    ("conn.tubes()", "['default']"),
    ("conn.watching()", "['default']"),
    ("conn.watch('bar')", "2"),
    ("conn.watching()", "['default', 'bar']"),
    ("conn.tubes()", "['default', 'bar']"),
    ("conn.ignore('bar')", "1"),
    ("conn.watching()", "['default']"),
    ("conn.ignore('default')", "1"),
    ("conn.watching()", "['default']"),
    # Statistics.
    ("conn.put('ho?')", "2"),
    ("job = conn.reserve()", ""),
    ("from pprint import pprint", ""),
    ("pprint(job.stats())", "{'age': 0, ... 'id': 2, ... 'state': 'reserved', ... 'tube': 'default'}"),
    ("job.delete()", ""),
    ("job.stats()", GONE),
    (
        "pprint(conn.stats_tube('default'))",
        "{... 'current-jobs-ready': 0, 'current-jobs-reserved': 0, 'current-jobs-urgent': 0,"
        " ... 'name': 'default', ...}",
    ),
    ("pprint(conn.stats())", "{... 'current-connections': 1, " + ALL_JOBS + " 'current-jobs-urgent': 0, ...}"),
    # Delays, and the other states of a job.
    ("conn.put('yes!', delay=1)", "3"),
    ("conn.reserve(timeout=0) is None", "True"),
    ("job = conn.reserve(timeout=1)", ""),
    ("job.body", "'yes!'"),
    ("job.release()", ""),
    ("job.stats()['state']", "'ready'"),
    ("job = conn.reserve()", ""),
    ("job.bury()", ""),
    ("job.stats()['state']", "'buried'"),
    ("conn.reserve(timeout=0) is None", "True"),
    ("conn.kick()", "1"),
    ("conn.kick(42)", "0"),
    # Looking without reserving.
    ("job = conn.peek(3)", ""),
    ("job.body", "'yes!'"),
    ("job.stats()['state']", "'ready'"),
    ("conn.peek(42) is None", "True"),
    ("job = conn.peek_ready()", ""),
    ("job.body", "'yes!'"),
    ("job.release()", ""),
    ("job.bury()", ""),
    ("job.stats()['state']", "'ready'"),
    ("job.delete()", ""),
    ("job.stats()", GONE),
    ("conn.put('o tempores', delay=120)", "4"),
    ("job = conn.peek_delayed()", ""),
    ("job.stats()['state']", "'delayed'"),
    ("conn.put('o mores!')", "5"),
    ("job = conn.reserve()", ""),
    ("job.bury()", ""),
    ("job = conn.peek_buried()", ""),
    ("job.stats()['state']", "'buried'"),
    # Priorities.
    ("_ = conn.put('1')", ""),
    ("_ = conn.put('2')", ""),
    (TRY, "1"),
    (TRY, "2"),
    ("_ = conn.put('foo', priority=42)", ""),
    ("_ = conn.put('bar', priority=21)", ""),
    ("_ = conn.put('qux', priority=21)", ""),
    (TRY, "bar"),
    (TRY, "qux"),
    (TRY, "foo"),
    ("conn.close()", ""),
    # Without a YAML parser, and with the user's own.
    ("conn = beanpool.Connection(host='localhost', port=port, parse_yaml=False)", ""),
    ("conn.tubes()", r"'---\n- default\n'"),
    ("conn.stats_tube('default')", r"'---\nname: default\ncurrent-jobs-urgent: 0\ncurrent-jobs-ready: 0\n...'"),
    ("conn.close()", ""),
    ("conn = beanpool.Connection(host='localhost', port=port, parse_yaml=lambda x: x.split('\\n'))", ""),
    ("conn.tubes()", "['---', '- default', '']"),
    ("conn.stats_tube('default')", "['---', 'name: default', 'current-jobs-urgent: 0', ...]"),
    ("conn.close()", ""),
]


def typed(source: str, namespace: dict[str, Any]) -> str:
    """What the prompt prints for `source`: its output, or the last line of a traceback without the module's name."""
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        try:
            exec(compile(source, "<prompt>", "single"), namespace)
        except Exception as error:
            last_line = traceback.format_exception_only(error)[-1]
            print(re.sub(r"^(?:\w+\.)+(?=\w+: )", "", last_line), end="")
    return output.getvalue()


def test_all_81_steps(beanstalkd: BeanstalkdServer) -> None:
    assert len(STEPS) == 81
    assert sys.displayhook is sys.__displayhook__
    namespace: dict[str, Any] = {"port": beanstalkd.port}
    checker = doctest.OutputChecker()
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    for number, (source, expected) in enumerate(STEPS, 1):
        # From 1.13 on the server puts quotes around tube names.
        printed = typed(source, namespace).replace('name: "default"', "name: default")
        wanted = f"{expected}\n" if expected else ""
        assert checker.check_output(wanted, printed, flags), f"step {number}: {source}\n{printed}instead of\n{wanted}"


def test_a_failed_command_is_the_exception_that_users_of_beanstalkc_catch(beanstalkd: BeanstalkdServer) -> None:
    with beanpool.Connection(beanstalkd.host, beanstalkd.port) as conn, pytest.raises(beanpool.CommandFailed) as failed:
        conn.delete(42)
    command, status, results = failed.value.args
    assert (command, status, results) == ("delete", "NOT_FOUND", [])
    with pytest.raises(beanpool.SocketError) as closed:
        conn.put("x")
    assert isinstance(closed.value, beanpool.BeanstalkcException)
