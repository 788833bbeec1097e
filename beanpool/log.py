"""The loggers ``beanpool.*``. They are silent until the program configures logging."""

from __future__ import annotations

import contextlib
import logging

_root = logging.getLogger("beanpool")
_root.addHandler(logging.NullHandler())


def logger(name: str) -> logging.Logger:
    """The logger ``beanpool.<name>``."""
    return _root.getChild(name)


def say(log: logging.Logger, level: int, text: str, *values: object, exc_info: bool = False) -> None:
    """Log it. A handler that raises is the program's mistake: it must not end a call, or the monitor's thread."""
    with contextlib.suppress(Exception):
        log.log(level, text, *values, exc_info=exc_info)
