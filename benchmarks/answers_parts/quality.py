"""Does a score measure how good an answer is? Lines by how they are read, outlines by masks, captions by their facts.

Few of nano's readings and outlines are right to the letter or to IoU 0.5, so "right" says little of them. Here each
item has a goodness in [0, 1]: 1 - CER of a reading (of the true line that it lies on, 0 where it lies on none), IoU of
a mask, share of a caption's words that a true caption has. For every formula the rank correlation (Spearman) of score
and goodness; intervals: resampled pictures. Drawn scenes; readings on large signs.
"""

from __future__ import annotations

import numpy as np

from answers_parts.asked import SCENES, model_of, samples_of
from answers_parts.confidence import columns_of, formulas
from florence2 import geometry
from florence2.codec.tasks import task_of
from florence2.evaluation.eval_items import eval_items_of
from florence2.labels import fold_spaces
from florence2.metrics.detection import region_box
from florence2.metrics.ocr import edit_distance
from florence2.metrics.segmentation import union_mask
from florence2.predictor.confidence import WINDOW
from florence2.scenes import TRAINING_SEEDS

SIGNS = "objects=0-1,min_side=0.2,signs=1"
TASKS = {  # task -> the scenes, and the share of --pictures
    "OCR": (SIGNS, 0.5),
    "OCR_WITH_REGION": (SIGNS, 0.5),
    "REGION_TO_OCR": (SIGNS, 0.5),
    "CAPTION": (SCENES, 0.3),
    "DETAILED_CAPTION": (SCENES, 0.3),
    "REGION_TO_SEGMENTATION": (SCENES, 0.15),
    "REFERRING_EXPRESSION_SEGMENTATION": (SCENES, 0.05),
}


def run(args) -> dict:
    """A table a task; the figures."""
    figures = {}
    for name, (scenes, share) in TASKS.items():
        count = max(12, int(args.pictures * share))
        samples = samples_of(f"scenes:count={count},seed={TRAINING_SEEDS + 3 * 10**6},{scenes}", None)
        model, task = model_of(args.model), task_of(name)
        items = eval_items_of(samples, task)
        found = model.predict_many([(item.sample.image, item.ask) for item in items], batch_size=16)
        places = {image: n for n, image in enumerate(dict.fromkeys(item.image for item in items))}
        rows = [(places[item.image], item, answer) for item, answer in zip(items, found)]
        c = columns_of(name, rows)
        good = np.array([goodness(task, rows[row][1], rows[row][2], item) for row, item in zip(c["row"], c["id"])])
        tried = formulas(c, WINDOW)
        own = {formula: ranked(scores, good, c["picture"], args.resamples) for formula, scores in tried.items()}
        figures[name] = {"items": len(good), "mean": round(float(good.mean()), 4), "formulas": own}
        print(f"\n{name}: {len(good)} items, {good.mean():.3f} good in the mean, {c['right'].mean():.3f} right\n")
        print("| score | Spearman |\n|---|---|")
        for formula, (value, low, high) in own.items():
            print(f"| {formula} | {value:.3f} ({low:.3f} to {high:.3f}) |", flush=True)
    return figures


def goodness(task, item, answer, name: str) -> float:
    """How good an item of an answer is, 0 to 1."""
    truth = item.truths[0]
    if task.output_kind == "polygons":
        size_wh = item.sample.image.size_wh
        own, true = union_mask(answer.regions, size_wh), union_mask(truth.regions, size_wh)
        return float((own & true).sum() / max(1, (own | true).sum()))
    if task.output_kind == "quads":
        (region,) = [r for r in answer.regions if r.id == name]
        overlaps = geometry.iou([region_box(region)], [region_box(r) for r in truth.regions])[0]
        best = int(overlaps.argmax())
        return read(region.label, truth.regions[best].label) if overlaps[best] >= 0.5 else 0.0
    if task.output_kind == "region_text":
        return max(read(r.label, other.label) for r in answer.regions for one in item.truths for other in one.regions)
    (text,) = answer.texts
    true = [other.text for one in item.truths for other in one.texts]
    if task.storage_rule == "ocr":
        return max(read(text.text, other) for other in true)
    words = {word.strip(".,").casefold() for word in text.text.split()}
    known = [{word.strip(".,").casefold() for word in other.split()} for other in true]
    return max(len(words & other) for other in known) / max(1, len(words))


def read(said: str, true: str) -> float:
    """1 - CER, at the least 0."""
    said, true = fold_spaces(said), fold_spaces(true)
    return max(0.0, 1 - edit_distance(said, true) / max(1, len(true)))


def ranked(scores: np.ndarray, good: np.ndarray, pictures: np.ndarray, resamples: int) -> tuple[float, float, float]:
    """Spearman's rank correlation, and its 95 % interval over resampled pictures."""
    rng = np.random.default_rng(0)
    places = {picture: np.flatnonzero(pictures == picture) for picture in np.unique(pictures).tolist()}
    names = list(places)
    draws = []
    for _ in range(resamples):
        drawn = np.concatenate([places[names[n]] for n in rng.integers(0, len(names), len(names))])
        draws.append(spearman(scores[drawn], good[drawn]))
    low, high = np.percentile(draws, [2.5, 97.5])
    return round(spearman(scores, good), 4), round(float(low), 4), round(float(high), 4)


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson's correlation of the ranks, equal values sharing theirs; 0 where one of them never differs."""
    a, b = _ranks(a), _ranks(b)
    return float(np.corrcoef(a, b)[0, 1]) if a.std() and b.std() else 0.0


def _ranks(values: np.ndarray) -> np.ndarray:
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[places]
