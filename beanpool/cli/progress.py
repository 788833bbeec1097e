"""How far a long operation is: a bar for each server on a terminal, nothing elsewhere."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

from beanpool.admin import Progress
from beanpool.cli.screen import console_of
from beanpool.cli.tables import count, cut
from beanpool.cli.terminal import is_terminal

_INTERVAL = 0.1

OnProgress = Callable[[Progress], None]


@contextlib.contextmanager
def shown_progress() -> Iterator[OnProgress | None]:
    """Show on standard error what an operation says while the block runs; gone without a trace at its end."""
    if not is_terminal(sys.stderr):
        yield None
        return
    console = console_of(sys.stderr)
    if console is None:
        line = _OneLine()
        try:
            yield line
        finally:
            line.wipe()
        return
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    with Bars(
        TextColumn("{task.description}"),
        BarColumn(None),
        MofNCompleteColumn(),
        TimeRemainingColumn(compact=True),
        console=console,
        transient=True,
        expand=True,
    ) as bars:
        tasks = {}

        def show(progress: Progress) -> None:
            if progress.server not in tasks:
                tasks[progress.server] = bars.add_task(progress.server or "jobs", total=progress.total)
            bars.update(tasks[progress.server], completed=progress.handled, total=progress.total)

        yield show


class _OneLine:
    """All servers in one line that is written over itself."""

    def __init__(self) -> None:
        self._latest: dict[str, Progress] = {}
        self._next = 0.0
        self._written = False

    def __call__(self, progress: Progress) -> None:
        self._latest[progress.server] = progress
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + _INTERVAL
        handled = sum(item.handled for item in self._latest.values())
        totals = [item.total for item in self._latest.values()]
        known = sum(total for total in totals if total is not None)
        text = f"{count(handled)} jobs" if None in totals else f"{count(handled)} of {count(known)} jobs"
        self._write(cut(text, 40))

    def wipe(self) -> None:
        """Leave nothing behind."""
        if self._written:
            self._write("")

    def _write(self, text: str) -> None:
        self._written = True
        print(f"\r{text}\x1b[K", end="", file=sys.stderr, flush=True)
