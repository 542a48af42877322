"""How long scores take: COCO's numbers over 5,000 pictures and 35,000 detections, and the other metrics at that size.

    python benchmarks/metrics.py [--pictures 5000]

Processor time of one thread. The bare library is fed ready-made dictionaries. Prints a table and, last, one JSON line.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import io
import json
import time
from collections.abc import Callable

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from florence2.metrics.caption import Captions
from florence2.metrics.coco_ap import CocoDetection
from florence2.metrics.detection import DetectionF1
from florence2.metrics.ocr import QuadWords, TextErrors
from florence2.metrics.segmentation import Segmentation
from florence2.records import Region

LABELS = [f"category {n}" for n in range(80)]
Pairs = list[tuple[list[Region], list[Region]]]


def made_up(pictures: int, seed: int = 0) -> Pairs:
    """Seven true boxes and seven found ones a picture, most of them near a true one."""
    rng = np.random.default_rng(seed)
    out: Pairs = []
    for _ in range(pictures):
        corners = rng.uniform(0, 400, (7, 2))
        boxes = np.concatenate([corners, corners + rng.uniform(8, 200, (7, 2))], axis=1)
        names = rng.integers(0, 80, 7)
        truth = [Region(box=tuple(b), label=LABELS[n]) for b, n in zip(boxes.tolist(), names)]
        near = (boxes + rng.normal(0, 8, (7, 4))).tolist()
        wrong = rng.random(7) < 0.2
        found = [
            Region(box=tuple(b), label=LABELS[(n + w) % 80], score=float(s))
            for b, n, w, s in zip(near, names, wrong, rng.random(7))
        ]
        out.append((truth, found))
    return out


def ours(pairs: Pairs, engine: str) -> float:
    metric = CocoDetection(engine=engine)
    for truth, found in pairs:
        metric.update(truth, found)
    return metric.compute()["AP"]


def bootstrap(pairs: Pairs, draws: int) -> float:
    metric = CocoDetection()
    for truth, found in pairs:
        metric.update(truth, found)
    metric.compute([0])
    rng = np.random.default_rng(0)
    start = time.process_time()
    for _ in range(draws):
        metric.compute(rng.integers(0, len(pairs), len(pairs)).tolist())
    return (time.process_time() - start) / draws


def dictionaries(pairs: Pairs) -> tuple[dict, list]:
    """What the bare library takes, made beforehand."""
    number = {label: n + 1 for n, label in enumerate(LABELS)}
    truth, found = [], []
    for image, (expected, given) in enumerate(pairs):
        for r in expected:
            x1, y1, x2, y2 = r.box or (0, 0, 0, 0)
            row = {"image_id": image, "category_id": number[r.label], "bbox": [x1, y1, x2 - x1, y2 - y1]}
            truth.append({**row, "id": len(truth) + 1, "area": (x2 - x1) * (y2 - y1), "iscrowd": 0})
        for r in given:
            x1, y1, x2, y2 = r.box or (0, 0, 0, 0)
            row = {"image_id": image, "category_id": number[r.label], "bbox": [x1, y1, x2 - x1, y2 - y1]}
            found.append({**row, "score": r.score})
    categories = [{"id": n, "name": label} for label, n in number.items()]
    return {"images": [{"id": n} for n in range(len(pairs))], "annotations": truth, "categories": categories}, found


def bare(dataset: dict, found: list) -> float:
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = dataset
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(found), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return float(evaluation.stats[0])


def fed(metric, updates: list[tuple]) -> dict[str, float]:
    for update in updates:
        metric.update(*update)
    return metric.compute()


def timed(work: Callable[[], object]) -> tuple[float, object]:
    start = time.process_time()
    result = work()
    return time.process_time() - start, result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=5000)
    args = parser.parse_args()
    pairs = made_up(args.pictures)
    dataset, found = dictionaries(pairs)
    words = [" ".join(f"word{n}" for n in np.random.default_rng(i).integers(0, 900, 10)) for i in range(args.pictures)]
    polygon = (10.0, 10.0, 300.0, 20.0, 310.0, 200.0, 20.0, 220.0)
    part = Region(polygons=(polygon,))
    seconds: dict[str, float] = {}
    seconds["pycocotools_bare"], expected = timed(lambda: bare(dataset, found))
    seconds["pycocotools"], same = timed(lambda: ours(pairs, "pycocotools"))
    assert abs(float(str(same)) - float(str(expected))) < 1e-9
    if importlib.util.find_spec("hotcoco"):
        seconds["hotcoco"], same = timed(lambda: ours(pairs, "hotcoco"))
        assert abs(float(str(same)) - float(str(expected))) < 1e-9
    seconds["one_resample"] = bootstrap(pairs, 5)
    seconds["detection"], _ = timed(lambda: fed(DetectionF1(), pairs))
    seconds["captions"], _ = timed(lambda: fed(Captions(), [([w] * 5, w) for w in words]))
    seconds["text_errors"], _ = timed(lambda: fed(TextErrors(), [(w, w[::-1]) for w in words]))
    seconds["quads"], _ = timed(lambda: fed(QuadWords(), pairs))
    seconds["masks"], _ = timed(lambda: fed(Segmentation(), [([part], [part], (640, 480))] * (args.pictures // 5)))
    print(f"{args.pictures} pictures, {len(found)} detections")
    for name, value in seconds.items():
        print(f"{name:<18} {value:8.2f} s")
    over = seconds["pycocotools"] / seconds["pycocotools_bare"] - 1
    print(f"over bare pycocotools: {100 * over:+.1f} %")
    print(json.dumps({"benchmark": "metrics", "pictures": args.pictures, "over_bare": over, "seconds": seconds}))


if __name__ == "__main__":
    main()
