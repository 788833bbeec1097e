"""Connections that tests open, and what they take from them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from beanpool import Connection, Job

Connect = Callable[..., Connection[Any]]
Body = TypeVar("Body", bound=str | bytes)


def reserved(connection: Connection[Body], timeout: int = 0) -> Job[Body]:
    job = connection.reserve(timeout)
    assert job is not None
    return job
