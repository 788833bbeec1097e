"""The 25 commands: their bytes, and what each may be answered with."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from support.servers import BeanstalkdServer

from beanpool.errors import UnexpectedResponse
from beanpool.protocol import commands
from beanpool.protocol.commands import (
    ALL_COMMANDS,
    Command,
    encode_bare,
    encode_bury,
    encode_job,
    encode_kick,
    encode_pause_tube,
    encode_put,
    encode_release,
    encode_reserve_with_timeout,
    encode_tube,
)
from beanpool.protocol.parser import Parser
from beanpool.protocol.replies import Reply

# Each shape that a reply has, as bytes, and what it means.
SHAPES: dict[str, tuple[bytes, Reply]] = {
    "OUT_OF_MEMORY": (b"OUT_OF_MEMORY\r\n", Reply("OUT_OF_MEMORY")),
    "INTERNAL_ERROR": (b"INTERNAL_ERROR\r\n", Reply("INTERNAL_ERROR")),
    "BAD_FORMAT": (b"BAD_FORMAT\r\n", Reply("BAD_FORMAT")),
    "UNKNOWN_COMMAND": (b"UNKNOWN_COMMAND\r\n", Reply("UNKNOWN_COMMAND")),
    "INSERTED id": (b"INSERTED 17\r\n", Reply("INSERTED", 17)),
    "BURIED id": (b"BURIED 17\r\n", Reply("BURIED", 17)),
    "BURIED": (b"BURIED\r\n", Reply("BURIED")),
    "EXPECTED_CRLF": (b"EXPECTED_CRLF\r\n", Reply("EXPECTED_CRLF")),
    "JOB_TOO_BIG": (b"JOB_TOO_BIG\r\n", Reply("JOB_TOO_BIG")),
    "DRAINING": (b"DRAINING\r\n", Reply("DRAINING")),
    "USING tube": (b"USING mail.$_()/;+-x\r\n", Reply("USING", tube="mail.$_()/;+-x")),
    "RESERVED job": (b"RESERVED 17 5\r\nhello\r\n", Reply("RESERVED", 17, b"hello")),
    "DEADLINE_SOON": (b"DEADLINE_SOON\r\n", Reply("DEADLINE_SOON")),
    "TIMED_OUT": (b"TIMED_OUT\r\n", Reply("TIMED_OUT")),
    "DELETED": (b"DELETED\r\n", Reply("DELETED")),
    "NOT_FOUND": (b"NOT_FOUND\r\n", Reply("NOT_FOUND")),
    "RELEASED": (b"RELEASED\r\n", Reply("RELEASED")),
    "TOUCHED": (b"TOUCHED\r\n", Reply("TOUCHED")),
    "WATCHING count": (b"WATCHING 17\r\n", Reply("WATCHING", 17)),
    "NOT_IGNORED": (b"NOT_IGNORED\r\n", Reply("NOT_IGNORED")),
    "FOUND job": (b"FOUND 17 5\r\nhello\r\n", Reply("FOUND", 17, b"hello")),
    "KICKED count": (b"KICKED 17\r\n", Reply("KICKED", 17)),
    "KICKED": (b"KICKED\r\n", Reply("KICKED")),
    "OK data": (b"OK 5\r\nhello\r\n", Reply("OK", 0, b"hello")),
    "PAUSED": (b"PAUSED\r\n", Reply("PAUSED")),
    # Every word without what belongs to it, or with what does not.
    "INSERTED": (b"INSERTED\r\n", Reply("INSERTED")),
    "USING": (b"USING\r\n", Reply("USING")),
    "RESERVED": (b"RESERVED\r\n", Reply("RESERVED")),
    "RESERVED id": (b"RESERVED 17\r\n", Reply("RESERVED", 17)),
    "FOUND": (b"FOUND\r\n", Reply("FOUND")),
    "FOUND id": (b"FOUND 17\r\n", Reply("FOUND", 17)),
    "WATCHING": (b"WATCHING\r\n", Reply("WATCHING")),
    "OK": (b"OK\r\n", Reply("OK")),
    "OK job": (b"OK 17 5\r\nhello\r\n", Reply("OK", 17, b"hello")),
    "DELETED id": (b"DELETED 17\r\n", Reply("DELETED", 17)),
    "NOT_FOUND id": (b"NOT_FOUND 17\r\n", Reply("NOT_FOUND", 17)),
    "RELEASED id": (b"RELEASED 17\r\n", Reply("RELEASED", 17)),
    "TOUCHED id": (b"TOUCHED 17\r\n", Reply("TOUCHED", 17)),
    "PAUSED id": (b"PAUSED 17\r\n", Reply("PAUSED", 17)),
    "TIMED_OUT id": (b"TIMED_OUT 17\r\n", Reply("TIMED_OUT", 17)),
}

ALWAYS = {"OUT_OF_MEMORY", "INTERNAL_ERROR", "BAD_FORMAT", "UNKNOWN_COMMAND"}
RESERVED = {"RESERVED job", "DEADLINE_SOON", "TIMED_OUT"}
FOUND = {"FOUND job", "NOT_FOUND"}

# doc/protocol.txt of beanstalkd, section by section.
MAY_BE_ANSWERED_WITH: dict[str, set[str]] = {
    "put": {"INSERTED id", "BURIED id", "EXPECTED_CRLF", "JOB_TOO_BIG", "DRAINING"},
    "use": {"USING tube"},
    "reserve": RESERVED,
    "reserve-with-timeout": RESERVED,
    "reserve-job": {"RESERVED job", "NOT_FOUND"},
    "delete": {"DELETED", "NOT_FOUND"},
    "release": {"RELEASED", "BURIED", "NOT_FOUND"},
    "bury": {"BURIED", "NOT_FOUND"},
    "touch": {"TOUCHED", "NOT_FOUND"},
    "watch": {"WATCHING count"},
    "ignore": {"WATCHING count", "NOT_IGNORED"},
    "peek": FOUND,
    "peek-ready": FOUND,
    "peek-delayed": FOUND,
    "peek-buried": FOUND,
    "kick": {"KICKED count"},
    "kick-job": {"KICKED", "NOT_FOUND"},
    "stats-job": {"OK data", "NOT_FOUND"},
    "stats-tube": {"OK data", "NOT_FOUND"},
    "stats": {"OK data"},
    "list-tubes": {"OK data"},
    "list-tube-used": {"USING tube"},
    "list-tubes-watched": {"OK data"},
    "pause-tube": {"PAUSED", "NOT_FOUND"},
    "quit": set(),
}

# Commands that are not here leave the connection in step, whatever the refusal.
OUT_OF_STEP_AFTER = {"put": {"EXPECTED_CRLF", "BAD_FORMAT", "UNKNOWN_COMMAND"}}

REQUESTS: dict[str, tuple[Callable[[], bytes], bytes]] = {
    "put": (lambda: encode_put(b"a body", 5, 6, 7), b"put 5 6 7 6\r\na body\r\n"),
    "use": (lambda: encode_tube(commands.USE, "mail"), b"use mail\r\n"),
    "reserve": (lambda: encode_bare(commands.RESERVE), b"reserve\r\n"),
    "reserve-with-timeout": (lambda: encode_reserve_with_timeout(0), b"reserve-with-timeout 0\r\n"),
    "reserve-job": (lambda: encode_job(commands.RESERVE_JOB, 17), b"reserve-job 17\r\n"),
    "delete": (lambda: encode_job(commands.DELETE, 17), b"delete 17\r\n"),
    "release": (lambda: encode_release(17, 5, 6), b"release 17 5 6\r\n"),
    "bury": (lambda: encode_bury(17, 5), b"bury 17 5\r\n"),
    "touch": (lambda: encode_job(commands.TOUCH, 17), b"touch 17\r\n"),
    "watch": (lambda: encode_tube(commands.WATCH, "mail"), b"watch mail\r\n"),
    "ignore": (lambda: encode_tube(commands.IGNORE, "mail"), b"ignore mail\r\n"),
    "peek": (lambda: encode_job(commands.PEEK, 17), b"peek 17\r\n"),
    "peek-ready": (lambda: encode_bare(commands.PEEK_READY), b"peek-ready\r\n"),
    "peek-delayed": (lambda: encode_bare(commands.PEEK_DELAYED), b"peek-delayed\r\n"),
    "peek-buried": (lambda: encode_bare(commands.PEEK_BURIED), b"peek-buried\r\n"),
    "kick": (lambda: encode_kick(5), b"kick 5\r\n"),
    "kick-job": (lambda: encode_job(commands.KICK_JOB, 17), b"kick-job 17\r\n"),
    "stats-job": (lambda: encode_job(commands.STATS_JOB, 17), b"stats-job 17\r\n"),
    "stats-tube": (lambda: encode_tube(commands.STATS_TUBE, "mail"), b"stats-tube mail\r\n"),
    "stats": (lambda: encode_bare(commands.STATS), b"stats\r\n"),
    "list-tubes": (lambda: encode_bare(commands.LIST_TUBES), b"list-tubes\r\n"),
    "list-tube-used": (lambda: encode_bare(commands.LIST_TUBE_USED), b"list-tube-used\r\n"),
    "list-tubes-watched": (lambda: encode_bare(commands.LIST_TUBES_WATCHED), b"list-tubes-watched\r\n"),
    "pause-tube": (lambda: encode_pause_tube("mail", 5), b"pause-tube mail 5\r\n"),
    "quit": (lambda: encode_bare(commands.QUIT), b"quit\r\n"),
}

every_command = pytest.mark.parametrize("command", ALL_COMMANDS, ids=lambda command: command.name)


def test_there_are_25() -> None:
    names = [command.name for command in ALL_COMMANDS]
    assert len(names) == len(set(names)) == 25
    assert set(names) == set(MAY_BE_ANSWERED_WITH) == set(REQUESTS)


@every_command
def test_a_reply_is_taken_exactly_where_the_protocol_has_it(command: Command) -> None:
    for shape, (wire, reply) in SHAPES.items():
        parser = Parser("q1:11300")
        parser.feed(wire)
        if shape in ALWAYS | MAY_BE_ANSWERED_WITH[command.name]:
            assert parser.next(command) == reply
            assert parser.unread == 0
            continue
        with pytest.raises(UnexpectedResponse, match=rf"^q1:11300 answered {command.name} with ") as caught:
            pytest.fail(f"{command.name} took {shape} as {parser.next(command)}")
        assert caught.value.server == "q1:11300"
        assert caught.value.may_have_taken_effect


@every_command
def test_the_refusals_that_leave_the_server_out_of_step(command: Command) -> None:
    assert command.out_of_step == OUT_OF_STEP_AFTER.get(command.name, set())


@every_command
def test_bytes(command: Command) -> None:
    encode, request = REQUESTS[command.name]
    assert encode() == request


@every_command
def test_a_real_server_knows_the_command_and_gives_a_reply_that_is_taken(
    command: Command, beanstalkd: BeanstalkdServer
) -> None:
    control = beanstalkd.control
    if command.name == "reserve":
        control.put(b"a body")
    line, _, body = REQUESTS[command.name][0]().removesuffix(b"\r\n").partition(b"\r\n")
    if command.name == "quit":
        with pytest.raises(ConnectionError):
            control.command(line)
        return
    wire = control.command(line, body if command.name == "put" else None) + b"\r\n"
    parser = Parser()
    parser.feed(wire)
    reply = parser.next(command)
    assert reply is not None
    assert reply.status not in ALWAYS
