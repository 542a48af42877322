"""A store in the paper's own numbers, FLD-5B's beside: tables 2 and 3, and where boxes are, as sections of a page."""

from __future__ import annotations

from collections.abc import Sequence

from florence2.engine.curation.paper_statistics import (
    ASPECTS,
    FLD5B,
    FLD5B_SEMANTIC,
    SEMANTIC,
    PaperStatistics,
    Row,
    paper_statistics,
)
from florence2.reporting.charts import grid, histogram
from florence2.reporting.html_page import Cell, Html, Section, join, table
from florence2.store import Store

COLUMNS = ("annotations", "tokens", "regions", "mean_regions", "region_tokens")
HEADER = ("type", "kind", "annotations", "mean tokens", "regions", "mean regions", "tokens a region")


def paper_sections(store: Store) -> list[Section]:
    """Counts by family, semantic and spatial coverage; nothing for a store without annotations."""
    found = paper_statistics(store.samples())
    sections = []
    if found.rows:
        rows: list[Sequence[Cell]] = []
        for key, row in found.rows.items():
            rows += [(*key, *_cells(row)), ("", "FLD-5B", *_cells(FLD5B[key]))]
        lead = "Annotations, tokens and regions as the paper's table 2 counts them, FLD-5B's beneath."
        sections.append(Section("Statistics", table(HEADER, rows), lead))
    if found.semantic or found.unparsed:
        sections.append(Section("Semantic coverage", *_semantic(found)))
    if found.spatial:
        charts = [
            chart
            for name, spatial in found.spatial.items()
            for chart in (
                histogram(f"{name}: side, share of the picture's", {"kept": spatial.sides}),
                histogram(f"{name}: log2 of width / height", {"kept": spatial.aspects}, -ASPECTS, ASPECTS),
                grid(f"{name}: centres", spatial.centres),
            )
        ]
        sections.append(
            Section("Spatial coverage", join(charts), "Sizes, forms and centres of boxes, as in its figure 5.")
        )
    return sections


def _cells(row: Row) -> list[Cell]:
    values = (getattr(row, name) for name in COLUMNS)
    return ["" if v is None else round(v) if v > 1e4 or float(v).is_integer() else round(v, 2) for v in values]


def _semantic(found: PaperStatistics) -> tuple[Html, str]:
    header = ["a text has", *(name for kind in found.semantic for name in (kind, f"{kind}, FLD-5B"))]
    rows: list[Sequence[Cell]] = []
    for n, name in enumerate(SEMANTIC):
        pairs = ((values[n], FLD5B_SEMANTIC[kind][n]) for kind, values in found.semantic.items())
        rows.append((name.replace("_", " "), *(value for pair in pairs for value in pair)))
    many = ", ".join(f"{count} {kind}" for kind, count in found.measured.items())
    lead = f"Not measured: {found.unparsed}." if found.unparsed else f"Means over {many} texts, as in its table 3."
    return table(header, rows), lead
