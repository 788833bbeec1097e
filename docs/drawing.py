"""Shapes for the pictures of the documents: SVG in which every colour has a light and a dark value."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

# What a reader's system prefers decides; the background is drawn, so a picture fits on any page.
_COLOURS = {
    "page": ("#ffffff", "#16191d"),
    "ink": ("#1f2933", "#e4e7eb"),
    "faint": ("#5f6c7b", "#9aa5b1"),
    "line": ("#8795a5", "#6b7885"),
    "good": ("#1f7a4d", "#5fd39a"),
    "good-fill": ("#e3f6ec", "#12351f"),
    "warn": ("#9a6700", "#f0c04c"),
    "warn-fill": ("#fff4d6", "#3a2d0a"),
    "bad": ("#b42318", "#ff8a80"),
    "bad-fill": ("#fde8e6", "#431714"),
    "blue": ("#2457a6", "#85b4ff"),
    "blue-fill": ("#e6effc", "#152a4a"),
    "plain-fill": ("#f3f5f8", "#22272e"),
}
Point = tuple[float, float]


def _style() -> str:
    values = ["".join(f"--{name}:{pair[scheme]};" for name, pair in _COLOURS.items()) for scheme in (0, 1)]
    return (
        f"<style>svg{{{values[0]}}}@media(prefers-color-scheme:dark){{svg{{{values[1]}}}}}"
        "text{font-family:system-ui,-apple-system,'Segoe UI',Roboto,sans-serif;fill:var(--ink)}"
        ".mono{font-family:ui-monospace,Menlo,Consolas,monospace}</style>"
    )


class Picture:
    """One picture that is being drawn.

    :param title: read aloud instead of it, and shown where it cannot be.
    """

    def __init__(self, width: int, height: int, title: str) -> None:
        self._head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" role="img" '
            f'aria-label="{escape(title)}"><title>{escape(title)}</title>'
        )
        self._parts = [f'<rect width="{width}" height="{height}" rx="10" fill="var(--page)"/>']
        self._tips: set[str] = set()

    def text(
        self,
        at: Point,
        words: str,
        *,
        size: float = 13,
        colour: str = "ink",
        anchor: str = "start",
        bold: bool = False,
        mono: bool = False,
    ) -> None:
        """One line of text; `at` is on its base line."""
        self._parts.append(
            f'<text x="{at[0]:g}" y="{at[1]:g}" font-size="{size:g}" style="fill:var(--{colour})" '
            f'text-anchor="{anchor}"{" font-weight=" + chr(34) + "600" + chr(34) if bold else ""}'
            f"{' class=' + chr(34) + 'mono' + chr(34) if mono else ''}>{escape(words)}</text>"
        )

    def lines(
        self, at: Point, words: Sequence[str], *, size: float = 12, colour: str = "faint", gap: float = 16
    ) -> None:
        """Several lines of text."""
        for number, line in enumerate(words):
            self.text((at[0], at[1] + number * 16), line, size=size, colour="faint")

    def box(
        self,
        at: Point,
        size: Point,
        label: str = "",
        *,
        below: Sequence[str] = (),
        colour: str = "line",
        fill: str = "plain-fill",
        dashed: bool = False,
        round_: float = 8,
    ) -> None:
        """A box with a label in its middle, and fainter lines below that."""
        (x, y), (width, height) = at, size
        dash = ' stroke-dasharray="5 4"' if dashed else ""
        self._parts.append(
            f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="{round_:g}" '
            f'fill="var(--{fill})" stroke="var(--{colour})" stroke-width="1.4"{dash}/>'
        )
        middle = x + width / 2
        first = y + height / 2 + 5 - 8 * len(below)
        if label:
            self.text((middle, first), label, anchor="middle", bold=True)
        for number, line in enumerate(below, 1):
            self.text((middle, first + number * 16), line, anchor="middle", size=11.5, colour="faint")

    def arrow(
        self,
        points: Sequence[Point],
        *,
        colour: str = "line",
        dashed: bool = False,
        label: str = "",
        label_at: Point | None = None,
        anchor: str = "middle",
        tip: bool = True,
        width: float = 1.6,
    ) -> None:
        """A line through the points, with a tip at its end; two points make it straight, three bend it."""
        self._tips.add(colour)
        (x, y), *others = points
        if len(others) == 2:
            (cx, cy), (ex, ey) = others
            path = f"M{x:g} {y:g}Q{cx:g} {cy:g} {ex:g} {ey:g}"
        else:
            path = f"M{x:g} {y:g}" + "".join(f"L{px:g} {py:g}" for px, py in others)
        self._parts.append(
            f'<path d="{path}" fill="none" stroke="var(--{colour})" stroke-width="{width:g}"'
            f"{' stroke-dasharray=' + chr(34) + '5 4' + chr(34) if dashed else ''}"
            f"{f' marker-end={chr(34)}url(#tip-{colour}){chr(34)}' if tip else ''}/>"
        )
        if label:
            end = others[-1]
            place = label_at or ((x + end[0]) / 2, (y + end[1]) / 2 - 7)
            self.text(place, label, size=11.5, colour="faint" if colour == "line" else colour, anchor=anchor)

    def dot(self, at: Point, colour: str, radius: float = 5) -> None:
        """A filled circle."""
        self._parts.append(f'<circle cx="{at[0]:g}" cy="{at[1]:g}" r="{radius:g}" fill="var(--{colour})"/>')

    def svg(self) -> str:
        """The file's text."""
        tips = "".join(
            f'<marker id="tip-{colour}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
            f'orient="auto"><path d="M0 0 8 4 0 8Z" fill="var(--{colour})"/></marker>'
            for colour in sorted(self._tips)
        )
        return "\n".join([self._head, _style(), f"<defs>{tips}</defs>", *self._parts, "</svg>"]) + "\n"
