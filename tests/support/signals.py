"""Signals that come again and again, as a profiler's or a timer's do, and raise nothing."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from support.threads import background

Value = TypeVar("Value")


@contextlib.contextmanager
def pelted(every: float, at_most: float = 5.0) -> Iterator[None]:
    """While the block runs, its thread, which must be the main one, gets a signal every so many seconds.

    :param at_most: when to leave off, so that a call that signals prolong ends all the same (seconds).
    """
    ends_at = time.monotonic() + at_most

    def take(*_: object) -> None:
        if time.monotonic() > ends_at:
            signal.setitimer(signal.ITIMER_REAL, 0)

    before = signal.signal(signal.SIGALRM, take)
    signal.setitimer(signal.ITIMER_REAL, every, every)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def pelted_elsewhere(call: Callable[[], Value], every: float) -> BaseException | None:
    """Make a call in another thread, which gets a signal every so many seconds; returns what it raised."""
    ended, pelted_no_more = threading.Event(), threading.Event()

    def make_the_call() -> Value:
        try:
            return call()
        finally:
            ended.set()
            # A signal to a thread that is gone may crash the process.
            pelted_no_more.wait()

    before = signal.signal(signal.SIGUSR2, lambda *_: None)
    try:
        running = background(make_the_call, "pelted")
        try:
            while not ended.wait(every):
                signal.pthread_kill(running.thread.ident or 0, signal.SIGUSR2)
        finally:
            pelted_no_more.set()
        return running.error(5)
    finally:
        signal.signal(signal.SIGUSR2, before)
