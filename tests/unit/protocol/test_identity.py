"""What a pool learns about a server from its ``stats``."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.servers import BeanstalkdServer

from beanpool.protocol.identity import Identity, parse_identity


@pytest.mark.parametrize(
    ("document", "identity"),
    [
        (
            b"---\nversion: 1.12\ndraining: false\nid: 0123456789abcdef\nmax-job-size: 65535\n",
            Identity("0123456789abcdef", "1.12", False, 65535),
        ),
        (b'---\nversion: "1.13"\ndraining: true\nid: "1234"\n', Identity("1234", "1.13", True, None)),
        # 1.10 does not say whether it drains.
        (b'---\nmax-job-size: 0\nversion: "1.10"\nid: 1e10\n', Identity("1e10", "1.10", False, 0)),
        (b"---\nid: 1\r\nversion: 1.12\r\n", Identity("1", "1.12", False, None)),
        (b"", Identity("", "", False, None)),
        (b"---\nnot-id: 5\n id: 6\nos: id: 7\n", Identity("", "", False, None)),
        (b"---\nmax-job-size: -1\n", Identity("", "", False, None)),
        (b"---\nmax-job-size: 99999999999\n", Identity("", "", False, None)),
        ("---\nmax-job-size: ٣\nid: ٣\n".encode(), Identity("٣", "", False, None)),
        (b"---\nid: \xff\n", Identity("\ufffd", "", False, None)),
    ],
)
def test_the_fields(document: bytes, identity: Identity) -> None:
    assert parse_identity(document) == identity


@given(document=st.binary())
def test_any_bytes_give_an_identity(document: bytes) -> None:
    identity = parse_identity(document)
    assert [type(value) for value in dataclasses.astuple(identity)[:3]] == [str, str, bool]


def test_a_restart_gives_a_new_instance(beanstalkd: BeanstalkdServer) -> None:
    before = parse_identity(beanstalkd.control.data("stats") or b"")
    assert before.instance == beanstalkd.control.stats()["id"] != ""
    assert (before.draining, before.max_job_size) == (False, 65535)
    beanstalkd.drain()
    assert parse_identity(beanstalkd.control.data("stats") or b"") == dataclasses.replace(before, draining=True)
    beanstalkd.restart()
    after = parse_identity(beanstalkd.control.data("stats") or b"")
    assert after == dataclasses.replace(before, instance=after.instance)
    assert after.instance != before.instance
