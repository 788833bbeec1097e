"""The loop that serves a model: one thread, one selector, every connection."""

from __future__ import annotations

import contextlib
import queue
import selectors
import socket
import threading
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import TypeVar

from beanpool.testing.embedded.client_socket import ClientSocket
from beanpool.testing.embedded.clock import SECOND, Clock
from beanpool.testing.embedded.dialect import Dialect
from beanpool.testing.embedded.dialogue import Dialogue
from beanpool.testing.embedded.host import Host
from beanpool.testing.embedded.model import Model

T = TypeVar("T")

# Seconds; a selector refuses what a job's TTR may be.
_LONGEST_SLEEP = 3600.0

_BellSelector: type[selectors.BaseSelector] = getattr(selectors, "PollSelector", selectors.SelectSelector)


class Loop:
    """Serves a new model on `listening` until it is told to end; it closes that socket and all connections then.

    Everything but :meth:`call` and :meth:`end` happens in the thread that is in :meth:`run`.

    :param max_job_size: bytes.
    :ivar frozen: whether nothing happens, neither by commands nor by time.
    """

    def __init__(self, listening: socket.socket, max_job_size: int, dialect: Dialect) -> None:
        self._clock = Clock()
        self.model = Model(self._clock.now, max_job_size)
        self.frozen = False
        self._host = Host()
        self._dialect = dialect
        self._listening = listening
        self._listening.setblocking(False)
        self._clients: set[ClientSocket] = set()
        # Who is to do something next, one thing each: beanstalkd lets no connection go ahead of the others.
        self._turns: dict[ClientSocket, None] = {}
        # Whose reserves have ended since the last turn.
        self._answered: list[ClientSocket] = []
        self._calls: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._ending = False
        # Reentrant, because a signal's handler may end a loop that is ending.
        self._over = threading.RLock()
        self._bell, self._bell_rope = socket.socketpair()
        self._bell.setblocking(False)
        self._bell_rope.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listening, selectors.EVENT_READ, self._accept)
        self._selector.register(self._bell, selectors.EVENT_READ, self._answer_bell)

    def call(self, function: Callable[[], T]) -> T:
        """Let the loop call `function` between two events, and return what it returns.

        :raises RuntimeError: if the loop has ended.
        """
        result: Future[T] = Future()

        def carry_out() -> None:
            try:
                result.set_result(function())
            except BaseException as error:
                result.set_exception(error)

        with self._over:
            if self._ending:
                raise RuntimeError("the embedded server is not running")
            self._calls.put(carry_out)
            self._ring()
        return result.result()

    def end(self) -> None:
        """Let the loop end after the event that it is in; the caller joins its thread."""
        with self._over:
            if not self._ending:
                self._ending = True
                self._ring()

    def run(self) -> None:
        """Serve until :meth:`end` is called."""
        try:
            while not self._ending:
                if self.frozen:
                    self._wait_for_bell()
                    continue
                for key, events in self._selector.select(0 if self._turns else self._seconds_to_next()):
                    key.data(events)
                    if self.frozen:
                        break
                else:
                    self._take_turn()
        finally:
            self._close()

    def advance(self, seconds: float) -> None:
        """Let time pass, moment by moment: what becomes due on the way happens in its order."""
        target = self._clock.now() + round(seconds * SECOND)
        while not self.frozen and self.model.due is not None and self.model.due <= target:
            self._clock.move_to(self.model.due)
            self.model.tick()
        self._clock.move_to(target)

    def _take_turn(self) -> None:
        if self._turns:
            client = next(iter(self._turns))
            del self._turns[client]
            client.proceed()
            if client.finished:
                self._drop(client)
            else:
                self._watch(client)
                if client.dialogue.outgoing and not client.blocked:
                    self._turns[client] = None
        self.model.tick()
        # The last one first, as beanstalkd does it.
        while self._answered:
            client = self._answered.pop()
            if client in self._clients:
                self._turns.setdefault(client)

    def _seconds_to_next(self) -> float | None:
        if self.model.due is None:
            return None
        return min(_LONGEST_SLEEP, max(0.0, (self.model.due - self._clock.now()) / SECOND))

    def _accept(self, events: int) -> None:
        try:
            connected, _ = self._listening.accept()
        except OSError:
            # Gone again, or no descriptor is left; beanstalkd goes on too.
            return
        connected.setblocking(False)
        if connected.family != socket.AF_UNIX:
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client = ClientSocket(connected)
        client.dialogue = Dialogue(self.model, self._host, self._dialect, partial(self._answered.append, client))
        self._clients.add(client)
        self._watch(client)

    def _serve(self, client: ClientSocket, events: int) -> None:
        if events & selectors.EVENT_READ:
            client.read()
        self._turns.setdefault(client)

    def _drop(self, client: ClientSocket) -> None:
        self._clients.discard(client)
        if client.watched_for:
            self._selector.unregister(client.socket)
        client.close()

    def _watch(self, client: ClientSocket) -> None:
        wanted = client.wanted_events
        if wanted == client.watched_for:
            return
        if not client.watched_for:
            self._selector.register(client.socket, wanted, partial(self._serve, client))
        elif not wanted:
            self._selector.unregister(client.socket)
        else:
            self._selector.modify(client.socket, wanted, partial(self._serve, client))
        client.watched_for = wanted

    def _ring(self) -> None:
        # A bell that is not heard yet need not ring twice.
        with contextlib.suppress(BlockingIOError):
            self._bell_rope.send(b"!")

    def _answer_bell(self, events: int) -> None:
        with contextlib.suppress(BlockingIOError):
            self._bell.recv(4096)
        while not self._calls.empty():
            self._calls.get()()

    def _wait_for_bell(self) -> None:
        # One that has no descriptor of its own: who freezes a server counts none, before or after.
        with _BellSelector() as selector:
            selector.register(self._bell, selectors.EVENT_READ)
            selector.select()
        self._answer_bell(selectors.EVENT_READ)

    def abandon(self) -> None:
        """Close every descriptor, in a forked child, where no thread is in :meth:`run`."""
        self._listening.close()
        for client in list(self._clients):
            client.socket.close()
        self._bell.close()
        self._bell_rope.close()
        # An epoll descriptor is shared with the parent: it may be closed, and nothing may be unregistered.
        self._selector.close()

    def _close(self) -> None:
        with self._over:
            self._ending = True
        self._listening.close()
        # As with a process that dies: nobody is told anything any more.
        for client in self._clients:
            client.socket.close()
        self._selector.close()
        self._bell.close()
        self._bell_rope.close()
        while not self._calls.empty():
            self._calls.get()()
