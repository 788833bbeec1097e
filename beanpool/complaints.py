"""Errors that nobody foresaw, in a thread that has to go on."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator

from beanpool.log import logger, say

_AGAIN_AFTER = 60.0
"""Seconds."""

_log = logger("pool")


class Complaints:
    """Ends errors in the log: each with its traceback at once, the same again at most once a minute.

    :param name: the pool's name.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._logged_at: dict[tuple[str, type[BaseException]], float] = {}
        self._kept_back: dict[tuple[str, type[BaseException]], int] = {}

    @contextlib.contextmanager
    def about(self, what: str) -> Iterator[None]:
        """Let nothing that the block raises get any further. Also what is no Exception: it would end the thread.

        :param what: what is being done, as the subject of a sentence.
        """
        try:
            yield
        except BaseException as error:
            self._note(what, type(error))

    def _note(self, what: str, kind: type[BaseException]) -> None:
        now = time.monotonic()
        same = what, kind
        if now - self._logged_at.get(same, -_AGAIN_AFTER) < _AGAIN_AFTER:
            self._kept_back[same] = self._kept_back.get(same, 0) + 1
            return
        self._logged_at[same] = now
        since = self._kept_back.pop(same, 0)
        more = f" ({since} times more since the last time that this was logged)" if since else ""
        say(_log, logging.ERROR, "pool %s: %s failed unexpectedly%s", self._name, what, more, exc_info=True)
