"""The 25 commands of the protocol: what each may be answered with, and its bytes.

An encoder takes values that :mod:`beanpool.protocol.arguments` has checked, or checks them itself.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from typing import Any

from beanpool.protocol.arguments import (
    DEFAULT_PRIORITY,
    DEFAULT_TTR,
    MAX_ID,
    MAX_RESERVE_TIMEOUT,
    MAX_UINT32,
    check_id,
    check_int,
    check_put,
    check_tube,
    check_whole_seconds,
)
from beanpool.protocol.replies import BARE, COUNT, DOCUMENT, ID, JOB, TUBE, WholeParser, line_pattern, whole_parser


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Command:
    """A command of the protocol, and the reply lines that may answer it."""

    name: str
    """As the protocol spells it, such as ``reserve-with-timeout``."""
    replies: dict[str, str]
    """The words that may answer it, with the shape of their line (general errors aside)."""
    verb: bytes = dataclasses.field(init=False)
    """The name and a blank, as the line begins."""
    line: re.Pattern[bytes] | None = dataclasses.field(init=False, default=None)
    """Matches the whole lines that they may have; compiled when the first is to be read, for most never are."""
    success: str = dataclasses.field(init=False)
    """The word that most often answers it: the first of `replies`."""
    parse_whole: WholeParser = dataclasses.field(init=False)
    """Parses the usual reply if it comes in one piece and alone; returns None for anything else."""
    out_of_step: frozenset[str] = frozenset()
    """The refusals after which the connection is out of step with the server."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "verb", self.name.encode() + b" ")
        object.__setattr__(self, "success", next(iter(self.replies), ""))
        object.__setattr__(self, "parse_whole", whole_parser(self.replies))

    def compile_line(self) -> re.Pattern[bytes]:
        """Make what matches the lines of its replies."""
        line = line_pattern(self.replies)
        object.__setattr__(self, "line", line)
        return line


_JOB_OR_NOT_FOUND = {"FOUND": JOB, "NOT_FOUND": BARE}
_RESERVED = {"RESERVED": JOB, "TIMED_OUT": BARE, "DEADLINE_SOON": BARE}
_DOCUMENT_OR_NOT_FOUND = {"OK": DOCUMENT, "NOT_FOUND": BARE}

PUT = Command(
    "put",
    {"INSERTED": ID, "BURIED": ID, "EXPECTED_CRLF": BARE, "JOB_TOO_BIG": BARE, "DRAINING": BARE},
    # After these beanstalkd has not taken the body as a body, and reads it as commands.
    out_of_step=frozenset({"EXPECTED_CRLF", "BAD_FORMAT", "UNKNOWN_COMMAND"}),
)
USE = Command("use", {"USING": TUBE})
RESERVE = Command("reserve", _RESERVED)
RESERVE_WITH_TIMEOUT = Command("reserve-with-timeout", _RESERVED)
RESERVE_JOB = Command("reserve-job", {"RESERVED": JOB, "NOT_FOUND": BARE})
DELETE = Command("delete", {"DELETED": BARE, "NOT_FOUND": BARE})
RELEASE = Command("release", {"RELEASED": BARE, "BURIED": BARE, "NOT_FOUND": BARE})
BURY = Command("bury", {"BURIED": BARE, "NOT_FOUND": BARE})
TOUCH = Command("touch", {"TOUCHED": BARE, "NOT_FOUND": BARE})
WATCH = Command("watch", {"WATCHING": COUNT})
IGNORE = Command("ignore", {"WATCHING": COUNT, "NOT_IGNORED": BARE})
PEEK = Command("peek", _JOB_OR_NOT_FOUND)
PEEK_READY = Command("peek-ready", _JOB_OR_NOT_FOUND)
PEEK_DELAYED = Command("peek-delayed", _JOB_OR_NOT_FOUND)
PEEK_BURIED = Command("peek-buried", _JOB_OR_NOT_FOUND)
KICK = Command("kick", {"KICKED": COUNT})
KICK_JOB = Command("kick-job", {"KICKED": BARE, "NOT_FOUND": BARE})
STATS_JOB = Command("stats-job", _DOCUMENT_OR_NOT_FOUND)
STATS_TUBE = Command("stats-tube", _DOCUMENT_OR_NOT_FOUND)
STATS = Command("stats", {"OK": DOCUMENT})
LIST_TUBES = Command("list-tubes", {"OK": DOCUMENT})
LIST_TUBE_USED = Command("list-tube-used", {"USING": TUBE})
LIST_TUBES_WATCHED = Command("list-tubes-watched", {"OK": DOCUMENT})
PAUSE_TUBE = Command("pause-tube", {"PAUSED": BARE, "NOT_FOUND": BARE})
QUIT = Command("quit", {})

ALL_COMMANDS = (
    *(PUT, USE, RESERVE, RESERVE_WITH_TIMEOUT, RESERVE_JOB, DELETE, RELEASE, BURY, TOUCH, WATCH, IGNORE),
    *(PEEK, PEEK_READY, PEEK_DELAYED, PEEK_BURIED, KICK, KICK_JOB, STATS_JOB, STATS_TUBE, STATS),
    *(LIST_TUBES, LIST_TUBE_USED, LIST_TUBES_WATCHED, PAUSE_TUBE, QUIT),
)


@functools.lru_cache(maxsize=256)
def _put_head(priority: int, delay: int, ttr: int) -> bytes:
    return b"put %d %d %d " % check_put(priority, delay, ttr)


_NO_DELAY = 0
_USUAL_HEAD = _put_head(DEFAULT_PRIORITY, _NO_DELAY, DEFAULT_TTR)


def encode_put(data: bytes, priority: int, delay: float, ttr: float) -> bytes:
    """``put <priority> <delay> <ttr> <bytes>`` and the body."""
    if priority is DEFAULT_PRIORITY and ttr is DEFAULT_TTR and delay is _NO_DELAY:
        # The defaults, by identity: most puts give no numbers of their own.
        head = _USUAL_HEAD
    elif type(priority) is type(delay) is type(ttr) is int:
        head = _put_head(priority, delay, ttr)
    else:
        # Not by equality: True and some subclasses of int are equal to a plain int, and must not pass for it.
        head = _put_head(*check_put(priority, delay, ttr))
    return b"%b%d\r\n%b\r\n" % (head, len(data), data)


def encode_bare(command: Command) -> bytes:
    """A command without arguments."""
    return command.name.encode() + b"\r\n"


def encode_tube(command: Command, tube: Any) -> bytes:
    """``use``, ``watch``, ``ignore`` or ``stats-tube`` of a tube."""
    return b"%b%b\r\n" % (command.verb, check_tube(tube))


def encode_job(command: Command, jid: Any) -> bytes:
    """A command whose one argument is a job's id."""
    if type(jid) is not int or not 0 < jid <= MAX_ID:
        jid = check_id(jid)
    return b"%b%d\r\n" % (command.verb, jid)


def encode_peek(jid: Any) -> bytes:
    """``peek <id>``; 0 is no job's id, and may be asked for."""
    return b"peek 0\r\n" if type(jid) is int and not jid else encode_job(PEEK, jid)


def encode_reserve_with_timeout(seconds: Any) -> bytes:
    """``reserve-with-timeout <seconds>``; whole seconds, for beanstalkd reads 0.5 as 0."""
    if isinstance(seconds, float) and float.is_integer(seconds):
        seconds = float.__trunc__(seconds)
    return b"reserve-with-timeout %d\r\n" % check_int("timeout", seconds, 0, MAX_RESERVE_TIMEOUT)


def encode_release(jid: Any, priority: Any, delay: Any) -> bytes:
    """``release <id> <priority> <delay>``."""
    priority = check_int("priority", priority, 0, MAX_UINT32)
    delay = check_whole_seconds("delay", delay)
    return b"release %d %d %d\r\n" % (check_id(jid), priority, delay)


def encode_bury(jid: Any, priority: Any) -> bytes:
    """``bury <id> <priority>``."""
    return b"bury %d %d\r\n" % (check_id(jid), check_int("priority", priority, 0, MAX_UINT32))


def encode_kick(bound: Any) -> bytes:
    """``kick <bound>``."""
    return b"kick %d\r\n" % check_int("bound", bound, 0, MAX_UINT32)


def encode_pause_tube(tube: Any, seconds: Any) -> bytes:
    """``pause-tube <tube> <seconds>``; 0 seconds un-pauses."""
    return b"pause-tube %b %d\r\n" % (check_tube(tube), check_whole_seconds("seconds", seconds))
