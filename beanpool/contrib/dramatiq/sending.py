"""How a message fits into a job: its delay, and the traceback of its last failure."""

from __future__ import annotations

import math
from typing import Any

from dramatiq.common import current_millis
from dramatiq.message import Message

from beanpool.errors import JobTooBig

# What an encoder adds to a traceback that is cut (bytes), and what says that it was.
_CUT_MARGIN = 16
_CUT = "[...]\n"


def whole_seconds(milliseconds: float) -> int:
    """What a server is told for so many: a delay is never too short."""
    return max(0, math.ceil(milliseconds / 1000))


def seconds_until(eta: object) -> int:
    """How long from now (whole seconds, rounded up).

    :param eta: Unix time (milliseconds). What is none does not count, as for dramatiq's workers.
    """
    if not isinstance(eta, int | float) or not math.isfinite(eta):
        return 0
    return whole_seconds(eta - current_millis())


def with_less_traceback(message: Message[Any], error: JobTooBig) -> Message[Any] | None:
    """The message with the end of its traceback, which says most, as far as there is room; None if it has none."""
    text = message.options.get("traceback")
    if not isinstance(text, str) or not text:
        return None
    text = text.removeprefix(_CUT)
    excess = len(text) if error.size is None or error.limit is None else error.size - error.limit
    # An encoder may write more bytes than characters, or compress them: in doubt, it is tried once more.
    keep = min(len(text) - excess - len(_CUT) - _CUT_MARGIN, len(text) * 3 // 4)
    return message.copy(options={"traceback": _CUT + text[-keep:] if keep > 0 else ""})
