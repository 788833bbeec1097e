"""Markdown tables of what was measured."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from benchmarks.result import Goal, Table


def markdown(table: Table) -> str:
    """The table, after its caption."""
    lines = [_row(table.head), "|" + "---|" * len(table.head), *map(_row, table.rows)]
    return "\n".join([table.caption, "", *lines] if table.caption else lines)


def goals_table(goals: Iterable[Goal]) -> Table:
    """What was to be reached, and what was."""
    rows = []
    for goal in goals:
        bound = f"at most {goal.target:.2f}" if goal.at_most else f"{goal.target:.2f}"
        if goal.measured is None:
            rows.append([goal.what, goal.of, bound, goal.remark, ""])
        else:
            outcome = "reached" if goal.reached else "missed"
            remark = f"{outcome}; {goal.remark}" if goal.remark else outcome
            rows.append([goal.what, goal.of, bound, f"**{goal.measured}**", remark])
    return Table(["what", "of", "goal", "measured: median (quartiles)", ""], rows)


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
