"""``beanpool put``: one job, or one per line of standard input."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from typing import Any

from beanpool import BeanpoolError, JobId, JobTooBig
from beanpool.cli.exits import CommandError, Exit, usage_errors
from beanpool.cli.pool import open_pool
from beanpool.cli.terminal import complain, is_terminal, say, to_json


def run(arguments: argparse.Namespace) -> int:
    """Put what the user named and print where each job went."""
    if arguments.lines and arguments.body not in (None, "-"):
        raise CommandError("with --lines the jobs come from standard input, so no BODY can be given", code=Exit.USAGE)
    options: dict[str, Any] = {
        name: value for name in ("priority", "delay", "ttr", "key") if (value := getattr(arguments, name)) is not None
    }
    with open_pool(arguments) as pool:
        done = 0
        try:
            for body in _bodies(arguments):
                with usage_errors():
                    stored = pool.put(body, tube=arguments.tube, **options)
                done += 1
                _report(stored, arguments)
        except BeanpoolError as error:
            if arguments.lines:
                complain(f"line {done + 1} of standard input was not put; the {done} before it were")
            if isinstance(error, JobTooBig):
                raise CommandError(
                    "the job is bigger than the server takes (beanstalkd -z)", code=Exit.NEGATIVE
                ) from error
            raise
    return Exit.OK


def _bodies(arguments: argparse.Namespace) -> Iterator[bytes]:
    if arguments.body not in (None, "-"):
        yield os.fsencode(arguments.body)
        return
    if is_terminal(sys.stdin):
        complain("reading from the terminal; Ctrl-D ends the input")
    if arguments.lines:
        for line in sys.stdin.buffer:
            yield line.removesuffix(b"\n")
    else:
        yield sys.stdin.buffer.read()


def _report(stored: JobId, arguments: argparse.Namespace) -> None:
    if arguments.json:
        say(
            to_json(
                {
                    "server": stored.server,
                    "id": int(stored),
                    "maybe_duplicate": stored.maybe_duplicate,
                    "buried": stored.buried,
                }
            )
        )
        return
    say(f"{stored.server} {int(stored)}")
    if stored.maybe_duplicate:
        complain("this job may be stored twice: a server did not answer an earlier attempt")
    if stored.buried:
        complain("this job is stored, but buried: the server has no memory for its queue")
