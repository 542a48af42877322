"""COCO's AP and AR: pycocotools is the number; hotcoco, where installed, gives the same one faster.

Knows regions and image numbers. A label is a category when equal to a truth's after folding; found labels that name no
category of the truth count for nothing, as a category without truth has no AP.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from florence2 import geometry
from florence2.labels import fold_label
from florence2.metrics.detection import region_box
from florence2.records import Region

UNDEFINED = -1.0  # where there is no object, as pycocotools has it
KEYS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
MOST = (1, 10, 100)  # boxes a picture
THRESHOLDS = 10  # of IoU
RECALLS = np.linspace(0, 1, 101)


class CocoDetection:
    """The twelve COCO numbers for boxes (`kind` "bbox") or masks ("segm").

    With `labels=False` every region is of one category. `engine` is "pycocotools", "hotcoco", or None for the faster
    one installed.
    """

    def __init__(self, kind: str = "bbox", labels: bool = True, engine: str | None = None):
        self.kind, self.labels = kind, labels
        self.engine = engine or ("hotcoco" if importlib.util.find_spec("hotcoco") else "pycocotools")
        self.categories: dict[str, int] = {}
        self.names: list[str] = []
        self.images: list[dict[str, int]] = []
        self.truth: list[dict[str, Any]] = []
        self.found: list[dict[str, Any]] = []
        self._curves: dict[str, _Curves] | None = None  # by size

    def __len__(self) -> int:
        return len(self.images)

    def update(
        self,
        truth: Sequence[Region],
        found: Sequence[Region],
        image: str | None = None,
        size_wh: tuple[int, int] = (0, 0),
    ) -> None:
        """Add one picture; `size_wh` is needed where masks are drawn from polygons.

        Equal scores are ranked in the order of the pictures: of their names `image` where all are numbers (as
        pycocotools does), else as they were added.
        """
        self._curves = None
        number = len(self.images)
        self.names.append(str(number) if image is None else image)
        self.images.append({"id": number, "width": size_wh[0], "height": size_wh[1]})
        for region in truth:
            record = self._record(region, number, size_wh)
            record["category_id"] = self.categories.setdefault(self._category(region), len(self.categories) + 1)
            record.update(iscrowd=int(region.ignore), area=_truth_area(region), id=len(self.truth) + 1)
            self.truth.append(record)
        for region in found:
            record = self._record(region, number, size_wh)
            record["label"] = self._category(region)
            record["score"] = 1.0 if region.score is None else float(region.score)
            self.found.append(record)

    def compute(self, rows: Sequence[int] | None = None) -> dict[str, float]:
        """The twelve numbers; -1 for a size without truth, 0 where nothing was found.

        Over `rows`, a resample of the updates, they come from the same matching, done once and then weighed.
        """
        if rows is None:
            if not self.truth:
                return dict.fromkeys(KEYS, UNDEFINED)
            evaluation = self._evaluated()
            with contextlib.redirect_stdout(io.StringIO()):
                evaluation.accumulate()
                evaluation.summarize()
            return {key: float(value) for key, value in zip(KEYS, evaluation.stats)}
        if self._curves is None:
            self._curves = _curves(self._evaluated().evalImgs, self._ranks()) if self.truth else {}
        return _weighed(self._curves, np.bincount(np.asarray(rows, dtype=np.int64), minlength=len(self.images)))

    def _evaluated(self) -> Any:
        """A COCOeval whose matching is done."""
        found = [{**d, "category_id": self.categories[d["label"]]} for d in self.found if d["label"] in self.categories]
        ranks = self._ranks()
        results = _results(_numbered(found or [_miss(self.truth[0])], ranks), self.kind)
        categories = [{"id": n, "name": name} for name, n in self.categories.items()]
        images = [{**image, "id": rank} for image, rank in zip(self.images, ranks)]
        truth = _numbered(self.truth, ranks)
        dataset = {"images": images, "annotations": truth, "categories": categories, "info": {}}
        with contextlib.redirect_stdout(io.StringIO()):
            if self.engine == "hotcoco":
                import hotcoco

                coco = hotcoco.COCO(dataset)
                evaluation = hotcoco.COCOeval(coco, coco.load_res(results), self.kind)
            else:
                from pycocotools.coco import COCO
                from pycocotools.cocoeval import COCOeval

                coco = COCO()
                coco.dataset = dataset
                coco.createIndex()
                evaluation = COCOeval(coco, coco.loadRes(results), self.kind)
            evaluation.evaluate()
        return evaluation

    def _ranks(self) -> list[int]:
        """The number of each picture in the evaluation."""
        numbers = [int(name) for name in self.names if name.isdigit()]
        return numbers if len(set(numbers)) == len(self.names) else list(range(len(self.names)))

    def _category(self, region: Region) -> str:
        return fold_label(region.label) if self.labels else ""

    def _record(self, region: Region, image: int, size_wh: tuple[int, int]) -> dict[str, Any]:
        x1, y1, x2, y2 = region_box(region)
        record: dict[str, Any] = {"image_id": image, "bbox": [x1, y1, x2 - x1, y2 - y1]}
        if self.kind == "segm":
            rle = region.mask or geometry.rle_from_polygons(
                region.polygons or [geometry.box_quad((x1, y1, x2, y2))], size_wh
            )
            record["segmentation"] = {"size": [rle.height, rle.width], "counts": rle.counts}
        return record


class _Curves(NamedTuple):
    """The categories of one size behind one another, each its found boxes by descending score and then a stop."""

    picture: np.ndarray  # (D,) place of the picture; of a stop the number of pictures
    rank: np.ndarray  # (D,) place among the picture's boxes of this category, the best first
    hit: np.ndarray  # (T, D) bool: matched, and to truth of this size
    missed: np.ndarray  # (T, D) bool: matches nothing, and is of this size itself
    start: np.ndarray  # (C,) where each category begins
    truth: np.ndarray  # (C, pictures)


def _curves(matches: Sequence[dict[str, Any] | None], images: Sequence[int]) -> dict[str, _Curves]:
    """Size -> its curves; sizes are named as in KEYS: "" for all, s, m, l."""
    place = {image: n for n, image in enumerate(images)}
    groups: dict[str, dict[int, list[dict[str, Any]]]] = {}
    for match in matches:
        if match is not None:
            low, high = match["aRng"]
            size = ("" if high >= 1e10 else "s") if low == 0 else ("l" if high >= 1e10 else "m")
            groups.setdefault(size, {}).setdefault(match["category_id"], []).append(match)
    return {size: _joined([_curve(rows, place) for rows in own.values()]) for size, own in groups.items()}


def _joined(parts: list[tuple[np.ndarray, ...]]) -> _Curves:
    picture, rank, hit, missed, truth = zip(*parts)
    lengths = [len(own) for own in picture]
    start = np.cumsum([0, *lengths[:-1]])
    return _Curves(
        np.concatenate(picture), np.concatenate(rank), np.concatenate(hit, 1), np.concatenate(missed, 1), start,
        np.stack(truth),
    )  # fmt: skip


def _curve(rows: list[dict[str, Any]], place: dict[int, int]) -> tuple[np.ndarray, ...]:
    """picture, rank, hit, missed and truth of one category, its stop included."""
    truth = np.zeros(len(place), dtype=np.int64)
    for row in rows:
        truth[place[row["image_id"]]] += int((~np.asarray(row["gtIgnore"], dtype=bool)).sum())
    counts = [len(row["dtScores"]) for row in rows]
    scores = np.concatenate([np.asarray(row["dtScores"], dtype=np.float64) for row in rows])
    pictures = np.repeat([place[row["image_id"]] for row in rows], counts).astype(np.int64)
    ranks = np.concatenate([np.arange(count) for count in counts])
    none = np.zeros((THRESHOLDS, 0), dtype=bool)
    matched = [np.asarray(row["dtMatches"]).reshape(THRESHOLDS, -1) != 0 for row, n in zip(rows, counts) if n]
    ignored = [np.asarray(row["dtIgnore"], dtype=bool).reshape(THRESHOLDS, -1) for row, n in zip(rows, counts) if n]
    hit = np.concatenate([none, *matched], axis=1)
    counted = np.logical_not(np.concatenate([none, *ignored], axis=1))
    order = np.argsort(-scores, kind="mergesort")
    order = order[counted.any(axis=0)[order]]  # what never counts is left out
    stop = np.zeros((THRESHOLDS, 1), dtype=bool)
    return (
        np.append(pictures[order], len(place)),
        np.append(ranks[order], 0),
        np.concatenate([(hit & counted)[:, order], stop], axis=1),
        np.concatenate([(~hit & counted)[:, order], stop], axis=1),
        truth,
    )


def _weighed(curves: dict[str, _Curves], weights: np.ndarray) -> dict[str, float]:
    """The numbers as pycocotools accumulates them, each picture counted `weights` times."""
    out = dict.fromkeys(KEYS, UNDEFINED)
    for size, own in curves.items():
        truth = own.truth @ weights
        there = truth > 0
        if not there.any():
            continue
        precision = _precision(own, weights, truth)[:, there].mean(axis=1)  # (T,)
        recall = [float((hits[there] / truth[there]).mean()) for hits in _hits(own, weights)]
        out[f"AP{size}"], out[f"AR{size or MOST[-1]}"] = float(precision.mean()), recall[-1]
        if not size:
            out.update(AP50=float(precision[0]), AP75=float(precision[5]))
            out.update({f"AR{most}": value for most, value in zip(MOST, recall)})
    return out


def _hits(curves: _Curves, weights: np.ndarray) -> list[np.ndarray]:
    """(C,) hits, the mean over thresholds, with at most 1, 10, 100 boxes a picture."""
    hits = curves.hit.sum(axis=0) * np.append(weights, 0)[curves.picture] / THRESHOLDS
    return [np.add.reduceat(np.where(curves.rank < most, hits, 0.0), curves.start) for most in MOST]


def _precision(curves: _Curves, weights: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """(T, C) precision, the mean over 101 recalls, of all categories in one sweep."""
    weight = np.append(weights, 0)[curves.picture]
    total, count = len(weight), len(curves.start)
    category = np.repeat(np.arange(count), np.diff(curves.start, append=total))
    hits = _since(np.cumsum(curves.hit * weight, axis=1), curves.start, category)
    misses = _since(np.cumsum(curves.missed * weight, axis=1), curves.start, category)
    precision = hits / np.maximum(hits + misses, np.spacing(1))
    stops = np.append(curves.start[1:], total) - 1
    precision[:, stops] = 0.0  # a recall never reached has no precision
    # each precision is the best of those behind it; steps of 2 keep the next category's out
    step = 2.0 * (count - 1 - category)
    precision = np.maximum.accumulate((precision + step)[:, ::-1], axis=1)[:, ::-1] - step
    needed = np.ceil(RECALLS * truth[:, None]).astype(np.int64)  # (C, 101) hits for each recall
    whole = np.maximum(truth, 1)[:, None]
    needed -= (needed > 0) & ((needed - 1) / whole >= RECALLS)  # where the product was rounded up, or down
    needed += (needed <= truth[:, None]) & (needed / whole < RECALLS) & (truth[:, None] > 0)
    # one search for all: counts are kept above those of the category and the threshold before
    room = int(truth.max()) + 2
    apart = (np.arange(THRESHOLDS)[:, None] * count + np.arange(count)) * room  # (T, C)
    hits[:, stops] = truth + 1
    at = (hits + apart[:, category]).ravel().searchsorted((needed + apart[:, :, None]).ravel())
    return np.asarray(precision.ravel()[at].reshape(THRESHOLDS, count, len(RECALLS)).mean(axis=2))


def _since(sums: np.ndarray, start: np.ndarray, category: np.ndarray) -> np.ndarray:
    """Running sums (T, D) that begin anew with each category."""
    before = np.concatenate([np.zeros((len(sums), 1), dtype=sums.dtype), sums[:, :-1]], axis=1)[:, start]
    return np.asarray(sums - before[:, category])


def _numbered(records: list[dict[str, Any]], ranks: Sequence[int]) -> list[dict[str, Any]]:
    return [{**record, "image_id": ranks[record["image_id"]]} for record in records]


def _miss(truth: dict[str, Any]) -> dict[str, Any]:
    """A result that hits nothing: the tools refuse an empty list."""
    size = truth.get("segmentation", {}).get("size", [0, 0])
    nowhere = {"size": size, "counts": geometry.pack_counts([size[0] * size[1]])}
    place = {"image_id": truth["image_id"], "category_id": truth["category_id"]}
    return {**place, "bbox": [-10.0, -10.0, 1.0, 1.0], "segmentation": nowhere, "score": 0.0}


def _truth_area(region: Region) -> float:
    """As COCO's `area`: of the outline where there is one, else of the box."""
    if region.mask is not None:
        return float(geometry.rle_area(region.mask))
    if region.polygons:
        return sum(geometry.polygon_area(p) for p in region.polygons)
    return float(geometry.area(region_box(region))[0])


def _results(found: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    shape = "segmentation" if kind == "segm" else "bbox"
    return [
        {"image_id": d["image_id"], "category_id": d["category_id"], shape: d[shape], "score": d["score"]}
        for d in found
    ]
