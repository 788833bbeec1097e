"""``python -m beanpool.testing``: one embedded server in the foreground.

It takes beanstalkd's options, so that other people's tests can start it in beanstalkd's place, and its signals: SIGUSR1
starts draining. What an option sets that it has not is ignored, with a word where that matters. Like beanstalkd it
serves on a listening socket that it inherits (``LISTEN_FDS``, ``LISTEN_PID``).
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import socket
import sys
from collections.abc import Sequence

from beanpool.protocol import MAX_JOB_SIZE
from beanpool.testing.embedded.binding import UNIX, bind
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
    parser.add_argument(
        "-l", dest="host", default="127.0.0.1", metavar="ADDR", help="listen on this address, or on unix:PATH"
    )
    parser.add_argument("-p", dest="port", type=int, default=11300, metavar="PORT", help="and port (0: any)")
    parser.add_argument(
        "-z", dest="size", type=int, default=DEFAULT_MAX_JOB_SIZE, metavar="BYTES", help="maximum size of a job"
    )
    parser.add_argument(
        "--version", choices=sorted(DIALECTS), default=DEFAULT_VERSION, help="speak as that version of beanstalkd does"
    )
    parser.add_argument("-v", dest="show_version", action="store_true", help="show the version and exit")
    parser.add_argument("-b", dest="log", metavar="DIR", help="ignored: there is no write-ahead log")
    parser.add_argument("-u", dest="user", metavar="USER", help="ignored: it stays the user that it is")
    for option in ("-f", "-s"):
        parser.add_argument(option, type=int, dest="unused", metavar="N", help="ignored, being about the log")
    for option in ("-F", "-n", "-c", "-V"):
        parser.add_argument(option, action="count", dest="unused", help="ignored")
    arguments = parser.parse_args(argv)
    if arguments.show_version:
        sys.stdout.write(f"beanstalkd {arguments.version} (embedded in Python)\n")
        return 0
    try:
        listening = _inherited() or bind(arguments.host, arguments.port)
    except ServerFailed as error:
        sys.stderr.write(f"{parser.prog}: {error}\n")
        return _CANNOT_LISTEN
    listening.listen(BACKLOG)
    loop = Loop(listening, min(arguments.size, MAX_JOB_SIZE), DIALECTS[arguments.version])
    signal.signal(signal.SIGTERM, lambda number, frame: loop.end())
    signal.signal(signal.SIGINT, lambda number, frame: loop.end())
    signal.signal(signal.SIGUSR1, lambda number, frame: setattr(loop.model, "draining", True))
    name = listening.getsockname()
    where = f"{UNIX}{name}" if listening.family == socket.AF_UNIX else f"{name[0]} port {name[1]}"
    sys.stderr.write(f"listening on {where}\n")
    for option, value, what in (
        ("-b", arguments.log, "jobs live as long as this process"),
        ("-u", arguments.user, "this process stays the user that it is"),
    ):
        if value is not None:
            sys.stderr.write(f"{parser.prog}: {option} {value} is ignored: {what}\n")
    loop.run()
    if listening.family == socket.AF_UNIX:
        with contextlib.suppress(OSError):
            os.unlink(name)
    return 0


def _inherited() -> socket.socket | None:
    """The socket that whoever started this process has opened for it."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()) or os.environ.get("LISTEN_FDS", "0") == "0":
        return None
    return socket.socket(fileno=_FIRST_INHERITED)


if __name__ == "__main__":
    sys.exit(main())
