"""Small line plots as inline SVG: two axes from 0 to 1, a few lines, a legend. Needs no library or script."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
"""Told apart by colour-blind readers too: Okabe and Ito, Color Universal Design, 2008."""

SIDE = 260
"""Of the plotting area, pixels."""

LEFT, TOP, BELOW = 46, 26, 44
LINE_HEIGHT = 16


@dataclass(frozen=True)
class Line:
    """One named line through points of 0 to 1; `dots` marks the points."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    dots: bool = False


def plot(title: str, x_label: str, y_label: str, lines: Sequence[Line], *, diagonal: str = "") -> str:
    """An `<svg>` element.

    Parameters
    ----------
    diagonal
        "rising" or "falling" draws that diagonal, dashed; empty draws none.
    """
    width, legend = LEFT + SIDE + 12, TOP + SIDE + BELOW
    height = legend + LINE_HEIGHT * len(lines)
    parts = [
        f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" '
        f'aria-label="{escape(title)}">',
        f'<text x="{LEFT + SIDE / 2}" y="16" text-anchor="middle" class="title">{escape(title)}</text>',
        *_axes(x_label, y_label),
    ]
    if diagonal:
        first, last = (0, 1) if diagonal == "rising" else (1, 0)
        parts.append(f'<polyline class="chance" points="{_points((0, 1), (first, last))}"/>')
    for index, line in enumerate(lines):
        parts += _line(line, COLOURS[index % len(COLOURS)], legend + LINE_HEIGHT * index)
    return "\n".join([*parts, "</svg>"])


def _axes(x_label: str, y_label: str) -> list[str]:
    parts = [f'<rect x="{LEFT}" y="{TOP}" width="{SIDE}" height="{SIDE}" class="frame"/>']
    for tick in (0, 0.25, 0.5, 0.75, 1):
        x, y = LEFT + tick * SIDE, TOP + (1 - tick) * SIDE
        parts.append(f'<text x="{x:g}" y="{TOP + SIDE + 15}" text-anchor="middle">{tick:g}</text>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:g}" text-anchor="end">{tick:g}</text>')
    middle = TOP + SIDE // 2
    upright = f'text-anchor="middle" transform="rotate(-90 12 {middle})"'
    parts.append(f'<text x="{LEFT + SIDE // 2}" y="{TOP + SIDE + 31}" text-anchor="middle">{escape(x_label)}</text>')
    parts.append(f'<text x="12" y="{middle}" {upright}>{escape(y_label)}</text>')
    return parts


def _line(line: Line, colour: str, legend: int) -> list[str]:
    parts = [f'<polyline class="line" stroke="{colour}" points="{_points(line.x, line.y)}"/>']
    if line.dots:
        pairs = _points(line.x, line.y).split()
        parts += [f'<circle cx="{x}" cy="{y}" r="3" fill="{colour}"/>' for x, y in (pair.split(",") for pair in pairs)]
    parts.append(f'<rect x="{LEFT}" y="{legend - 8}" width="14" height="4" fill="{colour}"/>')
    parts.append(f'<text x="{LEFT + 20}" y="{legend - 2}">{escape(line.name)}</text>')
    return parts


def _points(x: Sequence[float], y: Sequence[float]) -> str:
    return " ".join(f"{LEFT + a * SIDE:.1f},{TOP + (1 - b) * SIDE:.1f}" for a, b in zip(x, y, strict=True))
