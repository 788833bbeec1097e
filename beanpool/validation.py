"""Checks of arguments that never go over the wire: times and encodings."""

from __future__ import annotations

from typing import Any, Literal

OnAmbiguous = Literal["resend", "raise"]
"""What becomes of a put that may or may not be stored: it is put again, or raises :class:`PutAmbiguous`."""

LONGEST = 1_000_000
"""No time may be longer (seconds): selectors and kernels cannot be told of much more."""


def check_seconds(name: str, value: Any) -> float:
    """Return `value` if it is a positive number of seconds.

    :raises TypeError: if it is no ``int`` or ``float`` (a ``bool`` is none).
    :raises ValueError: if it is not positive, or longer than :data:`LONGEST`.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be a number of seconds, not {type(value).__name__}")
    if not 0 < value <= LONGEST:
        raise ValueError(f"{name} must be a positive number of seconds, up to {LONGEST}, not {_short(value)}")
    return float(value)


def check_wait(name: str, value: Any) -> float | None:
    """Return `value` if it is None or a number of seconds from 0 on.

    :raises TypeError: if it is neither None nor an ``int`` or ``float``.
    :raises ValueError: if it is negative, or longer than :data:`LONGEST`.
    """
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be None or a number of seconds, not {type(value).__name__}")
    if not 0 <= value <= LONGEST:
        raise ValueError(f"{name} must be None, or from 0 to {LONGEST} seconds, not {_short(value)}")
    return float(value)


def check_many(name: str, value: Any) -> None:
    """Check that `value` can hold many things.

    :raises TypeError: if it is a text, or bytes: their items are characters and numbers, which nobody means.
    """
    if isinstance(value, str | bytes | bytearray | memoryview):
        raise TypeError(f"{name} must be an iterable, such as a list, not one {type(value).__name__}")


def check_pause(name: str, value: Any) -> float:
    """Return `value` if it is a number of seconds from 0 on.

    :raises TypeError: if it is no ``int`` or ``float`` (a ``bool`` is none).
    :raises ValueError: if it is negative, or longer than :data:`LONGEST`.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be a number of seconds, not {type(value).__name__}")
    if not 0 <= value <= LONGEST:
        raise ValueError(f"{name} must be from 0 to {LONGEST} seconds, not {_short(value)}")
    return float(value)


def check_encoding(value: Any) -> str | None:
    """Return `value` if it is None or the name of a text encoding that Python knows."""
    if value is None:
        return None
    if not isinstance(value, str):
        raise TypeError(f"encoding must be a str or None, not {type(value).__name__}")
    try:
        # Not codecs.lookup(): that knows codecs between bytes and bytes too.
        "".encode(value)
    except (LookupError, UnicodeError):
        raise ValueError(f"encoding must be one that Python knows, not {value!r}") from None
    return value


def check_on_ambiguous(value: Any) -> OnAmbiguous:
    """Return `value` if it is ``"resend"`` or ``"raise"``."""
    if not isinstance(value, str):
        raise TypeError(f"on_ambiguous must be 'resend' or 'raise', not {type(value).__name__}")
    if value not in ("resend", "raise"):
        raise ValueError(f"on_ambiguous must be 'resend' or 'raise', not {value!r}")
    return "raise" if value == "raise" else "resend"


def _short(value: float) -> str:
    try:
        return f"{value:.6g}"
    except OverflowError:
        return "a number beyond all times"
