"""``beanpool delete``: delete jobs by their ids."""

from __future__ import annotations

import argparse

from beanpool import Pipeline
from beanpool.cli.consent import ask, check_can_ask
from beanpool.cli.each_job import for_each_job


def run(arguments: argparse.Namespace) -> int:
    """Delete them."""
    check_can_ask(arguments)
    if not (arguments.yes or arguments.dry_run):
        jobs = arguments.jobs
        ask(f"Delete {', '.join(jobs[:5])}{f' and {len(jobs) - 5} more' if len(jobs) > 5 else ''}?")
    return for_each_job(arguments, "deleted", Pipeline.delete, "a worker has it in hand")
