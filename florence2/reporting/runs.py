"""What a run left behind, as sections of a page: scores.json of an evaluation, metrics.jsonl of a training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from florence2.reporting.charts import curve
from florence2.reporting.evaluations import evaluation_sections
from florence2.reporting.html_page import Section, element, join, number, tiles

POINTS = 400  # of a curve


def run_sections(folder: Path, beside: Path | None = None, pictures: int = 24) -> list[Section]:
    """The sections of what is there; ValueError where nothing is. `beside` is an evaluation to compare with."""
    sections = []
    if (folder / "scores.json").is_file() or beside is not None:
        sections += evaluation_sections(folder, beside, pictures)
    if (folder / "metrics.jsonl").is_file():
        sections.append(_training(folder / "metrics.jsonl"))
    if not sections:
        raise ValueError(
            f"{folder}: neither a store nor a run; expected snapshots/, scores.json or metrics.jsonl in it"
        )
    return sections


def _training(path: Path) -> Section:
    rows = []
    with open(path, encoding="utf-8") as lines:
        for count, line in enumerate(lines, 1):
            try:
                rows.append(json.loads(line))
            except ValueError:
                raise ValueError(f"{path}:{count}: expected a JSON object, got {line[:60]!r}; train again") from None
    if not rows:
        return Section("Training", element("p", "No step has been made yet."))
    names = [name for name, value in rows[-1].items() if _is_loss(name, value)]
    charts = [curve(f"{name}: {number(rows[-1][name])} at the end", _points(rows, name)) for name in names]
    facts = tiles([("steps", int(rows[-1]["step"]), ""), *((name, rows[-1][name], "last step") for name in names)])
    return Section("Training", join([facts, element("div", *charts, class_="charts")]))


def _is_loss(name: str, value: Any) -> bool:
    return "loss" in name and isinstance(value, (int, float))


def _points(rows: list[dict[str, Any]], name: str) -> list[tuple[float, float]]:
    """At most POINTS points, each the mean of its stretch."""
    found = [(float(row["step"]), float(row[name])) for row in rows if _is_loss(name, row.get(name))]
    width = -(-len(found) // POINTS)
    stretches = [found[i : i + width] for i in range(0, len(found), max(1, width))]
    return [(part[-1][0], sum(y for _, y in part) / len(part)) for part in stretches]
