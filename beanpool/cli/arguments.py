"""What the arguments of commands may be: times, numbers, jobs and their states."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from typing import NamedTuple

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_MAX_ID = 2**64 - 1


class JobAddress(NamedTuple):
    """A job as ``SERVER/ID``, or as ``ID`` where there is one server only."""

    server: str | None
    id: int

    def __str__(self) -> str:
        return str(self.id) if self.server is None else f"{self.server}/{self.id}"


def duration(least: float, most: float = math.inf, *, forever: bool = False) -> Callable[[str], float]:
    """What reads a time as seconds: ``90``, ``1.5``, ``90s``, ``5m``, ``2h`` or ``1d``.

    :param forever: whether it may be ``inf``.
    """

    def read(text: str) -> float:
        unit = _UNITS.get(text[-1:], 0)
        try:
            value = float(text[:-1]) * unit if unit else float(text)
        except ValueError:
            value = math.nan
        if not least <= value <= most or (math.isinf(value) and not forever):
            bounds = f"at least {least:g} s" if math.isinf(most) else f"from {least:g} to {most:g} s"
            raise argparse.ArgumentTypeError(f"must be a time such as 90, 90s, 5m, 2h or 1d, {bounds}, not {text!r}")
        return value

    return read


def whole_seconds(text: str) -> int:
    """Read a time that the protocol takes in whole seconds."""
    value = duration(0, 2**32 - 1)(text)
    if value != int(value):
        raise argparse.ArgumentTypeError(f"must be whole seconds, not {text!r}")
    return int(value)


def whole(least: int, most: int) -> Callable[[str], int]:
    """What reads a whole number from `least` to `most`."""

    def read(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"must be from {least} to {most}, not {text!r}")
        return value

    return read


def job_address(text: str) -> JobAddress:
    """Read ``SERVER/ID``; the server is an address, a name, or the path of a socket."""
    server, slash, number = text.rpartition("/")
    if not (number.isascii() and number.isdecimal()) or not 1 <= int(number) <= _MAX_ID or (slash and not server):
        raise argparse.ArgumentTypeError(f"must be SERVER/ID, such as q1:11300/42, not {text!r}")
    return JobAddress(server or None, int(number))


def states(*known: str) -> Callable[[str], tuple[str, ...]]:
    """What reads some of the states of jobs, with commas between them; "all" for all that are known."""

    def read(text: str) -> tuple[str, ...]:
        named = known if text == "all" else tuple(dict.fromkeys(text.split(",")))
        if not set(named) <= set(known):
            choice = ", ".join(known)
            raise argparse.ArgumentTypeError(
                f"must be some of {choice}, with commas between them, or all; not {text!r}"
            )
        return named

    return read
