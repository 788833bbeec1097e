"""The grammar of the command line; loads nothing that a command needs."""

from __future__ import annotations

import argparse
import importlib.metadata
import math
import textwrap
from collections.abc import Sequence
from typing import Any, NoReturn

from beanpool.cli.arguments import duration, whole, whole_seconds
from beanpool.cli.listen_address import ListenAddress
from beanpool.cli.operators import add_operators, add_tube

_DESCRIPTION = """\
A cluster of beanstalkd servers from the shell (beanstalkd, the work queue; not AWS Elastic Beanstalk).

The servers come from --url, else from BEANPOOL_URL, BEANSTALKD_URL or BEANSTALK_URL, else localhost:11300 is used.
"""
_EPILOG = """\
Times are seconds, or such as 90s, 5m, 2h, 1d.
Exit codes: 0 done; 1 nothing found or done (take found no job, a job was refused); 2 wrong usage; 3 servers are missing
from the answer; 12 a worker had too much memory; 69 no server can be reached; 75 a worker gave jobs back when it was
stopped; 130 interrupted with Ctrl-C.
"""
# After these, it means something else, or nothing.
_WITHOUT_TIMEOUT = ("demo", "take", "completion")


def build_parser() -> argparse.ArgumentParser:
    """Return the parser; its result has `command`, or ``None`` there when no command was given."""
    parser = _Command(
        prog="beanpool",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=_Formatter,
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
            formatter_class=_Formatter,
            allow_abbrev=False,
        )
        # These options work before the command and after it. Suppressed defaults: what was given before stays.
        _add_common(command, default=argparse.SUPPRESS)
        if name not in _WITHOUT_TIMEOUT:
            _add_timeout(command, default=argparse.SUPPRESS)
        return command

    _add_demo(add("demo", "three servers, one of them killed, nothing lost", _DEMO))
    _add_put(add("put", "put a job, or one per line of standard input", _PUT))
    _add_take(add("take", "take jobs, print them, and delete them or give them back", _TAKE))
    _add_stats(add("stats", "the servers' counters, side by side and in total", _STATS))
    _add_tubes(add("tubes", "all tubes of all servers, with their jobs", _TUBES))
    _add_worker(add("worker", "call a function for each job of tubes, in threads", _WORKER))
    add_operators(add)
    _add_exporter(add("exporter", "metrics of the servers and tubes, for Prometheus", _EXPORTER))
    return parser


_DEMO = """\
Start three beanstalkd servers on loopback, put jobs with keys from two threads, work on them from four, kill one
server with SIGKILL, start it again, and count what was put, done, lost and delivered twice.
Without the beanstalkd program ($BEANSTALKD, PATH, or a usual folder) embedded servers take its place, which keep no
log: what is on the killed one is gone with it. The exit code is 0 only if nothing else was lost.
"""


def _add_demo(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--seconds", type=duration(1), default=20.0, metavar="TIME", help="length of the demo (default: 20, at least 1)"
    )
    parser.add_argument("--plain", action="store_true", help="one line per second instead of a table drawn in place")
    parser.add_argument("--seed", type=int, metavar="N", help="repeat the keys and the choice of the server to kill")


_PUT = """\
Put one job and print "SERVER ID". Without BODY, or with "-", the body is standard input, byte for byte.
"""


def _add_put(parser: argparse.ArgumentParser) -> None:
    add_tube(parser)
    parser.add_argument("body", metavar="BODY", nargs="?", help='the body; "-" or nothing: standard input')
    parser.add_argument(
        "--lines", action="store_true", help="one job per line of standard input, without its line feed"
    )
    parser.add_argument("--key", help="jobs with the same key go to the same server")
    parser.add_argument("--priority", type=int, metavar="N", help="0 is the most urgent (default: 2147483648)")
    parser.add_argument("--delay", type=whole_seconds, metavar="TIME", help="until the job is ready (default: 0)")
    parser.add_argument(
        "--ttr", type=whole_seconds, metavar="TIME", help="how long a worker has for the job (default: 120)"
    )


_TAKE = """\
Reserve jobs from whichever server has one and print their bodies, each followed by a line feed. A job is deleted (or
released, or buried) only after it was printed; however the command ends, it leaves no job reserved.
"""


def _add_take(parser: argparse.ArgumentParser) -> None:
    add_tube(parser)
    fate = parser.add_mutually_exclusive_group()
    fate.add_argument(
        "--delete", action="store_const", dest="fate", const="delete", default="delete", help="delete them (default)"
    )
    fate.add_argument("--release", action="store_const", dest="fate", const="release", help="put them back as ready")
    fate.add_argument("--bury", action="store_const", dest="fate", const="bury", help="bury them")
    parser.add_argument(
        "--max", type=whole(1, 500), default=1, dest="limit", metavar="N", help="up to N jobs, 1 to 500 (default: 1)"
    )
    parser.add_argument(
        "--timeout",
        type=duration(0, forever=True),
        default=0.0,
        dest="wait",
        metavar="TIME",
        help='how long to wait for jobs, in all (default: 0; "inf": until they come). '
        "Before the command, --timeout is the time that a server has to answer",
    )


_STATS = """\
Print the servers' counters: their sum, and each server's own. With TUBE: the counters of that tube.
A server that does not answer is listed, with the reason.
"""


def _add_stats(parser: argparse.ArgumentParser) -> None:
    add_tube(parser, nargs="?", help="the counters of this tube")
    parser.add_argument("--all", action="store_true", help="every counter, not the most useful ones")


_TUBES = """\
Print every tube that exists on any server, with its jobs counted over all of them.
"""


def _add_tubes(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("glob", metavar="GLOB", nargs="?", help='only tubes that match, such as "mail-*"')


_WORKER = """\
Call a function with each job of the TUBEs: a job is deleted when that returns, and tried again later when it raises. Or
run a worker (beanpool.worker.Worker) with all its tubes, or those named; options given here take the place of its own.
MODULE is looked for in the working folder too. SIGTERM and Ctrl-C end it: running jobs are finished first.
"""


def _add_worker(parser: argparse.ArgumentParser) -> None:
    # None: not given. What a worker does then is said in one place, its constructor.
    parser.add_argument("target", metavar="MODULE:NAME", help="a function that takes a job, or a worker")
    add_tube(parser, "tubes", metavar="TUBE", nargs="*", help="the tubes to take jobs from")
    parser.add_argument("--threads", type=whole(1, 4096), metavar="N", help="jobs at the same time (default: 8)")
    parser.add_argument("--tries", type=whole(1, 2**31), metavar="N", help="tries before a job is buried (default: 5)")
    parser.add_argument(
        "--backoff", type=duration(0), metavar="TIME", help="wait before the second try; doubled each time (default: 1)"
    )
    parser.add_argument("--backoff-cap", type=duration(0), metavar="TIME", help="the longest wait (default: 10m)")
    parser.add_argument(
        "--batch", type=_batch, metavar="N", help='jobs that a thread takes at once, or "auto" (default: 1)'
    )
    parser.add_argument(
        "--concurrency",
        type=_concurrency,
        action="append",
        metavar="TUBE=N",
        help="at most N jobs of TUBE at the same time; may be given for several tubes",
    )
    parser.add_argument("--time-limit", type=duration(0.001), metavar="TIME", help="the longest that a job may take")
    parser.add_argument(
        "--grace", type=duration(0), metavar="TIME", help="time for running jobs at the end (default: 30)"
    )
    parser.add_argument("--max-jobs", type=whole(1, 2**63 - 1), metavar="N", help="end after so many jobs")
    parser.add_argument("--max-time", type=duration(0.001), metavar="TIME", help="end after this time")
    parser.add_argument(
        "--max-deliveries", type=whole(1, 2**31), metavar="N", help="bury jobs that were delivered more often"
    )
    parser.add_argument("--memory", type=_memory, metavar="M", help="end beyond so many megabytes, or 2G, with code 12")
    parser.add_argument(
        "--breaker", type=whole(1, 2**31), metavar="N", help="leave a tube alone for a while after N failures in a row"
    )
    parser.add_argument("--stop-when-empty", action="store_true", help="end when no tube has a ready job on any server")
    parser.add_argument(
        "--order",
        choices=("any", "fair", "strict"),
        help="from which tube: in turn, or the first one named that has jobs (default: fair)",
    )
    parser.add_argument("--heartbeat-file", metavar="FILE", help="touch FILE every 5 s while the worker can take jobs")
    parser.add_argument(
        "--health",
        type=_listen_address,
        metavar="HOST:PORT",
        help="serve /livez, /readyz and /metrics there (metrics need the package prometheus_client)",
    )


_EXPORTER = """\
Serve the counters of all servers and tubes at http://HOST:PORT/metrics. All servers are asked at once, whenever that is
read. One that is silent costs the deadline, and has beanstalkd_up 0. It needs the package prometheus_client.
"""


def _add_exporter(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--listen",
        type=_listen_address,
        default="127.0.0.1:9150",
        metavar="HOST:PORT",
        help='where to serve them; ":9150" for all addresses of the machine (default: 127.0.0.1:9150)',
    )
    parser.add_argument(
        "--tubes",
        action="append",
        metavar="GLOB",
        help="the tubes that have metrics; may be given several times (default: all)",
    )
    parser.add_argument(
        "--most", type=whole(0, 2**31), default=100, metavar="N", help="tubes of each server at most (default: 100)"
    )
    parser.add_argument(
        "--deadline", type=duration(0.001), default=2.0, metavar="S", help="the longest for a reading (default: 2)"
    )
    parser.add_argument(
        "--no-head-age",
        dest="head_age",
        action="store_false",
        help="do not ask how old the next job of each tube is; its body is read for that",
    )


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
        type=duration(0.001),
        default=default,
        metavar="TIME",
        help="how long a server has to accept a connection, and to answer",
    )


class _Formatter(argparse.HelpFormatter):
    """Fills paragraphs to the window; lines that are indented stay as they are."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        parts: list[list[str]] = [[]]
        for line in text.splitlines():
            if not line or line.startswith(" "):
                parts += [[line], []]
            else:
                parts[-1].append(line)
        return "\n".join(
            part[0] if part[0].startswith(" ") else textwrap.fill(" ".join(part), width, initial_indent=indent)
            for part in parts
            if part
        )


def _memory(text: str) -> int:
    unit = {"M": 2**20, "G": 2**30}.get(text[-1:].upper())
    try:
        value = float(text[:-1]) * unit if unit else float(text) * 2**20
    except ValueError:
        value = math.nan
    if not 2**20 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"must be megabytes, or such as 512M or 2G, at least 1, not {text!r}")
    return int(value)


def _batch(text: str) -> int | str:
    return text if text == "auto" else whole(1, 4096)(text)


def _concurrency(text: str) -> tuple[str, int]:
    tube, equals, number = text.rpartition("=")
    if not equals or not tube:
        raise argparse.ArgumentTypeError(f"must be TUBE=N, not {text!r}")
    return tube, whole(1, 4096)(number)


def _listen_address(text: str) -> ListenAddress:
    try:
        return ListenAddress.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


class _Command(argparse.ArgumentParser):
    """Says what is wrong in one line: the options of a command are too many to list them each time."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"beanpool: {message}; for its usage: {self.prog} --help\n")


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
