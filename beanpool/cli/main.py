"""The entry point: parse, run one command, turn what can go wrong into one line and an exit code."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import os
import sys
from collections.abc import Callable, Sequence

from beanpool.cli.completing import complete, is_asked
from beanpool.cli.exits import CommandError, Exit
from beanpool.cli.parser import build_parser
from beanpool.cli.pool import one_line
from beanpool.cli.terminal import complain
from beanpool.errors import BeanpoolError, ConnectionFailed, NoServerAvailable, PoolTimeout

_HINT = "Set BEANPOOL_URL or pass --url; start a server with: beanstalkd -l 127.0.0.1 -p 11300"
_HINT_WITHOUT_SERVERS = "The records of the servers could not be had, or name none: -v shows why"
# A command has a module of its name, but for these: some names are words of Python.
_MODULES = {
    "demo": "demo.command",
    "doctor": "doctor.command",
    "export": "exporting",
    "import": "importing",
    "resume": "pause",
    "top": "top.command",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (default: this process's arguments) and return the exit code."""
    parser = build_parser()
    if is_asked():
        complete(parser)
    try:
        arguments = parser.parse_args(argv)
        if arguments.command is None:
            parser.error("a command is needed; try: beanpool demo")
    except SystemExit as exit:
        return exit.code if isinstance(exit.code, int) else Exit.OK
    try:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")
        if arguments.verbose:
            _log_to_standard_error(arguments.verbose)
        code = _command(arguments.command)(arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        _silence_standard_output()
        return Exit.BROKEN_PIPE
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    except CommandError as error:
        complain(str(error), error.hint)
        return error.code
    except (NoServerAvailable, ConnectionFailed, PoolTimeout) as error:
        nobody = isinstance(error, NoServerAvailable) and not error.errors
        complain(one_line(error), _HINT_WITHOUT_SERVERS if nobody else _HINT)
        return Exit.UNAVAILABLE
    except BeanpoolError as error:
        complain(one_line(error))
        return Exit.NEGATIVE
    except OSError as error:
        # Standard output is a file on a full disk, and such.
        _silence_standard_output()
        complain(f"cannot go on: {error.strerror or error}")
        return Exit.NEGATIVE
    return code


def _command(name: str) -> Callable[[argparse.Namespace], int]:
    # Each loads what it needs, and no other does.
    run: Callable[[argparse.Namespace], int] = importlib.import_module(f"beanpool.cli.{_MODULES.get(name, name)}").run
    return run


def _log_to_standard_error(verbosity: int) -> None:
    import logging

    logging.basicConfig(
        level=logging.INFO if verbosity == 1 else logging.DEBUG, format="%(asctime)s %(name)s %(levelname)s %(message)s"
    )


def _silence_standard_output() -> None:
    # The reader of our output has gone (``| head``), or nothing can be written. The interpreter flushes once more when
    # it exits, and would print a traceback there.
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
