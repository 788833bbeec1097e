"""When a discovery is asked again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beanpool.policy import next_question


@pytest.mark.parametrize(
    ("ttl", "failures", "hurry", "pause"),
    [
        (None, 0, False, 30),
        (0, 0, False, 30),
        (60, 0, False, 60),
        (60, 0, True, 30),
        (86400, 0, False, 300),
        (60, 1, False, 0.5),
        (60, 2, False, 1),
        (None, 3, True, 2),
        (60, 9, False, 15),
    ],
)
def test_the_pause(ttl: float | None, failures: int, hurry: bool, pause: float) -> None:
    assert next_question(ttl, failures, 30, 300, 0.0, hurry=hurry) == pause


@given(
    ttl=st.none() | st.floats(0, 1e9),
    failures=st.integers(0, 10**6),
    shortest=st.floats(0.01, 100),
    factor=st.floats(1, 100),
    jitter=st.floats(0, 1),
    hurry=st.booleans(),
)
def test_the_bounds(
    ttl: float | None, failures: int, shortest: float, factor: float, jitter: float, hurry: bool
) -> None:
    longest = shortest * factor
    pause = next_question(ttl, failures, shortest, longest, jitter, hurry=hurry)
    if failures:
        assert 0 < pause <= shortest
    else:
        assert shortest <= pause <= longest * 1.11
