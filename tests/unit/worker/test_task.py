"""Tests of what can be a task."""

from __future__ import annotations

import functools
from typing import Any

import pytest

from beanpool import Job
from beanpool.worker.task import Task, check_handler


class Callable:
    def __call__(self, job: Job) -> None: ...


class Coroutine:
    async def __call__(self, job: Job) -> None: ...


def with_default(job: Job, more: int = 0) -> None: ...
def with_any(*jobs: Job) -> None: ...
def with_two(job: Job, more: int) -> None: ...
def with_none() -> None: ...
def with_keyword(job: Job, *, more: int) -> None: ...
async def coroutine(job: Job) -> None: ...


@pytest.mark.parametrize(
    "handler", [with_default, with_any, Callable(), functools.partial(with_two, more=1), [].append, lambda job: None]
)
def test_what_can_be_called_with_a_job_is_a_handler(handler: Any) -> None:
    check_handler(handler)


@pytest.mark.parametrize(
    ("handler", "words"),
    [
        (with_two, "with_two must take one argument"),
        (with_none, "with_none must take one argument"),
        (with_keyword, "with_keyword must take one argument"),
        (coroutine, "coroutine is a coroutine function"),
        (Coroutine(), "Coroutine is a coroutine function"),
        (3, "must be callable, not int"),
    ],
)
def test_what_cannot_is_none(handler: Any, words: str) -> None:
    with pytest.raises(TypeError, match=words):
        check_handler(handler)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"tube": "a b"}, ValueError),
        ({"concurrency": 0}, ValueError),
        ({"concurrency": 1.0}, TypeError),
        ({"time_limit": 0}, ValueError),
        ({"retry": 5}, TypeError),
        ({"batch": 0}, ValueError),
        ({"batch": "many"}, ValueError),
        ({"batch": 4097}, ValueError),
        ({"breaker": 10}, TypeError),
    ],
)
def test_a_rule_that_cannot_be_is_refused(options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        Task(**{"tube": "mail", "handler": with_default, **options})
