"""What takes in replies in place of a channel."""

from __future__ import annotations

from typing import Unpack

from beanpool.errors import About, CommandFailed, refusal
from beanpool.protocol.commands import Command
from beanpool.protocol.replies import Reply


class Heard:
    """Stands for the channel that a reply came over, and writes down why it was closed."""

    server = "q1:11300"

    def __init__(self) -> None:
        self.closed_because = ""

    def refuse(self, command: Command, reply: Reply, **about: Unpack[About]) -> CommandFailed:
        return refusal(command.name, reply.status, [], server=self.server, **about)

    def close(self, because: str) -> None:
        self.closed_because = because
