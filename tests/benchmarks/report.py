"""Writes ``docs/benchmarks.md`` and the plots beside it."""

from __future__ import annotations

from pathlib import Path

from benchmarks.machine import facts
from benchmarks.result import Result
from benchmarks.tables import goals_table, markdown

PAGE = "benchmarks.md"
PLOTS = "benchmarks"


def between(text: str, name: str, generated: str) -> str:
    """`text` with what stands between the markers of this name replaced.

    :raises ValueError: if the markers are not there.
    """
    begin, end = f"<!-- measured: {name} -->", "<!-- end -->"
    before, found, rest = text.partition(begin)
    _, ends, after = rest.partition(end)
    if not (found and ends):
        raise ValueError(f"the page has no {begin} ... {end}")
    return f"{before}{begin}\n\n{generated.strip()}\n\n{end}{after}"


def write_report(docs: Path, results: dict[str, Result]) -> None:
    """Put tables and plots into the page, each where its markers are."""
    page = docs / PAGE
    text = page.read_text(encoding="utf-8")
    goals = [goal for result in results.values() for goal in result.goals]
    text = between(text, "goals", f"{markdown(goals_table(goals))}\n\nMeasured on: {facts()}.")
    folder = docs / PLOTS
    folder.mkdir(exist_ok=True)
    for name, result in results.items():
        parts = [markdown(table) for table in result.tables]
        for plot in result.plots:
            (folder / f"{plot.name}.svg").write_text(plot.svg(), encoding="utf-8")
            parts.append(f"![{plot.title}]({PLOTS}/{plot.name}.svg)")
        text = between(text, name, "\n\n".join(parts))
    page.write_text(text, encoding="utf-8")
