"""The grammar of the commands that operate a cluster; loads nothing that a command needs."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from beanpool.cli.arguments import duration, job_address, states, whole, whole_seconds
from beanpool.cli.completing import servers, tubes

Add = Callable[[str, str, str], argparse.ArgumentParser]

_MOST = 2**63 - 1
_AT_REST = ("ready", "delayed", "buried")
_ANY = ("ready", "reserved", "delayed", "buried")


def add_operators(add: Add) -> None:
    """Add the commands, in the order of the help."""
    _add_peek(add("peek", "look at the jobs of a tube without taking them", _PEEK))
    _add_find(add("find", "look for jobs by what is in their bodies", _FIND))
    _add_job(add("job", "all that is known of one job, and its body", _JOB))
    _add_kick(add("kick", "make buried or delayed jobs ready", _KICK))
    _add_delete(add("delete", "delete jobs by their ids", _DELETE))
    _add_clear(add("clear", "delete the jobs of a tube", _CLEAR))
    _add_move(add("move", "move jobs from one tube to another", _MOVE))
    _add_evacuate(add("evacuate", "move all jobs of one server to the others", _EVACUATE))
    _add_pause(add("pause", "let nobody reserve from a tube for a while", _PAUSE))
    _add_resume(add("resume", "end the pause of a tube", _RESUME))
    _add_export(add("export", "write jobs as lines of JSON; they stay where they are", _EXPORT))
    _add_import(add("import", "put the jobs of such lines", _IMPORT))
    _add_servers(add("servers", "the servers: state, version, jobs", _SERVERS))
    _add_ping(add("ping", "how long each server takes to answer", _PING))
    _add_route(add("route", "which servers are asked to take jobs with a key", _ROUTE))
    _add_top(add("top", "a live view: rates, stuck tubes, servers", _TOP))
    _add_doctor(add("doctor", "look for what is wrong with the servers and tubes", _DOCTOR))
    _add_bench(add("bench", "measure puts and reserves, on tubes of its own", _BENCH))
    _add_completion(add("completion", "code that lets a shell complete commands and tubes", _COMPLETION))


def _completed(action: argparse.Action, completer: Callable[..., list[str]]) -> None:
    # Where argcomplete looks for it.
    action.completer = completer  # type: ignore[attr-defined]  # It is argcomplete's attribute.


def add_tube(parser: argparse.ArgumentParser, name: str = "tube", **options: Any) -> None:
    """Add a tube as an argument; shells complete it."""
    _completed(parser.add_argument(name, **{"metavar": name.upper(), **options}), tubes)


def _add_states(parser: argparse.ArgumentParser, known: tuple[str, ...], default: tuple[str, ...]) -> None:
    shown = "all" if default == known else ",".join(default)
    parser.add_argument(
        "--state",
        type=states(*known),
        default=default,
        dest="states",
        metavar="STATE,...",
        help=f"some of {', '.join(known)}, or all (default: {shown})",
    )


def _add_limit(parser: argparse.ArgumentParser, text: str) -> None:
    parser.add_argument("--max", type=whole(0, _MOST), dest="limit", metavar="N", help=text)


def _add_dry_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-n", "--dry-run", action="store_true", help="say what would be done, and do nothing")


def _add_yes(parser: argparse.ArgumentParser) -> None:
    _add_dry_run(parser)
    parser.add_argument("-y", "--yes", action="store_true", help="do not ask; needed where there is no terminal")


def _add_key(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--key", help="put the copies by this key, so that all go to one server")


_PEEK = """\
Print the job of each state that comes next, on each server; with --max the jobs that were put last, with all states.
None is taken.
"""


def _add_peek(parser: argparse.ArgumentParser) -> None:
    add_tube(parser)
    _add_states(parser, _AT_REST, _AT_REST)
    _add_limit(parser, "up to N jobs, on all servers together, and not the next ones only")
    parser.add_argument("--body", action="store_true", help="the bodies alone, whole, each followed by a line feed")


_FIND = """\
Look for jobs whose body matches a regular expression (of Python), anywhere in it. All bodies are read for that, none
is taken. The exit code is 1 if there is none.
"""


def _add_find(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("pattern", metavar="PATTERN")
    add_tube(parser, nargs="?", help="where to look (default: in all tubes)")
    _add_states(parser, _ANY, _ANY)
    _add_limit(parser, "find up to N jobs")
    parser.add_argument("--body", action="store_true", help="the bodies alone, whole, each followed by a line feed")


_JOB = """\
Print the statistics of a job, and its body. SERVER/ID is what peek and find print, such as q1:11300/42; the ID alone
will do where there is one server.
"""


def _add_job(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("job", metavar="SERVER/ID", type=job_address)
    parser.add_argument("--body", action="store_true", help="the body alone")


_KICK = """\
Make the buried jobs of a tube ready, on all servers, or with --state delayed those that wait; or jobs that are named
one by one.
"""


def _add_kick(parser: argparse.ArgumentParser) -> None:
    add_tube(parser, nargs="?")
    parser.add_argument(
        "--job", nargs="+", dest="jobs", metavar="SERVER/ID", help='these jobs; "-": from standard input'
    )
    _add_states(parser, ("buried", "delayed"), ("buried",))
    _add_limit(parser, "up to N jobs, on all servers together (default: all)")
    _add_dry_run(parser)


_DELETE = """\
Delete jobs by their ids, whatever their state; not those that a worker has in hand.
"""


def _add_delete(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("jobs", metavar="SERVER/ID", nargs="+", help='such as q1:11300/42; "-": from standard input')
    _add_yes(parser)


_CLEAR = """\
Delete the jobs of a tube on all servers. Those that workers have in hand stay.
"""


def _add_clear(parser: argparse.ArgumentParser) -> None:
    add_tube(parser)
    _add_states(parser, _AT_REST, _AT_REST)
    _add_limit(parser, "up to N jobs, on all servers together (default: all)")
    _add_yes(parser)


_MOVE = """\
Move the jobs of one tube to another, on all servers, with their priority, TTR, delay and state. Each stays on its
server. A copy is put before its original is deleted, so none is lost; those that may be there twice are counted.
After Ctrl-C run it again to move the rest.
"""


def _add_move(parser: argparse.ArgumentParser) -> None:
    add_tube(parser, "source")
    add_tube(parser, "target")
    _add_states(parser, _AT_REST, _AT_REST)
    _add_limit(parser, "up to N jobs, on all servers together (default: all)")
    _add_key(parser)
    _add_yes(parser)


_EVACUATE = """\
Move all jobs of one server to the others, tube by tube. Producers go on putting there until its weight is 0 in their
URLs too (q1:11300;weight=0), so see to that first, and run this until the server is empty.
"""


def _add_evacuate(parser: argparse.ArgumentParser) -> None:
    _completed(parser.add_argument("server", metavar="SERVER", help="its address or name"), servers)
    _add_states(parser, _AT_REST, _AT_REST)
    _add_key(parser)
    _add_yes(parser)


_PAUSE = """\
Let nobody reserve from a tube for a time, on all servers that have it. Puts go on.
"""


def _add_pause(parser: argparse.ArgumentParser) -> None:
    add_tube(parser)
    parser.add_argument("seconds", metavar="TIME", type=whole_seconds, help="such as 90, 5m or 2h")
    _add_dry_run(parser)


_RESUME = """\
End the pause of a tube, on all servers that have it.
"""


def _add_resume(parser: argparse.ArgumentParser) -> None:
    add_tube(parser)
    parser.set_defaults(seconds=0)
    _add_dry_run(parser)


_EXPORT = """\
Write the jobs of a tube, or of all tubes, as lines of JSON to standard output or a file. They stay where they are.
What came of it is said on standard error.
"""


def _add_export(parser: argparse.ArgumentParser) -> None:
    add_tube(parser, nargs="?", help="whose jobs (default: those of all tubes)")
    _add_states(parser, _ANY, _AT_REST)
    _add_limit(parser, "up to N jobs")
    parser.add_argument("-o", "--output", metavar="FILE", help="a file that does not exist yet")


_IMPORT = """\
Put jobs that export or "take --json" wrote, with the priority, TTR, delay and state that the lines name. They are
spread over the servers as other puts are.
"""


def _add_import(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", nargs="?", help='"-" or nothing: standard input')
    _completed(parser.add_argument("--tube", help="put them here (default: where the lines say)"), tubes)
    parser.add_argument("--key", help="put them by this key, so that all go to one server")
    parser.add_argument("--rejected", metavar="FILE", help="write lines here whose jobs are not certainly stored")


_SERVERS = """\
Print every server: its state, as a pool sees it, and its version, connections and jobs. The exit code is 3 if one
does not answer.
"""


def _add_servers(parser: argparse.ArgumentParser) -> None:
    pass


_PING = """\
Make a round trip to every server. The exit code is 0 if all answer, 3 if some do, 69 if none does.
"""


def _add_ping(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--wait", type=duration(0), default=0.0, metavar="TIME", help="try again for so long, until all answer"
    )
    parser.add_argument(
        "--interval", type=duration(0.01), default=0.5, metavar="TIME", help="between two tries (default: 0.5)"
    )


_ROUTE = """\
Print the servers in the order in which they are asked to take a job with this key. It is computed; no server is
asked.
"""


def _add_route(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("keys", metavar="KEY", nargs="+")


_TOP = """\
Show the servers and the tubes, the most troubled ones first, and how many jobs come and go each second. On a terminal
the screen is drawn anew; keys: s sorts by another column, space stops and goes on, q ends it. Elsewhere it prints a
table for each look.
"""


def _add_top(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--interval", type=duration(0.1), default=2.0, metavar="TIME", help="between two looks (default: 2)"
    )
    parser.add_argument("--count", type=whole(1, _MOST), metavar="N", help="end after N looks")
    parser.add_argument(
        "--sort", choices=("trouble", "name", "ready", "rate", "age"), default="trouble", help="the order of tubes"
    )
    parser.add_argument("--tubes", default="*", metavar="GLOB", help='only tubes that match, such as "mail-*"')


_DOCTOR = """\
Look for what is wrong, or will be: servers that do not answer, differ, drain or keep no log; tubes that nobody works
off, buried jobs, jobs that time out; limits of this machine. Each finding says what to do. The exit code is 1 if
there is a problem, 3 if a server does not answer.
"""


def _add_doctor(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--probe", action="store_true", help="also put, reserve and delete a job on each server")
    parser.add_argument(
        "--old",
        type=duration(1),
        default=600.0,
        metavar="TIME",
        help="a ready job is stuck after so long (default: 10m)",
    )


_BENCH = """\
Measure put, batches of puts, reserve and delete, and batches of these, over all servers, on a tube of its own that is
empty again at the end.
"""


def _add_bench(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--seconds", type=duration(0.05), default=2.0, metavar="TIME", help="for each measurement (default: 2)"
    )
    parser.add_argument("--size", type=whole(0, 2**20), default=100, metavar="BYTES", help="of a body (default: 100)")
    parser.add_argument("--threads", type=whole(1, 256), default=1, metavar="N", help="at the same time (default: 1)")
    parser.add_argument("--batch", type=whole(1, 10_000), default=500, metavar="N", help="jobs in one (default: 500)")


_COMPLETION = """\
Print what a shell loads to complete commands, options, tubes and servers. It needs argcomplete (pip install
'beanpool[cli]').
  bash: eval "$(beanpool completion bash)"   in ~/.bashrc
  zsh:  eval "$(beanpool completion zsh)"    in ~/.zshrc, after compinit
  fish: beanpool completion fish | source    in ~/.config/fish/config.fish
"""


def _add_completion(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", metavar="SHELL", choices=("bash", "zsh", "fish"), help="bash, zsh or fish")
