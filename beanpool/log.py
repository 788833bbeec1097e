"""The loggers ``beanpool.*``. They are silent until the program configures logging."""

from __future__ import annotations

import logging

_root = logging.getLogger("beanpool")
_root.addHandler(logging.NullHandler())


def logger(name: str) -> logging.Logger:
    """The logger ``beanpool.<name>``."""
    return _root.getChild(name)
