"""One connection without its socket: bytes in, commands carried out one after the other, bytes out."""

from __future__ import annotations

import enum
from collections.abc import Callable

from beanpool.testing.embedded import replies
from beanpool.testing.embedded.commands import Commands, Hang, Outcome, SkipBytes, TakeBody
from beanpool.testing.embedded.dialect import Dialect
from beanpool.testing.embedded.host import Host
from beanpool.testing.embedded.model import Model
from beanpool.testing.embedded.state import NoJob, StoredJob

# A line with its line break has at most so many bytes.
_LONGEST_LINE = 224
# What may lie here, unread by a command: behind a reserve that waits, or a reply that the client does not take.
_READ_AHEAD = 65536


class Expecting(enum.Enum):
    """What the next bytes are."""

    LINE = enum.auto()
    REST_OF_A_LONG_LINE = enum.auto()
    BODY = enum.auto()
    BYTES_TO_SKIP = enum.auto()


class Dialogue:
    """What one client says and is answered.

    :param told: called whenever there is something to send that did not come of :meth:`proceed`.
    :ivar outgoing: the bytes to send; no further command is carried out before they are gone.
    :ivar finished: whether the connection is to be closed.
    """

    def __init__(self, model: Model, host: Host, dialect: Dialect, told: Callable[[], None]) -> None:
        self.outgoing = bytearray()
        self.finished = False
        self._model = model
        self._told = told
        self._session = model.connect(self._reserve_ended)
        self._commands = Commands(model, self._session, host, dialect)
        self._incoming = bytearray()
        self._ended = False
        self._expecting = Expecting.LINE
        self._put: TakeBody | None = None
        self._skip: SkipBytes | None = None

    @property
    def wants_bytes(self) -> bool:
        """Whether more should be read from the client."""
        if self._ended or self.finished:
            return False
        blocked = self.outgoing or self._session.waiting
        return not blocked or len(self._incoming) < _READ_AHEAD

    def receive(self, data: bytes) -> None:
        """Take what the client has sent; nothing at all means that it has closed its side."""
        if data:
            self._incoming += data
        else:
            self._ended = True

    def proceed(self) -> None:
        """Carry out what is complete, up to the next reply."""
        while not self.outgoing and not self.finished:
            if self._session.waiting:
                if not self._ended:
                    return
                self._model.give_up_waiting(self._session)
            elif not self._step():
                # The client will send nothing more: what is incomplete stays so.
                self.finished = self._ended
                return

    def close(self) -> None:
        """End the session: its jobs become ready, and a put that is under way is forgotten."""
        self.finished = True
        if self._put is not None:
            self._model.discard(self._put.job)
            self._put = None
        self._model.disconnect(self._session)

    def _step(self) -> bool:
        """Use up the next bytes; False if it takes more of them."""
        match self._expecting:
            case Expecting.LINE:
                before = len(self._incoming)
                line = self._take_line()
                if line is not None:
                    self._follow(self._commands.run(line))
                return len(self._incoming) < before
            case Expecting.REST_OF_A_LONG_LINE:
                before = len(self._incoming)
                if self._take_line() is not None:
                    self._expecting = Expecting.LINE
                    self.outgoing += replies.BAD_FORMAT
                return len(self._incoming) < before
            case Expecting.BODY:
                return self._take_body()
            case Expecting.BYTES_TO_SKIP:
                return self._skip_bytes()

    def _take_line(self) -> bytes | None:
        # As beanstalkd looks for it: only the first carriage return can end the line.
        window = bytes(self._incoming[:_LONGEST_LINE])
        end = window.find(b"\r", 0, len(window) - 1) if window else -1
        if end >= 0 and window[end + 1] == ord("\n"):
            del self._incoming[: end + 2]
            return window[:end]
        if len(window) == _LONGEST_LINE:
            del self._incoming[:_LONGEST_LINE]
            self._expecting = Expecting.REST_OF_A_LONG_LINE
        return None

    def _follow(self, outcome: Outcome) -> None:
        match outcome:
            case bytes():
                self.outgoing += outcome
            case TakeBody():
                self._put = outcome
                self._expecting = Expecting.BODY
            case SkipBytes():
                self._skip = outcome
                self._expecting = Expecting.BYTES_TO_SKIP
            case Hang():
                self.finished = True

    def _take_body(self) -> bool:
        assert self._put is not None
        size = self._put.size
        if len(self._incoming) < size + 2:
            return False
        job, self._put = self._put.job, None
        self._expecting = Expecting.LINE
        body, ending = bytes(self._incoming[:size]), self._incoming[size : size + 2]
        del self._incoming[: size + 2]
        if ending != b"\r\n":
            self._model.discard(job)
            self.outgoing += replies.EXPECTED_CRLF
        elif self._model.draining:
            self._model.discard(job)
            self.outgoing += replies.DRAINING
        else:
            self._model.store(job, body)
            self.outgoing += replies.line("INSERTED", job.id)
        return True

    def _skip_bytes(self) -> bool:
        assert self._skip is not None
        here = min(len(self._incoming), self._skip.size)
        del self._incoming[:here]
        if here < self._skip.size:
            self._skip = SkipBytes(self._skip.size - here, self._skip.reply)
            return False
        self.outgoing += self._skip.reply
        self._skip = None
        self._expecting = Expecting.LINE
        return True

    def _reserve_ended(self, result: StoredJob | NoJob) -> None:
        if isinstance(result, NoJob):
            self.outgoing += result.value + b"\r\n"
        else:
            self.outgoing += replies.found("RESERVED", result)
        self._told()
