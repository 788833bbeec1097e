"""How many replies are asked for: what a far server and a slow link have in common, and what they have not."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from beanpool.policy.pace import Pace

FAR = 0.3
"""A round trip (seconds)."""


LONG = 60_000
"""The length of a reply that does not fit into a packet (bytes)."""


def take(pace: Pace, now: float, round_trip: float, each: float, count: int, size: int = LONG) -> float:
    """Ask for so many of that size over a link like this; returns when all replies are there."""
    pace.begin(now)
    now += round_trip
    for _ in range(count):
        now += each
        pace.came(now, 1, size)
    return now


@pytest.mark.parametrize(("known", "size"), [(FAR, LONG), (None, LONG), (None, 100)])
def test_a_server_that_is_far_is_asked_for_many_at_once(known: float | None, size: int) -> None:
    pace = Pace(known)
    assert pace.fits(5.0, 256) == 1
    now = take(pace, 0.0, FAR, 0.0, 1, size)
    first = pace.fits(5.0, 256)
    assert first == (32 if known or size < LONG else 7)
    take(pace, now, FAR, 0.0, first)
    assert pace.fits(5.0, 256) == 256
    assert pace.fits(0.4, 256) == 256
    assert pace.fits(0.3, 256) == 0


def test_over_a_slow_link_as_many_as_come_in() -> None:
    pace = Pace(0.001)
    take(pace, 0.0, 0.001, 0.06, 1)
    assert pace.fits(6.0, 256) == pytest.approx(48, abs=1)
    assert pace.fits(0.1, 256) == 0
    # A round trip of another hour: not more than was tried before is at stake.
    stale = Pace(1.0)
    now = take(stale, 0.0, 0.001, 0.06, 1)
    assert stale.fits(3.0, 256) == 32
    take(stale, now, 0.001, 0.06, 32)
    assert stale.fits(3.0, 256) == pytest.approx(25, abs=1)


def test_nearby_nothing_is_in_the_way() -> None:
    pace = Pace(0.0002)
    take(pace, 0.0, 0.0001, 0.00001, 1)
    assert pace.fits(5.0, 256) == 256
    assert pace.fits(0.0, 256) == pace.fits(-1.0, 256) == 0
    assert Pace(0.1).fits(0.0, 256) == 0


@example(round_trip=0.0, each=0.5, batches=[1], seconds=10.0, known=False)
@example(round_trip=0.0, each=0.5, batches=[1, 1], seconds=10.0, known=True)
@given(
    round_trip=st.floats(0, 1),
    each=st.floats(1e-6, 0.5),
    batches=st.lists(st.integers(1, 50), min_size=1, max_size=5),
    seconds=st.floats(0, 10),
    known=st.booleans(),
)
def test_what_is_expected_comes_in_time(
    round_trip: float, each: float, batches: list[int], seconds: float, known: bool
) -> None:
    """Over any link that does not become slower."""
    pace = Pace(round_trip if known else None)
    now = 0.0
    for count in batches:
        now = take(pace, now, round_trip, each, count)
    expected = pace.fits(seconds, 1000)
    if expected:
        assert round_trip + expected * each <= seconds + 1e-6
