"""``beanpool import``: jobs of lines of JSON, as ``export`` and ``take --json`` write them."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterator
from typing import IO

from beanpool import admin
from beanpool.cli.exits import CommandError, Exit
from beanpool.cli.operation import report
from beanpool.cli.pool import open_pool
from beanpool.cli.progress import shown_progress
from beanpool.cli.stop_signals import StopSignals
from beanpool.cli.terminal import complain, is_terminal


def run(arguments: argparse.Namespace) -> int:
    """Put them; what is not certainly stored is written to the file that ``--rejected`` names."""
    with (
        open_pool(arguments) as pool,
        _opened(arguments.file, "rb") as lines,
        _opened(arguments.rejected, "xb") as rejected,
        StopSignals() as signals,
        shown_progress() as progress,
    ):
        if lines is sys.stdin.buffer and is_terminal(sys.stdin):
            complain("reading from the terminal; Ctrl-D ends the input")
        problem = None
        try:
            outcomes = admin.import_jobs(
                pool,
                lines,
                arguments.tube,
                key=arguments.key,
                progress=progress,
                stop=lambda: signals.received is not None,
                rejected=None if arguments.rejected is None else lambda line: _write(rejected, line),
            )
        except ValueError as error:
            if not hasattr(error, "outcomes"):
                raise CommandError(str(error), code=Exit.USAGE) from error
            problem, outcomes = str(error), error.outcomes
    code = report(outcomes, "imported", signals.received, as_json=arguments.json)
    if problem is None:
        return code
    complain(problem, "The jobs before it were imported; begin with that line when it is mended.")
    return Exit.USAGE


def _write(file: IO[bytes], line: str | bytes) -> None:
    data = line.encode() if isinstance(line, str) else line
    file.write(data.rstrip(b"\n") + b"\n")
    # Whatever ends this command, they are there.
    file.flush()


@contextlib.contextmanager
def _opened(name: str | None, mode: str) -> Iterator[IO[bytes]]:
    if name is None or name == "-":
        yield sys.stdin.buffer
        return
    try:
        opened: contextlib.AbstractContextManager[IO[bytes]] = open(name, mode)  # noqa: SIM115  # It is one.
    except OSError as error:
        raise CommandError(f"cannot open {name}: {error.strerror}", code=Exit.USAGE) from error
    with opened as file:
        yield file
