"""Draw the floors of the package: ``python docs/floors.py [--check]``, in an environment with import-linter.

The floors are those of the contract in ``pyproject.toml``, their sentences are the first lines of the packages, and the
arrows are the imports that there are. ``--check`` writes nothing, and fails if ``docs/floors.svg`` is out of date.
"""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from html import escape
from pathlib import Path
from typing import NamedTuple

import grimp

ROOT = Path(__file__).resolve().parent.parent
PICTURE = ROOT / "docs" / "floors.svg"
PACKAGE = "beanpool"

_LEFT = 20
_WIDTH = 700
_HEIGHT = 46
_GAP = 14
_ARCS = 330


class Floor(NamedTuple):
    """A row of the contract."""

    rooms: tuple[str, ...]
    sentences: tuple[str, ...]


def floors() -> list[Floor]:
    """The rows of the contract, the highest first."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    [contract] = (c for c in settings["tool"]["importlinter"]["contracts"] if c["type"] == "layers")
    rows = [tuple(re.split(r"\s*[|:]\s*", row)) for row in contract["layers"]]
    return [Floor(rooms, tuple(map(sentence, rooms))) for rooms in rows]


def sentence(room: str) -> str:
    """What a package or module says of itself, up to its first full stop or semicolon."""
    path = ROOT / PACKAGE / room
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    docstring = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    plain = re.sub(r":\w+:`[~.]*(\w+)`|``", r"\1", docstring.partition("\n")[0])
    return re.split(r"[.;] |[.;]$", plain)[0]


def imports(rows: list[Floor]) -> set[tuple[int, int]]:
    """From which floor to which there are imports. Not how many: that changes every day."""
    sys.path.insert(0, str(ROOT))
    graph = grimp.build_graph(PACKAGE, cache_dir=None)
    number = {f"{PACKAGE}.{room}": at for at, row in enumerate(rows) for room in row.rooms}

    def floor_of(module: str) -> int | None:
        return number.get(".".join(module.split(".")[:2]))

    found = set()
    for module in graph.modules:
        for imported in graph.find_modules_directly_imported_by(module):
            ends = floor_of(module), floor_of(imported)
            if ends[0] is not None and ends[1] is not None and ends[0] != ends[1]:
                found.add((ends[0], ends[1]))
    return found


def svg(rows: list[Floor], arrows: set[tuple[int, int]]) -> str:
    """The picture."""
    height = len(rows) * (_HEIGHT + _GAP) + 60
    width = _LEFT + _WIDTH + _ARCS
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif">',
        "<title>The floors of beanpool and the imports between them</title>",
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="6" markerHeight="6" orient="auto">'
        '<path d="M0 0 8 4 0 8Z" fill="#4a6fa5"/></marker></defs>',
        f'<rect width="{width}" height="{height}" fill="#fdfcf9"/>',
    ]
    for at, row in enumerate(rows):
        top = 20 + at * (_HEIGHT + _GAP)
        room_width = (_WIDTH - _GAP * (len(row.rooms) - 1)) / len(row.rooms)
        for place, (room, said) in enumerate(zip(row.rooms, row.sentences, strict=True)):
            left = _LEFT + place * (room_width + _GAP)
            name = room + ("/" if (ROOT / PACKAGE / room).is_dir() else ".py")
            # What does not fit is cut clause by clause.
            while len(said) * 6.4 > room_width - 28 and re.search("[:,] ", said):
                said = re.sub("[:,] [^:,]*$", "", said)
            parts.append(
                f'<rect x="{left:.0f}" y="{top}" width="{room_width:.0f}" height="{_HEIGHT}" rx="6" fill="#f1ece0" '
                f'stroke="#b8ab8d"/><text x="{left + 14:.0f}" y="{top + 19}" font-size="14" font-weight="bold" '
                f'fill="#3a3326">{escape(name)}</text><text x="{left + 14:.0f}" y="{top + 36}" font-size="12" '
                f'fill="#6b6250">{escape(said)}</text>'
            )
    edge = _LEFT + _WIDTH
    for start, end in sorted(arrows):
        from_y = 20 + start * (_HEIGHT + _GAP) + _HEIGHT * 0.65
        to_y = 20 + end * (_HEIGHT + _GAP) + _HEIGHT * 0.35
        reach = edge + 26 + (_ARCS - 60) * abs(end - start) / len(rows)
        colour = "#4a6fa5" if end > start else "#c0392b"
        parts.append(
            f'<path d="M{edge} {from_y:.0f} C{reach:.0f} {from_y:.0f} {reach:.0f} {to_y:.0f} {edge + 2} {to_y:.0f}" '
            f'fill="none" stroke="{colour}" stroke-opacity="0.55" stroke-width="1.5" '
            'marker-end="url(#tip)"/>'
        )
    parts.append(
        f'<text x="{_LEFT}" y="{height - 14}" font-size="12" fill="#6b6250">'
        "An arrow stands for imports. They run down only.</text>"
    )
    return "\n".join([*parts, "</svg>"]) + "\n"


def main() -> int:
    """Write the picture, or look whether it is up to date."""
    rows = floors()
    picture = svg(rows, imports(rows))
    if "--check" not in sys.argv[1:]:
        PICTURE.write_text(picture, encoding="utf-8")
    elif not PICTURE.exists() or PICTURE.read_text(encoding="utf-8") != picture:
        print(f"{PICTURE.relative_to(ROOT)} is out of date: run python docs/floors.py", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
