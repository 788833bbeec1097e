"""How beanstalkd reads the arguments of its commands."""

from __future__ import annotations

import re

from beanpool.protocol import check_tube

_NUMBER = re.compile(rb" *([0-9]+)")
_KICK_BOUND = re.compile(rb"[ \t\n\v\f\r]*([+-]?[0-9]+)")
_PAUSE = re.compile(rb" *([A-Za-z0-9\-+/;.$_()]++)(.*)")


class BadFormat(Exception):
    """The arguments are not what the command takes."""


def read_numbers(text: bytes, *largest: int) -> tuple[list[int], bytes]:
    """Read one number for each of `largest`, spaces between them; return them and what is behind them."""
    numbers = []
    for limit in largest:
        found = _NUMBER.match(text)
        if not found or int(found[1]) > limit:
            raise BadFormat
        numbers.append(int(found[1]))
        text = text[found.end() :]
    return numbers, text


def read_all_numbers(text: bytes, *largest: int) -> list[int]:
    """:func:`read_numbers`, and nothing may be behind them."""
    numbers, rest = read_numbers(text, *largest)
    if rest:
        raise BadFormat
    return numbers


def read_tube(text: bytes) -> str:
    """Read a tube's name, with nothing before or behind it."""
    try:
        return check_tube(text.decode("ascii")).decode("ascii")
    except ValueError:
        raise BadFormat from None


def read_kick_bound(text: bytes) -> int:
    """Read the bound of ``kick`` like C's strtoul, cut to 32 bits: what follows the number is ignored."""
    found = _KICK_BOUND.match(text)
    if not found or abs(int(found[1])) >= 2**64:
        raise BadFormat
    return int(found[1]) % 2**32


def split_pause(text: bytes) -> tuple[bytes, bytes]:
    """Split the arguments of ``pause-tube`` into the name and the rest."""
    found = _PAUSE.fullmatch(text)
    if not found:
        raise BadFormat
    return found[1], found[2]
