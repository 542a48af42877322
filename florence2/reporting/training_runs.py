"""A training run as sections of a page, finished or under way: curves, evaluations, answers by epoch, what is left out.

Reads the run's journals (metrics.jsonl, evaluations.jsonl, left_out.jsonl) and the folders of its evaluations; a line
that is being written is not read.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from florence2.formats import documents
from florence2.reporting.charts import curve
from florence2.reporting.evaluation_sections import evaluation_sections
from florence2.reporting.html_page import Cell, Section, element, join, number, table, tiles
from florence2.structuring import parse_json

POINTS = 400  # of a curve
NAMED = 20  # rows of what was left out
SHOWN_EPOCHS = 3  # evaluations whose answers are drawn: the first, the middle one, the last


def training_sections(folder: Path, pictures: int = 24) -> list[Section]:
    """The sections of a run's folder."""
    rows = _lines(folder / "metrics.jsonl")
    sections = [_training(rows)]
    evaluations = _lines(folder / "evaluations.jsonl")
    if evaluations:
        sections.append(_evaluations(evaluations, folder))
        sections += _answers(folder / "evaluations", pictures)
    lost = _lines(folder / "left_out.jsonl")
    if lost:
        sections.append(_left_out(lost))
    return sections


def _lines(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a journal, of which the last may still be on its way."""
    if not path.is_file():
        return []
    rows = []
    *whole, last = path.read_text(encoding="utf-8").split("\n")
    for count, line in enumerate([*whole, last] if last.endswith("}") else whole, 1):
        try:
            rows.append(parse_json(line))
        except ValueError:
            raise ValueError(f"{path}:{count}: expected a JSON object, got {line[:60]!r}; train again") from None
    return rows


def _training(rows: list[dict[str, Any]]) -> Section:
    if not rows:
        return Section("Training", element("p", "No step has been made yet."))
    last = rows[-1]
    names = [name for name, value in last.items() if "loss" in name and isinstance(value, (int, float))]
    charts = [curve(f"{name}: {number(last[name])} at the end", _points(rows, name)) for name in names]
    charts += [curve("learning rate", _points(rows, "lr"))] if "lr" in last else []
    facts: list[tuple[str, Cell, str]] = [
        ("steps", int(last["step"]), f"of {last['steps']}" if "steps" in last else "")
    ]
    if "epoch" in last:
        facts.append(("epochs", last["epoch"], ""))
    if "data_seconds" in last:
        waited, computed = (sum(row.get(key, 0.0) for row in rows) for key in ("data_seconds", "compute_seconds"))
        facts.append(("waited for data", f"{100 * waited / max(1e-9, waited + computed):.1f} %", "of the time"))
    facts += [(name, last[name], "last step") for name in names]
    return Section("Training", join([tiles(facts), element("div", *charts, class_="charts")]))


def _evaluations(rows: list[dict[str, Any]], folder: Path) -> Section:
    """A curve a metric, and all numbers as a table."""
    names = list(dict.fromkeys(name for row in rows for name in row["metrics"]))
    flat = [{"step": row["step"], **row["metrics"]} for row in rows]
    charts = [curve(f"{name}: {number(flat[-1].get(name, 0.0))} at the end", _points(flat, name)) for name in names]
    best = folder / "best" / "best.json"
    lead = ""
    if best.is_file():
        facts = documents.read_object(best, "metric", "value", "step")
        lead = f"The best by {facts['metric']}: {number(facts['value'])} after step {facts['step']} (kept in best/)."
    cells = [[row["step"], round(row["epoch"], 2), *(row["metrics"].get(name, "") for name in names)] for row in rows]
    numbers = table(["step", "epoch", *names], cells)
    return Section("While it trained", join([element("p", lead), element("div", *charts, class_="charts"), numbers]))


def _answers(folder: Path, pictures: int) -> list[Section]:
    """The answers of the first evaluation, one in the middle and the last, task by task."""
    steps = sorted(path for path in folder.glob("step-*") if path.is_dir())
    chosen = sorted({0, (len(steps) - 1) // 2, len(steps) - 1}) if steps else []
    sections = []
    for step in (steps[place] for place in chosen[:SHOWN_EPOCHS]):
        for scores in sorted(step.glob("*/scores.json")):
            found = evaluation_sections(scores.parent, None, max(1, pictures // SHOWN_EPOCHS))
            name = f"{scores.parent.name} after step {int(step.name.rpartition('-')[2])}"
            sections += [Section(f"{name}: {section.title}", section.body, section.lead) for section in found[-1:]]
    return sections


def _left_out(rows: list[dict[str, Any]]) -> Section:
    counts = Counter[str]()
    for row in rows:
        counts[row["reason"]] += row["pairs"]
    facts = tiles([(reason, count, "pairs") for reason, count in counts.most_common() if count])
    named = [[row["reason"], row["task"], row["image"] or row["id"], row["detail"]] for row in rows[:NAMED]]
    return Section("Left out", join([facts, table(["reason", "task", "picture", "what is wrong"], named)]))


def _points(rows: list[dict[str, Any]], name: str) -> list[tuple[float, float]]:
    """At most POINTS points, each the mean of its stretch."""
    found = [(float(row["step"]), float(row[name])) for row in rows if isinstance(row.get(name), (int, float))]
    width = -(-len(found) // POINTS)
    stretches = [found[i : i + width] for i in range(0, len(found), max(1, width))]
    return [(part[-1][0], sum(y for _, y in part) / len(part)) for part in stretches]
