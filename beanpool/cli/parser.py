"""The grammar of the command line; loads nothing that a command needs."""

from __future__ import annotations

import argparse
import importlib.metadata
import math
from collections.abc import Callable, Sequence
from typing import Any

_DESCRIPTION = """\
A cluster of beanstalkd servers from the shell (beanstalkd, the work queue; not AWS Elastic Beanstalk).

The servers come from --url, else from BEANPOOL_URL, BEANSTALKD_URL or BEANSTALK_URL, else localhost:11300 is used.
"""
_EPILOG = """\
Exit codes: 0 done; 1 nothing found or done (take found no job, a job was refused); 2 wrong usage; 69 no server can be
reached; 130 interrupted with Ctrl-C.
"""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser; its result has `command`, or ``None`` there when no command was given."""
    parser = argparse.ArgumentParser(
        prog="beanpool",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action=_Version, help="print the version and exit")
    _add_common(parser, default=None)
    _add_timeout(parser, default=None)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")

    def add(name: str, summary: str, description: str) -> argparse.ArgumentParser:
        command = commands.add_parser(
            name,
            help=summary,
            description=description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        # These options work before the command and after it. Suppressed defaults: what was given before stays.
        _add_common(command, default=argparse.SUPPRESS)
        return command

    _add_demo(add("demo", "three servers, one of them killed, nothing lost", _DEMO))
    _add_put(add("put", "put a job, or one per line of standard input", _PUT))
    _add_take(add("take", "take jobs, print them, and delete them or give them back", _TAKE))
    _add_stats(add("stats", "the servers' counters, side by side and in total", _STATS))
    _add_tubes(add("tubes", "all tubes of all servers, with their jobs", _TUBES))
    return parser


_DEMO = """\
Start three beanstalkd servers on loopback, put jobs with keys from two threads, work on them from four, kill one
server with SIGKILL, start it again, and count what was put, done, lost and delivered twice.
Without the beanstalkd program ($BEANSTALKD, PATH, or a usual folder) embedded servers take its place, which keep no
log: what is on the killed one is gone with it. The exit code is 0 only if nothing else was lost.
"""


def _add_demo(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--seconds", type=_number(1), default=20.0, metavar="S", help="length of the demo (default: 20, at least 1)"
    )
    parser.add_argument("--plain", action="store_true", help="one line per second instead of a table drawn in place")
    parser.add_argument("--seed", type=int, metavar="N", help="repeat the keys and the choice of the server to kill")


_PUT = """\
Put one job and print "SERVER ID". Without BODY, or with "-", the body is standard input, byte for byte.
"""


def _add_put(parser: argparse.ArgumentParser) -> None:
    _add_timeout(parser, default=argparse.SUPPRESS)
    parser.add_argument("tube", metavar="TUBE")
    parser.add_argument("body", metavar="BODY", nargs="?", help='the body; "-" or nothing: standard input')
    parser.add_argument(
        "--lines", action="store_true", help="one job per line of standard input, without its line feed"
    )
    parser.add_argument("--key", help="jobs with the same key go to the same server")
    parser.add_argument("--priority", type=int, metavar="N", help="0 is the most urgent (default: 2147483648)")
    parser.add_argument("--delay", type=int, metavar="S", help="seconds before the job is ready (default: 0)")
    parser.add_argument("--ttr", type=int, metavar="S", help="seconds that a worker has for the job (default: 120)")


_TAKE = """\
Reserve jobs from whichever server has one and print their bodies, each followed by a line feed. A job is deleted (or
released, or buried) only after it was printed; however the command ends, it leaves no job reserved.
"""


def _add_take(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("tube", metavar="TUBE")
    fate = parser.add_mutually_exclusive_group()
    fate.add_argument(
        "--delete", action="store_const", dest="fate", const="delete", default="delete", help="delete them (default)"
    )
    fate.add_argument("--release", action="store_const", dest="fate", const="release", help="put them back as ready")
    fate.add_argument("--bury", action="store_const", dest="fate", const="bury", help="bury them")
    parser.add_argument(
        "--max", type=_whole(1, 500), default=1, dest="limit", metavar="N", help="up to N jobs, 1 to 500 (default: 1)"
    )
    parser.add_argument(
        "--timeout",
        type=_number(0),
        default=0.0,
        dest="wait",
        metavar="S",
        help='seconds to wait for jobs, in all (default: 0; "inf": until they come). '
        "Before the command, --timeout is the time that a server has to answer",
    )


_STATS = """\
Print the servers' counters: their sum, and each server's own. With TUBE: the counters of that tube.
A server that does not answer is listed, with the reason.
"""


def _add_stats(parser: argparse.ArgumentParser) -> None:
    _add_timeout(parser, default=argparse.SUPPRESS)
    parser.add_argument("tube", metavar="TUBE", nargs="?", help="the counters of this tube")
    parser.add_argument("--all", action="store_true", help="every counter, not the most useful ones")


_TUBES = """\
Print every tube that exists on any server, with its jobs counted over all of them.
"""


def _add_tubes(parser: argparse.ArgumentParser) -> None:
    _add_timeout(parser, default=argparse.SUPPRESS)
    parser.add_argument("glob", metavar="GLOB", nargs="?", help='only tubes that match, such as "mail-*"')


def _add_common(parser: argparse.ArgumentParser, *, default: Any) -> None:
    parser.add_argument("-u", "--url", default=default, help="servers, such as beanstalk://q1:11300,q2,[::1]:11301")
    parser.add_argument(
        "--json",
        action="store_true",
        default=False if default is None else default,
        help="print JSON for programs",
    )
    parser.add_argument(
        "-v",
        "--verbose",
        action="count",
        default=0 if default is None else default,
        help="log to standard error what the pool does (twice: in detail)",
    )


def _add_timeout(parser: argparse.ArgumentParser, *, default: Any) -> None:
    parser.add_argument(
        "--timeout",
        type=_number(0.001),
        default=default,
        metavar="S",
        help="seconds that a server has to accept a connection, and to answer",
    )


def _number(least: float) -> Callable[[str], float]:
    def number(text: str) -> float:
        value = float(text)
        if math.isnan(value) or value < least:
            raise argparse.ArgumentTypeError(f"must be a number of seconds, at least {least:g}, not {text!r}")
        return value

    return number


def _whole(least: int, most: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        value = int(text)
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"must be from {least} to {most}, not {text!r}")
        return value

    return number


class _Version(argparse.Action):
    """Prints the version; asks for it only then, because reading the metadata costs milliseconds."""

    def __init__(self, option_strings: Sequence[str], dest: str, help: str) -> None:
        super().__init__(option_strings, dest, nargs=0, default=argparse.SUPPRESS, help=help)

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: str | None = None
    ) -> None:
        try:
            version = importlib.metadata.version("beanpool")
        except importlib.metadata.PackageNotFoundError:
            version = "(run from its source folder)"
        print(f"beanpool {version}")
        parser.exit()
