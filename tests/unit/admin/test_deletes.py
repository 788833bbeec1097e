"""A copy is taken back only where the delete certainly did not happen: here is each way in which one can end."""

from __future__ import annotations

import pytest

from beanpool import CommandFailed, CommandTimeout, ConnectionFailed, NotFound, UnexpectedResponse
from beanpool.admin.deletes import settle_delete
from beanpool.admin.outcome import Tally


@pytest.mark.parametrize(
    ("outcome", "count", "take_back"),
    [
        (None, "done", False),
        (NotFound("delete", "NOT_FOUND", []), "skipped", True),
        (ConnectionFailed("broken", may_have_taken_effect=False), "skipped", True),
        (ConnectionFailed("broken", may_have_taken_effect=True), "unsure", False),
        (CommandTimeout("silent", may_have_taken_effect=True), "unsure", False),
        (UnexpectedResponse("delete", "", [], may_have_taken_effect=True), "unsure", False),
        (UnexpectedResponse("delete", "", [], may_have_taken_effect=False), "skipped", True),
        (CommandFailed("delete", "INTERNAL_ERROR", []), "unsure", False),
    ],
    ids=repr,
)
def test_what_a_delete_says(outcome: Exception | None, count: str, take_back: bool) -> None:
    tally = Tally()
    assert settle_delete(tally, outcome) is take_back
    counted = {name: getattr(tally, name) for name in ("done", "skipped", "unsure", "duplicates")}
    assert counted == {"done": 0, "skipped": 0, "unsure": 0, "duplicates": 0, count: 1}
    assert (tally.error is None) == (outcome is None or isinstance(outcome, NotFound))
