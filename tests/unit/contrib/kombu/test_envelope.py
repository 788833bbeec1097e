"""What is put around a message, and how its words become beanstalkd's."""

from __future__ import annotations

import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beanpool import DEFAULT_PRIORITY
from beanpool.contrib.kombu.envelope import MAX_DELAY, decode, delay_until, encode, eta_of, priority_of, tube_of
from beanpool.protocol import check_tube

NOW = datetime.datetime(2026, 3, 1, 12, 0, 0, tzinfo=datetime.UTC)


@pytest.mark.parametrize(
    ("eta", "delay"),
    [
        ("2026-03-01T12:00:10+00:00", 10),
        ("2026-03-01T12:00:10Z", 10),
        ("2026-03-01T13:00:10+01:00", 10),
        # Never early, so up to a second late.
        ("2026-03-01T12:00:00.001000+00:00", 1),
        ("2026-03-01T12:00:09.500000+00:00", 10),
        ("2026-03-01T11:59:59+00:00", 0),
        ("9999-01-01T00:00:00+00:00", MAX_DELAY),
        # The worker knows which time zone is meant.
        ("2026-03-01T12:00:10", 0),
        ("tomorrow", 0),
        (17, 0),
        (None, 0),
    ],
)
def test_an_eta_becomes_a_delay_in_whole_seconds(eta: object, delay: int) -> None:
    assert delay_until(eta_of({"headers": {"eta": eta}}), NOW) == delay


@pytest.mark.parametrize("message", [{}, {"headers": None}, {"headers": {}}])
def test_no_eta_is_no_delay(message: dict[str, object]) -> None:
    assert eta_of(message) is None


def test_the_higher_the_priority_the_lower_is_beanstalkds() -> None:
    priorities = [priority_of(level) for level in range(10)]

    assert priorities[0] == DEFAULT_PRIORITY
    assert priorities == sorted(priorities, reverse=True)
    assert len(set(priorities)) == 10
    assert min(priorities) > 0


@given(st.lists(st.text(min_size=1, max_size=12), unique=True, max_size=8))
def test_each_queue_has_a_tube_of_its_own_that_a_server_takes(queues: list[str]) -> None:
    tubes = [tube_of(queue) for queue in queues]

    for tube in tubes:
        check_tube(tube)
    assert len(set(tubes)) == len(queues)


def test_the_names_of_most_queues_are_those_of_their_tubes() -> None:
    assert tube_of("celery") == "celery"
    assert tube_of("emails.high-1", "shop.") == "shop.emails.high-1"
    assert tube_of("emails:high") == "emails$3ahigh"
    assert tube_of("-") == "$2d"


@given(st.text(), st.dictionaries(st.text(), st.text()))
def test_what_was_encoded_is_decoded(body: str, headers: dict[str, str]) -> None:
    message = {"body": body, "headers": headers, "properties": {"delivery_info": {}}}

    assert decode(encode(message)) == message


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\xfe",
        b"{",
        b"17",
        b"[]",
        b"{}",
        b'{"properties": {}}',
        b'{"body": "", "properties": []}',
        b'{"body": "", "properties": {"delivery_info": 1}}',
        b'{"body": "", "properties": {}, "headers": 1}',
    ],
)
def test_what_is_no_message_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError):
        decode(data)
