"""Bytes to replies. Any split of the stream parses the same; nothing that comes in is trusted.

The caller says which command a reply must answer, and gets a reply that this command may have, or
:class:`~beanpool.errors.UnexpectedResponse`. After an error the parser cannot be used any more.
"""

from __future__ import annotations

import re

from beanpool.errors import UnexpectedResponse
from beanpool.protocol.arguments import MAX_ID, MAX_JOB_SIZE
from beanpool.protocol.commands import BURY, DELETE, RELEASE, TOUCH, Command
from beanpool.protocol.replies import BARE_WORD, DOCUMENT_SIZE, JOB_SIZE, MAX_LINE, NUMBER, WORDS, Reply

_INSERTED_RUN = re.compile(rb"(?:INSERTED [1-9][0-9]{0,18}\r\n)+")
# The reply of each to a job that they found, and many of it.
_DONE = {command: command.success.encode() + b"\r\n" for command in (BURY, DELETE, RELEASE, TOUCH)}
_DONE_RUN = {command: re.compile(b"(?:%b)+" % line) for command, line in _DONE.items()}
_RESERVED_LINE = re.compile(rb"RESERVED ([1-9][0-9]{0,18}) (0|[1-9][0-9]{0,8})\r\n")
MAX_DOCUMENT_SIZE = 64 * 1024 * 1024
"""The largest ``stats`` or ``list`` reply that is read (bytes)."""


class Parser:
    """The receiving side of one connection: a bounded buffer, cut into replies."""

    __slots__ = ("_body_end", "_body_start", "_head", "_position", "_server", "buffer")

    def __init__(self, server: str = "") -> None:
        self._server = server
        self.buffer: bytes | bytearray = b""
        """What has come in; empty as soon as all of it has been given out."""
        self._position = 0
        # The parsed line of a reply whose body has not arrived in full.
        self._head: Reply | None = None
        self._body_start = 0
        self._body_end = 0

    @property
    def unread(self) -> int:
        """How many bytes have come in that belong to no reply yet."""
        return len(self.buffer) - self._position

    def feed(self, data: bytes) -> None:
        """Take in what the socket gave."""
        if not self.unread:
            self.buffer = data
        elif isinstance(self.buffer, bytearray):
            self.buffer += data
            return
        else:
            self.buffer = bytearray(self.buffer[self._position :])
            self.buffer += data
        if self._head is not None:
            self._body_start -= self._position
            self._body_end -= self._position
        self._position = 0

    def next(self, command: Command) -> Reply | None:
        """Return the next reply, which must answer `command`; None if it has not arrived in full.

        :raises UnexpectedResponse: if no reply to `command` can begin with these bytes.
        """
        if self._head is None:
            match = (command.line or command.compile_line()).match(self.buffer, self._position)
            if match is None:
                self._check_partial_line(command)
                return None
            shape = match.lastindex
            if shape == NUMBER:
                number = int(match[3])
                if number > MAX_ID:
                    raise self._unexpected(command, "a number beyond 2**64 - 1")
                return self._finish(match.end(), Reply(match[2].decode(), number))
            if shape == BARE_WORD:
                return self._finish(match.end(), Reply(match[1].decode()))
            if shape == JOB_SIZE:
                number, size = int(match[5]), int(match[6])
                if number > MAX_ID:
                    raise self._unexpected(command, "a job id beyond 2**64 - 1")
                if size > MAX_JOB_SIZE:
                    raise self._unexpected(command, f"a job of {size} bytes (at most {MAX_JOB_SIZE} are possible)")
                head = Reply(match[4].decode(), number)
            elif shape == DOCUMENT_SIZE:
                size = int(match[8])
                if size > MAX_DOCUMENT_SIZE:
                    raise self._unexpected(
                        command, f"a document of {size} bytes (at most {MAX_DOCUMENT_SIZE} are read)"
                    )
                head = Reply(match[7].decode())
            else:
                return self._finish(match.end(), Reply(match[9].decode(), tube=match[10].decode()))
            self._head = head
            self._body_start = match.end()
            self._body_end = match.end() + size
        return self._next_body(command)

    def next_inserted(self, most: int) -> list[int]:
        """The ids of the plain ``INSERTED`` replies that come next, up to `most`; empty if another reply comes next."""
        if self._head is not None:
            return []
        match = _INSERTED_RUN.match(self.buffer, self._position)
        if match is None:
            return []
        words = bytes(match[0])[len(b"INSERTED ") : -2].split(b"\r\nINSERTED ")
        end = match.end()
        if len(words) > most:
            end -= sum(len(word) + len(b"INSERTED \r\n") for word in words[most:])
            del words[most:]
        self._consume(end)
        return list(map(int, words))

    def next_reserved(self, most: int) -> list[tuple[int, bytes]]:
        """The ids and bodies of the ``RESERVED`` replies that have arrived in full and come next, up to `most`.

        Any other form is left to :meth:`next`.
        """
        if self._head is not None:
            return []
        buffer, position = self.buffer, self._position
        found: list[tuple[int, bytes]] = []
        read_line = _RESERVED_LINE.match
        while len(found) < most:
            match = read_line(buffer, position)
            if match is None:
                break
            number, size = match.groups()
            start = match.end()
            end = start + int(size)
            if buffer[end : end + 2] != b"\r\n":
                break
            found.append((int(number), bytes(buffer[start:end])))
            position = end + 2
        self._consume(position)
        return found

    def next_done(self, command: Command, most: int) -> range:
        """The usual replies to ``delete``, ``release``, ``bury`` or ``touch`` that come next, up to `most`.

        They come as a range of so many, which is empty if another reply comes next.
        """
        if self._head is not None:
            return range(0)
        match = _DONE_RUN[command].match(self.buffer, self._position)
        if match is None:
            return range(0)
        size = len(_DONE[command])
        count = min(most, (match.end() - self._position) // size)
        self._consume(self._position + count * size)
        return range(count)

    def _next_body(self, command: Command) -> Reply | None:
        head, end = self._head, self._body_end
        if head is None:
            return None
        ending = bytes(self.buffer[end : end + 2])
        if ending != b"\r\n":
            if len(ending) < 2 and b"\r\n".startswith(ending):
                return None
            raise self._without_end(command, head)
        self._head = None
        return self._finish(end + 2, head._replace(body=bytes(self.buffer[self._body_start : end])))

    def _finish(self, position: int, reply: Reply) -> Reply:
        self._consume(position)
        return reply

    def _consume(self, position: int) -> None:
        if position == len(self.buffer):
            self.buffer = b""
            self._position = 0
        elif position > 65536 and isinstance(self.buffer, bytearray):
            del self.buffer[:position]
            self._position = 0
        else:
            self._position = position

    def _check_partial_line(self, command: Command) -> None:
        end = self.buffer.find(b"\r\n", self._position, self._position + MAX_LINE)
        if end < 0:
            if self.unread >= MAX_LINE:
                raise self._unexpected(command, f"a line of more than {MAX_LINE} bytes")
            return
        # Only a known word is shown: what stands here may be part of a job's body.
        word = bytes(self.buffer[self._position : end]).split(b" ", 1)[0].decode("ascii", "replace")
        if word.encode() in WORDS:
            raise self._unexpected(command, f"{word} in a form or place where the protocol has none", status=word)
        raise self._unexpected(command, f"a line of {end - self._position} bytes that is no reply")

    def _without_end(self, command: Command, head: Reply) -> UnexpectedResponse:
        what = "does not end with CRLF where its size says"
        if not head.number:
            return self._unexpected(command, f"a document that {what}", status=head.status)
        return self._unexpected(
            command,
            f"a body of job {head.number} that {what}",
            "A server that was killed while it wrote its log can come back with such a job: delete it by its id",
            head.status,
        )

    def _unexpected(
        self, command: Command, what: str, advice: str = "Is this a beanstalkd?", status: str = ""
    ) -> UnexpectedResponse:
        server = self._server or "the server"
        return UnexpectedResponse(
            *(command.name, status, []),
            message=f"{server} answered {command.name} with {what}; the connection is closed. {advice}",
            server=self._server,
        )
