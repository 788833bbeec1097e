"""What a put comes to, as tables and as rules that hold for any attempts: nothing is sent here."""

from __future__ import annotations

from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beanpool.errors import (
    BeanpoolError,
    CommandTimeout,
    ConnectionFailed,
    JobTooBig,
    NoServerAvailable,
    NoServerForPut,
    Phase,
    PoolClosed,
    PoolClosedForPut,
    PoolTimeout,
    PoolTimeoutForPut,
    PutAmbiguous,
    PutFailed,
    PutRefused,
    UnexpectedResponse,
    refusal,
)
from beanpool.policy.put_outcome import is_duplicate, is_over, may_be_stored, outcome

REFUSED = ConnectionFailed("refused", phase=Phase.CONNECTING)
SILENT = CommandTimeout("silent", phase=Phase.WAITING, may_have_taken_effect=True)
BROKEN = ConnectionFailed("broken", phase=Phase.WAITING, may_have_taken_effect=True)
HALF_SENT = ConnectionFailed("half", phase=Phase.SENDING)
NONSENSE = UnexpectedResponse("nonsense")
DRAINING, FULL, TOO_BIG, INTERNAL, BAD = (
    refusal("put", status, [])
    for status in ("DRAINING", "OUT_OF_MEMORY", "JOB_TOO_BIG", "INTERNAL_ERROR", "BAD_FORMAT")
)
BUSY = PoolTimeout("all in use")
CLOSED = PoolClosed("closed")
MAYBE: list[BeanpoolError] = [SILENT, BROKEN, NONSENSE, INTERNAL]
CERTAINLY_NOT: list[BeanpoolError] = [REFUSED, HALF_SENT, DRAINING, FULL, TOO_BIG, BAD, BUSY, CLOSED]


class Question(NamedTuple):
    """Whether a put is over, and what it depends on."""

    error: BeanpoolError
    resend: bool = True
    at_home: bool = False
    closing: bool = False


OVER = [
    *(Question(error, resend=False) for error in MAYBE),
    *(Question(error, closing=True) for error in MAYBE),
    Question(BAD),
    Question(TOO_BIG, at_home=True),
    Question(CLOSED, closing=True),
]
GOES_ON = [
    *(Question(error) for error in MAYBE),
    *(Question(error, resend=False, at_home=True) for error in (REFUSED, HALF_SENT, DRAINING, FULL, BUSY)),
    # Another server may take what this one does not, and one that was removed is not the pool.
    Question(TOO_BIG),
    Question(CLOSED),
]


@pytest.mark.parametrize(("question", "over"), [*((q, True) for q in OVER), *((q, False) for q in GOES_ON)])
def test_which_attempts_end_a_put(question: Question, over: bool) -> None:
    error, resend, at_home, closing = question
    assert is_over(error, resend=resend, at_home=at_home, closing=closing) is over


@pytest.mark.parametrize(
    ("errors", "closing", "too_big", "kind"),
    [
        ([], False, False, NoServerForPut),
        ([REFUSED, BUSY], False, False, NoServerForPut),
        ([BUSY, BUSY], False, False, PoolTimeoutForPut),
        ([BUSY, BUSY], True, False, PoolClosedForPut),
        ([REFUSED, CLOSED], True, False, PoolClosedForPut),
        ([REFUSED, TOO_BIG], False, True, JobTooBig),
        ([TOO_BIG, REFUSED], False, True, JobTooBig),
        # One that takes it may come back: it was no refusal for good.
        ([REFUSED, TOO_BIG], False, False, NoServerForPut),
        ([REFUSED, BAD], False, False, PutRefused),
        ([SILENT, TOO_BIG], False, True, PutAmbiguous),
        ([SILENT, BAD], False, False, PutAmbiguous),
        ([SILENT, CLOSED], True, False, PutAmbiguous),
        ([BUSY, SILENT, REFUSED, BUSY], False, False, PutAmbiguous),
    ],
)
def test_what_the_caller_is_told(
    errors: list[BeanpoolError], closing: bool, too_big: bool, kind: type[BeanpoolError]
) -> None:
    attempts = [(f"q{number}", error) for number, error in enumerate(errors)]
    assert type(outcome(attempts, unasked={}, closing=closing, too_big=too_big)) is kind


def test_every_server_has_its_reason_and_an_attempt_says_more() -> None:
    told = outcome(
        [("q1", REFUSED), ("q2", DRAINING), ("q1", HALF_SENT)],
        unasked={"q2": ConnectionFailed("resting"), "q3": ConnectionFailed("down")},
        closing=False,
        too_big=False,
    )
    assert isinstance(told, NoServerAvailable)
    assert {address: str(error) for address, error in told.errors.items()} == {
        "q1": "half",
        "q2": str(DRAINING),
        "q3": "down",
    }


@given(
    before=st.lists(st.sampled_from(CERTAINLY_NOT), max_size=3),
    sent=st.sampled_from(MAYBE),
    after=st.lists(st.sampled_from(CERTAINLY_NOT + MAYBE), max_size=5),
    closing=st.booleans(),
    too_big=st.booleans(),
)
def test_whatever_comes_later_what_may_be_stored_is_ambiguous(
    before: list[BeanpoolError], sent: BeanpoolError, after: list[BeanpoolError], closing: bool, too_big: bool
) -> None:
    attempts = [(f"q{number}", error) for number, error in enumerate([*before, sent, *after])]
    told = outcome(attempts, unasked={"q9": REFUSED}, closing=closing, too_big=too_big)
    assert isinstance(told, PutAmbiguous)
    assert told.may_be_stored
    assert told.server == f"q{len(before)}", "the first that may hold it"
    assert list(told.attempts) == [*before, sent, *after]
    assert is_duplicate(attempts)


@given(errors=st.lists(st.sampled_from(CERTAINLY_NOT), max_size=5), closing=st.booleans(), too_big=st.booleans())
def test_what_was_never_sent_in_full_is_not_ambiguous(
    errors: list[BeanpoolError], closing: bool, too_big: bool
) -> None:
    attempts = [(f"q{number}", error) for number, error in enumerate(errors)]
    assert not any(may_be_stored(error) for error in errors)
    told = outcome(attempts, unasked={}, closing=closing, too_big=too_big)
    assert not isinstance(told, PutAmbiguous)
    assert not is_duplicate(attempts)
    assert isinstance(told, PutFailed)
    assert not told.may_be_stored
