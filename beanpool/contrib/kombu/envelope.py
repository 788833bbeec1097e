"""What is put around a message's body, and how a message's words become beanstalkd's: pure."""

from __future__ import annotations

import datetime
import math
import re
from typing import Any

from kombu.utils.json import dumps, loads

from beanpool import DEFAULT_PRIORITY

MAX_DELAY = 2**32 - 1
_PRIORITIES = 10
_NOT_IN_A_TUBE = re.compile(r"[^A-Za-z0-9\-+/;._()]")


def encode(message: dict[str, Any]) -> bytes:
    """A message of a virtual channel as the body of a job."""
    text: str = dumps(message)
    return text.encode()


def decode(data: bytes) -> dict[str, Any]:
    """The message in the body of a job.

    :raises ValueError: if it is none.
    """
    found = loads(data)
    if not isinstance(found, dict):
        raise ValueError("not the message of a kombu transport")
    properties = found.get("properties")
    if not isinstance(properties, dict) or not isinstance(found.get("headers", {}), dict) or "body" not in found:
        raise ValueError("not the message of a kombu transport")
    if not isinstance(properties.setdefault("delivery_info", {}), dict):
        raise ValueError("not the message of a kombu transport")
    return found


def priority_of(level: int) -> int:
    """beanstalkd's priority for one of AMQP's: 0 (its default, and beanpool's) to 9, the most urgent."""
    return DEFAULT_PRIORITY * (_PRIORITIES - level) // _PRIORITIES


def eta_of(message: dict[str, Any]) -> datetime.datetime | None:
    """When a message may be worked on at the earliest: Celery's header ``eta`` (its protocol 2); None for at once.

    One without a time zone is left to the worker, who knows which is meant.
    """
    eta = (message.get("headers") or {}).get("eta")
    if not isinstance(eta, str):
        return None
    try:
        moment = datetime.datetime.fromisoformat(eta)
    except ValueError:
        return None
    return None if moment.tzinfo is None else moment


def delay_until(eta: datetime.datetime | None, now: datetime.datetime) -> int:
    """How long that is from now (whole seconds, rounded up); 0 for not at all."""
    if eta is None:
        return 0
    return min(MAX_DELAY, max(0, math.ceil((eta - now).total_seconds())))


def tube_of(queue: str, namespace: str = "") -> str:
    """The name of the tube of a queue. What no tube's name may have in it is written as ``$`` and two hex digits.

    Of each byte of its UTF-8, so that no two queues share a tube.
    """
    quoted = _NOT_IN_A_TUBE.sub(lambda match: "".join(f"${byte:02x}" for byte in match[0].encode()), queue)
    if quoted.startswith("-") and not namespace:
        quoted = f"$2d{quoted[1:]}"
    return namespace + quoted
