"""``beanpool export``: the jobs of a tube, or of all, as lines of JSON."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterator
from typing import TextIO

from beanpool import admin
from beanpool.cli.exits import CommandError, Exit, usage_errors
from beanpool.cli.operation import report
from beanpool.cli.pool import open_pool
from beanpool.cli.progress import shown_progress
from beanpool.cli.stop_signals import StopSignals


def run(arguments: argparse.Namespace) -> int:
    """Write them to a file or to standard output; the jobs stay where they are."""
    with (
        open_pool(arguments) as pool,
        usage_errors(),
        StopSignals() as signals,
        _target(arguments.output) as file,
        shown_progress() as progress,
    ):
        outcomes = admin.export_jobs(
            pool,
            file,
            arguments.tube,
            arguments.states,
            arguments.limit,
            progress=progress,
            stop=lambda: signals.received is not None,
        )
    return report(outcomes, "exported", signals.received, as_json=arguments.json, to_errors=True)


@contextlib.contextmanager
def _target(name: str | None) -> Iterator[TextIO]:
    if name is None or name == "-":
        yield sys.stdout
        # What could not be written was not exported: that is known before it is said.
        sys.stdout.flush()
        return
    try:
        with open(name, "x", encoding="utf-8") as file:
            yield file
    except FileExistsError as error:
        raise CommandError(f"{name} exists already", code=Exit.USAGE) from error
    except OSError as error:
        raise CommandError(f"cannot write {name}: {error.strerror}", code=Exit.NEGATIVE) from error
