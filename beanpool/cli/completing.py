"""What a shell asks for on a Tab."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from beanpool import PoolManager

# Nobody waits longer for a Tab (seconds).
_PATIENCE = 0.5


def is_asked() -> bool:
    """Whether a shell has started this process to complete a line."""
    return "_ARGCOMPLETE" in os.environ


def complete(parser: argparse.ArgumentParser) -> None:
    """Answer a shell that asks how the line may go on, and end the process. Without argcomplete nothing happens."""
    try:
        import argcomplete
    except ImportError:
        return
    argcomplete.autocomplete(parser, always_complete_options="long")


def tubes(parsed_args: argparse.Namespace, **_: Any) -> list[str]:
    """The tubes of the servers that the line names."""
    return _asked(parsed_args, lambda pool: pool.tubes())


def servers(parsed_args: argparse.Namespace, **_: Any) -> list[str]:
    """The servers that the line names."""
    return _asked(parsed_args, lambda pool: [status.address for status in pool.servers])


def _asked(arguments: argparse.Namespace, question: Callable[[PoolManager[bytes]], list[str]]) -> list[str]:
    from beanpool.cli.pool import open_pool

    arguments.timeout = _PATIENCE
    # A shell shows nothing of what goes wrong here, but it would show the words of it.
    try:
        with open_pool(arguments) as pool:
            return question(pool)
    except Exception:
        return []
