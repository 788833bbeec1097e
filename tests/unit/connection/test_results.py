"""What a reply comes to: a value, a refusal, or a breach of the protocol, which closes the channel. No socket."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
from support.replies import Heard

from beanpool.connection import results
from beanpool.connection.results import ReplyChannel
from beanpool.errors import CommandFailed, UnexpectedResponse
from beanpool.protocol.commands import DELETE, IGNORE, STATS_JOB, WATCH
from beanpool.protocol.replies import Reply

Read = Callable[[ReplyChannel, Reply], Any]


class Tubes:
    def __init__(self) -> None:
        self.used = "default"
        self.watched: tuple[str, ...] = ("default", "mails")


def stats(text: bytes) -> Reply:
    return Reply("OK", body=text)


@pytest.mark.parametrize(
    ("command", "tube", "count", "after"),
    [
        (WATCH, "new", 3, ("default", "mails", "new")),
        (WATCH, "mails", 2, ("default", "mails")),
        (IGNORE, "mails", 1, ("default",)),
        (IGNORE, "unknown", 2, ("default", "mails")),
    ],
)
def test_watched_tubes_are_noted_as_the_server_counts_them(
    command: Any, tube: str, count: int, after: tuple[str, ...]
) -> None:
    tubes = Tubes()
    assert results.watch(tubes, command, tube, Heard(), Reply("WATCHING", count)) == count
    assert tubes.watched == after
    other, channel = Tubes(), Heard()
    with pytest.raises(UnexpectedResponse, match=f"{count + 1} watched tubes where {count} are due"):
        results.watch(other, command, tube, channel, Reply("WATCHING", count + 1))
    assert channel.closed_because
    assert other.watched == ("default", "mails")


def test_the_last_tube_stays_watched() -> None:
    tubes = Tubes()
    assert results.watch(tubes, IGNORE, "default", Heard(), Reply("NOT_IGNORED")) == 1
    assert tubes.watched == ("default", "mails")


def test_another_tube_than_the_one_asked_for_is_not_noted() -> None:
    tubes, channel = Tubes(), Heard()
    with pytest.raises(UnexpectedResponse, match=r"q1:11300 answered use with another tube \(other\)"):
        results.use(tubes, "mails", channel, Reply("USING", tube="other"))
    assert channel.closed_because
    assert tubes.used == "default"
    assert results.use(tubes, "mails", Heard(), Reply("USING", tube="mails")) == tubes.used == "mails"


@pytest.mark.parametrize(
    "read",
    [
        functools.partial(results.stored, 1),
        results.using,
        results.kicked,
        results.priority,
        functools.partial(results.confirm, DELETE, "DELETED"),
        functools.partial(results.use, Tubes(), "mails"),
        functools.partial(results.watch, Tubes(), WATCH, "mails"),
        functools.partial(results.count, WATCH, 2),
        functools.partial(results.document, True, STATS_JOB),
    ],
)
def test_a_refusal_is_an_error_and_closes_nothing(read: Read) -> None:
    channel = Heard()
    with pytest.raises(CommandFailed, match="OUT_OF_MEMORY"):
        read(channel, Reply("OUT_OF_MEMORY"))
    assert not channel.closed_because


@pytest.mark.parametrize("value", [b"", b"pri: x\n", b"pri: -1\n", b"pri: 4294967296\n", b"state: ready\n"])
def test_a_job_without_a_valid_priority_is_a_breach_of_the_protocol(value: bytes) -> None:
    channel = Heard()
    with pytest.raises(UnexpectedResponse):
        results.priority(channel, stats(b"---\n" + value))
    assert channel.closed_because


def test_priorities() -> None:
    assert results.priority(Heard(), stats(b"---\npri: 4294967295\n")) == 2**32 - 1
    assert results.priority(Heard(), Reply("NOT_FOUND")) is None


def test_documents_are_parsed_as_the_caller_says() -> None:
    reply = stats(b"---\nid: 7\n")
    assert results.document(True, STATS_JOB, Heard(), reply) == {"id": 7}
    assert results.document(False, STATS_JOB, Heard(), reply) == "---\nid: 7\n"
    assert results.document(len, STATS_JOB, Heard(), reply) == 10
    assert results.document(lambda text, command: command, STATS_JOB, Heard(), reply) == "stats-job"
