"""What is logged while a test looks."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from types import TracebackType
from typing import Self


class Records(logging.Handler):
    """Keeps the records of a logger and those below it, from `level` on, for as long as its ``with`` block lasts.

    :param lower: whether the logger is to take what it would else leave out.
    """

    def __init__(self, name: str, level: int = logging.DEBUG, *, lower: bool = False) -> None:
        super().__init__(level)
        self._logger = logging.getLogger(name)
        self._level_before = self._logger.level
        self._lower = lower
        self._records: list[logging.LogRecord] = []

    def __enter__(self) -> Self:
        self._logger.addHandler(self)
        if self._lower:
            self._logger.setLevel(self.level)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._logger.setLevel(self._level_before)
        self._logger.removeHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Called by logging."""
        self._records.append(record)

    def __iter__(self) -> Iterator[logging.LogRecord]:
        return iter(list(self._records))

    def __len__(self) -> int:
        return len(self._records)

    def take(self) -> list[logging.LogRecord]:
        """All of them, which are then forgotten."""
        taken, self._records = self._records, []
        return taken

    def texts(self) -> list[str]:
        """All of them, with their tracebacks."""
        return [logging.Formatter("%(levelname)s %(message)s").format(record) for record in self]
