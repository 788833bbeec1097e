"""Looking up a name: whatever becomes of one look-up, the next one is made."""

from __future__ import annotations

import errno
import os
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support.servers import BeanstalkdServer
from support.threads import background, run_together
from support.waiting import wait_until, within

from beanpool import Connection, ConnectionFailed, PoolManager
from beanpool.errors import Phase
from beanpool.net import resolver
from beanpool.server.member import classify

NAME = "queue.test"


class NameServer:
    """Answers for one name, or raises."""

    def __init__(self, server: BeanstalkdServer) -> None:
        self.asked = 0
        self.error: BaseException | None = None
        self.hold = threading.Event()
        self.hold.set()
        self._where = (server.host, server.port)
        self._real: Callable[..., Any] = socket.getaddrinfo

    def ask(self, host: str, *args: Any, **options: Any) -> Any:
        if host != NAME:
            return self._real(host, *args, **options)
        if options.get("flags"):
            raise socket.gaierror(socket.EAI_NONAME, "not a number")
        self.asked += 1
        self.hold.wait(10)
        if self.error is not None:
            raise self.error
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", self._where)]


@pytest.fixture
def names(beanstalkd: BeanstalkdServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[NameServer]:
    names = NameServer(beanstalkd)
    monkeypatch.setattr(socket, "getaddrinfo", names.ask)
    monkeypatch.setattr(resolver, "_remembered", {})
    yield names
    names.hold.set()


def connect() -> None:
    with Connection(NAME, 11300, connect_timeout=2) as connection:
        connection.using()


def broken_start(error: BaseException, *, afterwards: bool = False) -> Callable[[threading.Thread], None]:
    real = threading.Thread.start

    def start(thread: threading.Thread) -> None:
        if not thread.name.startswith("beanpool-lookup"):
            real(thread)
            return
        if afterwards:
            real(thread)
        raise error

    return start


def test_a_thread_that_cannot_be_started_spoils_nothing(names: NameServer, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", broken_start(RuntimeError("can't start new thread")))
        with within(0), pytest.raises(ConnectionFailed, match="no thread for the look-up can be started") as caught:
            connect()
        assert caught.value.phase is Phase.RESOLVING
        # That says nothing of the server.
        assert classify(caught.value) is None
    connect()
    with monkeypatch.context() as patch:
        # What was answered before is better than nothing.
        patch.setattr(threading.Thread, "start", broken_start(RuntimeError("can't start new thread")))
        connect()
    assert names.asked == 1


@pytest.mark.parametrize("afterwards", [False, True])
def test_an_interrupt_while_one_begins_spoils_nothing(
    names: NameServer, monkeypatch: pytest.MonkeyPatch, afterwards: bool
) -> None:
    names.hold.clear()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", broken_start(KeyboardInterrupt(), afterwards=afterwards))
        with pytest.raises(KeyboardInterrupt):
            connect()
    names.hold.set()
    connect()


@pytest.mark.parametrize(
    "error", [MemoryError(), KeyboardInterrupt(), UnicodeError("label too long"), OSError(24, "x")]
)
def test_one_that_ends_by_whatever_error_tells_it_and_spoils_nothing(names: NameServer, error: BaseException) -> None:
    names.error = error
    with within(0), pytest.raises(ConnectionFailed, match=type(error).__name__) as caught:
        connect()
    assert caught.value.phase is Phase.RESOLVING
    names.error = None
    connect()
    assert names.asked == 2


def test_one_question_at_a_time_is_asked_for_all(names: NameServer) -> None:
    names.hold.clear()
    first = background(connect)
    rest = [background(connect) for _ in range(4)]
    while not names.asked:
        pass
    names.hold.set()
    for call in (first, *rest):
        call.result()
    # Those that came at the very same moment may have asked, too; nobody was forgotten.
    assert 1 <= names.asked <= 5
    run_together(*[connect] * 5)


def test_without_descriptors_it_is_no_fault_of_the_server(names: NameServer, monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left() -> tuple[int, int]:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    names.hold.clear()
    with PoolManager([f"{NAME}:11300"], timeout=2) as pool:
        pool.get_stats()
        with monkeypatch.context() as patch:
            patch.setattr(os, "pipe", none_left)
            with within(0), pytest.raises(ConnectionFailed, match="Too many open files") as caught:
                connect()
        assert classify(caught.value) is None
        names.hold.set()
        assert pool.put("x") == 1


def test_nothing_is_left_of_a_look_up(names: NameServer) -> None:
    descriptors = f"/proc/{os.getpid()}/fd"
    if not os.path.isdir(descriptors):
        pytest.skip("this system does not tell which descriptors are open")
    connect()
    before = len(os.listdir(descriptors))
    for _ in range(5):
        connect()
    wait_until(lambda: len(os.listdir(descriptors)) <= before, "all descriptors to be closed")
