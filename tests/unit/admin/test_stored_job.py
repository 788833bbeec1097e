"""The line of a job: whatever it was, it is read as it was written."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beanpool import JobId, UnexpectedResponse
from beanpool.admin.stored_job import StoredJob, read_record, stored_job

uint32 = st.integers(0, 2**32 - 1)


@given(
    data=st.one_of(st.binary(), st.text().map(lambda text: text.encode("utf-8", "replace"))),
    state=st.sampled_from(["ready", "delayed", "buried", "reserved"]),
    priority=uint32,
    ttr=st.integers(1, 2**32 - 1),
    left=st.integers(0, 2**32 - 2),
)
def test_what_is_written_is_read(data: bytes, state: str, priority: int, ttr: int, left: int) -> None:
    jid = JobId(7, "q1:11300", "abc")
    job = StoredJob(jid, "a", state, data, priority, ttr, left, 0, 0, 0, 0, 0, 0)
    line = json.dumps(job.as_record(), ensure_ascii=False)
    assert "\n" not in line
    record = read_record(line)
    assert (record.tube, record.data, record.priority, record.ttr) == ("a", data, priority, ttr)
    assert record.buried == (state == "buried")
    assert record.delay == (left + 1 if state == "delayed" else 0)


def statistics(**changes: Any) -> dict[str, Any]:
    names = ("id", "pri", "ttr", "time-left", "age", "reserves", "timeouts", "releases", "buries", "kicks")
    return {"tube": "a", "state": "ready", **dict.fromkeys(names, 1), **changes}


@pytest.mark.parametrize("name", ["id", "pri", "ttr", "time-left", "age", "kicks"])
@pytest.mark.parametrize("value", [None, "5", 1.5, True])
def test_a_server_that_sends_no_number_is_not_believed(name: str, value: object) -> None:
    assert stored_job(("q1:11300", "abc"), b"", statistics()).id.instance == "abc"
    with pytest.raises(UnexpectedResponse, match="q1:11300"):
        stored_job(("q1:11300", "abc"), b"", statistics(**{name: value}))
