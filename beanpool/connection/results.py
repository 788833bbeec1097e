"""From the reply to a command to its result: a value, or an error.

Whatever carries a command can use these. They know the channel that the reply came over, which is closed where the
reply leaves it out of step, and of the connection its :class:`Tubes` alone. The reply is the last argument of each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, Unpack

from beanpool.errors import About, CommandFailed, UnexpectedResponse
from beanpool.protocol import (
    KICK,
    LIST_TUBE_USED,
    MAX_UINT32,
    PUT,
    STATS_JOB,
    USE,
    WATCH,
    Command,
    Reply,
    decode,
    parse_list,
    parse_mapping,
)

YamlParsing = bool | Callable[..., Any]


class ReplyChannel(Protocol):
    """The channel that a reply came over."""

    server: str

    def refuse(self, command: Command, reply: Reply, **about: Unpack[About]) -> CommandFailed:
        """Build the error of a refusal, and close the channel if the refusal leaves it out of step."""

    def close(self, because: str) -> None:
        """Close it, as it is out of step."""


class Tubes(Protocol):
    """What is known here of the tubes of a connection."""

    used: str
    watched: tuple[str, ...]


def violated(channel: ReplyChannel, command: Command, what: str, status: str = "") -> UnexpectedResponse:
    """Close the channel over a reply that is well-formed and wrong, and build the error."""
    error = UnexpectedResponse(
        *(command.name, status, []),
        message=f"{channel.server} answered {command.name} with {what}; the connection is closed",
        server=channel.server,
    )
    channel.close(str(error))
    return error


def confirm(command: Command, success: str, channel: ReplyChannel, reply: Reply, /, **about: Unpack[About]) -> None:
    """Check the reply to a command that returns nothing; a refusal says what it was about."""
    if reply.status != success:
        raise channel.refuse(command, reply, **about)


def stored(size: int, channel: ReplyChannel, reply: Reply) -> int:
    """The id in the reply to a ``put`` of a body of so many bytes."""
    if reply.status != "INSERTED":
        raise channel.refuse(PUT, reply, size=size)
    return reply.number


def use(tubes: Tubes, tube: str, channel: ReplyChannel, reply: Reply) -> str:
    """Note the tube that the reply to a ``use`` confirms."""
    if reply.status != "USING":
        raise channel.refuse(USE, reply, tube=tube)
    if reply.tube != tube:
        raise violated(channel, USE, f"another tube ({reply.tube})", reply.status)
    tubes.used = tube
    return tube


def using(channel: ReplyChannel, reply: Reply) -> str:
    """The tube in the reply to a ``list-tube-used``."""
    if reply.status != "USING":
        raise channel.refuse(LIST_TUBE_USED, reply)
    return reply.tube


def watch(tubes: Tubes, command: Command, tube: str, channel: ReplyChannel, reply: Reply) -> int:
    """Note what the reply to a ``watch`` or ``ignore`` confirms; returns how many tubes are watched then."""
    if reply.status == "NOT_IGNORED":
        return 1
    expected = tuple(name for name in tubes.watched if name != tube)
    if command is WATCH:
        expected = tubes.watched if tube in tubes.watched else (*tubes.watched, tube)
    count(command, len(expected), channel, reply)
    tubes.watched = expected
    return reply.number


def count(command: Command, due: int, channel: ReplyChannel, reply: Reply) -> None:
    """Check that after a ``watch`` or ``ignore`` as many tubes are watched as are due."""
    if reply.status != "WATCHING":
        raise channel.refuse(command, reply)
    if reply.number != due:
        raise violated(channel, command, f"{reply.number} watched tubes where {due} are due", reply.status)


def kicked(channel: ReplyChannel, reply: Reply) -> int:
    """The count in the reply to a ``kick``."""
    if reply.status != "KICKED":
        raise channel.refuse(KICK, reply)
    return reply.number


def priority(channel: ReplyChannel, reply: Reply, /, **about: Unpack[About]) -> int | None:
    """The priority in the reply to a ``stats-job``; None if the server does not know the job."""
    if reply.status == "NOT_FOUND":
        return None
    found = document(True, STATS_JOB, channel, reply, **about).get("pri")
    if type(found) is not int or not 0 <= found <= MAX_UINT32:
        raise violated(channel, STATS_JOB, "no valid priority")
    return found


def document(
    parse_yaml: YamlParsing, command: Command, channel: ReplyChannel, reply: Reply, /, **about: Unpack[About]
) -> Any:
    """The document in a reply, parsed as `parse_yaml` says; a refusal says what it was about."""
    if reply.status != "OK":
        raise channel.refuse(command, reply, **about)
    if parse_yaml is not True:
        text = decode(reply.body)
        return _apply(parse_yaml, text, command) if callable(parse_yaml) else text
    parse = parse_mapping if command.name.startswith("stats") else parse_list
    try:
        return parse(command.name, reply.body, channel.server)
    except UnexpectedResponse as error:
        channel.close(str(error))
        raise


def _apply(parse: Callable[..., Any], text: str, command: Command) -> Any:
    # Here, not at the top: most programs leave the parsing to us.
    import inspect

    try:
        parameters: Mapping[str, inspect.Parameter] = inspect.signature(parse).parameters
    except (TypeError, ValueError):
        # Some that are written in C do not say.
        parameters = {}
    named = parameters.get("command")
    if named is None or named.kind is inspect.Parameter.POSITIONAL_ONLY or named is next(iter(parameters.values())):
        return parse(text)
    return parse(text, command=command.name)
