"""Tables that fit their window: lines of cells, some with a style."""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

from beanpool.cli.terminal import printable

_GAP = 2


class Styled(str):
    """A text that terminals with colours show in a style, such as ``"bold red"``."""

    __slots__ = ("style",)
    style: str

    def __new__(cls, text: str, style: str) -> Styled:
        """A text with a style."""
        made = super().__new__(cls, text)
        made.style = style
        return made


class Span(NamedTuple):
    """A part of a line that has one style; an empty one for none."""

    text: str
    style: str


Line = list[Span]


def style_of(text: str) -> str:
    """The style of a text; an empty one for none."""
    return text.style if isinstance(text, Styled) else ""


def plain(line: Line) -> str:
    """A line without its styles."""
    return "".join(span.text for span in line).rstrip()


def format_table(
    rows: Sequence[Sequence[str]],
    *,
    left: Collection[int] = (0,),
    width: int | None = None,
    flexible: Collection[int] = (),
) -> list[str]:
    """:func:`lay_out`, as plain text."""
    return [plain(line) for line in lay_out(rows, left=left, width=width, flexible=flexible)]


def lay_out(
    rows: Sequence[Sequence[str]],
    *,
    left: Collection[int] = (0,),
    width: int | None = None,
    flexible: Collection[int] = (),
    least: int = 8,
) -> list[Line]:
    """Lay out `rows` as lines; the first row is the head.

    Control characters are escaped, whatever a server sent. A table that is wider than the window has its flexible
    columns cut. If that does not do, it becomes several tables, one below the other, each with the first column.

    :param left: the columns that are set to the left; numbers belong to the right.
    :param width: of the window (cells); None for as wide as it gets.
    :param flexible: the columns that may be cut.
    :param least: what is left of them then (cells).
    """
    texts = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(cells, column)) for column in zip(*texts, strict=True)]
    if width is not None:
        for column in sorted(flexible, key=lambda column: -widths[column]):
            excess = sum(widths) + _GAP * (len(widths) - 1) - width
            widths[column] = max(min(widths[column], least), widths[column] - max(0, excess))
    lines: list[Line] = []
    for columns in _blocks(widths, width):
        if lines:
            lines.append([])
        for number, row in enumerate(texts):
            line: Line = []
            for column in columns:
                if line:
                    line.append(Span(" " * _GAP, ""))
                style = "bold" if number == 0 else style_of(rows[number][column])
                line += _cell(row[column], widths[column], style, to_the_left=column in left)
            lines.append(line)
    return lines


def _blocks(widths: Sequence[int], width: int | None) -> Iterator[list[int]]:
    """The columns of the tables that a table becomes."""
    block = [0] if widths else []
    used = widths[0] if widths else 0
    for column in range(1, len(widths)):
        needed = _GAP + widths[column]
        if width is not None and used + needed > width and len(block) > 1:
            yield block
            block, used = [0], widths[0]
        block.append(column)
        used += needed
    yield block


def _cell(text: str, width: int, style: str, *, to_the_left: bool) -> Line:
    text = cut(text, width)
    padding = Span(" " * (width - cells(text)), "")
    shown = Span(text, style)
    return [shown, padding] if to_the_left else [padding, shown]


def cells(text: str) -> int:
    """How many cells of a terminal `text` takes."""
    if text.isascii():
        return len(text)
    return sum(_width(character) for character in text)


def _width(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def cut(text: str, width: int) -> str:
    """Return `text`, cut to so many cells if it is longer."""
    if cells(text) <= width:
        return text
    used = 0
    for number, character in enumerate(text):
        used += _width(character)
        if used > width - 1:
            return text[:number] + "…"
    return text


def count(value: int) -> str:
    """Return `value` with its thousands set apart: ``12,480``."""
    return f"{value:,}"


def seconds(value: float) -> str:
    """Return a time in a few characters: ``0.012s``, ``3.4s``, ``5m 10s``, ``2h 5m``, ``3d 4h``."""
    if value < 1:
        return f"{value:.3f}s"
    if value < 60:
        return f"{value:.1f}".removesuffix(".0") + "s"
    whole = int(value)
    for unit, size, below, part in (("d", 86400, "h", 3600), ("h", 3600, "m", 60), ("m", 60, "s", 1)):
        if whole >= size:
            rest = whole % size // part
            return f"{whole // size}{unit} {rest}{below}" if rest else f"{whole // size}{unit}"
    return f"{whole}s"
