"""Asking all servers of a cluster the same thing, and adding up what they say."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from beanpool.errors import BeanpoolError, NotFound, no_server
from beanpool.member import Member
from beanpool.pooled_connection import PooledConnection

Answer = TypeVar("Answer")

Answers = dict[str, Any]
"""What each server said, or the error it gave, by address."""

# Of a cluster these are no sum: a sum would be a number that means nothing.
_SMALLEST = frozenset({"uptime", "max-job-size"})
_LARGEST = frozenset({"pause", "pause-time-left"})
_OF_ONE_SERVER = frozenset({"id", "pid", "hostname", "binlog-oldest-index", "binlog-current-index", "binlog-max-size"})


def ask_all(
    members: Iterable[Member], timeout: float, ask: Callable[[PooledConnection, float], Any], tube: str | None = None
) -> Answers:
    """Ask every server at once; one that is silent delays nobody but itself, and not beyond `timeout` (seconds)."""
    deadline = time.monotonic() + timeout
    answers: Answers = {}
    askers = []
    for member in members:
        # In the order of the servers, whoever answers first.
        answers[member.address] = member.unusable("not asked")
        # The same process is not asked twice: its jobs are not twice as many.
        if not member.down and member.twin is None:
            askers.append(lambda member=member: _ask_into(answers, member, deadline, ask, tube))
    threads = [threading.Thread(target=asker, name="beanpool-survey", daemon=True) for asker in askers[1:]]
    for thread in threads:
        thread.start()
    if askers:
        askers[0]()
    for thread in threads:
        thread.join()
    return answers


def ask_one(
    member: Member, deadline: float, ask: Callable[[PooledConnection, float], Answer], tube: str | None
) -> Answer:
    """Ask one server.

    :param tube: the tube that the connection has to use; None if that is all the same.
    :raises BeanpoolError: if it refuses, or cannot be asked.
    """
    with member.pool.lend(deadline, tube) as connection:
        if tube is not None:
            connection.use_tube(tube, deadline)
        answer = ask(connection, deadline)
    member.works()
    return answer


def _ask_into(
    answers: Answers,
    member: Member,
    deadline: float,
    ask: Callable[[PooledConnection, float], Any],
    tube: str | None,
) -> None:
    try:
        answers[member.address] = ask_one(member, deadline, ask, tube)
    except BeanpoolError as error:
        answers[member.address] = error.with_traceback(None)


def given(answers: Answers, what: str) -> list[Any]:
    """The answers without the errors.

    :raises NotFound: if every server that could be asked has said so.
    :raises NoServerAvailable: if no server answered.
    """
    good = [answer for answer in answers.values() if not isinstance(answer, BaseException)]
    if good:
        return good
    missing = [answer for answer in answers.values() if isinstance(answer, NotFound)]
    if missing and len(missing) == len(answers):
        raise missing[0]
    raise no_server(answers, what)


def add_up(documents: list[Mapping[str, Any]]) -> dict[str, Any]:
    """Add up the counters of several ``stats`` documents.

    Of a limit or a running time the smallest is kept, of a pause the longest; a text stays where all servers say the
    same, and what concerns one server alone (its id, its process) is left out if there are several.
    """
    if len(documents) == 1:
        return dict(documents[0])
    total: dict[str, Any] = {}
    for name in dict.fromkeys(name for document in documents for name in document):
        values = [document[name] for document in documents if name in document]
        if name in _OF_ONE_SERVER:
            continue
        if all(isinstance(value, bool) for value in values):
            total[name] = any(values)
        elif not all(isinstance(value, int | float) for value in values):
            if all(value == values[0] for value in values):
                total[name] = values[0]
        elif name in _SMALLEST:
            total[name] = min(values)
        else:
            total[name] = max(values) if name in _LARGEST else sum(values)
    return total
