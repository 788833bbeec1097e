"""The replies of the protocol: their words, their shapes, and which command may get which."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Final, NamedTuple

from beanpool.protocol.arguments import MAX_ID


class Reply(NamedTuple):
    """One complete reply of the server."""

    status: str
    """The first word, such as ``INSERTED``."""
    number: int = 0
    """The job id, or the count in ``WATCHING`` and ``KICKED``; 0 where there is none."""
    body: bytes = b""
    """The bytes that follow the line, without their CRLF."""
    tube: str = ""
    """The tube's name in ``USING``."""


MAX_LINE: Final = 512
"""No reply line is longer (bytes): the longest is ``USING`` with a tube name of 200."""

# The shape of each word's line. A word may have two (BURIED <id> for put, bare for bury and release).
BARE: Final = "bare"
ID: Final = "id"
COUNT: Final = "count"
JOB: Final = "job"
DOCUMENT: Final = "document"
TUBE: Final = "tube"

ERRORS: Final = ("OUT_OF_MEMORY", "INTERNAL_ERROR", "BAD_FORMAT", "UNKNOWN_COMMAND")
"""Every command may be answered with these."""

_ALL_WORDS = (
    *ERRORS,
    *("INSERTED", "BURIED", "EXPECTED_CRLF", "JOB_TOO_BIG", "DRAINING", "USING", "RESERVED"),
    *("DEADLINE_SOON", "TIMED_OUT", "NOT_FOUND", "DELETED", "RELEASED", "TOUCHED", "WATCHING"),
    *("NOT_IGNORED", "FOUND", "KICKED", "OK", "PAUSED"),
)

WORDS: Final = {word.encode(): word for word in _ALL_WORDS}
"""Every first word that a reply may have, by its bytes."""

Tally = dict[str, int]
"""How many replies had which first word."""

PUT_BURIED: Final = "BURIED to a put"
"""How many of those that are counted as ``BURIED`` answered a put: the job is stored."""

NO_REPLIES: Final[Tally] = dict.fromkeys((*_ALL_WORDS, PUT_BURIED), 0)
"""The tally of a connection that has had no reply; to be copied. Every word is there: a plain dict is the quickest."""

_ID = rb"([1-9][0-9]{0,19})"
_SIZE = rb"(0|[1-9][0-9]{0,9})"

# Group numbers in every pattern; `lastindex` of a match tells the shape.
BARE_WORD: Final = 1
NUMBER: Final = 3
JOB_SIZE: Final = 6
DOCUMENT_SIZE: Final = 8
TUBE_NAME: Final = 10


def _words(replies: dict[str, str], *shapes: str) -> bytes:
    words = [word.encode() for word, shape in replies.items() if shape in shapes]
    return b"(" + (b"|".join(words) or rb"(?!)") + b")"


def line_pattern(replies: dict[str, str]) -> re.Pattern[bytes]:
    """Compile the whole reply lines that `replies` (word to shape) allow, CRLF included."""
    bare = _words({**replies, **dict.fromkeys(ERRORS, BARE)}, BARE)
    number = _words(replies, ID, COUNT)
    digits = _ID if ID in replies.values() else rb"(0|[1-9][0-9]{0,19})"
    alternatives = (
        bare,
        number + b" " + digits,
        _words(replies, JOB) + b" " + _ID + b" " + _SIZE,
        _words(replies, DOCUMENT) + b" " + _SIZE,
        _words(replies, TUBE) + rb" ([A-Za-z0-9+/;.$_()][A-Za-z0-9\-+/;.$_()]{0,199})",
    )
    return re.compile(b"(?:" + b"|".join(alternatives) + b")\r\n")


WholeParser = Callable[[bytes], Reply | None]
"""Parses what nearly always comes: one whole reply in one piece. Returns None for anything else."""

_ID_AT = len(b"INSERTED ")
# Fewer digits cannot go beyond 2**64.
_SAFE_DIGITS = 20
_ZERO = ord("0")
# Without the function that a NamedTuple puts before it.
_new_tuple = tuple.__new__


def whole_parser(replies: dict[str, str]) -> WholeParser:
    """Return what reads the usual reply among `replies` (word to shape) when it comes in one piece."""
    bare_words = [*ERRORS, *(word for word, shape in replies.items() if shape == BARE)]
    bare: WholeParser = {word.encode() + b"\r\n": Reply(word) for word in bare_words}.get
    if "INSERTED" in replies:
        return _parse_whole_inserted
    for word, shape in replies.items():
        if shape == JOB:
            return functools.partial(_parse_whole_job, word, word.encode() + b" ", bare)
    return bare


# By hand: what reads a reply comes out of a system call and finds the processor's caches empty, and a regular
# expression has much more to load into them.


def _parse_whole_inserted(data: bytes) -> Reply | None:
    try:
        number = int(data[_ID_AT:-2])
    except ValueError:
        return None
    # int() takes more than the protocol has: only what is written back the same is a number.
    if 0 < number <= MAX_ID and data == b"INSERTED %d\r\n" % number:
        return _new_tuple(Reply, ("INSERTED", number, b"", ""))
    return None


def _parse_whole_job(word: str, opening: bytes, bare: WholeParser, data: bytes) -> Reply | None:
    if not data.startswith(opening):
        return bare(data)
    start = data.find(b"\r\n") + 2
    digits, _, size = data[len(opening) : start - 2].partition(b" ")
    if (
        digits.isdigit()
        and len(digits) < _SAFE_DIGITS
        and digits[0] != _ZERO
        and size == b"%d" % (len(data) - start - 2)
        and data.endswith(b"\r\n")
    ):
        return _new_tuple(Reply, (word, int(digits), data[start:-2], ""))
    return None
