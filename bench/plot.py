"""Draws the two figures as SVG: ratios beside their goals, and lines of what grows.

Bars and points on logarithmic axes are all there is to draw; a plotting library would bring more
than pysshfs itself has.  Owns nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from bench.report import Row

_MET, _NOT_MET, _PLAIN, _INK, _GRID = "#2a7f62", "#c8553d", "#8a8f98", "#222222", "#dddddd"
_LINES = ("#2a7f62", "#c8553d", "#3b6ea5", "#8a6fb0")

_LABELS, _PANEL, _GAP, _LINE, _HEAD, _VALUE = 185, 200, 14, 22, 58, 40


@dataclass(frozen=True)
class Axis:
    """A logarithmic axis: values from `low` to `high` lie from pixel `start` to pixel `end`."""

    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        inside = min(max(value, self.low), self.high)
        share = math.log(inside / self.low) / math.log(self.high / self.low)
        return self.start + share * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Powers of ten on it, thinned out to six at most."""
        first, last = math.ceil(math.log10(self.low)), math.floor(math.log10(self.high))
        step = 1 + (last - first) // 6
        return [10.0**power for power in range(first, last + 1, step)]


def _text(x: float, y: float, words: str, anchor: str = "start", colour: str = _INK) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}">'
        f"{escape(words)}</text>"
    )


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, width: float = 1) -> str:
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" '
        f'stroke="{colour}" stroke-width="{width}"/>'
    )


def _document(width: float, height: float, parts: Iterable[str]) -> str:
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" '
            f'font-family="sans-serif" font-size="11">',
            f'<rect width="{width:.0f}" height="{height:.0f}" fill="white"/>',
            *parts,
            "</svg>\n",
        ]
    )


# -- ratios --------------------------------------------------------------------------------------


def ratios(rows: Sequence[Row]) -> str:
    """One panel for each round-trip time, one bar for each workload, one mark for each goal."""
    rtts = sorted({row.rtt_ms for row in rows})
    titles = {row.workload: row.title for row in rows}
    height = _HEAD + _LINE * len(titles) + 24
    values = [v for row in rows for v in (row.ratio, row.goal) if v]
    low, high = min([0.4, *values]) * 0.8, max([4.0, *values]) * 1.6
    parts = [_text(8, 18, "sshfs's time / pysshfs's, logarithmic; the dark mark is the goal")]
    parts += [
        _text(_LABELS - 8, _HEAD + _LINE * place + 14, title, "end")
        for place, title in enumerate(titles.values())
    ]
    for number, rtt in enumerate(rtts):
        left = _LABELS + number * (_PANEL + _GAP)
        axis = Axis(low, high, left, left + _PANEL - _VALUE)
        parts += [_text((axis.start + axis.end) / 2, 40, f"RTT {rtt:g} ms", "middle")]
        parts += _ratio_grid(axis, height - 24)
        for row in rows:
            if row.rtt_ms == rtt:
                parts += _bar(row, axis, _HEAD + _LINE * list(titles).index(row.workload))
    return _document(_LABELS + len(rtts) * (_PANEL + _GAP), height, parts)


def _ratio_grid(axis: Axis, bottom: float) -> list[str]:
    parts = []
    for value in axis.ticks():
        x = axis.at(value)
        parts.append(_line(x, _HEAD - 8, x, bottom, _INK if value == 1 else _GRID))
        parts.append(_text(x, bottom + 14, f"{value:g}", "middle"))
    return parts


def _bar(row: Row, axis: Axis, top: float) -> list[str]:
    parts = []
    if row.ratio is None:
        parts.append(_text(axis.at(1) + 4, top + 14, "; ".join(row.problems), colour=_NOT_MET))
    else:
        here, one = axis.at(row.ratio), axis.at(1)
        colour = {True: _MET, False: _NOT_MET, None: _PLAIN}[row.met]
        left, width = min(here, one), max(abs(here - one), 1)
        parts.append(
            f'<rect x="{left:.1f}" y="{top + 4:.1f}" width="{width:.1f}" height="13" '
            f'fill="{colour}"/>'
        )
        parts.append(_text(axis.end + _VALUE - 2, top + 14.5, f"{row.ratio:.2f}", "end"))
    if row.goal is not None:
        x = axis.at(row.goal)
        parts.append(_line(x, top + 1, x, top + 20, _INK, 2))
    return parts


# -- growth --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Panel:
    """One diagram: lines of (x, y), each with a name; at least one point, and none at 0."""

    title: str
    across: str
    lines: Sequence[tuple[str, Sequence[tuple[float, float]]]]


_WIDE, _HIGH, _COLUMNS = 330, 210, 2


def panels(drawn: Sequence[Panel]) -> str:
    """The diagrams, two in a row, each with axes of its own."""
    parts: list[str] = []
    for number, panel in enumerate(drawn):
        row, column = divmod(number, _COLUMNS)
        parts += _panel(panel, column * _WIDE, row * _HIGH)
    return _document(_COLUMNS * _WIDE, -(-len(drawn) // _COLUMNS) * _HIGH, parts)


def _panel(panel: Panel, left: float, top: float) -> list[str]:
    points = [point for _, line in panel.lines for point in line]
    across = _around([x for x, _ in points], left + 52, left + _WIDE - 16)
    # A flat line is to look flat: no axis shows less than a factor of a hundred.
    up = _around([y for _, y in points], top + _HIGH - 40, top + 44, least=100)
    parts = [_text(left + 52, top + 18, panel.title)]
    for value in across.ticks():
        x = across.at(value)
        parts += [
            _line(x, up.start, x, up.end, _GRID),
            _text(x, up.start + 14, _short(value), "middle"),
        ]
    for value in up.ticks():
        y = up.at(value)
        parts += [_line(across.start, y, across.end, y, _GRID)]
        parts += [_text(across.start - 6, y + 4, _short(value), "end")]
    parts.append(_text((across.start + across.end) / 2, up.start + 29, panel.across, "middle"))
    for number, (name, line) in enumerate(panel.lines):
        parts += _curve(line, across, up, _LINES[number % len(_LINES)])
        where = left + 52 + 110 * number
        parts.append(_text(where, top + 34, name, colour=_LINES[number % len(_LINES)]))
    return parts


def _curve(line: Sequence[tuple[float, float]], across: Axis, up: Axis, colour: str) -> list[str]:
    places = [(across.at(x), up.at(y)) for x, y in line]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    dots = [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" fill="{colour}"/>' for x, y in places]
    return [f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.5"/>', *dots]


def _around(values: Sequence[float], start: float, end: float, least: float = 10) -> Axis:
    """An axis from a power of ten to another that shows all the values, which are above 0."""
    low = 10.0 ** math.floor(math.log10(min(values)))
    high = 10.0 ** math.ceil(math.log10(max(values)))
    return Axis(low, max(high, low * least), start, end)


def _short(value: float) -> str:
    for unit, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= unit:
            return f"{value / unit:g}{name}"
    return f"{value:g}"
