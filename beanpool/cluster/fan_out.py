"""Asking all servers of a cluster the same thing, and merging their answers."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from beanpool.errors import (
    About,
    BeanpoolError,
    CommandFailed,
    CommandTimeout,
    ConnectionFailed,
    NotFound,
    UnexpectedResponse,
    no_server,
    refusal,
    without_frames,
)
from beanpool.net import drive
from beanpool.protocol import Command, Reply
from beanpool.server import Member, PooledConnection

Answer = TypeVar("Answer")

Answers = dict[str, Any]
"""What each server said, or the error it gave, by address."""

# How much longer the others may take once enough have answered (seconds).
_FOR_THE_OTHERS = 0.5

# Of a cluster these are no sum: a sum would be a number that means nothing.
_SMALLEST = frozenset({"uptime", "max-job-size"})
_LARGEST = frozenset({"pause", "pause-time-left"})
_OF_ONE_SERVER = frozenset({"id", "pid", "hostname", "binlog-oldest-index", "binlog-current-index", "binlog-max-size"})


@dataclasses.dataclass(frozen=True, slots=True)
class Question:
    """What a server is asked, by one command."""

    command: Command
    request: bytes
    read: Callable[[PooledConnection, Reply, float], Any]
    """Returns the answer in a connection's reply, which took so long (seconds); raises its refusal."""
    uses: str | None = None
    """The tube that the connection has to use; None if that is all the same."""
    watches: tuple[str, ...] | None = None
    """The tubes that it has to watch; None if that is all the same."""


def ask_all(members: Iterable[Member], deadline: float, question: Question) -> Answers:
    """Ask every server the same at once, as :func:`ask_each` does; returns the answers in the order of the servers.

    A server process that has two names is not asked twice: its jobs are not twice as many.
    """
    everyone = list(members)
    asked = ask_each({member: [question] for member in everyone if member.duplicate_of is None}, deadline)
    return {
        member.address: asked[member][0] if member in asked else member.unusable("not asked") for member in everyone
    }


def ask_for_many(members: Iterable[Member], questions: Mapping[str, Question], deadline: float) -> Answers:
    """Ask every server the same things at once; returns by address the answers, each by the name of its question.

    A server that could not be asked at all is an error in its place.
    """
    everyone = list(members)
    asked = ask_each({m: list(questions.values()) for m in everyone if m.duplicate_of is None}, deadline)
    answers: Answers = {}
    for member in everyone:
        said = asked.get(member)
        first = said[0] if said else None
        if said is None:
            answers[member.address] = member.unusable("not asked")
        elif isinstance(first, BaseException) and not isinstance(first, CommandFailed):
            # It has not answered the first, nor what was asked behind it.
            answers[member.address] = first
        else:
            answers[member.address] = dict(zip(questions, said, strict=True))
    return answers


FollowUp = Callable[[Member, list[Any]], Sequence[Question]]
"""Given a server's answers to all that it was asked last, returns what it is asked next; nothing if that was all."""


Enough = Callable[[Mapping[Member, Sequence[Any]]], bool]
"""Given what each server has said so far, an error where that is nothing, returns whether that will do."""


def ask_each(
    questions: Mapping[Member, Sequence[Question]],
    deadline: float,
    follow_up: FollowUp | None = None,
    enough: Enough | None = None,
    left: list[Member] | None = None,
) -> dict[Member, list[Any]]:
    """Ask each server its questions, all servers at once and in the caller's thread.

    The questions to a server share a connection and a round trip; the connection uses and watches what the first of
    them says. A silent server delays nobody, and not beyond `deadline`. Nobody waits for a connection: where all are in
    use, one more is made, and closed afterwards.

    :param deadline: monotonic seconds.
    :param follow_up: what else each server is asked, once it has answered: each goes on by itself, and waits for no
        other one.
    :param enough: ends it sooner: the others then have half a second more, as they may be far.
    :param left: is given those whose answers were not waited for: they may need a new connection.
    :returns: for each server an answer to each of the questions that it was asked last, or the error in its place.
    """
    fan_out = _FanOut(deadline, follow_up)
    try:
        for member, asked in questions.items():
            fan_out.ask(member, asked)
        fan_out.finish(enough)
        if left is not None:
            left += fan_out.left
    except BaseException:
        fan_out.discard()
        raise
    return fan_out.answers


class _Asked:
    """A server that is asked."""

    __slots__ = ("_deadline", "connection", "member", "pending", "questions", "replies", "since")

    def __init__(
        self, member: Member, questions: Sequence[Question], connection: PooledConnection, deadline: float
    ) -> None:
        self.member = member
        self.questions = questions
        self.connection = connection
        self._deadline = deadline
        self.replies: list[Reply] = []
        """What has come, but for the last one."""
        self.pending = True
        """Whether its answers are due."""
        self.since = time.monotonic()
        """When the questions were sent (monotonic seconds)."""

    @property
    def late_at(self) -> float:
        """When it is late (monotonic seconds): at once if another thread has closed the connection."""
        return min(self.connection.give_up_at, self._deadline) if self.connection.fileno() >= 0 else 0.0

    def begin(self) -> None:
        """Send the questions."""
        connection = self.connection
        if connection.channel_state is None:
            connection.begin_connecting(self._deadline)
        first, last = self.questions[0], self.questions[-1]
        # Not this object: it knows the connection, which must not be kept alive by what it waits for.
        note = self.replies.append
        connection.begin_command(
            last.command,
            last.request,
            self._deadline,
            uses=first.uses,
            watches=first.watches,
            after=[(question.command, question.request, note) for question in self.questions[:-1]],
        )

    def go_on(self, questions: Sequence[Question], now: float) -> None:
        """All has been answered: ask these next (monotonic seconds)."""
        self.questions, self.replies, self.since = questions, [], now
        self.begin()


class _FanOut:
    """Questions on their way to many servers."""

    def __init__(self, deadline: float, follow_up: FollowUp | None) -> None:
        self.answers: dict[Member, list[Any]] = {}
        self.left: list[Member] = []
        """Those whose answers were not waited for."""
        self._follow_up = follow_up
        self._began = time.monotonic()
        self._deadline = deadline
        self._asked: list[_Asked] = []

    def ask(self, member: Member, questions: Sequence[Question]) -> None:
        """Send the questions to a server."""
        # In the order of the servers, whoever answers first.
        self.answers[member] = [member.unusable("not asked")] * len(questions)
        if member.down or not questions:
            return
        try:
            connection = member.pool.try_acquire(()) or member.pool.probe_connection()
        except BeanpoolError as error:
            self.answers[member] = [without_frames(error)] * len(questions)
            return
        asked = _Asked(member, questions, connection, self._deadline)
        self._asked.append(asked)
        try:
            asked.begin()
            self._step(asked)
        except BeanpoolError as error:
            self._fail(asked, error)

    def finish(self, enough: Enough | None = None) -> None:
        """Wait for the answers, or until there are enough."""
        until = math.inf
        while pending := [asked for asked in self._asked if asked.pending]:
            now = time.monotonic()
            if enough is not None and until == math.inf and enough(self.answers):
                until = now + _FOR_THE_OTHERS
            if now >= until:
                break
            drive(pending, self._receive, self._give_up, until)
        for asked in pending:
            asked.pending = False
            asked.member.pool.discard(asked.connection, "its answer was not waited for")
            self.left.append(asked.member)

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
        asked.replies.append(reply)
        answers = self._read(asked, now - asked.since)
        broken = next((answer for answer in answers if _breaks(answer)), None)
        if broken is None and self._follow_up is not None:
            more = self._follow_up(asked.member, answers)
            if more:
                asked.go_on(more, now)
                return
        self._settle(asked, answers, broken)
        if broken is None:
            asked.member.works(asked.since)

    def _fail(self, asked: _Asked, error: BeanpoolError) -> None:
        if isinstance(error, CommandTimeout) and error.waited is None:
            error.waited = min(self._deadline, time.monotonic()) - self._began
        error = without_frames(error)
        answers = self._read(asked, 0.0)
        self._settle(
            asked,
            [*answers, *[error] * (len(asked.questions) - len(answers))],
            None if isinstance(error, CommandFailed) else error,
        )

    def _read(self, asked: _Asked, seconds: float) -> list[Any]:
        """The answers in the replies that are there."""
        return [
            _answer(question, asked.connection, reply, seconds)
            for question, reply in zip(asked.questions, asked.replies, strict=False)
        ]

    def _settle(self, asked: _Asked, answers: list[Any], broken: BeanpoolError | None) -> None:
        asked.pending = False
        self.answers[asked.member] = answers
        asked.member.pool.checkin(asked.connection, broken=broken)

    def discard(self) -> None:
        """The caller was interrupted."""
        for asked in self._asked:
            if asked.pending:
                asked.member.pool.discard(asked.connection, "the caller was interrupted")


def _answer(question: Question, connection: PooledConnection, reply: Reply, seconds: float) -> Any:
    try:
        return question.read(connection, reply, seconds)
    except BeanpoolError as error:
        return without_frames(error)


def _breaks(answer: Any) -> bool:
    """Whether it is the error of a connection that is of no more use."""
    return isinstance(answer, ConnectionFailed | UnexpectedResponse)


def ask_one(
    member: Member, deadline: float, ask: Callable[[PooledConnection, float], Answer], tube: str | None
) -> Answer:
    """Ask one server.

    :param tube: the tube that the connection has to use; None if that is all the same.
    :raises BeanpoolError: if it refuses, or cannot be asked.
    """
    asked_at = time.monotonic()
    with member.pool.lend(deadline, tube) as connection:
        if tube is not None:
            connection.use_tube(tube, deadline)
        answer = ask(connection, deadline)
    member.works(asked_at)
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
