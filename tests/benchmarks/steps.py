"""One put, with one promise more in each class: what each of them costs beside system calls.

They bound what a client in Python can reach: each does all of its work in one function, where a library has several.
"""

from __future__ import annotations

import socket
import threading
import time

from benchmarks.raw import PUT, connect
from support.servers import BeanstalkdServer

_MOST = 2**32 - 1
_SECONDS = 5.0
_TRUSTED_SECONDS = 0.01


class Sends:
    """A function around one send and one receive."""

    def __init__(self, server: BeanstalkdServer) -> None:
        self._socket = connect(server)

    def put(self, body: bytes, priority: int = 2**31, delay: int = 0, ttr: int = 120) -> int:
        """Send the same put every time; look at nothing."""
        self._socket.send(PUT)
        self._socket.recv(4096)
        return 0

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


class Formats(Sends):
    """Builds the request from its arguments, and returns the id."""

    def put(self, body: bytes, priority: int = 2**31, delay: int = 0, ttr: int = 120) -> int:
        """As above, trusting the caller and the server."""
        self._socket.send(b"put %d %d %d %d\r\n%b\r\n" % (priority, delay, ttr, len(body), body))
        return int(self._socket.recv(4096)[9:-2])


class Checks(Formats):
    """Takes only what the protocol allows, of the caller and of the server, and sees whether all was sent."""

    def put(self, body: bytes, priority: int = 2**31, delay: int = 0, ttr: int = 120) -> int:
        """As above, trusting nobody."""
        if not (
            type(body) is bytes
            and type(priority) is type(delay) is type(ttr) is int
            and 0 <= priority <= _MOST
            and 0 <= delay <= _MOST
            and 1 <= ttr <= _MOST
        ):
            raise ValueError("no put")
        request = b"put %d %d %d %d\r\n%b\r\n" % (priority, delay, ttr, len(body), body)
        if self._socket.send(request) != len(request):
            raise ConnectionError("not all of it was sent")
        return self._number(self._socket.recv(4096))

    @staticmethod
    def _number(data: bytes) -> int:
        number = int(data[9:-2])
        if number < 1 or data != b"INSERTED %d\r\n" % number:
            raise ConnectionError("no reply to a put")
        return number


class Waiting(socket.SocketType):
    """The same socket, to wait with: Python polls before it receives, until the same moment whatever signals come."""

    __slots__ = ()

    def __del__(self) -> None: ...


class Bounded(Checks):
    """Has a deadline, which no signal prolongs."""

    def __init__(self, server: BeanstalkdServer) -> None:
        super().__init__(server)
        self._socket.setblocking(False)
        self._waiting = Waiting(fileno=self._socket.fileno())
        self._waiting.settimeout(_SECONDS)
        self._used_at = time.monotonic()

    def put(self, body: bytes, priority: int = 2**31, delay: int = 0, ttr: int = 120) -> int:
        """As above, within some seconds, and not into a connection that was idle for long."""
        if not (
            type(body) is bytes
            and type(priority) is type(delay) is type(ttr) is int
            and 0 <= priority <= _MOST
            and 0 <= delay <= _MOST
            and 1 <= ttr <= _MOST
        ):
            raise ValueError("no put")
        request = b"put %d %d %d %d\r\n%b\r\n" % (priority, delay, ttr, len(body), body)
        now = time.monotonic()
        if now - self._used_at > _TRUSTED_SECONDS:
            # A client would look at the socket now.
            self._used_at = now
        self._used_at = now
        if self._socket.send(request) != len(request):
            raise ConnectionError("not all of it was sent")
        return self._number(self._waiting.recv(4096))


class Guarded(Bounded):
    """Belongs to one call at a time, and is of no further use after one that was interrupted."""

    def __init__(self, server: BeanstalkdServer) -> None:
        super().__init__(server)
        self._guard = threading.Lock()
        self._usable = True

    def put(self, body: bytes, priority: int = 2**31, delay: int = 0, ttr: int = 120) -> int:
        """As above, from any thread."""
        if not (
            type(body) is bytes
            and type(priority) is type(delay) is type(ttr) is int
            and 0 <= priority <= _MOST
            and 0 <= delay <= _MOST
            and 1 <= ttr <= _MOST
        ):
            raise ValueError("no put")
        request = b"put %d %d %d %d\r\n%b\r\n" % (priority, delay, ttr, len(body), body)
        with self._guard:
            now = time.monotonic()
            if not self._usable:
                raise ConnectionError("closed")
            if now - self._used_at > _TRUSTED_SECONDS:
                # A client would look at the socket now.
                self._used_at = now
            self._used_at = now
            self._usable = False
            if self._socket.send(request) != len(request):
                raise ConnectionError("not all of it was sent")
            number = self._number(self._waiting.recv(4096))
            self._usable = True
            return number


STEPS = {
    "a function that sends and receives": Sends,
    "+ builds the request, returns the id": Formats,
    "+ checks arguments and reply": Checks,
    "+ a deadline": Bounded,
    "+ a lock, and a state": Guarded,
}
