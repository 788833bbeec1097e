"""``beanpool clear``: delete the jobs of a tube."""

from __future__ import annotations

import argparse

from beanpool import admin
from beanpool.cli.operation import Operation, count_in_tube, run_operation


def run(arguments: argparse.Namespace) -> int:
    """Delete them, on all servers."""
    tube, states, limit = arguments.tube, arguments.states, arguments.limit
    return run_operation(
        Operation(
            "deleted",
            f"Delete {'{jobs}'} of tube {tube}" + (f", at most {limit:,}" if limit is not None else ""),
            count_in_tube(tube, states),
            lambda pool, reins: admin.clear(pool, tube, states, limit=limit, progress=reins.progress, stop=reins.stop),
        ),
        arguments,
    )
