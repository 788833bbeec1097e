"""Many commands of one connection in few round trips."""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import TracebackType
from typing import Any, Unpack

from beanpool.connection import results
from beanpool.connection.session import Session
from beanpool.errors import About, ConnectionFailed, Phase, UnexpectedResponse
from beanpool.net import Channel
from beanpool.protocol import (
    BURY,
    DEFAULT_PRIORITY,
    DEFAULT_TTR,
    DELETE,
    IGNORE,
    KICK,
    KICK_JOB,
    PEEK,
    PEEK_BURIED,
    PEEK_DELAYED,
    PEEK_READY,
    PUT,
    RELEASE,
    RESERVE_JOB,
    RESERVE_WITH_TIMEOUT,
    STATS_JOB,
    STATS_TUBE,
    TOUCH,
    USE,
    WATCH,
    Body,
    Command,
    Reply,
    encode_bare,
    encode_body,
    encode_bury,
    encode_job,
    encode_kick,
    encode_peek,
    encode_put,
    encode_release,
    encode_reserve_with_timeout,
    encode_tube,
)

Read = Callable[[Channel, Reply], Any]


class Pipeline:
    """Collects commands; :meth:`execute`, or the end of a ``with`` block, sends them all.

    ``results`` then holds what each call would have returned, in order. A command that failed has its
    exception object in its own place, and does not disturb its neighbours. If the connection breaks, each command
    without a reply has a :class:`ConnectionFailed` whose ``may_have_taken_effect`` tells whether it was sent.
    Bad arguments are raised at once, by the call itself.

    Those that :meth:`release` or :meth:`bury` a job and keep its priority ask for it first: all in one round trip more.
    """

    def __init__(self, connection: Session[Any]) -> None:
        self._connection = connection
        self._commands: list[tuple[Command, bytes]] = []
        self._reads: list[Read] = []
        # By position: the commands that keep a job's priority, and what makes them once that is known.
        self._unpriced: dict[int, tuple[int, Callable[[int], bytes]]] = {}
        # The jobs that are given a priority, and where what was asked before would not be true any more.
        self._priced: set[int] = set()
        self._parts: list[int] = []
        self._longest_wait = 0.0
        self.results: list[Any] = []

    def __repr__(self) -> str:
        return f"<Pipeline of {len(self)} commands to {self._connection.server}>"

    def __len__(self) -> int:
        return len(self._commands)

    def __enter__(self) -> Pipeline:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            self.execute()

    def execute(self) -> list[Any]:
        """Send the collected commands and return :attr:`results`; the pipeline is then empty again."""
        results: list[Any] = []
        self.results = results
        if not self._commands:
            return results
        with self._connection._exclusive_channel() as channel:
            commands, self._commands = self._commands, []
            reads, self._reads = self._reads, []
            unpriced, self._unpriced = self._unpriced, {}
            parts, self._parts = [*self._parts, len(commands)], []
            self._priced.clear()
            timeout = self._connection.timeout + self._longest_wait
            self._longest_wait = 0.0
            refused: dict[int, Exception] = {}
            try:
                for end in parts:
                    part = range(len(results), end)
                    asked = [(at, *unpriced[at]) for at in part if at in unpriced]
                    if asked:
                        refused |= _ask_priorities(channel, timeout, commands, asked)
                    replies = channel.exchange_many([commands[at] for at in part if at not in refused], timeout)
                    # One by one: those that came before the connection breaks are kept.
                    results.extend(
                        refused[at] if at in refused else _outcome(reads[at], channel, next(replies)) for at in part
                    )
                    # Let the generator see its own end: it checks that nothing is left over.
                    next(replies, None)
            except (ConnectionFailed, UnexpectedResponse) as error:
                number = 0
                for at in range(len(results), len(commands)):
                    if at in refused:
                        results.append(refused[at])
                        continue
                    sent = number < channel.in_flight
                    results.append(
                        error if number == 0 and error.may_have_taken_effect == sent else _unanswered(error, sent)
                    )
                    number += 1
        return results

    def _add(self, command: Command, request: bytes, read: Read) -> Pipeline:
        self._commands.append((command, request))
        self._reads.append(read)
        return self

    def put(self, body: Body, priority: int = DEFAULT_PRIORITY, delay: float = 0, ttr: float = DEFAULT_TTR) -> Pipeline:
        """As :meth:`Connection.put`."""
        data = encode_body(body, self._connection.encoding)
        return self._add(PUT, encode_put(data, priority, delay, ttr), functools.partial(results.stored, len(data)))

    def use(self, tube: str) -> Pipeline:
        """As :meth:`Connection.use`."""
        return self._add(USE, encode_tube(USE, tube), functools.partial(results.use, self._connection, tube))

    def watch(self, tube: str) -> Pipeline:
        """As :meth:`Connection.watch`."""
        return self._add_watch(WATCH, tube)

    def ignore(self, tube: str) -> Pipeline:
        """As :meth:`Connection.ignore`."""
        return self._add_watch(IGNORE, tube)

    def reserve(self, timeout: float = 0) -> Pipeline:
        """As :meth:`Connection.reserve`, for whole seconds; what follows in the pipeline waits for it."""
        request = encode_reserve_with_timeout(timeout)
        self._longest_wait = max(self._longest_wait, timeout)
        return self._add(RESERVE_WITH_TIMEOUT, request, self._connection._reserved)

    def reserve_job(self, jid: int) -> Pipeline:
        """As :meth:`Connection.reserve_job`."""
        return self._add(
            RESERVE_JOB, encode_job(RESERVE_JOB, jid), functools.partial(self._connection._reserved_by_id, jid)
        )

    def delete(self, jid: int) -> Pipeline:
        """As :meth:`Connection.delete`."""
        return self._add_finish(DELETE, encode_job(DELETE, jid), "DELETED", jid)

    def release(self, jid: int, priority: int | None = None, delay: float = 0) -> Pipeline:
        """As :meth:`Connection.release`."""
        request = encode_release(jid, DEFAULT_PRIORITY if priority is None else priority, delay)
        self._note_priority(jid, priority, lambda known: encode_release(jid, known, delay))
        return self._add_finish(RELEASE, request, "RELEASED", jid)

    def bury(self, jid: int, priority: int | None = None) -> Pipeline:
        """As :meth:`Connection.bury`."""
        request = encode_bury(jid, DEFAULT_PRIORITY if priority is None else priority)
        self._note_priority(jid, priority, lambda known: encode_bury(jid, known))
        return self._add_finish(BURY, request, "BURIED", jid)

    def _note_priority(self, jid: int, priority: int | None, encode: Callable[[int], bytes]) -> None:
        """A command is about to be added that gives a job a priority, or keeps the one that it has."""
        if priority is not None:
            self._priced.add(jid)
            return
        if jid in self._priced:
            self._parts.append(len(self))
            self._priced.clear()
        self._unpriced[len(self)] = jid, encode

    def touch(self, jid: int) -> Pipeline:
        """As :meth:`Connection.touch`."""
        return self._add_plain(TOUCH, encode_job(TOUCH, jid), "TOUCHED", job=jid)

    def kick_job(self, jid: int) -> Pipeline:
        """As :meth:`Connection.kick_job`."""
        return self._add_plain(KICK_JOB, encode_job(KICK_JOB, jid), "KICKED", job=jid)

    def kick(self, bound: int = 1) -> Pipeline:
        """As :meth:`Connection.kick`."""
        return self._add(KICK, encode_kick(bound), results.kicked)

    def peek(self, jid: int) -> Pipeline:
        """As :meth:`Connection.peek`."""
        return self._add(PEEK, encode_peek(jid), functools.partial(self._connection._found, PEEK, jid))

    def peek_ready(self) -> Pipeline:
        """As :meth:`Connection.peek_ready`."""
        return self._add_peek(PEEK_READY)

    def peek_delayed(self) -> Pipeline:
        """As :meth:`Connection.peek_delayed`."""
        return self._add_peek(PEEK_DELAYED)

    def peek_buried(self) -> Pipeline:
        """As :meth:`Connection.peek_buried`."""
        return self._add_peek(PEEK_BURIED)

    def stats_job(self, jid: int) -> Pipeline:
        """As :meth:`Connection.stats_job`."""
        return self._add_document(STATS_JOB, encode_job(STATS_JOB, jid), job=jid)

    def stats_tube(self, tube: str) -> Pipeline:
        """As :meth:`Connection.stats_tube`."""
        return self._add_document(STATS_TUBE, encode_tube(STATS_TUBE, tube), tube=tube)

    def _add_watch(self, command: Command, tube: str) -> Pipeline:
        read = functools.partial(results.watch, self._connection, command, tube)
        return self._add(command, encode_tube(command, tube), read)

    def _add_peek(self, command: Command) -> Pipeline:
        return self._add(command, encode_bare(command), functools.partial(self._connection._found, command, None))

    def _add_document(self, command: Command, request: bytes, **about: Unpack[About]) -> Pipeline:
        read = functools.partial(results.document, self._connection.parse_yaml, command, **about)
        return self._add(command, request, read)

    def _add_plain(self, command: Command, request: bytes, success: str, **about: Unpack[About]) -> Pipeline:
        return self._add(command, request, functools.partial(results.confirm, command, success, **about))

    def _add_finish(self, command: Command, request: bytes, success: str, jid: int) -> Pipeline:
        return self._add(command, request, functools.partial(self._connection._finished, command, success, jid))


def _outcome(read: Read, channel: Channel, reply: Reply) -> Any:
    try:
        return read(channel, reply)
    except Exception as error:
        # A refusal, a reply that is wrong, or whatever the caller's own `parse_yaml` raises.
        return error


def _ask_priorities(
    channel: Channel,
    timeout: float,
    commands: list[tuple[Command, bytes]],
    asked: list[tuple[int, int, Callable[[int], bytes]]],
) -> dict[int, Exception]:
    """Fill the priorities that jobs have into their `commands`; returns those refusals that are not the command's own.

    :param asked: where each command is, its job, and what makes it of the priority.
    """
    refused: dict[int, Exception] = {}
    try:
        replies = channel.exchange_many([(STATS_JOB, encode_job(STATS_JOB, jid)) for _, jid, _ in asked], timeout)
        for (at, _, encode), reply in zip(asked, replies, strict=False):
            found = _outcome(results.priority, channel, reply)
            if isinstance(found, Exception):
                refused[at] = found
            elif found is not None:
                commands[at] = commands[at][0], encode(found)
        next(replies, None)
    except (ConnectionFailed, UnexpectedResponse):
        # Nothing was sent of the commands themselves.
        channel.in_flight = 0
        raise
    return refused


def _unanswered(error: ConnectionFailed | UnexpectedResponse, sent: bool) -> ConnectionFailed:
    return ConnectionFailed(
        f"{error.server}: no reply, the connection broke at a command before"
        + ("; whether it took effect is not known" if sent else "; it was not sent"),
        server=error.server,
        phase=Phase.WAITING if sent else Phase.SENDING,
        may_have_taken_effect=sent,
    )
