"""All 15 tasks of a model on held-out scenes, each score beside the same model's on a grey picture.

    python benchmarks/nano.py [--model nano] [--pictures 500] [--out runs/nano-scores]
    python benchmarks/nano.py --scenes objects=5-12,min_side=0.08,size=256 --tasks OD      # many small things

Scenes of seeds from 2**31 on, 1-3 objects whose side is at least 15 % of the picture, a sign on 45 % of them. OD is
asked about every picture, the other tasks about two fifths of them, those with ten asks a picture about a 25th.
Prints a table and, last, one JSON line.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import florence2
from florence2 import sources
from florence2.codec.tasks import TASKS
from florence2.evaluation import evaluate
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
    print(json.dumps({"benchmark": "nano", "pictures": args.pictures, "scenes": args.scenes, **result}))


if __name__ == "__main__":
    main()
