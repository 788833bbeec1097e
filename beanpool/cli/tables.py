"""Plain-text tables."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from beanpool.cli.terminal import printable


def format_table(rows: Sequence[Sequence[str]], *, left: Collection[int] = (0,)) -> list[str]:
    """Lay out `rows` as lines of text; the first row is the head.

    Control characters are escaped, whatever a server sent.

    :param left: the columns that are set to the left; numbers belong to the right.
    """
    cells = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if column in left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    ]


def count(value: int) -> str:
    """Return `value` with its thousands set apart: ``12,480``."""
    return f"{value:,}"
