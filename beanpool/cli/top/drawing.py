"""A view as lines that fit a window. Pure."""

from __future__ import annotations

from beanpool.cli.tables import Line, Span, Styled, count, cut, lay_out, seconds
from beanpool.cli.top.view import ServerRow, TubeRow, View, in_order

_COLORS = {"up": "green", "draining": "yellow", "suspect": "yellow", "silent": "bold red", "down": "bold red"}
_SEVERITIES = ("", "yellow", "cyan", "bold red", "bold red")
# The first ones are left where the window is narrow.
_SERVER_HEAD = ["server", "state", "ready", "reserved", "put/s", "done/s", "delayed", "buried"]
_SERVER_HEAD += ["waiting", "conns", "answer"]
_TUBE_HEAD = [" tube", "ready", "age", "put/s", "done/s", "reserved", "buried", "trouble"]
_TUBE_HEAD += ["delayed", "watching", "waiting"]
# Of a name so much is shown before columns are left out.
_NAME = 24
_KEYS = "q quit  s sort  space stop"


def draw(view: View, width: int, height: int | None, *, sort: str, status: str) -> list[Line]:
    """The lines for a window.

    :param height: of the window; None for all tubes.
    :param sort: the order of the tubes.
    :param status: what is at the end of the first line.
    """
    answering = sum(row.jobs is not None for row in view.servers)
    head = (
        f"{answering} of {len(view.servers)} servers  {count(view.jobs('ready'))} ready  "
        f"{_rate(view.rates.put)} put/s  {_rate(view.rates.done)} done/s"
    )
    first = [Span(cut(head, width), "bold" if answering == len(view.servers) else "bold red")]
    room = width - len(head) - 2
    if len(status) <= room:
        first.append(Span(status.rjust(room + 2), "dim"))
    lines: list[Line] = [first, []]
    most = None if height is None else max(1, height // 2 - 3)
    lines += _cut_lines(_server_lines(view, width), most, width, "servers")
    lines.append([])
    left = None if height is None else max(2, height - len(lines) - 1)
    lines += _cut_lines(_tube_lines(view, width, sort), left, width, "tubes")
    if height is None:
        return lines
    lines = lines[: height - 1] + [[] for _ in range(height - 1 - len(lines))]
    return [*lines, [Span(cut(f"{_KEYS}  (sorted by {sort})", width), "dim")]]


def _server_lines(view: View, width: int) -> list[Line]:
    rows = [_SERVER_HEAD, *map(_server_cells, view.servers)]
    lines = _one_table(rows, width, (0, 1))
    for row, line in zip(view.servers, list(lines[1:]), strict=True):
        if row.error:
            # The server and its state stay: two cells of two parts each, and what is between them.
            used = sum(len(span.text) for span in line[:5])
            del line[5:]
            line.append(Span(cut(f"  {row.error}", max(0, width - used)), "red"))
    return lines


def _server_cells(row: ServerRow) -> list[str]:
    def number(value: int | None) -> str:
        return "-" if value is None else count(value)

    jobs = row.jobs or {}
    return [
        row.address,
        Styled(row.state, _COLORS.get(row.state, "")),
        number(jobs.get("ready")),
        number(jobs.get("reserved")),
        _rate(row.rates.put),
        _rate(row.rates.done),
        number(jobs.get("delayed")),
        number(jobs.get("buried")),
        number(row.waiting),
        number(row.connections),
        "-" if row.trip is None else f"{row.trip * 1000:.1f}ms",
    ]


def _tube_lines(view: View, width: int, sort: str) -> list[Line]:
    rows = [_TUBE_HEAD, *map(_tube_cells, in_order(view.tubes, sort))]
    return _one_table(rows, width, (0, _TUBE_HEAD.index("trouble")))


def _tube_cells(row: TubeRow) -> list[str]:
    style = _SEVERITIES[row.severity]
    buried = row.jobs["buried"]
    return [
        Styled(f"{'!' if row.trouble else ' '}{row.name}", style),
        count(row.jobs["ready"]),
        "-" if row.age is None else seconds(float(int(row.age))) if row.age >= 1 else "0s",
        _rate(row.rates.put),
        _rate(row.rates.done),
        count(row.jobs["reserved"]),
        Styled(count(buried), "yellow" if buried else ""),
        Styled(f"{row.trouble}, {seconds(float(row.pause))} left" if row.pause else row.trouble, style),
        count(row.jobs["delayed"]),
        count(row.watching),
        count(row.waiting),
    ]


def _one_table(rows: list[list[str]], width: int, left: tuple[int, ...]) -> list[Line]:
    """A table whose last columns are left out where the window is too narrow for them."""
    lines = lay_out(rows, left=left, width=width, flexible=(0,), least=_NAME)
    return lines[: len(rows)]


def _cut_lines(lines: list[Line], most: int | None, width: int, what: str) -> list[Line]:
    if most is None or len(lines) <= most:
        return lines
    return [*lines[: most - 1], [Span(cut(f"… {len(lines) - most + 1} more {what}", width), "dim")]]


def _rate(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.1f}" if value < 10 else count(round(value))
