"""``python -m beanpool.testing``: one embedded server in the foreground.

It takes beanstalkd's options as far as it has what they set, and its signals: SIGUSR1 starts draining. Like beanstalkd
it serves on a listening socket that it inherits (``LISTEN_FDS``, ``LISTEN_PID``).
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import sys
from collections.abc import Sequence

from beanpool.protocol.arguments import MAX_JOB_SIZE
from beanpool.testing.embedded.binding import bind
from beanpool.testing.embedded.dialect import DEFAULT_VERSION, DIALECTS
from beanpool.testing.embedded.loop import Loop
from beanpool.testing.embedded.server import BACKLOG, DEFAULT_MAX_JOB_SIZE
from beanpool.testing.failures import ServerFailed

_FIRST_INHERITED = 3
_CANNOT_LISTEN = 69


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or Ctrl-C; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m beanpool.testing",
        description="A beanstalkd in Python, for tests and for trying things out. Jobs live as long as it runs.",
    )
    parser.add_argument("-l", dest="host", default="127.0.0.1", metavar="ADDR", help="listen on this address")
    parser.add_argument("-p", dest="port", type=int, default=11300, metavar="PORT", help="and port (0: any)")
    parser.add_argument(
        "-z", dest="size", type=int, default=DEFAULT_MAX_JOB_SIZE, metavar="BYTES", help="maximum size of a job"
    )
    parser.add_argument("-v", action="version", version=f"beanstalkd {DEFAULT_VERSION} (embedded in Python)")
    arguments = parser.parse_args(argv)
    try:
        listening = _inherited() or bind(arguments.host, arguments.port)
    except ServerFailed as error:
        sys.stderr.write(f"{parser.prog}: {error}\n")
        return _CANNOT_LISTEN
    listening.listen(BACKLOG)
    loop = Loop(listening, min(arguments.size, MAX_JOB_SIZE), DIALECTS[DEFAULT_VERSION])
    signal.signal(signal.SIGTERM, lambda number, frame: loop.end())
    signal.signal(signal.SIGINT, lambda number, frame: loop.end())
    signal.signal(signal.SIGUSR1, lambda number, frame: setattr(loop.model, "draining", True))
    host, port = listening.getsockname()[:2]
    sys.stderr.write(f"listening on {host} port {port}\n")
    loop.run()
    return 0


def _inherited() -> socket.socket | None:
    """The socket that whoever started this process has opened for it."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()) or os.environ.get("LISTEN_FDS", "0") == "0":
        return None
    return socket.socket(fileno=_FIRST_INHERITED)


if __name__ == "__main__":
    sys.exit(main())
