"""Phrases of captions grounded in boxes that detectors found: noun chunks matched with labels by their words.

A chunk is a region's when its noun is the label's, in singular or plural or by a synonym. "two dogs" takes the two best
boxes of dogs, "dogs" all of them, "a dog" the best one that no earlier chunk has taken.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from florence2.engine.operator import Spec
from florence2.engine.specialists.composer import NUMBERS
from florence2.engine.text.parser import Parser
from florence2.engine.text.phrases import NounChunk, Word
from florence2.labels import IRREGULAR, fold_label, plural
from florence2.records import CAPTION_DETAILS, Grounding, Parsed, Region, Result, Sample, Text

MIN_SCORE = 0.3  # a box below is not pointed at

SYNONYMS = (  # labels of common detectors, and what captions call them
    (
        "person",
        "man",
        "woman",
        "boy",
        "girl",
        "child",
        "kid",
        "lady",
        "guy",
        "player",
        "rider",
        "surfer",
        "skier",
        "people",
    ),
    ("face", "cat face"),
    ("bicycle", "bike"),
    ("motorcycle", "motorbike"),
    ("airplane", "aeroplane", "plane", "jet"),
    ("car", "vehicle", "taxi", "cab"),
    ("tv", "television", "tvmonitor", "monitor", "screen"),
    ("couch", "sofa"),
    ("cell phone", "phone", "cellphone", "smartphone"),
    ("dining table", "table", "diningtable", "desk"),
    ("potted plant", "plant", "pottedplant"),
    ("dog", "puppy"),
    ("cat", "kitten"),
    ("cow", "bull", "calf"),
    ("cup", "mug"),
    ("donut", "doughnut"),
)


class Grounder:
    """Groundings of a picture's captions in a picture's boxes."""

    def __init__(self, parser: str = "auto", score: float = MIN_SCORE) -> None:
        self.parser, self.score = Parser(parser), score
        self.spec = Spec(
            "grounder",
            "1",
            produces=frozenset({"text_phrase_region"}),
            requires=frozenset({"text/caption", "region_text/object"}),
            batch_size=64,
        )
        self.config = {"score": score}
        self.weights_sha256 = self.parser.weights_sha256

    def setup(self, device: str) -> None:
        """The parser loads with the first text."""

    def annotate(self, samples: Sequence[Sample], images: Sequence[np.ndarray]) -> list[Result]:
        """All captions are parsed together."""
        current = [sample.current() for sample in samples]
        self.parser.read(text.text for sample in current for text in sample.texts if text.detail in CAPTION_DETAILS)
        return [self._ground(sample) for sample in current]

    def _ground(self, sample: Sample) -> Parsed:
        regions = [
            r for r in sample.regions if r.kind == "object" and r.box and r.label and not r.refines and not r.ignore
        ]
        regions = [r for r in regions if r.score is None or r.score >= self.score]
        regions.sort(key=lambda r: -(1.0 if r.score is None else r.score))
        found: list[Grounding] = []
        for text in sample.texts:
            if text.detail in CAPTION_DETAILS:
                found += self._phrases(text, regions, len(found))
        return Parsed(groundings=tuple(found))

    def _phrases(self, text: Text, regions: Sequence[Region], first: int) -> list[Grounding]:
        words = self.parser.parse(text.text)
        taken: set[str] = set()
        found: list[Grounding] = []
        for chunk in self.parser.noun_chunks(text.text):
            named = [r for r in regions if matches(chunk, words, r.label)]
            free = [r for r in named if r.id not in taken] or named
            chosen = free[: count_of(chunk, words) or len(free)]
            if not chosen:
                continue
            taken |= {r.id for r in chosen}
            scores = [r.score for r in chosen if r.score is not None]
            found.append(
                Grounding(
                    id=f"phrase-{first + len(found)}",
                    text_id=text.id,
                    phrase=chunk.text,
                    spans=((chunk.start, chunk.end),),
                    region_ids=tuple(r.id for r in chosen),
                    score=sum(scores) / len(scores) if scores else None,
                )
            )
        return found

    def close(self) -> None:
        """Nothing to release."""


def matches(chunk: NounChunk, words: Sequence[Word], label: str) -> bool:
    """Whether a chunk ends in a label or one of its synonyms, in singular or plural."""
    label = fold_label(label)
    phrase = " ".join(w.text.casefold() for w in words[chunk.first : chunk.head + 1])
    names = {label} | {name for group in SYNONYMS if label in group[:1] for name in group}
    return any(phrase == form or phrase.endswith(" " + form) for name in names for form in (name, plural(name)))


def count_of(chunk: NounChunk, words: Sequence[Word]) -> int:
    """How many objects a chunk means: a number where it names one, 1 for a singular, 0 for a plural without number."""
    for word in words[chunk.first : chunk.head]:
        folded = word.text.casefold()
        if folded in NUMBERS[2:]:
            return NUMBERS.index(folded)
        if folded.isdigit():
            return int(folded)
    noun = words[chunk.head].text.casefold()
    is_plural = noun in IRREGULAR.values() or (noun.endswith("s") and not noun.endswith("ss"))
    return 0 if is_plural else 1
