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
from florence2.metrics.detection import region_box
from florence2.metrics.labels import fold_label
from florence2.records import Region

KEYS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")


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
        self._curves: list[_Curve] | None = None

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

        Over `rows`, a resample of the updates, AP, AP50 and AP75 alone: matching is done once, then weighed.
        """
        if rows is None:
            if not self.truth:
                return dict.fromkeys(KEYS, -1.0)
            evaluation = self._evaluated()
            with contextlib.redirect_stdout(io.StringIO()):
                evaluation.accumulate()
                evaluation.summarize()
            return {key: float(value) for key, value in zip(KEYS, evaluation.stats)}
        if self._curves is None:
            self._curves = _curves(self._evaluated().evalImgs, self._ranks()) if self.truth else []
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


class _Curve(NamedTuple):
    """One category, all sizes: its found boxes by descending score, and its truth by picture."""

    picture: np.ndarray  # (D,) place of the picture
    hit: np.ndarray  # (T, D) bool
    counted: np.ndarray  # (T, D) bool: not on a crowd
    truth: np.ndarray  # (pictures,)


def _curves(matches: Sequence[dict[str, Any] | None], images: Sequence[int]) -> list[_Curve]:
    place = {image: n for n, image in enumerate(images)}
    by_category: dict[int, list[dict[str, Any]]] = {}
    for match in matches:
        if match is not None and match["aRng"][0] == 0 and match["aRng"][1] >= 1e10:
            by_category.setdefault(match["category_id"], []).append(match)
    out = []
    for rows in by_category.values():
        truth = np.zeros(len(images), dtype=np.int64)
        for row in rows:
            truth[place[row["image_id"]]] += int((~np.asarray(row["gtIgnore"], dtype=bool)).sum())
        scores = np.concatenate([np.asarray(row["dtScores"], dtype=np.float64) for row in rows])
        order = np.argsort(-scores, kind="mergesort")
        pictures = np.concatenate([np.full(len(row["dtScores"]), place[row["image_id"]]) for row in rows])
        some = [row for row in rows if len(row["dtScores"])]
        shape = [np.asarray(row["dtMatches"]).reshape(10, -1) != 0 for row in some] or [np.zeros((10, 0), dtype=bool)]
        ignored = [np.asarray(row["dtIgnore"], dtype=bool).reshape(10, -1) for row in some] or shape
        hit, counted = np.concatenate(shape, axis=1)[:, order], ~np.concatenate(ignored, axis=1)[:, order]
        out.append(_Curve(pictures[order].astype(np.int64), hit, counted, truth))
    return out


def _weighed(curves: Sequence[_Curve], weights: np.ndarray) -> dict[str, float]:
    """AP as pycocotools accumulates it, each picture counted `weights` times."""
    recalls = np.linspace(0, 1, 101)
    means = []
    for curve in curves:
        truth = int((curve.truth * weights).sum())
        if not truth:
            continue
        weight = weights[curve.picture]
        hits = np.cumsum(curve.hit * curve.counted * weight, axis=1)
        misses = np.cumsum(~curve.hit * curve.counted * weight, axis=1)
        precision = hits / np.maximum(hits + misses, np.spacing(1))
        precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        at = np.array([reached.searchsorted(recalls) for reached in hits / truth])
        past = np.concatenate([precision, np.zeros((10, 1))], axis=1)  # a recall never reached has no precision
        means.append(np.take_along_axis(past, at, axis=1).mean(axis=1))
    if not means:
        return dict.fromkeys(("AP", "AP50", "AP75"), -1.0)
    mean = np.mean(means, axis=0)
    return {"AP": float(mean.mean()), "AP50": float(mean[0]), "AP75": float(mean[5])}


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
