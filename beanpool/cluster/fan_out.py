"""Asking all servers of a cluster the same thing, and merging their answers."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from beanpool.errors import About, BeanpoolError, CommandFailed, CommandTimeout, NotFound, no_server, refusal
from beanpool.net import drive
from beanpool.protocol import Command, Reply
from beanpool.server import Member, PooledConnection

Answer = TypeVar("Answer")

Answers = dict[str, Any]
"""What each server said, or the error it gave, by address."""

# Of a cluster these are no sum: a sum would be a number that means nothing.
_SMALLEST = frozenset({"uptime", "max-job-size"})
_LARGEST = frozenset({"pause", "pause-time-left"})
_OF_ONE_SERVER = frozenset({"id", "pid", "hostname", "binlog-oldest-index", "binlog-current-index", "binlog-max-size"})


@dataclasses.dataclass(frozen=True, slots=True)
class Question:
    """What every server is asked, in one round trip."""

    command: Command
    request: bytes
    read: Callable[[PooledConnection, Reply, float], Any]
    """Returns the answer in a connection's reply, which took so long (seconds); raises its refusal."""
    uses: str | None = None
    """The tube that the connection has to use; None if that is all the same."""
    watches: tuple[str, ...] | None = None
    """The tubes that it has to watch; None if that is all the same."""


def ask_all(members: Iterable[Member], deadline: float, question: Question) -> Answers:
    """Ask every server at once, in the caller's thread; a silent one delays nobody, and not beyond `deadline`.

    Nobody waits for a connection: where all are in use, one more is made, and closed afterwards.

    :param deadline: monotonic seconds.
    """
    fan_out = _FanOut(question, deadline)
    try:
        for member in members:
            # In the order of the servers, whoever answers first.
            fan_out.answers[member.address] = member.unusable("not asked")
            # The same process is not asked twice: its jobs are not twice as many.
            if not member.down and member.duplicate_of is None:
                fan_out.ask(member)
        fan_out.finish()
    except BaseException:
        fan_out.discard()
        raise
    return fan_out.answers


class _Asked:
    """A server that is asked."""

    __slots__ = ("_deadline", "connection", "member", "pending", "since")

    def __init__(self, member: Member, connection: PooledConnection, deadline: float) -> None:
        self.member = member
        self.connection = connection
        self._deadline = deadline
        self.pending = True
        """Whether its answer is due."""
        self.since = time.monotonic()
        """When the question was sent (monotonic seconds)."""

    @property
    def late_at(self) -> float:
        """When it is late (monotonic seconds): at once if another thread has closed the connection."""
        return min(self.connection.give_up_at, self._deadline) if self.connection.fileno() >= 0 else 0.0


class _FanOut:
    """One question on its way to many servers."""

    def __init__(self, question: Question, deadline: float) -> None:
        self.answers: Answers = {}
        self._question = question
        self._began = time.monotonic()
        self._deadline = deadline
        self._asked: list[_Asked] = []

    def ask(self, member: Member) -> None:
        """Send the question."""
        question = self._question
        try:
            connection = member.pool.try_acquire(()) or member.pool.probe_connection()
        except BeanpoolError as error:
            self.answers[member.address] = error.with_traceback(None)
            return
        asked = _Asked(member, connection, self._deadline)
        self._asked.append(asked)
        try:
            if connection.channel_state is None:
                connection.begin_connecting(self._deadline)
            connection.begin_command(
                question.command, question.request, self._deadline, uses=question.uses, watches=question.watches
            )
            self._step(asked)
        except BeanpoolError as error:
            self._fail(asked, error)

    def finish(self) -> None:
        """Wait for the answers."""
        while pending := [asked for asked in self._asked if asked.pending]:
            drive(pending, self._receive, self._give_up)

    def _receive(self, asked: _Asked) -> None:
        try:
            asked.connection.live_descriptor()
            self._step(asked)
        except BeanpoolError as error:
            self._fail(asked, error)

    def _give_up(self, asked: _Asked) -> None:
        if not asked.connection.connecting:
            self._fail(asked, asked.connection.late())

    def _step(self, asked: _Asked) -> None:
        connection = asked.connection
        connecting = connection.connecting
        reply = connection.step()
        now = time.monotonic()
        if connecting and not connection.connecting:
            asked.since = now
        if reply is None:
            return
        answer = self._question.read(connection, reply, now - asked.since)
        asked.member.pool.checkin(connection)
        asked.pending = False
        asked.member.works()
        self.answers[asked.member.address] = answer

    def _fail(self, asked: _Asked, error: BeanpoolError) -> None:
        asked.pending = False
        if isinstance(error, CommandTimeout) and error.waited is None:
            error.waited = time.monotonic() - self._began
        self.answers[asked.member.address] = error.with_traceback(None)
        if isinstance(error, CommandFailed):
            asked.member.pool.checkin(asked.connection)
        else:
            asked.member.pool.checkin(asked.connection, broken=error)

    def discard(self) -> None:
        """The caller was interrupted."""
        for asked in self._asked:
            if asked.pending:
                asked.member.pool.discard(asked.connection, "the caller was interrupted")


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


def gather(answers: Answers, what: str) -> list[Any]:
    """The answers without the errors.

    :raises NotFound: if every server that could be asked has said so.
    :raises NoServerAvailable: if no server answered.
    """
    good = [answer for answer in answers.values() if not isinstance(answer, BaseException)]
    if good:
        return good
    missing = [answer for answer in answers.values() if isinstance(answer, NotFound)]
    if missing and len(missing) == len(answers):
        raise _of_all(missing)
    raise no_server(answers, what)


def _of_all(missing: Sequence[NotFound]) -> CommandFailed:
    """One refusal for what no server has."""
    first = missing[0]
    about: About = {"tube": first.tube} if first.tube is not None else {}
    servers = ", ".join(error.server for error in missing)
    return refusal(first.command, first.status, first.results, server=servers, **about)


def merge_stats(documents: list[Mapping[str, Any]]) -> dict[str, Any]:
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
