"""Lines of a cost over a size, both on logarithmic scales, as one SVG: what grows with the work is a diagonal."""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

WIDTH, HEIGHT, GAP, MARGIN, COLUMNS = 230, 170, 74, 60, 2
COLOURS = ("#1d4ed8", "#c2410c", "#15803d")

Place = Callable[[float, float], tuple[float, float]]  # a size and a cost to pixels


@dataclass(frozen=True)
class Panel:
    """One diagram: its size's name, its cost's, and lines of (size, cost)."""

    title: str
    unit: str
    lines: Mapping[str, Sequence[tuple[float, float]]]


def growth_svg(panels: Sequence[Panel]) -> str:
    """The panels side by side; a dashed diagonal in each grows as the size does."""
    columns = min(COLUMNS, max(1, len(panels)))
    width = MARGIN + columns * (WIDTH + GAP)
    height = MARGIN + -(-len(panels) // columns) * (HEIGHT + GAP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif" '
        f'font-size="12"><rect width="100%" height="100%" fill="white"/>'
    ]
    for number, panel in enumerate(panels):
        x = MARGIN + number % columns * (WIDTH + GAP)
        y = MARGIN // 2 + number // columns * (HEIGHT + GAP)
        parts.append(_panel(x, y, panel))
    return "\n".join([*parts, "</svg>"]) + "\n"


def _panel(x: int, y: int, panel: Panel) -> str:
    points = [point for line in panel.lines.values() for point in line]
    left, right = _decades([size for size, _ in points])
    low, high = _decades([max(cost, 1e-4) for _, cost in points])

    def at(size: float, cost: float) -> tuple[float, float]:
        across = (math.log10(size) - left) / (right - left)
        up = (math.log10(max(cost, 10.0**low)) - low) / (high - low)
        return x + WIDTH * across, y + HEIGHT * (1 - up)

    out = [
        f'<text x="{x}" y="{y - 8}" font-weight="bold">{html.escape(panel.title)}: {html.escape(panel.unit)}</text>',
        f'<rect x="{x}" y="{y}" width="{WIDTH}" height="{HEIGHT}" fill="none" stroke="#999"/>',
    ]
    for power in range(left, right + 1):
        px, _ = at(10.0**power, 10.0**low)
        out.append(f'<text x="{px:.0f}" y="{y + HEIGHT + 15}" text-anchor="middle" fill="#555">{10**power:,}</text>')
    for power in range(low, high + 1):
        _, py = at(10.0**left, 10.0**power)
        out.append(f'<text x="{x - 5}" y="{py + 4:.0f}" text-anchor="end" fill="#555">{10.0**power:g}</text>')
    first = next(iter(panel.lines.values()))
    out.append(_diagonal(at, first, 10.0**low))
    for number, (name, line) in enumerate(panel.lines.items()):
        colour = COLOURS[number % len(COLOURS)]
        places = [at(*point) for point in line]
        path = " ".join(f"{px:.1f},{py:.1f}" for px, py in places)
        out.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        out += [f'<circle cx="{px:.1f}" cy="{py:.1f}" r="3" fill="{colour}"/>' for px, py in places]
        below = y + HEIGHT + 31 + 14 * number
        out.append(f'<circle cx="{x + 5}" cy="{below - 4}" r="4" fill="{colour}"/>')
        out.append(f'<text x="{x + 14}" y="{below}">{html.escape(name)}</text>')
    return "\n".join(out)


def _diagonal(at: Place, line: Sequence[tuple[float, float]], low: float) -> str:
    """What doubles where the size doubles, through the line's last point."""
    (first, _), (last, cost) = line[0], line[-1]
    begin = min(last, max(first, last * low / max(cost, low)))
    (x1, y1), (x2, y2) = at(begin, cost * begin / last), at(last, cost)
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="#999" stroke-dasharray="4"/>'


def _decades(values: Sequence[float]) -> tuple[int, int]:
    """The powers of ten around the values."""
    low = math.floor(math.log10(min(values)))
    return low, max(low + 1, math.ceil(math.log10(max(values))))
