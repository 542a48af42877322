"""Small charts as inline SVG: a histogram in parts, a curve. Colours come from the page's style sheet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from florence2.reporting.html_page import Html, element, number

WIDTH, HEIGHT, LEFT, BELOW = 260, 110, 34, 16


def histogram(title: str, parts: Mapping[str, Sequence[int]], low: float = 0.0, high: float = 1.0) -> Html:
    """Bars stacked part upon part (class -> counts a bin) between low and high."""
    bins = max((len(counts) for counts in parts.values()), default=0)
    sums = [sum(counts[i] for counts in parts.values()) for i in range(bins)]
    tallest = max(sums, default=0) or 1
    step = (WIDTH - LEFT) / max(bins, 1)
    bars = []
    for i in range(bins):
        y = float(HEIGHT)
        for name, counts in parts.items():
            tall = HEIGHT * counts[i] / tallest
            y -= tall
            if tall:
                span = f"{low + (high - low) * i / bins:.2f} to {low + (high - low) * (i + 1) / bins:.2f}"
                bars.append(
                    element(
                        "rect",
                        element("title", f"{span}: {counts[i]:,} {name}"),
                        class_=name,
                        x=f"{LEFT + i * step + 0.5:.1f}",
                        y=f"{y:.1f}",
                        width=f"{step - 1:.1f}",
                        height=f"{tall:.1f}",
                    )  # fmt: skip
                )
    return _chart(title, Html("".join(bars)), f"{low:g}", f"{high:g}", number(tallest))


def grid(title: str, counts: Sequence[Sequence[int]]) -> Html:
    """A map of counts, row by row from the top, the most of them darkest."""
    most = max((count for row in counts for count in row), default=0) or 1
    high, wide = HEIGHT / max(1, len(counts)), (WIDTH - LEFT) / max(1, len(counts[0]) if counts else 0)
    cells = [
        element(
            "rect",
            element("title", f"{count:,}"),
            class_="kept",
            x=f"{LEFT + column * wide:.1f}",
            y=f"{row * high:.1f}",
            width=f"{wide - 1:.1f}",
            height=f"{high - 1:.1f}",
            opacity=f"{0.05 + 0.95 * count / most:.3f}",
        )  # fmt: skip
        for row, values in enumerate(counts)
        for column, count in enumerate(values)
    ]
    return _chart(title, Html("".join(cells)), "left", "right", "")


def curve(title: str, points: Sequence[tuple[float, float]], diagonal: bool = False) -> Html:
    """A line through (x, y) points, y from 0; `diagonal` draws y = x beneath it, on axes of equal length."""
    if not points:
        return _chart(title, Html(""), "", "", "")
    last = max(x for x, _ in points) or 1
    top = max(y for _, y in points) or 1
    if diagonal:
        last = top = max(last, top)
    path = " ".join(
        f"{'L' if i else 'M'}{LEFT + (WIDTH - LEFT) * x / last:.1f} {HEIGHT - HEIGHT * max(y, 0) / top:.1f}"
        for i, (x, y) in enumerate(points)
    )
    ideal = element("path", d=f"M{LEFT} {HEIGHT}L{WIDTH} 0", class_="axis")
    inside = Html((ideal if diagonal else "") + element("path", d=path))
    return _chart(title, inside, "0", number(last), number(top))


def _chart(title: str, inside: Html, low: str, high: str, tallest: str) -> Html:
    labels = (
        element("text", tallest, x=LEFT - 4, y=10, text_anchor="end"),
        element("text", low, x=LEFT, y=HEIGHT + 13),
        element("text", high, x=WIDTH, y=HEIGHT + 13, text_anchor="end"),
        element("path", d=f"M{LEFT} {HEIGHT}H{WIDTH}", class_="axis"),
    )
    drawing = element("svg", inside, *labels, viewBox=f"0 0 {WIDTH} {HEIGHT + BELOW}", width=WIDTH, role="img",
                      aria_label=title)  # fmt: skip
    return element("figure", drawing, element("figcaption", title), class_="chart")
