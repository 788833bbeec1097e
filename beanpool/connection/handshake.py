"""The handshake of a new connection, and the commands that set up the tubes that a call needs."""

from __future__ import annotations

from beanpool.connection.results import ReplyChannel
from beanpool.errors import CommandTimeout, ConnectionFailed, Phase
from beanpool.protocol import IGNORE, STATS, WATCH, Command, Identity, Reply, encode_bare, parse_identity

IDENTIFY = encode_bare(STATS)
"""The question for the server's identity. A connect alone proves nothing: a stopped server accepts it, too."""


def identity(channel: ReplyChannel, reply: Reply) -> Identity:
    """The server's identity, read from its reply.

    :raises ConnectionFailed: if it does not say; the channel is closed then.
    """
    if reply.status != "OK":
        # Not a CommandFailed: the caller would take it for the answer to its own command.
        channel.close(f"the server answered {reply.status} when asked who it is")
        raise ConnectionFailed(
            f"{channel.server}: the connection was accepted, but the server says {reply.status} when asked who it is",
            server=channel.server,
            phase=Phase.HANDSHAKE,
        )
    return parse_identity(reply.body)


def unanswered(server: str, error: ConnectionFailed) -> ConnectionFailed:
    """The error of a handshake without an answer, made from that of the command."""
    kind = CommandTimeout if isinstance(error, CommandTimeout) else ConnectionFailed
    return kind(
        f"{server}: the connection was accepted, but the server does not answer ({error})",
        server=server,
        phase=Phase.HANDSHAKE,
    )


def tube_changes(watched: tuple[str, ...], wanted: tuple[str, ...]) -> list[tuple[Command, str, int]]:
    """The commands after which a connection that watches `watched` watches `wanted` alone, with their tubes.

    :returns: with each the number of tubes that its reply has to name.
    """
    # There may be thousands of tubes: nothing here looks at all of them for each of them.
    before, after = dict.fromkeys(watched), dict.fromkeys(wanted)
    new = [tube for tube in after if tube not in before]
    old = [tube for tube in before if tube not in after]
    count = len(before)
    changes = [(WATCH, tube, count + number) for number, tube in enumerate(new, 1)]
    count += len(new)
    # Ignored last: a connection must watch something at all times.
    return changes + [(IGNORE, tube, count - number) for number, tube in enumerate(old, 1)]
