"""The job that the calling handler works on."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any

from beanpool.connection import Job

working_on: ContextVar[Job[Any] | None] = ContextVar("beanpool.worker.current_job", default=None)


def current_job() -> Job[Any] | None:
    """The job that the calling handler works on; None outside of handlers.

    It is known to whatever runs in the handler's context, such as functions in ``asyncio.to_thread``.
    """
    return working_on.get()
