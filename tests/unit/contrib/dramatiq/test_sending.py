"""How a message fits into a job."""

from __future__ import annotations

import json
from typing import Any

import pytest
from dramatiq.common import current_millis
from dramatiq.message import Message
from hypothesis import given
from hypothesis import strategies as st

from beanpool.contrib.dramatiq.sending import seconds_until, whole_seconds, with_less_traceback
from beanpool.errors import JobTooBig, refusal


@pytest.mark.parametrize(
    ("milliseconds", "seconds"), [(-5, 0), (0, 0), (1, 1), (999, 1), (1000, 1), (1001, 2), (1500.5, 2)]
)
def test_a_delay_is_never_too_short(milliseconds: float, seconds: int) -> None:
    assert whole_seconds(milliseconds) == seconds


@pytest.mark.parametrize("eta", [None, "tomorrow", float("nan"), float("inf"), 0, [1]])
def test_what_is_no_time_to_come_is_no_delay(eta: object) -> None:
    assert seconds_until(eta) == 0


def test_an_eta_is_a_delay() -> None:
    assert seconds_until(current_millis() + 59_500) == 60


def too_big(message: Message[Any], limit: int) -> JobTooBig | None:
    size = len(message.encode())
    if size <= limit:
        return None
    error = refusal("put", "JOB_TOO_BIG", server="q1:11300", size=size, limit=limit)
    assert isinstance(error, JobTooBig)
    return error


@given(text=st.text(max_size=2000), room=st.integers(0, 2000))
def test_a_traceback_is_cut_until_the_message_fits(text: str, room: int) -> None:
    def message(traceback: str) -> Message[Any]:
        return Message("default", "work", (1,), {}, {"retries": 1, "traceback": traceback}, "id", 1)

    limit = len(message("").encode()) + room
    now: Message[Any] | None = message(text)
    for _ in range(50):
        assert now is not None, "given up, though there was room without a traceback"
        error = too_big(now, limit)
        if error is None:
            break
        now = with_less_traceback(now, error)
    assert now is not None
    kept = now.options["traceback"]
    # The end says what went wrong.
    assert text.endswith(kept.removeprefix("[...]\n"))
    # ASCII costs a byte each, whatever was cut: not much room is left unused.
    if json.dumps(text) == f'"{text}"' and len(text) > room > 100:
        assert len(kept) > room * 0.6


def test_without_a_traceback_it_stays_too_big() -> None:
    message: Message[Any] = Message("default", "work", (), {}, {"traceback": ""})
    error = too_big(message, 1)
    assert error is not None
    assert with_less_traceback(message, error) is None
