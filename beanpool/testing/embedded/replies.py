"""The server's replies as bytes."""

from __future__ import annotations

from beanpool.testing.embedded.state import StoredJob

BAD_FORMAT = b"BAD_FORMAT\r\n"
DRAINING = b"DRAINING\r\n"
EXPECTED_CRLF = b"EXPECTED_CRLF\r\n"
JOB_TOO_BIG = b"JOB_TOO_BIG\r\n"
NOT_FOUND = b"NOT_FOUND\r\n"
UNKNOWN_COMMAND = b"UNKNOWN_COMMAND\r\n"


def line(word: str, value: object = "") -> bytes:
    """One word, and what belongs to it."""
    return f"{word} {value}".rstrip().encode() + b"\r\n"


def found(word: str, job: StoredJob) -> bytes:
    """A job: ``RESERVED`` or ``FOUND``, its id, its size and its body."""
    return b"%b %d %d\r\n%b\r\n" % (word.encode(), job.id, len(job.body), job.body)


def document(data: bytes) -> bytes:
    """``OK``, the size, and the document."""
    return b"OK %d\r\n%b\r\n" % (len(data), data)


def done_or_not_found(done: bool, word: str) -> bytes:
    """`word`, or ``NOT_FOUND``."""
    return line(word) if done else NOT_FOUND
