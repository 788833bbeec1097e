"""What the demo shows while it runs: a table drawn in place, or one line per second, or nothing."""

from __future__ import annotations

import dataclasses
import os
import shutil
import sys
from collections import deque
from collections.abc import Sequence
from typing import Protocol

from beanpool.cli.demo.ledger import Tally
from beanpool.cli.tables import count, format_table
from beanpool.cli.terminal import is_terminal, printable, say

_HEAD = ("server", "state", "ready", "reserved", "done", "put share", "connections", "last error")
_TEXT = {_HEAD.index(name) for name in ("server", "state", "connections", "last error")}
_EVENTS_SHOWN = 3
_FRAME = 2 + _EVENTS_SHOWN


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """One server at one moment.

    :ivar answered: whether it answered just now; `ready` and `reserved` are the last known counts if not.
    :ivar done: jobs of this server that workers finished.
    :ivar put_share: its part of all acknowledged puts, from 0 to 1.
    :ivar open: connections that the pool has to it; `leased` of them are in use.
    """

    name: str
    address: str
    state: str
    answered: bool
    ready: int
    reserved: int
    done: int
    put_share: float
    open: int
    leased: int
    last_error: str

    @property
    def queue(self) -> str:
        """The ready jobs, in brackets when they have to wait for their server."""
        return count(self.ready) if self.answered else f"({count(self.ready)})"


class View(Protocol):
    """Shows a run.

    :ivar interval: seconds between two calls of :meth:`show`.
    """

    interval: float

    def note(self, elapsed: float, text: str) -> None:
        """Something happened."""

    def show(self, elapsed: float, rows: Sequence[Row], tally: Tally) -> None:
        """This is the state now."""


class Silent:
    """Shows nothing: the summary is all that a program wants."""

    interval = 0.1

    def note(self, elapsed: float, text: str) -> None:
        """Show nothing."""

    def show(self, elapsed: float, rows: Sequence[Row], tally: Tally) -> None:
        """Show nothing."""


class PlainLines:
    """One line per second, and one per event."""

    interval = 0.1

    def __init__(self) -> None:
        self._next_line = 0.0

    def note(self, elapsed: float, text: str) -> None:
        """Print the event."""
        say(_event_line(elapsed, text))

    def show(self, elapsed: float, rows: Sequence[Row], tally: Tally) -> None:
        """Print a line if a second has passed since the last one."""
        if elapsed < self._next_line:
            return
        self._next_line = int(elapsed) + 1.0
        servers = "  ".join(f"{row.name} {row.state}, {row.queue} ready" for row in rows)
        say(f"{elapsed:5.1f} s  put {count(tally.put)}  done {count(tally.done)}  {servers}")


class LiveTable:
    """A table that is drawn over itself, with the latest events below it; for terminals."""

    interval = 0.2

    def __init__(self) -> None:
        self._events: deque[str] = deque([""] * _EVENTS_SHOWN, maxlen=_EVENTS_SHOWN)
        self._drawn = 0

    def note(self, elapsed: float, text: str) -> None:
        """Show the event from the next drawing on."""
        self._events.append(_event_line(elapsed, text))

    def show(self, elapsed: float, rows: Sequence[Row], tally: Tally) -> None:
        """Draw the table."""
        cells = [_HEAD, *(_cells(row) for row in rows)]
        total = f"{elapsed:5.1f} s  put {count(tally.put)}  done {count(tally.done)}"
        lines = [*format_table(cells, left=_TEXT), "", total, *self._events]
        # A line that wraps would take two rows of the screen, and the next drawing would start too low.
        width = max(20, shutil.get_terminal_size().columns - 1)
        up = f"\x1b[{self._drawn}A" if self._drawn else ""
        sys.stdout.write(up + "".join(f"{line[:width]}\x1b[K\n" for line in lines))
        sys.stdout.flush()
        self._drawn = len(lines)


def choose_view(servers: int, *, plain: bool, json: bool) -> View:
    """The view for this terminal and these options."""
    if json:
        return Silent()
    tall_enough = shutil.get_terminal_size().lines > servers + 1 + _FRAME
    if plain or not is_terminal(sys.stdout) or os.environ.get("TERM") == "dumb" or not tall_enough:
        return PlainLines()
    return LiveTable()


def _cells(row: Row) -> tuple[str, ...]:
    connections = f"{row.open} ({row.leased} in use)"
    share = f"{row.put_share:.0%}"
    reserved = count(row.reserved) if row.answered else "-"
    return (
        f"{row.name} {row.address}",
        row.state if row.state == "up" else row.state.upper(),
        row.queue,
        reserved,
        count(row.done),
        share,
        connections,
        row.last_error,
    )


def _event_line(elapsed: float, text: str) -> str:
    return f"{elapsed:5.1f} s  * {printable(text)}"
