"""``beanpool move``: move jobs from one tube to another."""

from __future__ import annotations

import argparse

from beanpool import admin
from beanpool.cli.exits import CommandError, Exit, usage_errors
from beanpool.cli.operation import Operation, count_in_tube, run_operation
from beanpool.protocol import check_tube


def run(arguments: argparse.Namespace) -> int:
    """Move them, on all servers."""
    source, target, states, limit = arguments.source, arguments.target, arguments.states, arguments.limit
    if source == target:
        raise CommandError(f"jobs of tube {source} cannot be moved to itself", code=Exit.USAGE)
    with usage_errors():
        # A dry run looks at the source only.
        check_tube(source)
        check_tube(target)
    return run_operation(
        Operation(
            "moved",
            f"Move {'{jobs}'} from tube {source} to {target}" + (f", at most {limit:,}" if limit is not None else ""),
            count_in_tube(source, states),
            lambda pool, reins: admin.move(
                pool, source, target, states, limit=limit, key=arguments.key, progress=reins.progress, stop=reins.stop
            ),
        ),
        arguments,
    )
