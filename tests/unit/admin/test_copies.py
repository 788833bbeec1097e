"""What a put says of a copy: whether it may be there all the same, and whether others may fare better."""

from __future__ import annotations

import pytest

from beanpool import (
    CommandFailed,
    ConnectionFailed,
    JobId,
    JobTooBig,
    NotFound,
    PutAmbiguous,
    UnexpectedResponse,
)
from beanpool.admin.copies import Copy, NotBuried, note_copy
from beanpool.admin.outcome import Tally
from beanpool.errors import NoServerForPut

COPY = JobId(7, "q1:11300", "abc")


@pytest.mark.parametrize(
    ("copy", "duplicates", "go_on"),
    [
        (COPY, 0, True),
        (JobId(7, "q1:11300", "abc", maybe_duplicate=True), 1, True),
        (JobTooBig("put", "JOB_TOO_BIG", []), 0, True),
        (NoServerForPut("none"), 0, False),
        (PutAmbiguous("who knows"), 1, False),
        (ConnectionFailed("broken", may_have_taken_effect=True), 1, False),
        (ConnectionFailed("broken", may_have_taken_effect=False), 0, False),
        (UnexpectedResponse("put", "", []), 1, False),
        (ValueError("a key that is none"), 0, False),
        # It is taken back, and counted if that fails.
        (NotBuried(COPY, ConnectionFailed("broken", may_have_taken_effect=True)), 0, False),
        (NotBuried(COPY, NotFound("reserve-job", "NOT_FOUND", [])), 0, True),
        (NotBuried(COPY, CommandFailed("reserve-job", "UNKNOWN_COMMAND", [])), 0, False),
    ],
    ids=repr,
)
def test_what_a_put_says(copy: Copy, duplicates: int, go_on: bool) -> None:
    tally = Tally()
    assert note_copy(copy, tally) is go_on
    assert tally.duplicates == duplicates
    assert (tally.error is None) == isinstance(copy, JobId)
    assert not isinstance(tally.error, NotBuried)


def test_a_copy_that_its_server_had_to_bury_is_there_and_said() -> None:
    tally = Tally()
    assert note_copy(JobId(7, "q1:11300", "abc", buried=True), tally)
    assert "job 7" in str(tally.error)
