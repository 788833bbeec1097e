"""Connections that tests open, and what they take from them."""

from __future__ import annotations

from collections.abc import Callable

from beanpool import Connection, Job

Connect = Callable[..., Connection]


def reserved(connection: Connection, timeout: int = 0) -> Job:
    job = connection.reserve(timeout)
    assert job is not None
    return job
