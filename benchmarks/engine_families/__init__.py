"""What an annotation of each family must be to count as right: scores of one store view against the truth.

Each class is made with the labels that are scored, fed (truth, found) samples by `update`, which returns how many
annotations it saw, and gives precision, recall, F1 and accuracy by `compute`. `counts` has a row a picture: right,
found, met, there. Precision is right of found, recall met of there (but for faces right and met are one).
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

PRF = ("precision", "recall", "F1")


class Family:
    """Counts by picture, and what precision, recall and F1 are of them."""

    def __init__(self, labels: set[str]):
        self.labels = labels
        self.counts: list[tuple[int, int, int, int]] = []  # right, found, met, there

    def compute(self) -> dict[str, float]:
        return {**prf(np.sum(self.counts, axis=0)), "accuracy": self.accuracy()}

    def accuracy(self) -> float:
        """Of what was found, the right ones, where a family has no measure of its own."""
        return prf(np.sum(self.counts, axis=0))["precision"]


def prf(counts: np.ndarray) -> dict[str, float]:
    """Precision, recall and F1 of counts (4,); nothing found where nothing is there is perfect."""
    right, found, met, there = counts
    nothing = 0.0 if found or there else 1.0
    precision, recall = ratio(right, found, nothing), ratio(met, there, nothing)
    return dict(zip(PRF, (precision, recall, f1(precision, recall))))


def f1_change(before: np.ndarray, after: np.ndarray, resamples: int = 1000) -> tuple[float, float, float]:
    """The difference of F1 between two sets of counts (pictures, 4) of the same pictures: its value, and the paired
    bootstrap's interval of 95 %."""
    picks = np.random.default_rng(0).multinomial(len(before), np.full(len(before), 1 / len(before)), resamples)
    changes = [prf(new)["F1"] - prf(old)["F1"] for old, new in zip(picks @ before, picks @ after)]
    low, high = np.quantile(changes, (0.025, 0.975))
    return prf(after.sum(axis=0))["F1"] - prf(before.sum(axis=0))["F1"], float(low), float(high)


class Objects(Family):
    """Boxes that have the right name at IoU 0.5; accuracy: of boxes at the right place, those rightly named."""

    def __init__(self, labels: set[str]):
        super().__init__(labels)
        self.placed = DetectionF1()

    def update(self, truth: Sample, found: Sample) -> int:
        true = [r for r in truth.regions if r.kind == "object"]
        said = [r for r in found.regions if r.kind == "object" and not r.refines and fold_label(r.label) in self.labels]
        named = DetectionF1()
        for label in {fold_label(r.label) for r in (*true, *said)}:
            named.update(*([r for r in regions if fold_label(r.label) == label] for regions in (true, said)))
        there, found, right, _ = np.sum(named.rows, axis=0) if named.rows else (0, 0, 0, 0)
        self.counts.append((right, found, right, there))
        self.placed.update(true, said)
        return len(said)

    def accuracy(self) -> float:
        return self.placed.compute()["label_accuracy"]


class Lines(Family):
    """Quads of text at IoU over 0.5, words aside; accuracy: 1 - CER of what was read, beside its true line."""

    def __init__(self, labels: set[str]):
        super().__init__(labels)
        self.quads, self.letters = QuadWords(), TextErrors()

    def update(self, truth: Sample, found: Sample) -> int:
        true, read = ([r for r in s.regions if r.kind == "text"] for s in (truth, found))
        self.quads.update(true, read)
        there, said, right, _ = self.quads.rows[-1]
        self.counts.append((right, said, right, there))
        sure = [r for r in true if not r.ignore]
        self.letters.update(*paired_lines(dataclasses.replace(truth, regions=tuple(sure)), found))
        return len(read)

    def accuracy(self) -> float:
        return max(0.0, 1 - self.letters.compute()["CER"])


class Masks(Family):
    """Masks of objects at mask IoU 0.5 with that of the true box they lie on; accuracy: their mean IoU."""

    def __init__(self, labels: set[str]):
        super().__init__(labels)
        self.overlaps: list[float] = []

    def update(self, truth: Sample, found: Sample) -> int:
        true = [r for r in truth.regions if r.kind == "object" and r.polygons and not r.ignore]
        said = [r for r in found.regions if r.refines and (r.polygons or r.mask)]
        size_wh, overlaps = found.image.size_wh, []
        for t, f, _ in match(true, said):
            a, b = (_drawn(region, size_wh) for region in (true[t], said[f]))
            overlaps.append(ratio((a & b).sum(), (a | b).sum()))
        right = sum(overlap >= 0.5 for overlap in overlaps)
        self.counts.append((right, len(said), right, len(true)))
        self.overlaps += overlaps
        return len(said)

    def accuracy(self) -> float:
        return float(np.mean(self.overlaps)) if self.overlaps else 0.0


class Texts(Family):
    """Kinds of things that captions name against those that are there; accuracy: CIDEr of the brief ones (0 to 10)."""

    def __init__(self, labels: set[str]):
        super().__init__(labels)
        self.parser, self.captions = Parser(), Captions()
        self._kinds: dict[str, set[str]] = {}

    def update(self, truth: Sample, found: Sample) -> int:
        there = {fold_label(r.label) for r in truth.regions if r.kind == "object"}
        said = [t for t in found.texts if t.detail in ("brief", "detailed", "more_detailed")]
        named = set[str]().union(*(self.kinds(text.text) for text in said))
        self.counts.append((len(named & there), len(named), len(named & there), len(there)))
        brief = [text.text for text in said if text.detail == "brief"]
        self.captions.update([t.text for t in truth.texts if t.detail == "brief"] or ["-"], (brief or [""])[0])
        return len(said)

    def kinds(self, text: str) -> set[str]:
        if text not in self._kinds:
            words = self.parser.parse(text)
            chunks = self.parser.noun_chunks(text)
            self._kinds[text] = {
                label for label in sorted(self.labels) if any(matches(c, words, label) for c in chunks)
            }
        return self._kinds[text]

    def accuracy(self) -> float:
        return self.captions.compute()["CIDEr"]


class Phrases(Family):
    """Phrases of people's captions: the best box given lies, at IoU 0.5, on one that the truth gives."""

    def update(self, truth: Sample, found: Sample) -> int:
        texts = {t.id: t.text for t in (*truth.texts, *found.texts)}
        boxes = {r.id: r for r in (*truth.regions, *found.regions)}
        right = answered = there = 0
        for true in truth.groundings:
            on = [region_box(boxes[i]) for i in true.region_ids if i in boxes]
            if not true.spans or not on:
                continue
            there += 1
            said = [g for g in found.groundings if texts.get(g.text_id) == texts[true.text_id] and _overlap(g, true)]
            given = [boxes[i] for g in said for i in g.region_ids if i in boxes]
            if given:
                answered += 1
                best = max(given, key=lambda r: r.score or 0.0)
                right += int(geometry.iou([region_box(best)], on).max() >= 0.5)
        self.counts.append((right, answered, right, there))
        return len(found.groundings)


class Faces(Family):
    """Faces whose middle lies in a true person or crowd (precision), and people in whom a face was found (recall)."""

    def update(self, truth: Sample, found: Sample) -> int:
        crowds, people = ([region_box(r) for r in truth.regions if r.label == "person" and r.ignore is crowd]
                          for crowd in (True, False))  # fmt: skip
        said = [region_box(r) for r in found.regions if r.label == "face" and not r.refines]
        middles = [((x1 + x2) / 2, (y1 + y2) / 2) for x1, y1, x2, y2 in said]
        inside = np.array([[a < x < c and b < y < d for a, b, c, d in (*people, *crowds)] for x, y in middles])
        inside = inside.reshape(len(said), len(people) + len(crowds))
        right, met = int(inside.any(axis=1).sum()), int(inside[:, : len(people)].any(axis=0).sum())
        self.counts.append((right, len(said), met, len(people)))
        return len(said)


FAMILIES = {"objects": Objects, "lines": Lines, "masks": Masks, "texts": Texts, "phrases": Phrases, "faces": Faces}


def _overlap(a, b) -> bool:
    return any(x < d and c < y for x, y in a.spans for c, d in b.spans)


def _drawn(region: Region, size_wh) -> np.ndarray:
    return geometry.decode_rle(region.mask) if region.mask else geometry.rasterize(region.polygons, size_wh)
