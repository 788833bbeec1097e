"""The command: it looks, and shows what it sees."""

from __future__ import annotations

import argparse
import dataclasses
import os
import shutil
import sys
import time
from typing import Any

from beanpool import PoolManager
from beanpool.cli.exits import Exit
from beanpool.cli.look import look
from beanpool.cli.pool import code_for, open_pool
from beanpool.cli.screen import console_of, rich_text, say_lines
from beanpool.cli.terminal import say, to_json
from beanpool.cli.top.drawing import draw
from beanpool.cli.top.keys import Doorbell, doorbell
from beanpool.cli.top.view import SORTS, View, in_order, view_of
from beanpool.cli.top.watcher import Watcher
from beanpool.errors import BeanpoolError, no_server

# Between two looks nobody wants to wait longer for a server (seconds).
_PATIENCE = 2.0
# Without a terminal there is no window (cells).
_WIDE = 160


def run(arguments: argparse.Namespace) -> int:
    """Show it until q is pressed, ``--count`` is reached, or Ctrl-C."""
    if arguments.timeout is None:
        arguments.timeout = _PATIENCE
    with open_pool(arguments) as pool:
        console = None if arguments.json or os.environ.get("TERM") == "dumb" else console_of(sys.stdout)
        return _print_looks(pool, arguments) if console is None else _draw_looks(pool, arguments, console)


def _print_looks(pool: PoolManager[bytes], arguments: argparse.Namespace) -> int:
    """A table, or a line of JSON, for each look."""
    before = None
    done = 0
    while True:
        began = time.monotonic()
        now = look(pool, arguments.tubes)
        if not now.stats and done == 0:
            raise no_server({server: BeanpoolError(error) for server, error in now.errors.items()}, "answered")
        view = view_of(now, before)
        if arguments.json:
            say(to_json(as_record(view, arguments.sort)))
        else:
            if before is not None:
                say("")
            width = shutil.get_terminal_size().columns if sys.stdout.isatty() else _WIDE
            say_lines(draw(view, width, None, sort=arguments.sort, status=time.strftime("%H:%M:%S")))
        before = now
        done += 1
        if done == arguments.count:
            return code_for(now.errors)
        time.sleep(max(0.0, began + arguments.interval - time.monotonic()))


def as_record(view: View, sort: str) -> dict[str, Any]:
    """A look, for programs."""
    return {
        "servers": [dataclasses.asdict(row) for row in view.servers],
        "tubes": [dataclasses.asdict(row) for row in in_order(view.tubes, sort)],
        "rates": dataclasses.asdict(view.rates),
    }


def _draw_looks(pool: PoolManager[bytes], arguments: argparse.Namespace, console: Any) -> int:
    """The window, drawn anew for each look, key and change of its size."""
    from rich.live import Live

    with doorbell() as bell:
        watcher = Watcher(pool, arguments.tubes, arguments.interval, bell.ring)
        watcher.start()
        try:
            with Live(console=console, screen=True, auto_refresh=False) as live:
                return _show(watcher, bell, arguments, console, live)
        finally:
            watcher.stop()


def _follow_window(console: Any) -> tuple[int, int]:
    """How large the window is now (columns, lines); the console draws so much from now on."""
    # Not COLUMNS and LINES, which rich prefers: whoever has set them, they do not change with the window.
    columns, lines = os.get_terminal_size(sys.stdout.fileno())
    if columns and lines:
        console.size = (columns, lines)
    width, height = console.size
    return width, height


def _show(watcher: Watcher, bell: Doorbell, arguments: argparse.Namespace, console: Any, live: Any) -> int:
    sort = arguments.sort
    stopped: View | None = None
    while True:
        if watcher.failure is not None:
            raise watcher.failure
        before, now = watcher.looks
        if now is not None:
            view = stopped if stopped is not None else view_of(now, before)
            width, height = _follow_window(console)
            status = "stopped" if stopped is not None else time.strftime("%H:%M:%S")
            lines = draw(view, width, height, sort=sort, status=status)
            live.update(rich_text(lines), refresh=True)
            if arguments.count is not None and watcher.number >= arguments.count:
                return code_for(now.errors)
        else:
            live.update("looking at the servers ...", refresh=True)
        for key in bell.wait(3600.0):
            if key in "qQ":
                return Exit.OK
            if key == "s":
                sort = SORTS[(SORTS.index(sort) + 1) % len(SORTS)]
            elif key == " " and now is not None:
                stopped = None if stopped is not None else view_of(now, before)
