"""An afternoon with a folder of pictures: labels by a model, a person's corrections, LoRA, again; AP against minutes.

    python benchmarks/afternoon.py DATA/cards/train [--out runs/afternoon] [--targets 0,20,50,100] [--model nano_256]

The pictures of the set's train part go into a store without their labels. The model annotates them, held to the set's
labels; a simulated person goes over the next ones in the order of `florence2 review`, by the very calls that the page
makes, until so many are corrected; a LoRA is trained further on all that was gone over; it annotates the pictures that
are left; and so on. AP is of the set's test part, which nobody sees before. Of a set with fewer pictures than a target
all are gone over. The person makes no mistake and works at the SECONDS below, which are assumptions but for drawing a
box (7 s: extreme clicking, Papadopoulos et al. 2017, arXiv 1708.02750); what was done is counted, so that others can
put in their own. Training is timed as it ran. The same command again goes on where it was stopped. Last line JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections import Counter
from pathlib import Path
from typing import Any

import florence2
from florence2 import geometry, sources
from florence2.engine.curation.correcting import AnnotationChange, Correction, correct
from florence2.engine.curation.review_order import objects, review_order
from florence2.engine.specialists.student import StudentSpecialist
from florence2.formats import jsonl
from florence2.records import Region, Sample
from florence2.store import PictureIndex, Store

SECONDS = {"look": 2.5, "kept": 0.0, "rejected": 1.5, "relabelled": 2.0, "moved": 4.0, "added": 8.0}
FITS, MEANT = 0.75, 0.4  # IoU from which a box is left as it is; from which it is the object's, and is moved
PERSON = "simulated person"
RECIPE: dict[str, Any] = {
    "batch_size": 8, "lr": 2e-3, "warmup_steps": 30, "schedule": "cosine", "strategy": "lora",
    "lora": {"rank": 32, "alpha": 32, "dropout": 0.0}, "dropout": 0.0, "augment": "default", "flip": 0.5, "crop": 0.7,
    "precision": "bf16", "save_every": 50, "seed": 0,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="a set of pictures with boxes: cards/train")
    parser.add_argument("--out", type=Path, default=Path("runs/afternoon"))
    parser.add_argument("--targets", default="0,20,50,100", help="pictures gone over when it is scored")
    parser.add_argument("--model", default="nano_256", help="to begin with")
    parser.add_argument("--steps", type=int, default=200, help="of each training, of 8 pictures")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    truth = {os.path.abspath(s.image.uri): s for s in sources.open(args.data, split="train")}
    labels = sorted({region.label for sample in truth.values() for region in objects(sample)})
    journal = args.out / "afternoon.jsonl"
    rows = [json.loads(line) for line in journal.read_text().splitlines()] if journal.exists() else []
    model, store = args.model, args.out / "store"
    for stage, target in enumerate(int(each) for each in args.targets.split(",")):
        target = min(target, len(truth))
        if stage < len(rows):
            model = rows[stage]["model"]
            continue
        done: Counter[str] = Counter()
        if target:
            done = go_over(Store(store), truth, target, args.out / f"review_{stage}.json")
        row = {"corrected": target, "review": dict(done), "review_minutes": round(minutes(done), 2)}
        begun = time.monotonic()
        if target:
            model = train(Store(store), model, args.out / f"model_{stage}", args.steps)
        row["training_minutes"] = round((time.monotonic() - begun) / 60, 2)
        scores = florence2.evaluate(model, args.data, "OD", args.out / f"scores_{stage}", split="test")["metrics"]
        row |= {"model": model, "labels_right": agreement(annotated(store, truth, model, labels), truth)}
        row |= {name: round(scores[name], 4) for name in ("AP", "AP50")}
        rows.append(row)
        with open(journal, "a") as file:
            file.write(json.dumps(row) + "\n")
        print(json.dumps(row), flush=True)
    report(rows, truth)


def annotated(path: Path, truth: dict[str, Sample], model: str, labels: list[str]) -> Store:
    """The store with a model's boxes on every picture, in place of those of the model before."""
    specialist = StudentSpecialist(model, ("<OD>",), labels=labels)
    if path.exists():
        florence2.annotate(path, with_=[specialist], workers=0)
    else:
        bare = [Sample(sample.image.id, sample.image) for sample in truth.values()]
        florence2.annotate(bare, path, [specialist], workers=0)
    return florence2.filter(path, {"region_score": {"min": 0.2}, "nms": {}}, workers=0)


def go_over(store: Store, truth: dict[str, Sample], target: int, notes: Path) -> Counter[str]:
    """Correct pictures in the order of review until `target` are complete; what was done for it, counted.

    `notes` holds what was done before an interruption.
    """
    index = store.picture_index()
    done: Counter[str] = Counter(json.loads(notes.read_text()) if notes.exists() else {})
    left = target - sum(1 for code in index.review if index.text("review", code) == "complete")
    for one in review_order(store)[: max(0, left)]:
        index = correct_picture(store, index, one.image_id, truth, done)
        notes.write_text(json.dumps(done))
    return done


def correct_picture(
    store: Store, index: PictureIndex, image_id: str, truth: dict[str, Sample], done: Counter[str]
) -> PictureIndex:
    """What a person does to one picture: leave, relabel, move and reject what is there, draw what is not; accept."""
    state = index.state(image_id)
    assert state is not None
    missing = objects(truth[os.path.abspath(state.row.image.uri)])
    changes: list[AnnotationChange] = []
    for region in sorted(objects(state.sample.current()), key=lambda r: -(r.score or 0)):
        meant = max(missing, key=lambda true: (_iou(region, true), true.label == region.label), default=None)
        overlap = _iou(region, meant) if meant is not None else 0.0
        if meant is None or overlap < MEANT:
            changes.append(AnnotationChange("rejected", region.id))
            done["rejected"] += 1
            continue
        missing.remove(meant)
        moved, relabelled = overlap < FITS, region.label != meant.label
        done["moved"] += moved
        done["relabelled"] += relabelled
        if moved or relabelled:
            box = meant.box if moved else None
            changes.append(AnnotationChange("changed", region.id, label=meant.label, box=box))
        else:
            changes.append(AnnotationChange("kept", region.id))
            done["kept"] += 1
    changes += [AnnotationChange("added", label=true.label, box=true.box) for true in missing]
    done["added"] += len(missing)
    done["look"] += 1
    every = tuple(sorted({r.label for sample in truth.values() for r in objects(sample)}))
    (outcome,), index = correct(store, [Correction(PERSON, image_id, tuple(changes), complete=every)], index)
    if isinstance(outcome, Exception):
        raise outcome
    return index


def train(store: Store, start: str, out: Path, steps: int) -> str:
    """A LoRA on the pictures that were gone over."""
    reviewed = [
        s for s in store.samples() if any(c.state == "exhaustive" for found in s.coverage.values() for c in found)
    ]
    data = out.with_suffix(".data")
    if not data.exists():
        jsonl.write(reviewed, data)
    config = {**RECIPE, "model": start, "out": str(out), "steps": steps, "data": [{"path": str(data), "tasks": ["OD"]}]}
    florence2.train(config)
    return str(out)


def agreement(store: Store, truth: dict[str, Sample]) -> float:
    """F1 of the store's boxes against the truth, right name and IoU 0.5: what the next person finds."""
    hits = found = true = 0
    for sample in store.samples():
        missing = objects(truth[os.path.abspath(sample.image.uri)])
        true, found = true + len(missing), found + len(objects(sample))
        for region in objects(sample):
            fits = [one for one in missing if one.label == region.label and _iou(region, one) >= 0.5]
            if fits:
                missing.remove(max(fits, key=lambda one: _iou(region, one)))
                hits += 1
    return round(2 * hits / max(1, found + true), 4)


def minutes(done: Counter[str]) -> float:
    """How long a person takes for what was done."""
    return sum(SECONDS[what] * count for what, count in done.items()) / 60


def report(rows: list[dict[str, Any]], truth: dict[str, Sample]) -> None:
    """A table, then one line of JSON."""
    spent = 0.0
    boxes = sum(len(objects(sample)) for sample in truth.values())
    by_hand = minutes(Counter(look=len(truth), added=boxes))
    print(f"\n{len(truth)} pictures, {boxes} boxes; drawn by hand: {by_hand:.1f} minutes")
    print("| corrected | person, minutes in all | training, minutes | AP | AP50 | F1 of the store's labels |")
    print("|---|---|---|---|---|---|")
    for row in rows:
        spent += row["review_minutes"]
        cells = (row["corrected"], f"{spent:.1f}", row["training_minutes"], row["AP"], row["AP50"], row["labels_right"])
        print(f"| {' | '.join(map(str, cells))} |")
    print(json.dumps({"benchmark": "afternoon", "by_hand_minutes": round(by_hand, 1), "rows": rows}))


def _iou(one: Region, other: Region) -> float:
    return float(geometry.iou(geometry.as_boxes([one.box]), geometry.as_boxes([other.box]))[0, 0])


if __name__ == "__main__":
    main()
