"""What the student's scores are worth: of the boxes that it scores so, how many are right.

    python benchmarks/student_scores.py [--model nano] [--pictures 400]

Held-out scenes: half of them such as nano was trained on (1-3 objects), half with 4-8 smaller ones, signs on 45 %. A
box is right if it has the label of a true box that it overlaps by IoU 0.5 and that no surer box has taken. Prints a
line for each tenth of the scale, then for each way of scoring the gap between score and precision (ECE), how well it
ranks (AUROC), F1 at the filters' floor of 0.4 and at the best floor (of what was found: to keep all has recall 1).
Last, one JSON line.
"""

from __future__ import annotations

import argparse
import json
import math

import numpy as np

import florence2
from florence2 import geometry, sources
from florence2.codec.answers import parse_ids
from florence2.engine.specialists import student
from florence2.records import Ask
from florence2.scenes import TRAINING_SEEDS

REGIMES = ("objects=1-3,min_side=0.15,signs=0.45", "objects=4-8,min_side=0.08,signs=0.45")
SPREADS = (20, 30, 40, 50, 75, 100)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="nano")
    parser.add_argument("--pictures", type=int, default=400)
    parser.add_argument("--task", default="<OD>", choices=("<OD>", "<OCR_WITH_REGION>"))
    args = parser.parse_args()
    model = florence2.load(args.model)
    half = args.pictures // 2
    rows = [row for n, r in enumerate(REGIMES) for row in seen(model, args.task, r, TRAINING_SEEDS + n * half, half)]
    name, place, mean, right = (np.array(column) for column in zip(*rows))
    score = np.array([student.detection_confidence(*pair) for pair in zip(name, place)])
    print(f"{args.task}: {len(rows)} boxes of {2 * half} scenes, {right.mean():.3f} right; SPREAD {student.SPREAD}")
    print("| score | boxes | mean score | right |\n|---|---|---|---|")
    for low in np.arange(0, 1, 0.1):
        inside = (score >= low) & ((score < low + 0.1) | (low > 0.89))
        cells = f"{score[inside].mean():.3f} | {right[inside].mean():.3f}" if inside.any() else " | "
        print(f"| {low:.1f}-{low + 0.1:.1f} | {inside.sum()} | {cells} |")
    tried = {
        "as the student": score,
        "mean over tokens": mean,
        "name x place": score**2,
        "place alone": place * student.SPREAD,
    }
    tried |= {f"SPREAD {s}": np.sqrt(name * np.minimum(1.0, s * place)) for s in SPREADS}
    print("| score | ECE | AUROC | F1 at 0.4 | best floor | its F1 |\n|---|---|---|---|---|---|")
    result = {}
    for what, values in tried.items():
        values = np.minimum(values, 1.0)
        floor, best = max(((f, f1(values >= f, right)) for f in np.arange(0, 0.95, 0.05)), key=lambda pair: pair[1])
        result[what] = {"ece": round(ece(values, right), 4), "auroc": round(auroc(values, right), 4)}
        cells = f"{result[what]['ece']:.3f} | {result[what]['auroc']:.3f} | {f1(values >= 0.4, right):.3f}"
        print(f"| {what} | {cells} | {floor:.2f} | {best:.3f} |")
    print(json.dumps({"benchmark": "student_scores", "task": args.task, "boxes": len(rows), **result}))


def seen(model, task: str, regime: str, seed: int, count: int):
    """(probability of the name, mean probability of the locations, mean over all tokens, whether right) a box."""
    scenes = list(sources.open(f"scenes:count={count},seed={seed},{regime}"))
    ask = Ask(task)
    kind = "object" if task == "<OD>" else "text"
    for scene, answer in zip(scenes, model.predict_many([sources.pixels(s.image) for s in scenes], ask, batch_size=32)):
        _, spans = parse_ids(answer.token_ids, model.tokenizer, task, answer.size_wh, ask)
        p = np.exp(np.array(answer.token_logprobs))
        boxes = []
        for region in answer.regions:
            span = spans[region.id]
            name, place, everything = (
                float(np.exp(np.log(np.maximum(p[list(at)], 1e-12)).mean())) if at else 1.0
                for at in (span.text_tokens, span.location_tokens, (*span.text_tokens, *span.location_tokens))
            )
            boxes.append((name, place, everything, region))
        truth = [r for r in scene.regions if r.kind == kind and r.box and not r.refines]
        free = set(range(len(truth)))
        for name, place, everything, region in sorted(boxes, key=lambda b: -b[2]):
            overlaps = geometry.iou([region.box], [t.box for t in truth])[0] if truth else []
            fit = [
                (o, t) for t, o in enumerate(overlaps)
                if t in free and o >= 0.5 and (kind == "text" or truth[t].label.casefold() == region.label.casefold())
            ]  # fmt: skip
            if fit:
                free.discard(max(fit)[1])
            yield name, place, everything, bool(fit)


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
