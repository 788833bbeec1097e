"""Asking all servers of a cluster the same thing, and merging their answers."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from beanpool.errors import BeanpoolError, CommandFailed, CommandTimeout, NotFound, no_server
from beanpool.member import Member
from beanpool.pooled_connection import PooledConnection
from beanpool.protocol.commands import Command
from beanpool.protocol.replies import Reply
from beanpool.readiness import wait_for_any

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
    """A server whose answer is due."""

    __slots__ = ("connection", "member", "since")

    def __init__(self, member: Member, connection: PooledConnection) -> None:
        self.member = member
        self.connection = connection
        self.since = time.monotonic()
        """When the question was sent (monotonic seconds)."""

    @property
    def wants_write(self) -> bool:
        """Whether to wait until it is writable, too."""
        return self.connection.wants_write

    def fileno(self) -> int:
        """What to wait on."""
        return self.connection.fileno()


class _FanOut:
    """One question on its way to many servers."""

    def __init__(self, question: Question, deadline: float) -> None:
        self.answers: Answers = {}
        self._question = question
        self._began = time.monotonic()
        self._deadline = deadline
        self._open: dict[Member, _Asked] = {}

    def ask(self, member: Member) -> None:
        """Send the question."""
        question = self._question
        try:
            connection = member.pool.try_acquire(()) or member.pool.probe_connection()
        except BeanpoolError as error:
            self.answers[member.address] = error.with_traceback(None)
            return
        asked = self._open[member] = _Asked(member, connection)
        try:
            if connection.channel_state is None:
                connection.begin_dialing(self._deadline)
            connection.begin_command(
                question.command, question.request, self._deadline, uses=question.uses, watches=question.watches
            )
            self._step(asked)
        except BeanpoolError as error:
            self._fail(asked, error)

    def finish(self) -> None:
        """Wait for the answers."""
        while self._open:
            pending = list(self._open.values())
            until = min(self._deadline, *(asked.connection.give_up_at for asked in pending))
            ready = wait_for_any(((asked, asked) for asked in pending), max(0.0, until - time.monotonic()))
            now = time.monotonic()
            late = [asked for asked in pending if now >= min(asked.connection.give_up_at, self._deadline)]
            for asked in dict.fromkeys((*ready, *late)):
                try:
                    self._step(asked)
                    if asked in late and asked.member in self._open and not asked.connection.dialing:
                        raise asked.connection.late()
                except BeanpoolError as error:
                    self._fail(asked, error)
            for asked in list(self._open.values()):
                if asked.fileno() < 0:
                    self._fail(asked, asked.connection.closed_meanwhile())

    def _step(self, asked: _Asked) -> None:
        connection = asked.connection
        dialing = connection.dialing
        reply = connection.step()
        now = time.monotonic()
        if dialing and not connection.dialing:
            asked.since = now
        if reply is None:
            return
        answer = self._question.read(connection, reply, now - asked.since)
        asked.member.pool.checkin(connection)
        del self._open[asked.member]
        asked.member.works()
        self.answers[asked.member.address] = answer

    def _fail(self, asked: _Asked, error: BeanpoolError) -> None:
        del self._open[asked.member]
        if isinstance(error, CommandTimeout) and error.waited is None:
            error.waited = time.monotonic() - self._began
        self.answers[asked.member.address] = error.with_traceback(None)
        if isinstance(error, CommandFailed):
            asked.member.pool.checkin(asked.connection)
        else:
            asked.member.pool.checkin(asked.connection, broken=error)

    def discard(self) -> None:
        """The caller was interrupted."""
        for asked in list(self._open.values()):
            asked.member.pool.discard(asked.connection, "the caller was interrupted")
        self._open.clear()


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
        raise missing[0]
    raise no_server(answers, what)


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
