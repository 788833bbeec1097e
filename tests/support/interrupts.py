"""Interrupts at moments that are chosen, and at lines that are not."""

from __future__ import annotations

import contextlib
import ctypes
import signal
import threading
from collections.abc import Callable, Iterator

import pytest

from support.threads import background
from support.waiting import wait_until

_set_exception = ctypes.pythonapi.PyThreadState_SetAsyncExc
_set_exception.argtypes = (ctypes.c_ulong, ctypes.py_object)


class Interrupt(BaseException):
    """What a thread gets that was struck; like KeyboardInterrupt, nothing but the thread's own loop expects it."""


@contextlib.contextmanager
def interrupted_when(ready: Callable[[], object]) -> Iterator[None]:
    """Send the main thread Control-C as soon as `ready` says so; assert that the block ends by it."""
    assert threading.current_thread() is threading.main_thread()
    victim = threading.get_ident()

    def send_signal() -> None:
        wait_until(ready, "the moment to interrupt")
        signal.pthread_kill(victim, signal.SIGINT)

    sender = background(send_signal, "sender of interrupts")
    with pytest.raises(KeyboardInterrupt):
        yield
    sender.result()


class Rounds:
    """A thread that makes the same call again and again, and that can be struck at whatever line of it.

    It is struck at most once in each call: an interrupt while another one is dealt with is nobody's promise.
    """

    def __init__(self, call: Callable[[], object], name: str = "rounds") -> None:
        self.completed = 0
        self.interrupted = 0
        self._call = call
        self._lock = threading.Lock()
        self._turn = 0
        self._exposed = 0
        self._struck = 0
        self._stopping = False
        self._thread = background(self._run, name)

    def _run(self) -> None:
        while not self._stopping:
            try:
                self._turn += 1
                self._expose(self._turn)
                try:
                    self._call()
                finally:
                    self._expose(0)
                self.completed += 1
            except Interrupt:
                self._expose(0)
                self.interrupted += 1

    def _expose(self, turn: int) -> None:
        with self._lock:
            self._exposed = turn

    def strike(self) -> bool:
        """Interrupt the call that is under way; false if there is none, or it was struck before."""
        with self._lock:
            if not self._exposed or self._struck == self._exposed:
                return False
            self._struck = self._exposed
            _set_exception(self._thread.thread.ident or 0, Interrupt)
            return True

    def stop(self) -> None:
        """Start no more calls."""
        self._stopping = True

    def result(self, timeout: float = 10.0) -> None:
        """Wait for the end of the last call; raise what it raised, if that was no interrupt."""
        try:
            self._thread.result(timeout)
        finally:
            # One that came too late to be raised: CPython 3.11 looks for it, and hangs in the next traced call.
            with contextlib.suppress(Interrupt):
                _set_exception(threading.get_ident(), Interrupt)
                for _ in range(1000):
                    pass
