"""Tests of what becomes of a job whose handler raised."""

from __future__ import annotations

from typing import Any

import pytest

from beanpool.worker import Backoff, Bury, Retry, TimeLimitExceeded
from beanpool.worker.outcome import Again, Aside, decide

BACKOFF = Backoff(tries=3, base=2, cap=100, jitter=False)


def stats(releases: int = 0, timeouts: int = 0, **more: int) -> dict[str, Any]:
    return {"pri": 7, "releases": releases, "timeouts": timeouts, "reserves": 99, "buries": 5, "kicks": 5, **more}


@pytest.mark.parametrize(
    ("error", "known", "verdict"),
    [
        (ValueError("bad"), stats(), Again(2, 7, 1)),
        (ValueError("bad"), stats(1), Again(4, 7, 2)),
        (ValueError("bad"), stats(0, 1), Again(4, 7, 2)),
        (ValueError("bad"), stats(1, 1), Aside(7, 3, "its tries are used up")),
        (ValueError("bad"), stats(9), Aside(7, 10, "its tries are used up")),
        (SystemExit(1), stats(), Again(2, 7, 1)),
        (TimeLimitExceeded(), stats(), Again(2, 7, 1)),
        (Bury("no such user"), stats(), Aside(7, 1, "no such user")),
        (Retry(1.2), stats(50), Again(2, 7, 51)),
        (Retry(0), stats(), Again(0, 7, 1)),
        (Retry(), stats(1), Again(4, 7, 2)),
    ],
)
def test_the_decision(error: BaseException, known: dict[str, Any], verdict: Again | Aside) -> None:
    assert decide(error, known, BACKOFF) == verdict


def test_nothing_is_buried_for_its_tries_while_its_tube_is_left_alone_and_it_comes_back_later() -> None:
    assert decide(ValueError(), stats(9), BACKOFF, outage=150.0) == Again(151, 7, 10)
    assert decide(ValueError(), stats(0), BACKOFF, outage=0.5) == Again(2, 7, 1)
    assert decide(Bury(), stats(0), BACKOFF, outage=0.5) == Aside(7, 1, "the handler has given the job up")


@pytest.mark.parametrize(("delay", "error"), [(-1, ValueError), ("5", TypeError), (float("nan"), ValueError)])
def test_a_delay_that_cannot_be_is_refused(delay: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        Retry(delay)
