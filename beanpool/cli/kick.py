"""``beanpool kick``: make buried or delayed jobs ready."""

from __future__ import annotations

import argparse

from beanpool import Pipeline, admin
from beanpool.cli.each_job import for_each_job
from beanpool.cli.exits import CommandError, Exit
from beanpool.cli.operation import Operation, count_in_tube, run_operation


def run(arguments: argparse.Namespace) -> int:
    """Kick the jobs of a tube, or those that were named."""
    tube, states, limit = arguments.tube, arguments.states, arguments.limit
    if (tube is None) == (arguments.jobs is None):
        raise CommandError("name a TUBE, or jobs with --job", code=Exit.USAGE)
    if arguments.jobs is not None:
        return for_each_job(arguments, "kicked", Pipeline.kick_job, "neither buried nor delayed")
    return run_operation(
        Operation(
            "kicked",
            f"Kick {'{jobs}'} of tube {tube}" + (f", at most {limit:,}" if limit is not None else ""),
            count_in_tube(tube, states),
            lambda pool, reins: admin.kick_all(
                pool, tube, states, limit=limit, progress=reins.progress, stop=reins.stop
            ),
            deletes=False,
        ),
        arguments,
    )
