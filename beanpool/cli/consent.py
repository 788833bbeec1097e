"""Asking before jobs are deleted."""

from __future__ import annotations

import argparse
import sys

from beanpool.cli.exits import CommandError, Exit
from beanpool.cli.terminal import is_terminal, printable


def check_can_ask(arguments: argparse.Namespace) -> None:
    """See, before anything is looked at, that the user has agreed or can be asked.

    :raises CommandError: if neither.
    """
    if not (arguments.yes or arguments.dry_run or (is_terminal(sys.stdin) and is_terminal(sys.stderr))):
        raise CommandError(
            f"{arguments.command} deletes jobs, and there is no terminal to ask on",
            code=Exit.USAGE,
            hint="Pass --yes to do it without being asked, or --dry-run to see what it would do.",
        )


def ask(question: str) -> None:
    """Ask on the terminal, and go on with a yes.

    :raises CommandError: for any other answer.
    """
    # Not by input(): that writes the question to standard output.
    print(f"{printable(question)} [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise CommandError("nothing was done", code=Exit.NEGATIVE)
