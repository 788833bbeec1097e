"""Keys, changes of the window and news from another thread, as one thing to wait for."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
from collections.abc import Iterator
from typing import Any

from beanpool.cli.terminal import is_terminal


class Doorbell:
    """Wakes whoever waits at it. It may be rung from any thread, and by a signal handler."""

    def __init__(self, keys: bool) -> None:
        self._inner, self._outer = os.pipe()
        os.set_blocking(self._outer, False)
        os.set_blocking(self._inner, False)
        self._keys = keys

    def ring(self) -> None:
        """Wake it."""
        with contextlib.suppress(BlockingIOError, OSError):
            os.write(self._outer, b".")

    def wait(self, timeout: float) -> str:
        """Wait for so long (seconds) at most; returns the keys that were pressed."""
        watched: list[Any] = [self._inner, *([sys.stdin] if self._keys else [])]
        ready, _, _ = select.select(watched, [], [], max(0.0, timeout))
        if self._inner in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(self._inner, 4096)
        if sys.stdin not in ready:
            return ""
        pressed = os.read(sys.stdin.fileno(), 64)
        # The terminal has gone.
        return pressed.decode("ascii", "ignore") if pressed else "q"

    def close(self) -> None:
        """Take it down."""
        os.close(self._inner)
        os.close(self._outer)


@contextlib.contextmanager
def doorbell() -> Iterator[Doorbell]:
    """A doorbell that keys, if a person has some, and changes of the window ring."""
    keys = is_terminal(sys.stdin)
    bell = Doorbell(keys)
    previous = signal.signal(signal.SIGWINCH, lambda number, frame: bell.ring())
    try:
        with _single_keys() if keys else contextlib.nullcontext():
            yield bell
    finally:
        signal.signal(signal.SIGWINCH, previous)
        bell.close()


@contextlib.contextmanager
def _single_keys() -> Iterator[None]:
    """Let the terminal hand over each key at once, without showing it."""
    import termios
    import tty

    settings = termios.tcgetattr(sys.stdin)
    tty.setcbreak(sys.stdin)
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, settings)
