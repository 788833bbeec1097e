"""Ids of jobs: which are equal, and what sets and dicts make of them."""

from __future__ import annotations

import copy
import json
import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beanpool import JobId

job_ids = st.builds(JobId, st.integers(1, 3), st.sampled_from(["q1:1", "q2:1"]), st.sampled_from(["a", "b", ""]))
numbers = st.one_of(job_ids, st.integers(1, 3), st.sampled_from([1.0, True]))


@given(left=numbers, right=numbers)
def test_two_are_equal_if_number_server_and_process_are(left: Any, right: Any) -> None:
    if isinstance(left, JobId) and isinstance(right, JobId):
        same = (int(left), left.server, left.instance) == (int(right), right.server, right.instance)
    else:
        same = int(left) == int(right)
    assert (left == right, right == left) == (same, same)
    assert (left != right, right != left) == (not same, not same)
    if same:
        assert hash(left) == hash(right)


@given(ids=st.lists(job_ids, max_size=12))
def test_sets_and_dicts_keep_jobs_of_different_servers_apart(ids: list[JobId]) -> None:
    distinct = {(int(jid), jid.server, jid.instance) for jid in ids}
    assert len(set(ids)) == len(distinct)
    books = {jid: (int(jid), jid.server, jid.instance) for jid in ids}
    for jid in ids:
        assert books[JobId(int(jid), jid.server, jid.instance)] == (int(jid), jid.server, jid.instance)
    # Beside plain ints the number alone counts, as before.
    assert set(map(int, ids)) == {int(jid) for jid in set(ids)}
    assert all(int(jid) in books and jid in set(map(int, ids)) for jid in ids)
    assert sorted(ids) == sorted(map(int, ids))


def test_its_flags_are_no_part_of_its_name() -> None:
    plain, flagged = JobId(7, "q1:1", "a"), JobId(7, "q1:1", "a", maybe_duplicate=True, buried=True)
    assert plain == flagged
    assert repr(flagged) == "<JobId 7 of q1:1, maybe_duplicate, buried>"


@pytest.mark.parametrize("way", [copy.copy, copy.deepcopy, lambda jid: pickle.loads(pickle.dumps(jid))])
def test_copies_are_equal(way: Any) -> None:
    jid = JobId(7, "q1:1", "a", maybe_duplicate=True)
    twin = way(jid)
    assert (twin, repr(twin), twin.instance) == (jid, repr(jid), "a")
    assert twin != JobId(7, "q1:1", "b")


def test_it_is_written_as_its_number() -> None:
    jid = JobId(7, "q1:1", "a")
    assert (str(jid), f"{jid:03}", json.dumps({"id": jid})) == ("7", "007", '{"id": 7}')
