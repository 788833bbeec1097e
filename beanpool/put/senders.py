"""All senders of the process: they are closed when it ends, and start afresh in a forked child."""

from __future__ import annotations

import os
import sys
import time
import weakref
from typing import Protocol


class EndsWithProcess(Protocol):
    """What has puts to send, and must not be forgotten when the process ends, or forks."""

    closed: bool
    """Whether nothing more is taken."""
    ends_since: float | None
    """When the program began to end (monotonic seconds)."""

    def begin_to_close(self) -> None:
        """Take no more."""

    def close(self, timeout: float | None, since: float | None = None) -> None:
        """Take no more, send what is there."""

    def leave_to_parent(self) -> None:
        """Start afresh in a forked child."""


# Not a WeakSet, whose callbacks swallow interrupts.
_senders: dict[int, weakref.ref[EndsWithProcess]] = {}


def enlist(sender: EndsWithProcess) -> None:
    """Let it start afresh in a forked child, and begin to close when the program ends."""
    for key in [key for key, known in _senders.copy().items() if known() is None]:
        _senders.pop(key, None)
    _senders[id(sender)] = weakref.ref(sender)


class AtExit:
    """Closes a sender when the program ends: what it has put must not be lost without a word."""

    def __init__(self, sender: EndsWithProcess) -> None:
        self._sender = sender

    def __call__(self) -> None:
        """Close it, and let all others begin to close."""
        # All at the same time: the program's end has one deadline.
        now = time.monotonic()
        for sender in _living():
            if not sender.closed:
                sender.begin_to_close()
                sender.ends_since = now
        self._sender.close(None, self._sender.ends_since)


def _living() -> list[EndsWithProcess]:
    return [sender for known in _senders.copy().values() if (sender := known()) is not None]


def _start_afresh_in_child() -> None:
    multiprocessing = sys.modules.get("multiprocessing.util")
    for sender in _living():
        sender.leave_to_parent()
        if multiprocessing is not None:
            # Its children end without atexit; they ask who has registered, once they are set up.
            multiprocessing.register_after_fork(sender, _close_with_worker)


def _close_with_worker(sender: EndsWithProcess) -> None:
    sys.modules["multiprocessing.util"].Finalize(sender, _close, (weakref.ref(sender),), exitpriority=100)


def _close(reference: weakref.ref[EndsWithProcess]) -> None:
    sender = reference()
    if sender is not None:
        sender.close(None)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_afresh_in_child)
