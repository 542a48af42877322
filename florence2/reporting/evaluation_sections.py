"""An evaluation as sections of a page: its scores beside the grey picture's (and another run's), curves, what was taken
for what, and the worst answers drawn beside their truth.

Reads the folder that `evaluate` wrote (scores.json, details.json); asks no model.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from florence2 import sources
from florence2.drawing.html_figure import html_figure
from florence2.evaluation.comparison import compare
from florence2.evaluation.metric_specs import ERRORS
from florence2.evaluation.score import ABSENT
from florence2.pixels import BadImage
from florence2.records import ImageRef, Parsed, from_json
from florence2.reporting.charts import curve
from florence2.reporting.html_page import Cell, Html, Section, element, join, number, table, tiles
from florence2.structuring import parse_json

PAIRS = 30  # rows of the confusion table


def evaluation_sections(folder: Path, beside: Path | None = None, pictures: int = 24) -> list[Section]:
    """The sections of one run; `beside` is another whose scores are shown next to its own."""
    scores = _read(folder / "scores.json", "metrics")
    other = _read(beside / "scores.json", "metrics") if beside is not None else None
    sections = [_scores(folder, scores, beside, other)]
    if (folder / "details.json").is_file():
        details = _read(folder / "details.json", "worst")
        sections += [_charts(details)] if details.get("curve") else []
        sections += [_confusion(details["confusion"])] if details.get("confusion") else []
        sections.append(_worst(details["worst"], pictures, beside))
    return sections


def _read(file: Path, key: str) -> dict[str, Any]:
    """The file's object; ValueError where it is none that holds `key`."""
    try:
        data = parse_json(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{file}: does not exist; evaluate first") from None
    except ValueError as error:
        raise ValueError(f"{file}: not JSON ({error}); evaluate again") from None
    if not isinstance(data, dict) or not isinstance(data.get(key), (dict, list)):
        raise ValueError(f"{file}: expected an object with {key}, got something else; evaluate again")
    return data


def _scores(folder: Path, scores: Mapping[str, Any], beside: Path | None, other: Mapping[str, Any] | None) -> Section:
    header = ["metric", "score", "95% interval"]
    grey, gain = scores.get("grey", {}).get("metrics", {}), scores.get("gain", {})
    header += ["grey picture", "what the picture adds", "works"] if grey else []
    compared, remark = _compared(folder, beside)
    if beside is not None:
        header += [beside.resolve().name, "difference, above 0: better", *(["verdict"] if compared else [])]
    rows: list[list[Cell]] = []
    for key, value in scores["metrics"].items():
        row: list[Cell] = [f"{key} (main)" if key == scores.get("main") else key, _cell(value)]
        row.append(_span(scores.get("intervals", {}).get(key)))
        if grey:
            added = gain.get(key)
            row += [
                _cell(grey.get(key)) if added else "",
                f"{added['value']:+.3f} ({_span(added['interval'])})" if added else "",
            ]
            row.append(("yes" if added["works"] else "no") if added else "")
        if other is not None:
            row += _beside(key, value, other["metrics"].get(key), compared)
        rows.append(row)
    facts = [
        (name.replace("_", " "), value, "")
        for name, value in scores.items()
        if isinstance(value, (str, int, float)) and not isinstance(value, bool) and name != "policy" and value != ""
    ]
    lead = f"{scores['policy']}." if scores.get("policy") else ""
    return Section("Scores", join([tiles(facts), table(header, rows)]), f"{lead[:1].upper()}{lead[1:]}{remark}")


def _compared(folder: Path, beside: Path | None) -> tuple[dict[str, Any], str]:
    """The paired differences from the other run, and the note about them."""
    if beside is None:
        return {}, ""
    try:
        return compare(folder, beside), " Differences are paired: both runs are scored on the same resamples."
    except ValueError as error:
        return {}, f" The differences have no interval: {error}."


def _beside(key: str, value: Any, theirs: Any, compared: Mapping[str, Any]) -> list[Cell]:
    if key in compared:
        found = compared[key]
        span = f" ({_span(found['interval'])})" if found["interval"] else ""
        return [_cell(theirs), f"{found['value']:+.3f}{span}", found["verdict"]]
    both = all(isinstance(number, (int, float)) and number != ABSENT for number in (value, theirs))
    sign = -1 if key in ERRORS else 1
    return [_cell(theirs), f"{sign * (value - theirs):+.3f}" if both else "", *([""] if compared else [])]


def _cell(value: Any) -> Cell:
    if value == ABSENT:
        return "no truth"
    return float(value) if isinstance(value, (int, float)) else None if value is None else str(value)


def _span(interval: Any) -> str:
    return f"{interval[0]:.3f} to {interval[1]:.3f}" if interval else ""


def _charts(details: Mapping[str, Any]) -> Section:
    points = [(row["recall"], row["precision"]) for row in details["curve"]]
    charts = [curve("precision over recall", [(0.0, points[0][1]), *points] if points else [])]
    calibration = details.get("calibration") or {}
    bins = calibration.get("bins", [])
    charts.append(
        curve("how often right, by score; ideal: the diagonal", [(b["score"], b["right"]) for b in bins], True)
    )
    rows = [(f"{row['low']:.1f} to {row['low'] + 0.1:.1f}", row["count"], row["score"], row["right"]) for row in bins]
    error = f"Expected calibration error {number(float(calibration.get('error', 0.0)))}: "
    lead = "a region is right when it lies on a true one and bears its label."
    body = join([element("div", *charts, class_="charts"), table(("score", "regions", "mean score", "right"), rows)])
    return Section("Curves", body, error + lead)


def _confusion(pairs: list[dict[str, Any]]) -> Section:
    right = sum(row["count"] for row in pairs if row["truth"] == row["found"])
    wrong = [row for row in pairs if row["truth"] != row["found"]]
    rows = [(row["truth"], row["found"], row["count"]) for row in wrong[:PAIRS]]
    more = f" The {PAIRS} most frequent of {len(wrong)} mistakes." if len(wrong) > PAIRS else ""
    return Section("What was taken for what", table(("truth", "answer", "times"), rows), f"{right:,} were right.{more}")


def _worst(rows: list[dict[str, Any]], pictures: int, beside: Path | None) -> Section:
    if not rows:
        return Section("Worst answers", element("p", "Every answer is right."))
    others = _answers(beside / "predictions.jsonl", rows[:pictures]) if beside is not None else {}
    name = beside.resolve().name if beside is not None else ""
    cards = [_pair(row, name, others.get(_asked(row))) for row in rows[:pictures]]
    lead = "The truth at the left, the answer beside it; the lowest scores first."
    return Section("Worst answers", join(cards), f"{lead} At the right the answer of {name}." if others else lead)


def _asked(row: Mapping[str, Any]) -> tuple[str, str]:
    """What an answer is known by: its picture and its ask."""
    image = row["image"]
    return str(image["id"] if isinstance(image, dict) else image), json.dumps(row["ask"], sort_keys=True)


def _answers(file: Path, rows: list[dict[str, Any]]) -> dict[tuple[str, str], Parsed]:
    """The other run's answers to the asks of `rows`; none where it kept no file of its own."""
    if not file.is_file():
        return {}
    wanted, out = {_asked(row) for row in rows}, {}
    with open(file, encoding="utf-8") as lines:
        for number, text in enumerate(lines, 1):
            try:
                line = parse_json(text)
                if _asked(line) in wanted:
                    out[_asked(line)] = from_json(Parsed, line.get("answer") or {})
            except (ValueError, KeyError, TypeError, AttributeError):
                raise ValueError(f"{file}:{number}: not a line of predictions; evaluate again") from None
    return out


def _pair(row: Mapping[str, Any], name: str, other: Parsed | None) -> Html:
    image, ask = from_json(ImageRef, row["image"]), row["ask"]
    request = " ".join([str(ask.get("task", "")), str(ask.get("text", ""))]).strip()
    title = f"{image.id}: {request}; {row['metric']} {number(float(row['score']))}"
    remark = "answer" if "found" in row else f"no answer: {row['failure'].get('reason', 'missing')}"
    shown = [("truth", from_json(Parsed, row["truth"]))]
    shown.append((remark, from_json(Parsed, row["found"]) if "found" in row else Parsed()))
    shown += [(name, other)] if other is not None else []
    try:
        pixels = sources.pixels(image)
        drawn = [Html(html_figure(pixels, answer, caption, width=360)) for caption, answer in shown]
    except BadImage as error:
        drawn = [element("p", f"The picture cannot be shown: {error}")]
    return element("div", element("h3", title), *drawn, class_="pair")
