"""The command: it gathers the facts, and says what was found."""

from __future__ import annotations

import argparse
import secrets
import sys
import textwrap

from beanpool import BeanpoolError, Connection, PoolManager
from beanpool.cli.doctor.findings import Facts, Finding, Level, findings
from beanpool.cli.each_server import on_each_server
from beanpool.cli.exits import Exit
from beanpool.cli.look import look
from beanpool.cli.pool import open_pool, reason
from beanpool.cli.screen import say_lines, window_width
from beanpool.cli.tables import Span
from beanpool.cli.terminal import printable, say, to_json

_INDENT = 8
_WORDS = {
    Level.OK: ("ok", "green"),
    Level.NOTE: ("note", "yellow"),
    Level.PROBLEM: ("problem", "bold red"),
    Level.SILENT: ("silent", "bold red"),
}


def run(arguments: argparse.Namespace) -> int:
    """Look, and say what is wrong; exit code 1 if there is a problem, 3 if a server is silent, 69 if all are."""
    with open_pool(arguments) as pool:
        seen = look(pool)
        probes = _probe(pool, list(seen.stats)) if arguments.probe else {}
        most = pool.get_stats()["pool_max"] // max(1, len(seen.servers))
    found = findings(Facts(seen, probes, arguments.old, _descriptors(), most))
    for finding in found:
        _say(finding, as_json=arguments.json)
    if not seen.stats:
        return Exit.UNAVAILABLE
    worst = max(finding.level for finding in found)
    return {Level.SILENT: Exit.INCOMPLETE, Level.PROBLEM: Exit.NEGATIVE}.get(worst, Exit.OK)


def _say(finding: Finding, *, as_json: bool) -> None:
    word, style = _WORDS[finding.level]
    if as_json:
        record = {"level": word, "about": finding.about, "text": finding.text, "advice": finding.advice}
        say(to_json(record))
        return
    first, *rest = _filled(f"{finding.about}: {finding.text}")
    bold = len(finding.about) + 1
    lines = [[Span(f"{word:{_INDENT}}", style), Span(first[:bold], "bold"), Span(first[bold:], "")]]
    lines += [[Span(" " * _INDENT + line, "")] for line in rest]
    if finding.advice:
        lines += [[Span(" " * _INDENT + line, "dim")] for line in _filled(finding.advice)]
    say_lines(lines)


def _filled(text: str) -> list[str]:
    """The lines of a text beside the words of the levels, in the window if there is one."""
    width = window_width(sys.stdout)
    if width is None:
        return [printable(text)]
    return textwrap.wrap(printable(text), max(width - _INDENT, 20), break_on_hyphens=False)


def _probe(pool: PoolManager[bytes], servers: list[str]) -> dict[str, str | None]:
    """Put a job into a tube of its own on each server, reserve it, and delete it."""
    tube = f"beanpool-doctor-{secrets.token_hex(8)}"

    def ask(server: str, connection: Connection[bytes]) -> str | None:
        connection.use(tube)
        connection.watch(tube)
        jid = connection.put(b"a probe of beanpool doctor; delete it", ttr=10)
        try:
            job = connection.reserve(timeout=0)
            return None if job is not None and job.id == jid else "it was stored, and could not be reserved"
        finally:
            connection.delete(jid)

    answers = on_each_server(pool, ask, servers)
    return {
        server: reason(server, answer) if isinstance(answer, BeanpoolError) else answer
        for server, answer in answers.items()
    }


def _descriptors() -> int | None:
    try:
        import resource
    except ImportError:
        return None
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if soft == resource.RLIM_INFINITY else soft
