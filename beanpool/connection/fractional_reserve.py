"""A reserve of one connection with a timeout in fractions of a second. Servers know whole seconds only."""

from __future__ import annotations

import time
from typing import Any

from beanpool.connection.session import Session
from beanpool.net import Channel, wait_for
from beanpool.protocol import RESERVE_WITH_TIMEOUT, Reply, encode_reserve_with_timeout

RESERVE_SLICE = 30
"""The longest single wait in a reserve (seconds): a client that has vanished stops waiting at the server by then."""


def reserve_to_the_point(connection: Session[Any], seconds: float) -> tuple[Channel, Reply]:
    """Ask for a job, for who has the guard; returns the reply, and the channel that it came over.

    If the server would wait for longer, the connection is given up, and opened anew by its next use; or, if jobs are
    reserved on it, the last part of the second is waited out without asking the server.
    """
    until = time.monotonic() + seconds
    channel = connection._channel or connection._open_channel()

    def ask(wait: int) -> Reply:
        request = encode_reserve_with_timeout(wait)
        return channel.exchange(RESERVE_WITH_TIMEOUT, request, time.monotonic() + wait + connection.timeout)

    # What is ready comes first, however far the server is, and however short the wait.
    reply = ask(0)
    while reply.status == "TIMED_OUT" and (remaining := until - time.monotonic()) > 0:
        whole = min(int(remaining), RESERVE_SLICE)
        if whole == RESERVE_SLICE or (whole and connection._held):
            reply = ask(whole)
        elif connection._held:
            # To give the connection up would give them up.
            wait_for(channel, write=False, seconds=remaining)
            return channel, ask(0)
        else:
            request = encode_reserve_with_timeout(whole + 1)
            in_time = channel.exchange_until(RESERVE_WITH_TIMEOUT, request, until, connection.timeout)
            if in_time is None:
                # The server takes back what it may have sent meanwhile.
                connection._channel = None
                channel.close("its reserve was over in the middle of a second")
                break
            reply = in_time
    return channel, reply
