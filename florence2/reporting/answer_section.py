"""One picture asked everything: a card for each answer, with what was asked and, where it is known, the truth."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from florence2.codec.answers import canonical
from florence2.codec.tasks import TASKS
from florence2.records import Ask, Parsed, Sample
from florence2.reporting.html_page import Section
from florence2.reporting.picture_cards import answer_card, cards

Asked = tuple[Ask, Parsed, Parsed | None]  # what was asked, what was answered, what is true


def asks_of(sample: Sample) -> list[tuple[Ask, Parsed]]:
    """For each official task that the sample holds a truth of, one ask with its true answer."""
    out = []
    for task in TASKS.values():
        pairs = [(ask, truth) for ask, truth in task.truths(sample) if truth.texts or truth.regions]
        spoken = [pair for pair in pairs if pair[0].text.startswith("the ")]  # referring expressions first
        for ask, truth in (spoken or pairs)[:1]:
            out.append((ask, canonical(truth, task, sample.image.size_wh, ask)))
    return out


def answers_section(image: np.ndarray, asked: Iterable[Asked], title: str = "Every task", lead: str = "") -> Section:
    """A section with a card for each answer."""
    body = [answer_card(image, heading(ask), request(ask), answer, ask.region, truth) for ask, answer, truth in asked]
    return Section(title, cards(body), lead)


def heading(ask: Ask) -> str:
    """Such as "Open vocabulary detection"."""
    name = ask.task.strip("<>").replace("_", " ").lower()
    return "Object detection" if name == "od" else name.capitalize().replace("Ocr", "OCR").replace("ocr", "OCR")


def request(ask: Ask) -> str:
    """What was asked beside the task's name."""
    if ask.region:
        return "the region " + ", ".join(f"{value:.0f}" for value in ask.region)
    return ", ".join(ask.labels) or ask.text or ask.prompt
