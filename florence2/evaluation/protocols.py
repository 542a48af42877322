"""Benchmarks as data: one row each, with its reader, split, task, metric, decoding, and the paper's numbers.

The paper (https://arxiv.org/abs/2311.06242, tables 4 to 6) publishes metrics and splits only; task and decoding are our
best reading of it. Numbers are times 100, as papers print them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

REC = "OPEN_VOCABULARY_DETECTION"
RES = "REFERRING_EXPRESSION_SEGMENTATION"
BEAMS = {"num_beams": 3}
COLUMNS = ("base", "large", "base_ft", "large_ft")


@dataclass(frozen=True)
class Protocol:
    """One benchmark. `reader` is a format of `sources`; `paper` has the four models' numbers."""

    reader: str
    split: str
    task: str
    metric: str
    paper: Mapping[str, float] = field(default_factory=dict)
    decoding: Mapping[str, Any] = field(default_factory=lambda: BEAMS)
    note: str = ""


def _paper(*values: float | None) -> dict[str, float]:
    return {column: value for column, value in zip(COLUMNS, values) if value is not None}


def _refer(split: str, *paper: float) -> Protocol:
    note = "accuracy of the first box at IoU 0.5; the paper names no prompt"
    return Protocol("refcoco", split, REC, "accuracy", _paper(*paper), note=note)


CAPTION_NOTE = "CIDEr-D over Penn Treebank tokens"
SERVER = "test-dev is scored by the benchmark's server; here its val part, whose answers are public"

PROTOCOLS: dict[str, Protocol] = {
    "coco-caption": Protocol(
        "karpathy", "test", "CAPTION", "CIDEr", _paper(133.0, 135.6, 140.0, 143.3), note=CAPTION_NOTE
    ),
    "nocaps": Protocol("coco", "", "CAPTION", "CIDEr", _paper(118.7, 120.8, 116.7, 124.9), note=CAPTION_NOTE),
    "textcaps": Protocol("textcaps", "val", "CAPTION", "CIDEr", _paper(70.1, 72.8, 143.9, 151.1), note=CAPTION_NOTE),
    "coco-detection": Protocol(
        "coco", "", "OD", "AP", _paper(34.7, 37.5, 41.4, 43.4),
        note="val2017; a label is a category when equal after case and space are folded; scores are the model's own",
    ),
    "flickr30k": Protocol(
        "flickr30k", "test", "CAPTION_TO_PHRASE_GROUNDING", "recall_any", _paper(83.6, 84.4, 84.0, 85.2),
        note="the paper does not say any box or merged boxes; recall_merged is beside it",
    ),
    "refcoco-val": _refer("val", 53.9, 56.3, 92.6, 93.4),
    "refcoco-testA": _refer("testA", 58.4, 61.6, 94.8, 95.3),
    "refcoco-testB": _refer("testB", 49.7, 51.4, 91.5, 92.0),
    "refcoco+-val": _refer("val", 51.5, 53.6, 86.8, 88.3),
    "refcoco+-testA": _refer("testA", 56.4, 57.9, 91.7, 92.9),
    "refcoco+-testB": _refer("testB", 47.9, 49.9, 82.2, 83.6),
    "refcocog-val": _refer("val", 66.3, 68.0, 89.8, 91.2),
    "refcocog-test": _refer("test", 65.1, 67.0, 82.2, 91.7),
    "refcoco-res": Protocol(
        "refcoco", "val", RES, "mIoU", _paper(34.6, 35.8, 78.0, 80.5),
        note="parts united, drawn at the picture's size; oIoU is beside it",
    ),
    "vqav2": Protocol("vqa", "val", "VQA", "VQA_accuracy", _paper(None, None, 79.7, 81.7), note=SERVER),
    "textvqa": Protocol("textvqa", "val", "VQA", "TextVQA_accuracy", _paper(None, None, 63.6, 73.5), note=SERVER),
    "vizwiz": Protocol("vizwiz", "val", "VQA", "VQA_accuracy", _paper(None, None, 63.6, 72.6), note=SERVER),
    "docvqa": Protocol("docvqa", "test", "DocVQA", "ANLS", note="the validation part; not in the paper"),
    "icdar2015": Protocol("icdar", "", "OCR_WITH_REGION", "F1", note="end to end, ### ignored; not in the paper"),
    "sroie": Protocol("sroie", "", "OCR_WITH_REGION", "F1", note="lines of receipts; not in the paper"),
}  # fmt: skip


def protocol_named(name: str) -> Protocol:
    """The row of a benchmark; ValueError where it is unknown."""
    if name not in PROTOCOLS:
        raise ValueError(f"protocol {name!r}: expected one of {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]


def arguments(
    name: str | None,
    data: Any,
    task: str | None,
    split: str | None,
    format: str | None,
    images: str | os.PathLike[str] | None,
    limit: int | None,
) -> dict[str, Any]:
    """The arguments of `evaluate` for a benchmark; what the user names himself goes before the row."""
    chosen: dict[str, Any] = {
        "data": data,
        "task": task,
        "split": split,
        "format": format,
        "images": images,
        "limit": limit,
    }
    if name is None:
        return chosen
    row = protocol_named(name)
    chosen["task"] = task or row.task
    chosen["split"] = split or row.split or None
    published = isinstance(data, (str, os.PathLike)) and Path(data).suffix != ".jsonl"
    chosen["format"] = format or (row.reader if published else None)
    facts = {"protocol": name, "paper": dict(row.paper), "main": row.metric, "note": row.note}
    return {**chosen, "decoding": dict(row.decoding), **facts}


def listing() -> str:
    """The table as text."""
    rows: list[tuple[str, ...]] = [("protocol", "reader", "split", "task", "metric", *COLUMNS)]
    for name, row in PROTOCOLS.items():
        numbers = [f"{row.paper[c]:.1f}" if c in row.paper else "" for c in COLUMNS]
        rows.append((name, row.reader, row.split or "(all)", row.task, row.metric, *numbers))
    widths = [max(len(row[n]) for row in rows) for n in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows)
