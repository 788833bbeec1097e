"""The loggers ``beanpool.*``. They are silent until the program configures logging."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator

_REPEAT_AFTER = 60.0
"""Seconds."""

_root = logging.getLogger("beanpool")
_root.addHandler(logging.NullHandler())


def logger(name: str) -> logging.Logger:
    """The logger ``beanpool.<name>``."""
    return _root.getChild(name)


_log = logger("pool")


def log_safely(
    log: logging.Logger, level: int, text: str, *values: object, exc_info: bool | BaseException | None = False
) -> None:
    """Log a line. A handler that raises must end neither a call nor the monitor's thread."""
    with contextlib.suppress(Exception):
        log.log(level, text, *values, exc_info=exc_info)


class ErrorLog:
    """Logs unexpected errors of a background thread, which has to go on. Each is logged with its traceback at once.

    The same error, of the same activity, is logged once a minute at most.

    :param name: the pool's name.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._logged_at: dict[tuple[str, type[BaseException]], float] = {}
        self._suppressed: dict[tuple[str, type[BaseException]], int] = {}

    @contextlib.contextmanager
    def catching(self, activity: str) -> Iterator[None]:
        """Log whatever the block raises, and raise nothing. SystemExit, too: it would end the thread.

        :param activity: what the block does, as the subject of a sentence.
        """
        try:
            yield
        except BaseException as error:
            self._log(activity, type(error))

    def _log(self, activity: str, kind: type[BaseException]) -> None:
        now = time.monotonic()
        same = activity, kind
        if now - self._logged_at.get(same, -_REPEAT_AFTER) < _REPEAT_AFTER:
            self._suppressed[same] = self._suppressed.get(same, 0) + 1
            return
        self._logged_at[same] = now
        count = self._suppressed.pop(same, 0)
        more = f" ({count} times more since the last time that this was logged)" if count else ""
        log_safely(_log, logging.ERROR, "pool %s: %s failed unexpectedly%s", self._name, activity, more, exc_info=True)
