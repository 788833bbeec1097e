"""When a queue is known to be empty."""

from __future__ import annotations

from typing import Any

import pytest

from beanpool import NotFound
from beanpool.contrib.dramatiq.emptiness import emptiness_of

EMPTY = {"current-jobs-ready": 0, "current-jobs-delayed": 0, "current-jobs-reserved": 0, "current-jobs-buried": 3}
GONE = NotFound("stats-tube", "NOT_FOUND", [])


@pytest.mark.parametrize(
    ("answers", "empty"),
    [
        ({"a": {**EMPTY, "total-jobs": 7}, "b": GONE}, True),
        ({"a": {**EMPTY, "total-jobs": 7}, "b": TimeoutError("b does not answer")}, False),
        ({"a": {**EMPTY, "total-jobs": 7, "current-jobs-delayed": 1}}, False),
        ({"a": {**EMPTY, "total-jobs": 7, "current-jobs-reserved": 1}}, False),
        ({}, False),
    ],
)
def test_emptiness_is_what_all_servers_say(answers: dict[str, Any], empty: bool) -> None:
    found, why_not = emptiness_of(answers)
    assert (found is not None) is empty
    assert why_not


def test_two_looks_differ_if_something_came_in_between() -> None:
    before, _ = emptiness_of({"a": {**EMPTY, "total-jobs": 7}})
    after, _ = emptiness_of({"a": {**EMPTY, "total-jobs": 8}})
    assert before != after
