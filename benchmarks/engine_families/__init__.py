"""What an annotation of each family must be to count as right: scores of one store view against the truth.

Each class is made with the labels that are scored, fed (truth, found) samples by `update`, which returns how many
annotations it saw, and gives precision, recall, F1 and accuracy by `compute`.
"""

import dataclasses

import numpy as np

from florence2 import geometry
from florence2.demo import paired_lines
from florence2.engine.specialists.grounder import matches
from florence2.engine.text.parser import Parser
from florence2.labels import fold_label
from florence2.metrics.caption import Captions
from florence2.metrics.detection import DetectionF1, f1, match, ratio, region_box
from florence2.metrics.ocr import QuadWords, TextErrors
from florence2.records import Region, Sample


class Objects:
    """Boxes that have the right name at IoU 0.5; accuracy: of boxes at the right place, those rightly named."""

    def __init__(self, labels: set[str]):
        self.labels, self.named, self.placed = labels, DetectionF1(), DetectionF1()

    def update(self, truth: Sample, found: Sample) -> int:
        true = [r for r in truth.regions if r.kind == "object"]
        said = [r for r in found.regions if r.kind == "object" and not r.refines and fold_label(r.label) in self.labels]
        for label in {fold_label(r.label) for r in (*true, *said)}:
            self.named.update(*([r for r in regions if fold_label(r.label) == label] for regions in (true, said)))
        self.placed.update(true, said)
        return len(said)

    def compute(self) -> dict[str, float]:
        scores = self.named.compute()
        return {**{k: scores[k] for k in PRF}, "accuracy": self.placed.compute()["label_accuracy"]}


class Lines:
    """Quads of text at IoU over 0.5, words aside; accuracy: 1 - CER of what was read, beside its true line."""

    def __init__(self, labels: set[str]):
        self.quads, self.letters = QuadWords(), TextErrors()

    def update(self, truth: Sample, found: Sample) -> int:
        true, read = ([r for r in s.regions if r.kind == "text"] for s in (truth, found))
        self.quads.update(true, read)
        sure = [r for r in true if not r.ignore]
        self.letters.update(*paired_lines(dataclasses.replace(truth, regions=tuple(sure)), found))
        return len(read)

    def compute(self) -> dict[str, float]:
        scores = self.quads.compute()
        places = {name: scores[f"detection_{name}"] for name in PRF}
        return {**places, "accuracy": max(0.0, 1 - self.letters.compute()["CER"])}


class Masks:
    """Masks of objects at mask IoU 0.5 with that of the true box they lie on; accuracy: their mean IoU."""

    def __init__(self, labels: set[str]):
        self.truth = self.found = 0
        self.overlaps: list[float] = []

    def update(self, truth: Sample, found: Sample) -> int:
        true = [r for r in truth.regions if r.kind == "object" and r.polygons and not r.ignore]
        said = [r for r in found.regions if r.refines and (r.polygons or r.mask)]
        self.truth += len(true)
        self.found += len(said)
        size_wh = found.image.size_wh
        for t, f, _ in match(true, said):
            a, b = (_drawn(region, size_wh) for region in (true[t], said[f]))
            self.overlaps.append(ratio((a & b).sum(), (a | b).sum()))
        return len(said)

    def compute(self) -> dict[str, float]:
        hits = sum(overlap >= 0.5 for overlap in self.overlaps)
        mean = float(np.mean(self.overlaps)) if self.overlaps else 0.0
        return {**prf(hits, self.found, self.truth), "accuracy": mean}


class Texts:
    """Kinds of things that captions name against those that are there; accuracy: CIDEr of the brief ones (0 to 10)."""

    def __init__(self, labels: set[str]):
        self.labels, self.parser, self.captions = sorted(labels), Parser(), Captions()
        self.hits = self.named = self.there = 0
        self._kinds: dict[str, set[str]] = {}

    def update(self, truth: Sample, found: Sample) -> int:
        there = {fold_label(r.label) for r in truth.regions if r.kind == "object"}
        said = [t for t in found.texts if t.detail in ("brief", "detailed", "more_detailed")]
        named = set[str]().union(*(self.kinds(text.text) for text in said))
        self.hits += len(named & there)
        self.named += len(named)
        self.there += len(there)
        brief = [text.text for text in said if text.detail == "brief"]
        self.captions.update([t.text for t in truth.texts if t.detail == "brief"] or ["-"], (brief or [""])[0])
        return len(said)

    def kinds(self, text: str) -> set[str]:
        if text not in self._kinds:
            words = self.parser.parse(text)
            chunks = self.parser.noun_chunks(text)
            self._kinds[text] = {label for label in self.labels if any(matches(c, words, label) for c in chunks)}
        return self._kinds[text]

    def compute(self) -> dict[str, float]:
        return {**prf(self.hits, self.named, self.there), "accuracy": self.captions.compute()["CIDEr"]}


class Phrases:
    """Phrases of people's captions: the best box given lies, at IoU 0.5, on one that the truth gives."""

    def __init__(self, labels: set[str]):
        self.hits = self.answered = self.there = 0

    def update(self, truth: Sample, found: Sample) -> int:
        texts = {t.id: t.text for t in (*truth.texts, *found.texts)}
        boxes = {r.id: r for r in (*truth.regions, *found.regions)}
        for true in truth.groundings:
            on = [region_box(boxes[i]) for i in true.region_ids if i in boxes]
            if not true.spans or not on:
                continue
            self.there += 1
            said = [g for g in found.groundings if texts.get(g.text_id) == texts[true.text_id] and _overlap(g, true)]
            given = [boxes[i] for g in said for i in g.region_ids if i in boxes]
            if given:
                self.answered += 1
                best = max(given, key=lambda r: r.score or 0.0)
                self.hits += int(geometry.iou([region_box(best)], on).max() >= 0.5)
        return len(found.groundings)

    def compute(self) -> dict[str, float]:
        return {**prf(self.hits, self.answered, self.there), "accuracy": ratio(self.hits, self.answered)}


class Faces:
    """Faces whose middle lies in a true person or crowd (precision), and people in whom a face was found (recall)."""

    def __init__(self, labels: set[str]):
        self.hits = self.found = self.met = self.there = 0

    def update(self, truth: Sample, found: Sample) -> int:
        crowds, people = ([region_box(r) for r in truth.regions if r.label == "person" and r.ignore is crowd]
                          for crowd in (True, False))  # fmt: skip
        said = [region_box(r) for r in found.regions if r.label == "face" and not r.refines]
        middles = [((x1 + x2) / 2, (y1 + y2) / 2) for x1, y1, x2, y2 in said]
        inside = np.array([[a < x < c and b < y < d for a, b, c, d in (*people, *crowds)] for x, y in middles])
        inside = inside.reshape(len(said), len(people) + len(crowds))
        self.hits += int(inside.any(axis=1).sum())
        self.met += int(inside[:, : len(people)].any(axis=0).sum())
        self.found += len(said)
        self.there += len(people)
        return len(said)

    def compute(self) -> dict[str, float]:
        precision, recall = ratio(self.hits, self.found), ratio(self.met, self.there)
        return {"precision": precision, "recall": recall, "F1": f1(precision, recall), "accuracy": precision}


PRF = ("precision", "recall", "F1")
FAMILIES = {"objects": Objects, "lines": Lines, "masks": Masks, "texts": Texts, "phrases": Phrases, "faces": Faces}


def prf(hits: int, found: int, there: int) -> dict[str, float]:
    precision, recall = ratio(hits, found), ratio(hits, there)
    return dict(zip(PRF, (precision, recall, f1(precision, recall))))


def _overlap(a, b) -> bool:
    return any(x < d and c < y for x, y in a.spans for c, d in b.spans)


def _drawn(region: Region, size_wh) -> np.ndarray:
    return geometry.decode_rle(region.mask) if region.mask else geometry.rasterize(region.polygons, size_wh)
