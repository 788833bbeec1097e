"""What is written for people: in colours and as wide as the window on a terminal, plain elsewhere."""

from __future__ import annotations

import functools
import shutil
import sys
from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TextIO

from beanpool.cli.tables import Line, lay_out, plain
from beanpool.cli.terminal import is_terminal

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text


def window_width(stream: TextIO) -> int | None:
    """How wide the terminal that `stream` is, is (cells); None for what is no terminal."""
    return shutil.get_terminal_size().columns if is_terminal(stream) else None


@functools.cache
def have_rich() -> bool:
    """Whether rich is installed; with the extra ``cli`` it is."""
    try:
        import rich.console  # noqa: F401
    except ImportError:
        return False
    return True


def console_of(stream: TextIO, **options: Any) -> Console | None:
    """What writes in colours to `stream`; None if it is no terminal, or without rich. It heeds ``NO_COLOR``."""
    if not is_terminal(stream) or not have_rich():
        return None
    from rich.console import Console

    return Console(file=stream, highlight=False, markup=False, emoji=False, soft_wrap=True, **options)


def rich_text(lines: Iterable[Line]) -> Text:
    """The lines for rich."""
    from rich.text import Text

    return Text("\n", no_wrap=True, end="").join(Text.assemble(*line, no_wrap=True, end="") for line in lines)


def say_lines(lines: Sequence[Line], stream: TextIO | None = None) -> None:
    """Write lines to standard output, or another stream, at once."""
    stream = sys.stdout if stream is None else stream
    console = console_of(stream)
    if console is None:
        for line in lines:
            print(plain(line), file=stream)
    else:
        console.print(rich_text(lines))
    stream.flush()


def say_table(
    rows: Sequence[Sequence[str]],
    *,
    left: Collection[int] = (0,),
    flexible: Collection[int] = (),
    stream: TextIO | None = None,
) -> None:
    """Write a table that fits the window; the first row is the head. See :func:`lay_out`."""
    stream = sys.stdout if stream is None else stream
    say_lines(lay_out(rows, left=left, width=window_width(stream), flexible=flexible), stream)
