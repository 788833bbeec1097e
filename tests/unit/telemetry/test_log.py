"""Unexpected errors of background threads are logged at once, and the same again once a minute."""

from __future__ import annotations

import logging
import time

import pytest
from support.records import Records

from beanpool.telemetry.log import ErrorLog


@pytest.mark.parametrize("kind", [ValueError, MemoryError, SystemExit, KeyboardInterrupt])
def test_an_error_goes_no_further_and_is_logged_with_its_traceback(
    kind: type[BaseException], unforeseen: Records
) -> None:
    with ErrorLog("p").catching("the check of q1"):
        raise kind("why")
    (record,) = unforeseen.take()
    assert (record.name, record.levelname) == ("beanpool.pool", "ERROR")
    text = logging.Formatter("%(message)s").format(record)
    assert text.startswith("pool p: the check of q1 failed unexpectedly\nTraceback")
    assert text.endswith(f"{kind.__name__}: why")


def test_the_same_again_is_counted_and_logged_once_a_minute(
    monkeypatch: pytest.MonkeyPatch, unforeseen: Records
) -> None:
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    told = ErrorLog("p")

    def fail(what: str, error: BaseException) -> list[str]:
        with told.catching(what):
            raise error
        return [record.getMessage() for record in unforeseen.take()]

    check = "the check of q1"
    assert fail(check, ValueError()) == [f"pool p: {check} failed unexpectedly"]
    assert fail(check, ValueError("in other words")) == []
    # What is not the same is not kept back.
    assert fail(check, KeyError()) == [f"pool p: {check} failed unexpectedly"]
    assert fail("the check of q2", ValueError()) == ["pool p: the check of q2 failed unexpectedly"]
    now = 59.9
    assert fail(check, ValueError()) == []
    now = 60.0
    again = " (2 times more since the last time that this was logged)"
    assert fail(check, ValueError()) == [f"pool p: {check} failed unexpectedly{again}"]
    now = 120.0
    assert fail(check, ValueError()) == [f"pool p: {check} failed unexpectedly"]


def test_a_handler_that_raises_harms_nobody(monkeypatch: pytest.MonkeyPatch, unforeseen: Records) -> None:
    def raises(record: logging.LogRecord) -> None:
        raise RuntimeError("from the handler")

    monkeypatch.setattr(unforeseen, "emit", raises)
    with ErrorLog("p").catching("the check of q1"):
        raise ValueError
