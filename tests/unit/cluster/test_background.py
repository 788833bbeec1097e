"""The thread that does what callers should not wait for."""

from __future__ import annotations

import threading
import time

from beanpool.cluster.background import BackgroundExecutor

LATER = 3600.0


def test_tasks_run_when_they_are_due_and_the_others_at_once() -> None:
    executor = BackgroundExecutor("test")
    executor.start()
    ran: list[str] = []
    done = threading.Event()
    now = time.monotonic()
    executor.submit_at(now + 0.15, done.set)
    executor.submit_at(now + 0.10, lambda: ran.append("last"))
    executor.submit_at(now + 0.05, lambda: ran.append("second"))
    executor.submit_at(now + LATER, lambda: ran.append("never"))
    executor.submit(lambda: ran.append("first"))
    assert done.wait(10)
    assert ran == ["first", "second", "last"]
    assert time.monotonic() - now >= 0.1
    executor.abandon()


def test_to_stop_it_is_to_have_the_rest_done_now() -> None:
    executor = BackgroundExecutor("test")
    executor.start()
    ran: list[str] = []
    executor.submit_at(time.monotonic() + LATER, lambda: ran.append("later"))
    executor.stop(10)
    assert ran == ["later"]
    assert not executor.submit_at(time.monotonic(), lambda: ran.append("never"))
    executor.submit(lambda: ran.append("here"))
    assert ran == ["later", "here"]


def test_without_a_thread_tasks_run_here_or_not_at_all() -> None:
    executor = BackgroundExecutor("test")
    ran: list[threading.Thread] = []
    assert not executor.submit_at(time.monotonic(), lambda: ran.append(threading.current_thread()))
    executor.submit(lambda: ran.append(threading.current_thread()))
    assert ran == [threading.current_thread()]
