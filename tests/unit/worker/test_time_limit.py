"""Tests of the exception that ends a handler: it comes in the handler, or not at all."""

from __future__ import annotations

import subprocess
import sys
import threading
import time

import pytest
from support.threads import background
from support.waiting import wait_until

from beanpool.worker import TimeLimitExceeded
from beanpool.worker.time_limit import TimeLimit

FAR = 1e9
STRUCK = 20


def test_it_is_raised_once_and_only_when_it_is_due() -> None:
    limits: list[TimeLimit] = []

    def endless() -> None:
        limit = TimeLimit()
        deadline = limit.begin(1000.0)
        limits.append(limit)
        assert limit.enforce(deadline - 1) == deadline
        try:
            while True:
                time.sleep(0.001)
        finally:
            limit.end()

    call = background(endless)
    limit = wait_until(lambda: limits and limits[0], "its start")
    assert isinstance(limit, TimeLimit)
    assert not limit.overrun
    deadline = limit.enforce(time.monotonic())
    assert limit.enforce(time.monotonic() + FAR) == deadline
    assert isinstance(call.error(), TimeLimitExceeded)
    assert not limit.overrun
    # Where nothing runs nothing is raised.
    assert limit.enforce(FAR * 10) == deadline


def test_a_handler_that_swallows_it_counts_as_stuck_until_it_ends() -> None:
    limits: list[TimeLimit] = []
    go_on, swallowed = threading.Event(), threading.Event()

    def stubborn() -> None:
        limit = TimeLimit()
        limit.begin(1000.0)
        limits.append(limit)
        try:
            while not go_on.is_set():
                time.sleep(0.001)
        except TimeLimitExceeded:
            swallowed.set()
            go_on.wait()
        limit.end()

    call = background(stubborn)
    limit = wait_until(lambda: limits and limits[0], "its start")
    assert isinstance(limit, TimeLimit)
    limit.enforce(time.monotonic() + FAR)
    assert swallowed.wait(10)
    assert limit.overrun
    go_on.set()
    call.result()
    assert not limit.overrun


def test_one_that_is_on_its_way_when_the_handler_ends_strikes_nobody() -> None:
    """The watcher raises at any moment around the end; what comes after the end must be left alone."""
    limits: list[TimeLimit] = []
    stop = threading.Event()

    def watch() -> None:
        while not stop.is_set():
            for limit in limits:
                limit.enforce(time.monotonic() + FAR)

    def handle() -> None:
        limit = TimeLimit()
        limits.append(limit)
        struck = 0
        while struck < STRUCK:
            try:
                try:
                    limit.begin(1000.0)
                    sum(range(20))
                finally:
                    limit.end()
            except TimeLimitExceeded:
                struck += 1
                limit.end()
            sum(range(200))

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    watcher = background(watch)
    try:
        # Were it raised outside of the inner block, it would end this call.
        background(handle).result(60)
    finally:
        stop.set()
        watcher.result()
        sys.setswitchinterval(interval)


def test_nothing_of_it_is_left_that_a_debugger_would_stumble_over() -> None:
    """CPython 3.11 hangs in the first traced call if an exception was taken back."""
    script = """if True:
        import math, sys, threading
        from beanpool.worker import TimeLimitExceeded
        from beanpool.worker.time_limit import TimeLimit
        limit = TimeLimit()
        limit.begin(1000.0)
        thread = threading.Thread(target=limit.enforce, args=(math.inf,))
        try:
            thread.start()
            while True:
                pass
        except TimeLimitExceeded:
            limit.end()
        sys.settrace(lambda frame, event, argument: None)
        (lambda: None)()
    """
    assert subprocess.run([sys.executable, "-c", script], timeout=30, check=False).returncode == 0


def test_it_is_no_exception_that_a_handler_catches_by_the_way() -> None:
    with pytest.raises(TimeLimitExceeded):
        try:
            raise TimeLimitExceeded
        except Exception:
            pass
