"""Precision over recall as one SVG: for each set a diagram, in it a line for each way of decoding."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence

SIDE, GAP, MARGIN = 240, 70, 50
COLOURS = ("#111827", "#1d4ed8", "#0e7490", "#15803d", "#a16207", "#c2410c", "#9333ea")

Points = Sequence[tuple[float, float]]  # recall, precision, from the surest item on


def precision_recall_svg(panels: Mapping[str, Mapping[str, Points]]) -> str:
    """The diagrams side by side, each as wide as its largest recall; a dot where an answer keeps all of its items."""
    ways = list(dict.fromkeys(way for lines in panels.values() for way in lines))
    colours = {way: COLOURS[n % len(COLOURS)] for n, way in enumerate(ways)}
    width, height = MARGIN + max(len(panels) * (SIDE + GAP), 100 * len(ways)), 2 * MARGIN + SIDE + 40
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif" '
        f'font-size="12"><rect width="100%" height="100%" fill="white"/>'
    ]
    for number, (title, lines) in enumerate(panels.items()):
        parts.append(_panel(MARGIN + number * (SIDE + GAP), MARGIN // 2 + 10, title, lines, colours))
    for number, way in enumerate(ways):
        x = MARGIN + 100 * number
        parts.append(f'<circle cx="{x}" cy="{height - 18}" r="5" fill="{colours[way]}"/>')
        parts.append(f'<text x="{x + 9}" y="{height - 14}">{html.escape(way)}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def _panel(x: int, y: int, title: str, lines: Mapping[str, Points], colours: Mapping[str, str]) -> str:
    most = max([0.05, *(recall for points in lines.values() for recall, _ in points)])
    out = [
        f'<text x="{x}" y="{y - 8}" font-weight="bold">{html.escape(title)}</text>',
        f'<rect x="{x}" y="{y}" width="{SIDE}" height="{SIDE}" fill="none" stroke="#999"/>',
        f'<text x="{x + SIDE}" y="{y + SIDE + 30}" text-anchor="end" fill="#555">recall</text>',
    ]
    for tick in (0.0, 0.5, 1.0):
        out.append(
            f'<text x="{x - 5}" y="{y + SIDE * (1 - tick) + 4:.0f}" text-anchor="end" fill="#555">{tick:g}</text>'
        )
        at = f'<text x="{x + SIDE * tick:.0f}" y="{y + SIDE + 15}" text-anchor="middle" fill="#555">'
        out.append(f"{at}{tick * most:.2f}</text>")
    for way, points in lines.items():
        places = [(x + SIDE * recall / most, y + SIDE * (1 - precision)) for recall, precision in points]
        path = " ".join(f"{px:.1f},{py:.1f}" for px, py in places)
        out.append(f'<polyline points="{path}" fill="none" stroke="{colours[way]}" stroke-width="1.3"/>')
        out += [f'<circle cx="{px:.1f}" cy="{py:.1f}" r="3.5" fill="{colours[way]}"/>' for px, py in places[-1:]]
    return "\n".join(out)
