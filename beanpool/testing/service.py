"""What a test starts and stops."""

from __future__ import annotations

import abc
from types import TracebackType
from typing import Self


class Service(abc.ABC):
    """It runs from :meth:`start` to :meth:`stop`; as a context manager it is started and, at the end, stopped."""

    @abc.abstractmethod
    def start(self) -> None:
        """Start it; return when it answers."""

    @abc.abstractmethod
    def stop(self) -> None:
        """End it for good. Idempotent."""

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
