"""``beanpool find``: jobs whose body matches a pattern."""

from __future__ import annotations

import argparse
import os

from beanpool import admin
from beanpool.cli.exits import Exit, usage_errors
from beanpool.cli.job_table import say_listing
from beanpool.cli.pool import code_for, open_pool, say_missing
from beanpool.cli.progress import shown_progress
from beanpool.cli.stop_signals import StopSignals


def run(arguments: argparse.Namespace) -> int:
    """Print them as they are found; exit code 1 if there is none."""
    # The bytes that were typed, whatever the locale makes of them: a body is bytes.
    pattern = arguments.pattern if arguments.pattern.isascii() else os.fsencode(arguments.pattern)
    with open_pool(arguments) as pool, usage_errors(), StopSignals() as signals, shown_progress() as progress:
        listing = admin.find(
            pool,
            pattern,
            arguments.tube,
            arguments.states,
            arguments.limit,
            progress=progress,
            stop=lambda: signals.received is not None,
        )
        shown, missing = say_listing(listing, arguments)
    say_missing(missing, to_errors=True)
    if signals.received is not None:
        return 128 + signals.received
    return code_for(missing, Exit.OK if shown else Exit.NEGATIVE)
