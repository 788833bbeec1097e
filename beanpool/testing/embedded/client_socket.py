"""One connection's socket, and the dialogue that goes over it."""

from __future__ import annotations

import selectors
import socket

from beanpool.testing.embedded.dialogue import Dialogue

_PIECE = 65536


class ClientSocket:
    """Moves bytes between a socket, which must not block, and a dialogue.

    :ivar watched_for: the events that the loop's selector has it registered for.
    :ivar blocked: whether the client does not take what is to be sent.
    """

    def __init__(self, connected: socket.socket) -> None:
        self.socket = connected
        self.watched_for = 0
        self.blocked = False
        self.dialogue: Dialogue
        self._broken = False

    @property
    def finished(self) -> bool:
        """Whether it is to be closed."""
        return self._broken or self.dialogue.finished

    @property
    def wanted_events(self) -> int:
        """What the loop should wait for."""
        reading = selectors.EVENT_READ if self.dialogue.wants_bytes else 0
        return reading | (selectors.EVENT_WRITE if self.blocked else 0)

    def read(self) -> None:
        """Take what has come."""
        try:
            self.dialogue.receive(self.socket.recv(_PIECE))
        except BlockingIOError:
            pass
        except OSError:
            self._broken = True

    def proceed(self) -> None:
        """Send the last reply; when all of it is gone, carry out the next command, whose reply goes out next time."""
        outgoing = self.dialogue.outgoing
        try:
            while outgoing:
                del outgoing[: self.socket.send(outgoing)]
        except BlockingIOError:
            self.blocked = True
            return
        except OSError:
            self._broken = True
            return
        self.blocked = False
        if not self._broken:
            self.dialogue.proceed()

    def close(self) -> None:
        """Close the socket, then end the session."""
        self.socket.close()
        self.dialogue.close()
