"""A network that is far: an address at which a server is a given time away, and no faster than a given rate."""

from __future__ import annotations

import collections
import contextlib
import selectors
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Self

_READ_SIZE = 65536
# How much may be under way in one direction: then the sender is held up, as by any network (bytes).
_HELD = 4 * 1024 * 1024


class _Way:
    """One direction of one connection: what was sent, and when it arrives. An empty piece is the end of the stream."""

    def __init__(self, source: socket.socket, target: socket.socket) -> None:
        self.source = source
        self.target = target
        self.under_way: collections.deque[tuple[float, bytes]] = collections.deque()
        self.held = 0
        self.free_at = 0.0
        """When what was sent before has left (monotonic seconds)."""
        self.reads = True
        """Whether its source has not come to its end."""
        self.blocked = False
        """Whether its target takes no more for now."""
        self.ended = False
        """Whether its target was told of the end."""
        self.forgotten = False
        """Whether what its source says goes nowhere."""

    def receive(self, seconds: float, rate: float | None) -> None:
        data = self.source.recv(_READ_SIZE)
        now = time.monotonic()
        self.free_at = max(now, self.free_at) + (len(data) / rate if rate else 0.0)
        self.under_way.append((self.free_at + seconds, data))
        self.held += len(data)
        self.reads = bool(data)
        if self.forgotten:
            self.under_way.clear()
            self.held = 0

    def deliver(self, now: float) -> None:
        self.blocked = False
        while self.under_way and self.under_way[0][0] <= now:
            at, data = self.under_way.popleft()
            if not data:
                self.target.shutdown(socket.SHUT_WR)
                self.ended = True
                return
            try:
                sent = self.target.send(data)
            except BlockingIOError:
                sent = 0
            self.held -= sent
            if sent < len(data):
                self.under_way.appendleft((at, data[sent:]))
                self.blocked = True
                return

    @property
    def due_at(self) -> float | None:
        return self.under_way[0][0] if self.under_way and not self.blocked else None


class DelayLine:
    """An address of its own, at which the server at `host` and `port` is far away. A context manager.

    Any thread may call. The bytes keep their order and pace. A connect is accepted at once, as nobody can delay that
    without the system's help; what is said first is delayed like everything else. Its one thread ends with it.

    :param round_trip: how long a byte takes to the server and back (seconds).
    :param rate: how much each direction of a connection carries (bytes per second); None for no limit.
    """

    def __init__(self, host: str, port: int, round_trip: float = 0.3, *, rate: float | None = None) -> None:
        self._server = (host, port)
        self.round_trip = round_trip
        self.rate = rate
        self._ways: dict[socket.socket, tuple[_Way, _Way]] = {}
        """By each end of a connection: the way that begins there, and the one that ends there."""
        self._calls: collections.deque[Callable[[], None]] = collections.deque()
        self._selector = selectors.DefaultSelector()
        self._waker, self._wakened = socket.socketpair()
        self._selector.register(self._wakened, selectors.EVENT_READ)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        # Never listens: nobody else gets the port while the line is down.
        self._holder = _bound(family, host, 0)
        self.host, self.port = self._holder.getsockname()[:2]
        if sys.platform != "linux":
            # There a bound socket would keep the listening one from the port.
            self._holder.close()
        self._listener: socket.socket | None = None
        self._ends = False
        self._thread = threading.Thread(target=self._run, name="delay line", daemon=True)
        self._thread.start()
        self.up()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def address(self) -> str:
        """The address that a client connects to."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def __repr__(self) -> str:
        return f"<DelayLine at {self.address}: {self.round_trip:g} s to {self._server[0]}:{self._server[1]} and back>"

    def up(self) -> None:
        """Accept connections."""
        self._in_thread(self._listen)

    def down(self) -> None:
        """Close every connection, and refuse new ones."""
        self._in_thread(self._refuse)

    def cut(self) -> None:
        """Close every connection, once."""
        self._in_thread(self._cut)

    def forget(self) -> None:
        """Carry nothing any more on the connections that there are, and tell neither side, as a NAT does."""
        self._in_thread(self._forget)

    def close(self) -> None:
        """The end of the line, its connections and its thread. Idempotent."""
        if not self._thread.is_alive():
            return
        self._in_thread(self._end)
        self._thread.join()
        for left in (self._holder, self._waker, self._wakened):
            left.close()
        self._selector.close()

    def _in_thread(self, call: Callable[[], None]) -> None:
        done = threading.Event()

        def and_say_so() -> None:
            call()
            done.set()

        self._calls.append(and_say_so)
        self._waker.send(b"w")
        if not done.wait(10):
            raise AssertionError(f"{self} does nothing any more")

    # In the thread.

    def _run(self) -> None:
        while not self._ends:
            for way in self._all_ways():
                self._on(way, lambda way: way.deliver(time.monotonic()))
            for way in self._all_ways():
                self._watch(way)
            due = [way.due_at for way in self._all_ways() if way.due_at is not None]
            wait = max(0.0, min(due) - time.monotonic()) if due else None
            for key, _ in self._selector.select(wait):
                if key.fileobj is self._wakened:
                    self._wakened.recv(4096)
                    while self._calls:
                        self._calls.popleft()()
                elif key.fileobj is self._listener:
                    self._accept()
                elif isinstance(key.fileobj, socket.socket) and key.fileobj in self._ways:
                    self._read(key.fileobj)

    def _forget(self) -> None:
        for way in self._all_ways():
            way.forgotten = True
            way.under_way.clear()
            way.held = 0

    def _all_ways(self) -> list[_Way]:
        return [way for way, _ in self._ways.values()]

    def _on(self, way: _Way, action: Callable[[_Way], None]) -> None:
        """Do something with a connection, and close both of its ends where it has broken, or is at its end."""
        if way.source not in self._ways:
            return
        try:
            action(way)
        except BlockingIOError:
            return
        except OSError:
            self._hang_up(way)
            return
        if all(other.ended for other in self._ways[way.source]):
            self._hang_up(way)

    def _read(self, source: socket.socket) -> None:
        way, _ = self._ways[source]
        if way.reads and way.held < _HELD:
            self._on(way, lambda way: way.receive(self.round_trip / 2, self.rate))

    def _watch(self, way: _Way) -> None:
        """Wait for what one end is to do: the source of its way, and the target of the other."""
        _, back = self._ways[way.source]
        events = (way.reads and way.held < _HELD) * selectors.EVENT_READ | back.blocked * selectors.EVENT_WRITE
        watched = self._selector.get_map().get(way.source)
        if watched is None and events:
            self._selector.register(way.source, events)
        elif watched is not None and not events:
            self._selector.unregister(way.source)
        elif watched is not None and watched.events != events:
            self._selector.modify(way.source, events)

    def _accept(self) -> None:
        assert self._listener is not None
        try:
            near, _ = self._listener.accept()
        except OSError:
            return
        try:
            far = socket.create_connection(self._server, 5)
        except OSError:
            near.close()
            return
        for end in (near, far):
            end.setblocking(False)
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        there, back = _Way(near, far), _Way(far, near)
        self._ways[near], self._ways[far] = (there, back), (back, there)

    def _hang_up(self, way: _Way) -> None:
        for end in (way.source, way.target):
            del self._ways[end]
            with contextlib.suppress(KeyError):
                self._selector.unregister(end)
            end.close()

    def _listen(self) -> None:
        if self._listener is None:
            self._listener = _bound(self._holder.family, self.host, self.port)
            self._listener.setblocking(False)
            self._listener.listen(1024)
            self._selector.register(self._listener, selectors.EVENT_READ)

    def _refuse(self) -> None:
        if self._listener is not None:
            self._selector.unregister(self._listener)
            self._listener.close()
            self._listener = None
        self._cut()

    def _cut(self) -> None:
        for way in self._all_ways():
            if way.source in self._ways:
                self._hang_up(way)

    def _end(self) -> None:
        self._refuse()
        self._ends = True


def _bound(family: int, host: str, port: int) -> socket.socket:
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
    except BaseException:
        bound.close()
        raise
    return bound
