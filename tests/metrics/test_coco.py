"""COCO's numbers: ours equal to bare pycocotools on the same boxes, and hotcoco equal to both."""

import contextlib
import io

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from florence2.metrics.coco_ap import KEYS, CocoDetection
from florence2.records import Region

NAMES = ["cat", "dog", "traffic light", "bus"]


def random_regions(rng, count, side, scores=False, tied=False):
    out = []
    for _ in range(count):
        x, y = rng.uniform(0, side * 0.7, 2)
        w, h = rng.uniform(1, side * 0.3, 2)
        score = float(rng.choice([0.25, 0.5, 1.0]) if tied else rng.random()) if scores else None
        out.append(Region(box=(x, y, x + w, y + h), label=str(rng.choice(NAMES)), score=score))
    return out


def jittered(rng, regions, tied):
    out = []
    for region in regions:
        if rng.random() < 0.8:
            x1, y1, x2, y2 = np.array(region.box) + rng.normal(0, 0.05 * (region.box[2] - region.box[0]), 4)
            label = region.label.upper() if rng.random() < 0.9 else str(rng.choice(NAMES))
            score = float(rng.choice([0.5, 1.0])) if tied else float(rng.random())
            out.append(Region(box=(x1, y1, max(x2, x1), max(y2, y1)), label=label, score=score))
    return out


def random_set(seed, images=30, tied=False, side=400):
    rng = np.random.default_rng(seed)
    for _ in range(images):
        truth = random_regions(rng, rng.integers(0, 8), side)
        crowd = [Region(box=(0, 0, side / 2, side / 2), label="dog", ignore=True)] if rng.random() < 0.2 else []
        found = jittered(rng, truth, tied) + random_regions(rng, rng.integers(0, 5), side, scores=True, tied=tied)
        yield truth + crowd, found


def bare(pairs):
    """The twelve numbers by pycocotools alone, fed by hand."""
    number = {name: n + 1 for n, name in enumerate(NAMES)}

    def xywh(region):
        x1, y1, x2, y2 = region.box
        return [x1, y1, x2 - x1, y2 - y1]

    truth, found = [], []
    for image, (expected, given) in enumerate(pairs):
        for r in expected:
            box = xywh(r)
            truth.append(
                {"id": len(truth) + 1, "image_id": image, "category_id": number[r.label], "bbox": box,
                 "area": box[2] * box[3], "iscrowd": int(r.ignore)}
            )  # fmt: skip
        for r in given:
            score = {"score": r.score, "category_id": number[r.label.lower()]}
            found.append({"image_id": image, "bbox": xywh(r), **score})
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {
            "images": [{"id": i} for i in range(len(pairs))],
            "annotations": truth,
            "categories": [{"id": n, "name": name} for name, n in number.items()],
        }
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(found), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return dict(zip(KEYS, evaluation.stats))


def ours(pairs, engine):
    metric = CocoDetection(engine=engine)
    for truth, found in pairs:
        metric.update(truth, found)
    return metric.compute()


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("engine", ["pycocotools", "hotcoco"])
def test_numbers_equal_bare_pycocotools(seed, tied, engine):
    pairs = list(random_set(seed, images=50, tied=tied))
    assert ours(pairs, engine) == pytest.approx(bare(pairs), abs=1e-9)


@pytest.mark.parametrize("engine", ["pycocotools", "hotcoco"])
def test_perfect_empty_and_absent_sizes(engine):
    truth = [Region(box=(10, 10, 50, 60), label="Cat"), Region(box=(100, 10, 150, 60), label="dog")]
    perfect, empty, strange = (CocoDetection(engine=engine) for _ in range(3))
    for _ in range(3):
        perfect.update(truth, truth)
        empty.update(truth, [])
        strange.update(truth, [Region(box=(10, 10, 50, 60), label="unheard of")])
    assert perfect.compute()["AP"] == pytest.approx(1) and perfect.compute()["APm"] == pytest.approx(1)
    assert perfect.compute()["APs"] == perfect.compute()["ARl"] == -1  # no truth of that size
    assert empty.compute()["AP"] == strange.compute()["AP"] == 0 and empty.compute()["APl"] == -1
    assert CocoDetection(engine=engine).compute() == dict.fromkeys(KEYS, -1.0)


def test_a_box_never_matches_truth_of_another_picture():
    metric = CocoDetection()
    box = Region(box=(10, 10, 50, 60), label="cat")
    metric.update([box], [])
    metric.update([], [box])
    assert metric.compute()["AP"] == 0


def test_a_wrong_label_is_a_miss_unless_labels_are_off():
    for labels, expected in ((True, 0.0), (False, 1.0)):
        metric = CocoDetection(labels=labels)
        metric.update([Region(box=(0, 0, 50, 60), label="cat")], [Region(box=(0, 0, 50, 60), label="dog")])
        metric.update([Region(box=(0, 0, 50, 60), label="dog")], [Region(box=(0, 0, 50, 60), label="cat")])
        assert metric.compute()["AP50"] == pytest.approx(expected)


@pytest.mark.parametrize("engine", ["pycocotools", "hotcoco"])
def test_masks_are_scored_from_polygons(engine):
    polygon = (10.0, 10.0, 60.0, 10.0, 60.0, 60.0)
    metric = CocoDetection(kind="segm", engine=engine)
    half = Region(polygons=((10.0, 10.0, 60.0, 60.0, 10.0, 60.0),), label="cat")  # the same box, the other half
    metric.update([Region(polygons=(polygon,), label="cat")], [half], size_wh=(100, 100))
    assert metric.compute()["AP50"] == 0
    metric.update([half], [half], size_wh=(100, 100))
    assert 0 < metric.compute()["AP50"] < 1


@pytest.mark.parametrize("engine", ["pycocotools", "hotcoco"])
@pytest.mark.parametrize("seed", range(6))
def test_a_resample_counts_a_picture_as_often_as_drawn(seed, engine):
    pairs = list(random_set(seed, images=8, side=(80, 400, 900)[seed % 3]))
    metric = CocoDetection(engine=engine)
    for truth, found in pairs:
        metric.update(truth, found)
    everything = metric.compute()
    assert metric.compute(range(8)) == pytest.approx(everything, abs=1e-9)
    rows = [0, 2, 2, 5, 7, 7, 7]
    drawn = ours([pairs[i] for i in rows], "pycocotools")
    resampled = metric.compute(rows)
    for key in KEYS:  # equal scores of a picture and its copies are ranked in another order: a point of the curve moves
        assert resampled[key] == pytest.approx(drawn[key], abs=1e-9 if key.startswith("AR") else 0.03), key
    assert CocoDetection(engine=engine).compute([]) == dict.fromkeys(KEYS, -1.0)
