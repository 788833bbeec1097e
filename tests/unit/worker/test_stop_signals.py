"""Tests of signals as requests to stop: none is missed, whichever thread the system gives it to."""

from __future__ import annotations

import signal
import sys
import threading
from concurrent.futures import Future

from support.threads import background
from support.waiting import wait_until

from beanpool.worker.stop_signals import StopSignals

DEADLINE = 10.0


def test_a_signal_that_another_thread_gets_ends_the_wait() -> None:
    future: Future[str] = Future()
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    counts: list[int] = []
    over = threading.Event()

    def stop(count: int) -> None:
        counts.append(count)
        if count == 1:
            future.set_result("stopped")

    def main_waits() -> bool:
        frame = sys._current_frames()[threading.main_thread().ident or 0]
        return frame.f_code.co_name == "wait"

    def other() -> None:
        wait_until(main_waits, "the wait of the main thread")
        # At once, one after the other: they are of different kinds, so both are delivered.
        signal.pthread_kill(threading.get_ident(), signal.SIGTERM)
        signal.pthread_kill(threading.get_ident(), signal.SIGINT)
        if not over.wait(DEADLINE):
            future.set_result("missed")

    with StopSignals(stop) as signals:
        call = background(other)
        assert signals.wait(future) == "stopped"
        over.set()
        call.result()
    assert counts == [0, 1]
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
    assert signal.set_wakeup_fd(-1) == -1


def test_a_result_ends_the_wait() -> None:
    future: Future[int] = Future()
    with StopSignals(lambda count: None) as signals:
        call = background(lambda: future.set_result(7))
        assert signals.wait(future) == 7
        call.result()
        assert signals.wait(future) == 7


def test_what_is_ignored_stays_ignored_and_another_thread_handles_nothing() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with StopSignals(lambda count: None):
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)

    def elsewhere() -> bool:
        future: Future[bool] = Future()
        handler = signal.getsignal(signal.SIGTERM)
        with StopSignals(lambda count: None) as signals:
            future.set_result(signal.getsignal(signal.SIGTERM) is handler)
            return signals.wait(future)

    assert background(elsewhere).result()
