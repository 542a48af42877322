"""A plot of a cost over a size: lines and a diagonal inside the box, names escaped."""

import re
import xml.etree.ElementTree as ElementTree

from florence2.drawing.growth_plot import HEIGHT, MARGIN, WIDTH, Panel, growth_svg


def test_lines_stay_inside_and_grow_as_the_diagonal_where_the_cost_does():
    line = [(1.0, 0.01), (10.0, 0.1), (100.0, 1.0)]
    text = growth_svg([Panel("tokens & more", "seconds", {"a<b": line, "flat": [(1.0, 0.0), (100.0, 0.0)]})])
    root = ElementTree.fromstring(text)
    assert "a<b" in "".join(root.itertext()) and "tokens & more: seconds" in "".join(root.itertext())
    points = [tuple(map(float, pair.split(","))) for pair in re.search(r'points="([^"]+)"', text)[1].split()]
    assert all(MARGIN <= x <= MARGIN + WIDTH and MARGIN // 2 <= y <= MARGIN // 2 + HEIGHT for x, y in points)
    dash = re.search(r'<line x1="([\d.]+)" y1="([\d.]+)" x2="([\d.]+)" y2="([\d.]+)"', text)
    ends = [float(value) for value in dash.groups()]
    assert (ends[0], ends[1]) == points[0] and (ends[2], ends[3]) == points[-1]  # in proportion: on the diagonal
    assert growth_svg([]).startswith("<svg")
