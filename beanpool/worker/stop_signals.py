"""SIGTERM and SIGINT as a request to stop."""

from __future__ import annotations

import contextlib
import select
import signal
import socket
import threading
from collections.abc import Callable
from concurrent.futures import Future
from types import FrameType, TracebackType
from typing import Any, TypeVar

T = TypeVar("T")
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopSignals:
    """While this context is open, SIGTERM and SIGINT call a function instead of ending the process.

    Outside of the main thread, where no signal can be handled, they do not. What the process ignores stays ignored, as
    SIGINT is in the background of a shell.

    :param stop: is told how many signals came before. It is called at whatever line the main thread is.
    """

    def __init__(self, stop: Callable[[int], None]) -> None:
        self._stop = stop
        self._count = 0
        self._before: dict[signal.Signals, Any] = {}
        self._pair: tuple[socket.socket, socket.socket] | None = None
        self._descriptor_before = -1

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            # The system may deliver a signal to another thread, and Python handles it in this one: a wait for a lock
            # would not end. What Python writes here ends a wait for a socket.
            self._pair = socket.socketpair()
            for end in self._pair:
                end.setblocking(False)
            self._descriptor_before = signal.set_wakeup_fd(self._pair[1].fileno(), warn_on_full_buffer=False)
            for number in _SIGNALS:
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)
        if self._pair is not None:
            signal.set_wakeup_fd(self._descriptor_before)
            for end in self._pair:
                end.close()

    def wait(self, future: Future[T]) -> T:
        """Wait for a result, and handle signals meanwhile."""
        if self._pair is None:
            return future.result()
        reader, writer = self._pair

        def wake(_: Future[T]) -> None:
            with contextlib.suppress(OSError):
                writer.send(b"\0")

        future.add_done_callback(wake)
        poll = select.poll()
        poll.register(reader, select.POLLIN)
        while not future.done():
            poll.poll()
            with contextlib.suppress(BlockingIOError):
                reader.recv(4096)
        return future.result()

    def _note(self, number: int, frame: FrameType | None) -> None:
        count, self._count = self._count, self._count + 1
        self._stop(count)
