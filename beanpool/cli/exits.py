"""Exit codes, and the error that ends a command with one of them."""

from __future__ import annotations

import contextlib
import enum
from collections.abc import Iterator


class Exit(enum.IntEnum):
    """What the exit code of ``beanpool`` tells a script."""

    OK = 0
    NEGATIVE = 1
    USAGE = 2
    INCOMPLETE = 3
    MEMORY = 12
    UNAVAILABLE = 69
    GIVEN_BACK = 75
    INTERRUPTED = 130
    BROKEN_PIPE = 141


class CommandError(Exception):
    """A command cannot go on; `message` is for the user, one line, without a traceback.

    :param hint: what to do about it, more lines.
    """

    def __init__(self, message: str, *, code: Exit, hint: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.hint = hint


@contextlib.contextmanager
def usage_errors() -> Iterator[None]:
    """Turn the library's refusal of an argument, or the lack of an extra that it needs, into a usage error; for calls
    that carry what the user typed."""
    try:
        yield
    except (ValueError, ImportError) as error:
        raise CommandError(str(error), code=Exit.USAGE) from error
