"""All 15 tasks of a model on held-out scenes, each score beside the same model's on a grey picture.

    python benchmarks/nano.py [--model nano] [--pictures 500] [--out runs/nano-scores]
    python benchmarks/nano.py --scenes objects=5-12,min_side=0.08,size=256 --tasks OD      # many small things

Scenes of seeds from 2**31 on, 1-3 objects whose side is at least 15 % of the picture, a sign on 45 % of them. OD is
asked about every picture, the other tasks about two fifths of them, those with ten asks a picture about a 25th.
Besides: F1 of a brief caption's facts (each kind with its count, the sign, what it says, the background), and the
share of texts that are read without an error.
Prints a table and, last, one JSON line.
"""

from __future__ import annotations

import argparse
import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import florence2
from florence2 import sources
from florence2.codec.tasks import TASKS, task_of
from florence2.evaluation import evaluate, predictions
from florence2.evaluation.eval_items import eval_items_of
from florence2.evaluation.metric_specs import words_of
from florence2.labels import fold_spaces
from florence2.records import Sample
from florence2.scenes import TRAINING_SEEDS

# task -> the metrics that the model card states, and the share of the pictures it is asked about
SHOWN = {
    "OD": ("F1", "label_accuracy", "AP50", "AP"),
    "DENSE_REGION_CAPTION": ("F1", "label_accuracy"),
    "REGION_PROPOSAL": ("F1",),
    "CAPTION": ("CIDEr", "ROUGE_L"),
    "DETAILED_CAPTION": ("CIDEr", "ROUGE_L"),
    "MORE_DETAILED_CAPTION": ("CIDEr", "ROUGE_L"),
    "OCR": ("CER",),
    "OCR_WITH_REGION": ("F1", "detection_F1"),
    "CAPTION_TO_PHRASE_GROUNDING": ("recall_any",),
    "OPEN_VOCABULARY_DETECTION": ("labelled_F1",),
    "REFERRING_EXPRESSION_SEGMENTATION": ("mIoU",),
    "REGION_TO_SEGMENTATION": ("mIoU",),
    "REGION_TO_CATEGORY": ("accuracy",),
    "REGION_TO_DESCRIPTION": ("CIDEr",),
    "REGION_TO_OCR": ("CER",),
}
MANY_ASKS = ("REFERRING_EXPRESSION_SEGMENTATION", "OPEN_VOCABULARY_DETECTION")  # ten of them a picture
assert set(SHOWN) == {task.name for task in TASKS.values()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="nano")
    parser.add_argument("--pictures", type=int, default=500)
    parser.add_argument("--out", default="runs/nano-scores")
    parser.add_argument("--tasks", nargs="*", default=list(SHOWN), help="some of them, to share the work out")
    parser.add_argument("--scenes", default="objects=1-3,min_side=0.15,signs=0.45", help="what is drawn")
    args = parser.parse_args()
    model = florence2.load(args.model)
    spec = f"scenes:count={args.pictures},seed={TRAINING_SEEDS},{args.scenes}"
    scenes = list(sources.open(spec))
    print("| task | metric | nano | grey picture | gain, 95 % interval | works |\n|---|---|---|---|---|---|")
    result = {}
    for name in args.tasks:
        share = 1 if name == "OD" else 0.04 if name in MANY_ASKS else 0.4
        asked = scenes[: max(1, round(share * len(scenes)))]
        found = evaluate(model, asked, name, Path(args.out) / name, resamples=200)
        for key in SHOWN[name]:
            grey, gain = found["grey"]["metrics"][key], found["gain"][key]
            low, high = gain["interval"]
            row = f"{found['metrics'][key]:.3f} | {grey:.3f} | {gain['value']:+.3f} ({low:+.3f} to {high:+.3f})"
            print(f"| {name} | {key} | {row} | {'yes' if gain['works'] else 'no'} |", flush=True)
            result[f"{name}.{key}"] = {"score": round(found["metrics"][key], 4), "grey": round(grey, 4)}
        if name in ("CAPTION", "OCR"):
            key, *values = texts_of(name, asked, Path(args.out) / name)
            print(f"| {name} | {key} | {values[0]:.3f} | {values[1]:.3f} | | |", flush=True)
            result[f"{name}.{key}"] = dict(zip(("score", "grey"), values))
    print(json.dumps({"benchmark": "nano", "pictures": args.pictures, "scenes": args.scenes, **result}))


def texts_of(name: str, asked: Sequence[Sample], out: Path) -> tuple[str, float, float]:
    """What else texts are scored by: (its name, the score, that on grey pictures)."""
    items, values = eval_items_of(asked, task_of(name)), []
    for file in ("predictions.jsonl", "predictions_grey.jsonl"):
        found = predictions.read(out / file, items)
        pairs = [(words_of(item.truths[0]), words_of(found[item.key])) for item in items]
        if name == "OCR":
            values.append(sum(fold_spaces(true) == fold_spaces(said) for true, said in pairs) / len(pairs))
            continue
        true, said = (Counter((n, fact) for n, pair in enumerate(pairs) for fact in facts(pair[k])) for k in range(2))
        values.append(2 * (true & said).total() / (true.total() + said.total()))
    return "exact" if name == "OCR" else "facts' F1", round(values[0], 4), round(values[1], 4)


def facts(caption: str) -> list[str]:
    """What a brief caption of a scene says: "two cats", "a sign", what the sign says, its background."""
    caption = caption[:1].lower() + caption[1:]
    text, on, ground = caption.partition(" on a ") if " on a " in caption else caption.partition(" on an ")
    text, *signs = re.split(r' that says (".*?")', text)
    parts = re.split(r",? and |, ", " ".join([text, *signs[1::2]]))
    return [part for part in (*map(str.strip, parts), *signs[::2], ground if on else "") if part]


if __name__ == "__main__":
    main()
