"""Checks of everything that goes into a command line.

This is a security boundary: a number out of range makes beanstalkd run the *body* of a put as
commands, and a tube name with a line break is a second command. So a value is either exactly what
the protocol allows, or the call fails before a byte is sent.
"""

from __future__ import annotations

import re
from typing import Any, NoReturn

DEFAULT_PRIORITY = 2**31
DEFAULT_TTR = 120
DEFAULT_TUBE_NAME = "default"

MAX_UINT32 = 2**32 - 1
MAX_RESERVE_TIMEOUT = 2**31 - 1
MAX_ID = 2**64 - 1
MAX_JOB_SIZE = 2**30
"""The largest ``max-job-size`` that a beanstalkd can be started with (bytes)."""

Body = str | bytes | bytearray | memoryview
"""What a job's body may be given as."""

_TUBE = re.compile(r"[A-Za-z0-9+/;.$_()][A-Za-z0-9\-+/;.$_()]{0,199}")
_known_tubes: dict[str, bytes] = {}


def check_int(name: str, value: Any, low: int, high: int) -> int:
    """Return `value` as a plain ``int`` if it is one from `low` to `high`.

    :raises TypeError: for anything but an ``int`` (a ``bool``, a ``float`` or ``"5"`` is none).
    :raises ValueError: if it is out of range.
    """
    if type(value) is not int:
        if not isinstance(value, int) or isinstance(value, bool):
            raise TypeError(f"{name} must be an int from {low} to {high}, not {type(value).__name__}")
        # Of a subclass the true value: what is checked must be what is sent.
        value = int.__index__(value)
    number: int = value
    if not low <= number <= high:
        raise ValueError(f"{name} must be from {low} to {high}, not {number}")
    return number


def check_id(value: Any, name: str = "job id") -> int:
    """Return `value` as a plain ``int`` if it can be a job's id (1 to 2**64 - 1)."""
    return check_int(name, value, 1, MAX_ID)


def check_whole_seconds(name: str, value: Any) -> int:
    """Return `value` as a plain ``int`` if it is one from 0 to 2**32 - 1, or a ``float`` that is whole."""
    if isinstance(value, float) and float.is_integer(value):
        value = float.__trunc__(value)
    return check_int(name, value, 0, MAX_UINT32)


def check_tube(value: Any, name: str = "tube") -> bytes:
    """Return the tube's name as bytes if the protocol allows it.

    :raises TypeError: if it is not a ``str``.
    :raises ValueError: unless it is 1 to 200 characters of ``A-Za-z0-9-+/;.$_()`` that do not start with ``-``.
    """
    if type(value) is not str:
        if not isinstance(value, str):
            raise TypeError(f"{name} must be a str, not {type(value).__name__}")
        # Of a subclass the true value: what is checked must be what is sent, and what is remembered.
        value = str.__str__(value)
    known = _known_tubes.get(value)
    if known is not None:
        return known
    if not _TUBE.fullmatch(value):
        raise ValueError(
            f"{name} must be 1 to 200 characters of A-Za-z0-9-+/;.$_() that do not start with '-', not {value[:210]!r}"
        )
    encoded = str.encode(value, "ascii")
    if len(_known_tubes) < 1024:
        _known_tubes[value] = encoded
    return encoded


def check_reserve_timeout(value: Any) -> int | float:
    """Return `value` as a plain ``int`` if it is a whole number of seconds from 0 to 2**31 - 1, else as a ``float``."""
    if not isinstance(value, float):
        return check_int("timeout", value, 0, MAX_RESERVE_TIMEOUT)
    seconds = float.__pos__(value)
    if not 0 <= seconds <= MAX_RESERVE_TIMEOUT:
        raise ValueError(f"timeout must be from 0 to {MAX_RESERVE_TIMEOUT}, not {seconds}")
    return int(seconds) if seconds.is_integer() else seconds


def check_put(priority: Any, delay: Any, ttr: Any) -> tuple[int, int, int]:
    """Return the three numbers of a put, each from 0 to 2**32 - 1, as plain ints."""
    return (
        check_int("priority", priority, 0, MAX_UINT32),
        check_whole_seconds("delay", delay),
        check_whole_seconds("ttr", ttr),
    )


def encode_body(body: Any, encoding: str | None) -> bytes:
    """Return a snapshot of `body` as bytes; a ``str`` is encoded with `encoding`.

    :raises TypeError: if it is neither bytes-like nor, with an encoding, a ``str``.
    :raises ValueError: if it cannot be encoded, or no server could be configured to take its size.
    """
    if type(body) is bytes:
        data = body
    elif isinstance(body, str):
        if encoding is None:
            raise TypeError("body must be bytes-like, not str: this connection has no encoding (encoding=None)")
        data = _encode_text(body, encoding)
    elif isinstance(body, bytes | bytearray | memoryview):
        # Of a subclass, too, the bytes that it holds.
        data = bytes(memoryview(body))
    else:
        _refuse_body(body, encoding)
    if len(data) > MAX_JOB_SIZE:
        raise ValueError(f"body must be at most {MAX_JOB_SIZE} bytes, not {len(data)}")
    return data


def _encode_text(body: str, encoding: str) -> bytes:
    problem = None
    try:
        return str.encode(body, encoding)
    except UnicodeEncodeError as error:
        problem = error.reason
    # Raised outside the handler: the codec's own error holds the body.
    raise ValueError(f"body cannot be encoded as {encoding}: {problem}")


def _refuse_body(body: Any, encoding: str | None) -> NoReturn:
    kinds = "bytes-like" if encoding is None else "str or bytes-like"
    raise TypeError(f"body must be {kinds}, not {type(body).__name__}")
