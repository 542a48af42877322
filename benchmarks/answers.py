"""Answers that can be trusted, measured: scores, precision and recall, absent things, and what else answers offer.

    python benchmarks/answers.py [PART ...] [--data DATA] [--bccd MODEL] [--cards MODEL] [--pictures N] [--out DIR]

Each part prints tables and gives figures; the last line is one JSON object of all of them. DATA is the folder of the
optional test data; MODEL a checkpoint trained on that set's train part (docs/confidence.md says how); without them a
part measures on held-out scenes alone. What models answered is kept under DIR and not asked again.
"""

from __future__ import annotations

import argparse
import importlib
import json
from pathlib import Path

PARTS = {  # part -> the module with run(args) -> figures
    "confidence": "answers_parts.confidence",
    "quality": "answers_parts.quality",
    "margin": "answers_parts.margin",
    "absent": "answers_parts.absent",
    "label_sets": "answers_parts.label_sets",
    "tiles": "answers_parts.tiles",
    "cost": "answers_parts.cost",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help=f"some of {', '.join(PARTS)} (default: all)")
    parser.add_argument("--model", default="nano", help="the model asked about scenes")
    parser.add_argument("--data", type=Path, help="the folder that holds bccd/ and cards/")
    parser.add_argument("--bccd", help="a model trained on BCCD's train part")
    parser.add_argument("--cards", help="a model trained on the cards' train part")
    parser.add_argument("--negatives", help="a model trained further with negatives, beside --model")
    parser.add_argument("--control", help="the same training without them")
    parser.add_argument("--tokenizer", type=Path, help="the published tokenizer's folder, for the cost at large sizes")
    parser.add_argument("--sizes", default="base", help="base,large: random weights whose cost is measured")
    parser.add_argument("--pictures", type=int, default=400, help="scenes")
    parser.add_argument("--resamples", type=int, default=200)
    parser.add_argument("--out", type=Path, default=Path("runs/answers"))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    figures = {part: importlib.import_module(PARTS[part]).run(args) for part in args.parts or PARTS}
    print(json.dumps({"benchmark": "answers", **figures}))


if __name__ == "__main__":
    main()
