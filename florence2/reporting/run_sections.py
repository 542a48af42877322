"""What a run left behind, as sections of a page: scores.json of an evaluation, metrics.jsonl of a training."""

from __future__ import annotations

from pathlib import Path

from florence2.reporting.evaluation_sections import evaluation_sections
from florence2.reporting.html_page import Section
from florence2.reporting.training_runs import training_sections


def run_sections(folder: Path, beside: Path | None = None, pictures: int = 24) -> list[Section]:
    """The sections of what is there; ValueError where nothing is. `beside` is an evaluation to compare with."""
    sections = []
    if (folder / "scores.json").is_file() or beside is not None:
        sections += evaluation_sections(folder, beside, pictures)
    if (folder / "metrics.jsonl").is_file():
        sections += training_sections(folder, pictures)
    if not sections:
        raise ValueError(
            f"{folder}: neither a store nor a run; expected snapshots/, scores.json or metrics.jsonl in it"
        )
    return sections
