"""``beanpool completion``: what a shell loads to complete commands, options, and the names of tubes and servers."""

from __future__ import annotations

import argparse

from beanpool.cli.exits import CommandError, Exit
from beanpool.cli.terminal import say


def run(arguments: argparse.Namespace) -> int:
    """Print the code for a shell."""
    try:
        from argcomplete.shell_integration import shellcode as shell_code
    except ImportError as error:
        raise CommandError(
            "completion needs argcomplete", code=Exit.NEGATIVE, hint="pip install 'beanpool[cli]'"
        ) from error
    say(shell_code(["beanpool"], shell=arguments.shell).rstrip())
    return Exit.OK
