"""What the scores of answers are worth: of the boxes that it scores so, how many are right.

    python benchmarks/student_scores.py [--model nano] [--pictures 400]

Held-out scenes: half of them such as nano was trained on (1-3 objects), half with 4-8 smaller ones, signs on 45 %. A
box is right if it has the label of a true box that it overlaps by IoU 0.5 and that no surer box has taken. Prints a
line for each tenth of the scale, then for each way of scoring the gap between score and precision (ECE), how well it
ranks (AUROC), F1 when all is kept and at the floor that is best on every other scene, measured on the scenes between
them (of what was found: to keep all has recall 1). Last, one JSON line.
"""

from __future__ import annotations

import argparse
import json
import math

import numpy as np

import florence2
from florence2 import geometry, sources
from florence2.codec.tasks import TASKS
from florence2.labels import fold_label
from florence2.metrics.detection import region_box
from florence2.predictor import confidence
from florence2.records import Grounding
from florence2.scenes import TRAINING_SEEDS

REGIMES = ("objects=1-3,min_side=0.15,signs=0.45", "objects=4-8,min_side=0.08,signs=0.45")
ASKED = ("<OD>", "<OCR_WITH_REGION>", "<CAPTION_TO_PHRASE_GROUNDING>")
SPREADS = (20, 30, 40, 50, 75, 100)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="nano")
    parser.add_argument("--pictures", type=int, default=400)
    parser.add_argument("--task", default="<OD>", choices=ASKED)
    args = parser.parse_args()
    model = florence2.load(args.model)
    half = args.pictures // 2
    rows = [row for n, r in enumerate(REGIMES) for row in seen(model, args.task, r, TRAINING_SEEDS + n * half, half)]
    name, place, mean, right, odd = (np.array(column) for column in zip(*rows))
    score = np.array([confidence.detection_confidence(*pair) for pair in zip(name, place)])
    print(f"{args.task}: {len(rows)} boxes of {2 * half} scenes, {right.mean():.3f} right; SPREAD {confidence.SPREAD}")
    print("| score | boxes | mean score | right |\n|---|---|---|---|")
    for low in np.arange(0, 1, 0.1):
        inside = (score >= low) & ((score < low + 0.1) | (low > 0.89))
        cells = f"{score[inside].mean():.3f} | {right[inside].mean():.3f}" if inside.any() else " | "
        print(f"| {low:.1f}-{low + 0.1:.1f} | {inside.sum()} | {cells} |")
    tried = {
        "as answers have it": score,
        "mean over tokens": mean,
        "name x place": score**2,
        "place alone": place * confidence.SPREAD,
    }
    tried |= {f"SPREAD {s}": np.sqrt(name * np.minimum(1.0, s * place)) for s in SPREADS}
    print("| score | ECE | AUROC | F1 of all | floor | its F1 |\n|---|---|---|---|---|---|")
    result = {}
    for what, values in tried.items():
        values = np.minimum(values, 1.0)
        floor = max(np.arange(0, 0.96, 0.05), key=lambda floor: f1(values[~odd] >= floor, right[~odd]))
        everything, best = f1(values[odd] >= 0, right[odd]), f1(values[odd] >= floor, right[odd])
        result[what] = {"ece": round(ece(values, right), 4), "auroc": round(auroc(values, right), 4)}
        result[what] |= {"floor": round(float(floor), 2), "f1": round(best, 4)}
        cells = f"{result[what]['ece']:.3f} | {result[what]['auroc']:.3f} | {everything:.3f}"
        print(f"| {what} | {cells} | {floor:.2f} | {best:.3f} |")
    print(json.dumps({"benchmark": "student_scores", "task": args.task, "boxes": len(rows), **result}))


def seen(model, task: str, regime: str, seed: int, count: int):
    """(probability of the name, mean of the locations, mean over all tokens, right?, of every other scene?) a box."""
    scenes = list(sources.open(f"scenes:count={count},seed={seed},{regime}"))
    pairs = [(n % 2 == 1, scene, *pair) for n, scene in enumerate(scenes) for pair in TASKS[task].truths(scene)]
    answers = model.predict_many([(scene.image, ask) for _, scene, ask, _ in pairs], batch_size=32)
    for (odd, _, _, true), answer in zip(pairs, answers):
        logprobs, boxes = answer.token_logprobs, []
        for item in answer.groundings or answer.regions:
            span = answer.token_spans[item.id]
            tokens = (span.text_tokens, span.location_tokens, (*span.text_tokens, *span.location_tokens))
            boxes.append((*(confidence.mean_probability(logprobs, at) for at in tokens), item))
        truth, of_truth = named_boxes(true)
        free = set(range(len(truth)))
        for name, place, everything, item in sorted(boxes, key=lambda b: -b[2]):
            label, box = named_box(item, answer)
            overlaps = geometry.iou([box], [t for _, t in truth])[0] if truth else []
            fit = [(o, t) for t, o in enumerate(overlaps) if t in free and o >= 0.5 and same(task, truth[t][0], label)]
            if fit:
                free -= of_truth[max(fit)[1]]
            yield name, place, everything, bool(fit), odd


def named_boxes(parsed) -> tuple[list[tuple[str, tuple]], list[set[int]]]:
    """(name, box) of all that is true, and for each which of them one answer uses up: all boxes of a phrase."""
    if not parsed.groundings:
        boxes = [(region.label, region_box(region)) for region in parsed.regions]
        return boxes, [{n} for n in range(len(boxes))]
    by_id = {region.id: region for region in parsed.regions}
    rows = [(n, g.phrase, by_id[i]) for n, g in enumerate(parsed.groundings) for i in g.region_ids]
    of_phrase = [{k for k, row in enumerate(rows) if row[0] == n} for n, _, _ in rows]
    return [(phrase, region_box(region)) for _, phrase, region in rows], of_phrase


def named_box(item, answer) -> tuple[str, tuple]:
    """The name and the (first) box of a region or a phrase."""
    if not isinstance(item, Grounding):
        return item.label, region_box(item)
    return item.phrase, region_box(next(r for r in answer.regions if r.id == item.region_ids[0]))


def same(task: str, truth: str, found: str) -> bool:
    """Whether the name is right; what a line of text says is not judged."""
    return task == "<OCR_WITH_REGION>" or fold_label(truth) == fold_label(found)


def f1(kept: np.ndarray, right: np.ndarray) -> float:
    """Of the right boxes among those found: keeping all has recall 1."""
    both = (kept & right).sum()
    return 2 * both / max(1, kept.sum() + right.sum())


def ece(score: np.ndarray, right: np.ndarray) -> float:
    """The mean distance of precision and score over ten bins, weighted by their boxes."""
    places = np.minimum((score * 10).astype(int), 9)
    gaps = [
        (places == b).mean() * abs(score[places == b].mean() - right[places == b].mean()) for b in np.unique(places)
    ]
    return float(sum(gaps))


def auroc(score: np.ndarray, right: np.ndarray) -> float:
    """The chance that a right box is scored above a wrong one."""
    good, bad = score[right], score[~right]
    if not len(good) or not len(bad):
        return math.nan
    return float((good[:, None] > bad).mean() + 0.5 * (good[:, None] == bad).mean())


if __name__ == "__main__":
    main()
