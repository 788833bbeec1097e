"""Plots as SVG, without a library: bars and lines that are readable on white and on black."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from xml.sax.saxutils import escape

from benchmarks.measuring import Timings

_WIDTH = 720
_LETTER = 7.0
"""About the mean width of a letter."""
_INK = "#7d8590"
_GRID = "#7d859040"
_COLOURS = ("#2f81f7", "#d29922", "#3fa34d", "#db61a2", "#8957e5", "#e5534b")


class Plot(ABC):
    """A picture with a name, which is its file's without the ending."""

    def __init__(self, name: str, title: str) -> None:
        self.name = name
        self.title = title

    @abstractmethod
    def svg(self) -> str:
        """The whole file."""

    def _document(self, height: int, elements: Sequence[str]) -> str:
        title = escape(self.title)
        return "\n".join(
            [
                f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" '
                f'font-family="system-ui, sans-serif" font-size="13" fill="{_INK}" role="img">',
                f"<title>{title}</title>",
                _text(12, 22, self.title, size=15),
                *elements,
                "</svg>",
                "",
            ]
        )


class Bars(Plot):
    """One horizontal bar for each label, with its value beside it.

    :param bars: label, value, and whether it is beanpool's.
    :param mark: where to draw a line across all bars.
    """

    def __init__(self, name: str, title: str, bars: Sequence[tuple[str, float, bool]], mark: float = 1.0) -> None:
        super().__init__(name, title)
        self._bars = bars
        self._mark = mark

    def svg(self) -> str:
        """The whole file."""
        right, top, step = 60, 40, 28
        left = 24 + _LETTER * max(len(label) for label, _, _ in self._bars)
        longest = max(self._mark, *(value for _, value, _ in self._bars))
        scale = (_WIDTH - left - right) / longest
        bottom = top + step * len(self._bars)
        elements = []
        for row, (label, value, ours) in enumerate(self._bars):
            y = top + step * row
            colour = _COLOURS[0] if ours else _INK
            elements += [
                _text(left - 8, y + 17, label, anchor="end"),
                _box(left, y + 4, value * scale, step - 10, colour),
                _text(left + value * scale + 6, y + 17, f"{value:.2f}"),
            ]
        x = left + self._mark * scale
        elements.append(_line(x, top, x, bottom, _INK, dashed=True))
        return self._document(bottom + 12, elements)


def bars(name: str, title: str, timings: Timings, of: str) -> Bars:
    """How fast each contender is in terms of `of`, the fastest first; beanpool's own are those whose name says so."""
    speeds = {label: timings.speed(label, of).median for label in timings.seconds}
    fastest_first = sorted(speeds, key=lambda label: -speeds[label])
    return Bars(name, title, [(label, speeds[label], label.startswith("beanpool")) for label in fastest_first])


class Lines(Plot):
    """A line for each series over the same places on the x axis, which are named, not to scale.

    :param series: values by name; None where there is none.
    """

    def __init__(
        self,
        name: str,
        title: str,
        x_label: str,
        y_label: str,
        places: Sequence[str],
        series: Mapping[str, Sequence[float | None]],
    ) -> None:
        super().__init__(name, title)
        self._x_label = x_label
        self._y_label = y_label
        self._places = places
        self._series = series

    def svg(self) -> str:
        """The whole file."""
        left, right, top, height = 76, 24, 64, 250
        highest = max(value for values in self._series.values() for value in values if value is not None)
        tick = _tick(highest)
        ticks = math.ceil(highest / tick)
        bottom = top + height

        def x_of(place: int) -> float:
            return left + 30 + (_WIDTH - left - right - 60) * (place / max(1, len(self._places) - 1))

        def y_of(value: float) -> float:
            return bottom - height * value / (tick * ticks)

        elements = [_text(12, top - 20, self._y_label)]
        for number in range(ticks + 1):
            y = y_of(number * tick)
            elements += [
                _line(left, y, _WIDTH - right, y, _GRID),
                _text(left - 8, y + 4, f"{number * tick:,.10g}", anchor="end"),
            ]
        elements += [_text(x_of(place), bottom + 20, name, anchor="middle") for place, name in enumerate(self._places)]
        elements.append(_text((left + _WIDTH - right) / 2, bottom + 42, self._x_label, anchor="middle"))
        for index, (name, values) in enumerate(self._series.items()):
            colour = _COLOURS[index % len(_COLOURS)]
            points = [(x_of(place), y_of(value)) for place, value in enumerate(values) if value is not None]
            path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
            legend = bottom + 64 + 20 * index
            elements += [
                f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2.5"/>',
                *(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}"/>' for x, y in points),
                _box(left, legend - 9, 18, 4, colour),
                _text(left + 26, legend - 2, name),
            ]
        return self._document(bottom + 64 + 20 * len(self._series), elements)


def _tick(highest: float) -> float:
    """A round step that divides the axis into four to ten parts."""
    power = 10.0 ** math.floor(math.log10(highest))
    for step in (2.0, 1.0, 0.5, 0.2):
        if highest / (step * power) >= 4:
            return step * power
    return 0.1 * power


def _text(x: float, y: float, text: str, *, anchor: str = "start", size: int = 13) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}">{escape(text)}</text>'


def _box(x: float, y: float, width: float, height: float, colour: str) -> str:
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" fill="{colour}" rx="2"/>'


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, *, dashed: bool = False) -> str:
    dash = ' stroke-dasharray="4 4"' if dashed else ""
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}"{dash}/>'
