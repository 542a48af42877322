"""Reliability diagrams as one SVG: for each task the share of right items over their score, before and after."""

from __future__ import annotations

import html
from collections.abc import Sequence

SIDE, GAP, MARGIN, COLUMNS = 220, 56, 44, 3
COLOURS = {"before": "#c2410c", "after": "#1d4ed8"}

Points = Sequence[tuple[float, float, int]]  # score, share of right items, items


def reliability_svg(rows: Sequence[tuple[str, Points, Points]]) -> str:
    """(title, before, after) of each diagram; a dot's area grows with its items, the diagonal is a perfect score."""
    columns = min(COLUMNS, max(1, len(rows)))
    width = MARGIN + columns * (SIDE + GAP)
    height = 2 * MARGIN + -(-len(rows) // columns) * (SIDE + GAP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif" '
        f'font-size="12"><rect width="100%" height="100%" fill="white"/>'
    ]
    for number, (title, before, after) in enumerate(rows):
        x, y = MARGIN + number % columns * (SIDE + GAP), MARGIN + number // columns * (SIDE + GAP)
        parts.append(_diagram(x, y, title, {"before": before, "after": after}))
    x = MARGIN
    for name, colour in COLOURS.items():
        parts.append(f'<circle cx="{x + 5}" cy="{height - 16}" r="5" fill="{colour}"/>')
        parts.append(f'<text x="{x + 14}" y="{height - 12}">{name}</text>')
        x += 80
    parts.append(f'<text x="{x}" y="{height - 12}">score (across) and share of right items (up)</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def _diagram(x: int, y: int, title: str, lines: dict[str, Points]) -> str:
    out = [
        f'<text x="{x}" y="{y - 8}" font-weight="bold">{html.escape(title)}</text>',
        f'<rect x="{x}" y="{y}" width="{SIDE}" height="{SIDE}" fill="none" stroke="#999"/>',
        f'<line x1="{x}" y1="{y + SIDE}" x2="{x + SIDE}" y2="{y}" stroke="#999" stroke-dasharray="4"/>',
    ]
    for tick in (0.0, 0.5, 1.0):
        at = SIDE * tick
        out.append(f'<text x="{x + at:.0f}" y="{y + SIDE + 15}" text-anchor="middle" fill="#555">{tick:g}</text>')
        out.append(f'<text x="{x - 5}" y="{y + SIDE - at + 4:.0f}" text-anchor="end" fill="#555">{tick:g}</text>')
    for name, points in lines.items():
        most = max((items for _, _, items in points), default=1)
        places = [(x + SIDE * score, y + SIDE * (1 - right), items) for score, right, items in points]
        path = " ".join(f"{px:.1f},{py:.1f}" for px, py, _ in places)
        out.append(f'<polyline points="{path}" fill="none" stroke="{COLOURS[name]}" stroke-width="1.5"/>')
        for px, py, items in places:
            radius = 1.5 + 3.5 * (items / most) ** 0.5
            out.append(f'<circle cx="{px:.1f}" cy="{py:.1f}" r="{radius:.1f}" fill="{COLOURS[name]}"/>')
    return "\n".join(out)
