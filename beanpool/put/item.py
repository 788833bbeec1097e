"""A put as users describe it, and as it is sent."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

from beanpool.errors import without_frames
from beanpool.protocol import Body, check_tube, encode_body, encode_put


@dataclasses.dataclass(frozen=True, slots=True)
class Put:
    """A body, and what is different about it; None means what the batch says.

    :param body: ``str`` or bytes-like.
    :param key: jobs with the same key go to the same server.
    :param tube: the tube.
    :param priority: 0 (most urgent) to 2**32 - 1.
    :param delay: how long before the job becomes ready (whole seconds).
    :param ttr: how long a worker may take (whole seconds; 0 counts as 1).
    """

    body: Body
    key: str | bytes | None = None
    tube: str | None = None
    priority: int | None = None
    delay: float | None = None
    ttr: float | None = None


class EncodedPut(NamedTuple):
    """A put that is ready to be sent."""

    request: bytes
    size: int
    """Of the body (bytes)."""
    tube: str
    key: str | bytes | None


# What EncodedPut(...) does, without the function that a NamedTuple puts before it.
_new_put: Callable[[tuple[bytes, int, str, str | bytes | None]], EncodedPut] = functools.partial(
    tuple.__new__, EncodedPut
)


class PutDefaults(NamedTuple):
    """What holds for the items of a batch that do not say otherwise."""

    key: str | bytes | None
    tube: str
    priority: int
    delay: float
    ttr: float


def encode(
    body: Body,
    key: str | bytes | None,
    tube: str,
    priority: int,
    delay: float,
    ttr: float,
    encoding: str | None,
) -> EncodedPut:
    """Check a put and build what is sent for it.

    :raises TypeError: and ``ValueError``, if anything of it cannot be.
    """
    data = encode_body(body, encoding)
    request = encode_put(data, priority, delay, ttr)
    check_tube(tube)
    if key is not None:
        check_key(key)
    return _new_put((request, len(data), tube, key))


def encoded(item: Body | Put, defaults: PutDefaults, encoding: str | None) -> EncodedPut | Exception:
    """What is sent for `item`, with what it leaves open taken from `defaults`; or what is wrong with it."""
    try:
        if not isinstance(item, Put):
            return encode(item, *defaults, encoding)
        return encode(
            item.body,
            defaults.key if item.key is None else item.key,
            defaults.tube if item.tube is None else item.tube,
            defaults.priority if item.priority is None else item.priority,
            defaults.delay if item.delay is None else item.delay,
            defaults.ttr if item.ttr is None else item.ttr,
            encoding,
        )
    except (ValueError, TypeError) as error:
        return without_frames(error)


def check_key(key: Any) -> str | bytes:
    """Return `key` if it can be one.

    :raises TypeError: if it is neither ``str`` nor ``bytes``.
    """
    if not isinstance(key, str | bytes):
        raise TypeError(f"key must be str or bytes, not {type(key).__name__}")
    return key
