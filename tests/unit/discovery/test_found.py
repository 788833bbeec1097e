"""What a discovery has found."""

from __future__ import annotations

from typing import Any

import pytest

from beanpool import Found, Server


def test_servers_are_given_as_to_a_pool() -> None:
    found = Found(["q1", ("q2", 11301), Server("q3", weight=2)], ttl=30)
    assert found.servers == (Server("q1"), Server("q2", 11301), Server("q3", weight=2))
    assert found == Found("q1,q2:11301,q3;weight=2", 30.0)
    assert Found([]).servers == ()


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ((["q1", "q1"],), ValueError),
        (("q1?timeout=2",), ValueError),
        (("",), ValueError),
        ((None,), TypeError),
        (("q1", -1), ValueError),
        (("q1", "30"), TypeError),
    ],
)
def test_what_cannot_be_is_refused(arguments: tuple[Any, ...], error: type[Exception]) -> None:
    with pytest.raises(error):
        Found(*arguments)
