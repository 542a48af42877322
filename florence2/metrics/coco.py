"""COCO's AP and AR: pycocotools is the number; hotcoco, where installed, gives the same one faster.

Knows regions and image numbers. A label is a category when equal to a truth's after folding; found labels that name no
category of the truth count for nothing, as a category without truth has no AP.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
from collections.abc import Sequence
from typing import Any

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
        self.images: list[dict[str, int]] = []
        self.truth: list[dict[str, Any]] = []
        self.found: list[dict[str, Any]] = []

    def update(
        self,
        truth: Sequence[Region],
        found: Sequence[Region],
        image: int | None = None,
        size_wh: tuple[int, int] = (0, 0),
    ) -> None:
        """Add one picture; `image` is its number (equal scores are ranked by it), by default the count so far.

        `size_wh` is needed where masks are drawn from polygons.
        """
        number = len(self.images) if image is None else image
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
        """The twelve numbers; -1 for a size without truth, 0 where nothing was found."""
        images, truth, found = self._view(rows)
        found = [{**d, "category_id": self.categories[d["label"]]} for d in found if d["label"] in self.categories]
        if not truth:
            return dict.fromkeys(KEYS, -1.0)
        categories = [{"id": n, "name": name} for name, n in self.categories.items()]
        found = found or [_miss(truth[0])]
        dataset = {"images": images, "annotations": truth, "categories": categories, "info": {}}
        stats = self._stats(dataset, found)
        return {key: float(value) for key, value in zip(KEYS, stats)}

    def _stats(self, dataset: dict[str, Any], found: list[dict[str, Any]]) -> np.ndarray:
        with contextlib.redirect_stdout(io.StringIO()):
            if self.engine == "hotcoco":
                import hotcoco

                coco = hotcoco.COCO(dataset)
                evaluation = hotcoco.COCOeval(coco, coco.load_res(_results(found, self.kind)), self.kind)
            else:
                from pycocotools.coco import COCO
                from pycocotools.cocoeval import COCOeval

                coco = COCO()
                coco.dataset = dataset
                coco.createIndex()
                evaluation = COCOeval(coco, coco.loadRes(_results(found, self.kind)), self.kind)
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        return np.asarray(evaluation.stats, dtype=np.float64)

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

    def _view(self, rows: Sequence[int] | None) -> tuple[list, list, list]:
        """All pictures, or a resample in which a picture drawn twice is two pictures."""
        if rows is None:
            return self.images, self.truth, self.found
        truth_of, found_of = _by_image(self.truth), _by_image(self.found)
        images, truth, found = [], [], []
        for number, row in enumerate(rows):
            image = self.images[row]
            images.append({**image, "id": number})
            truth += [{**t, "image_id": number} for t in truth_of.get(image["id"], ())]
            found += [{**f, "image_id": number} for f in found_of.get(image["id"], ())]
        return images, [{**t, "id": n + 1} for n, t in enumerate(truth)], found


def _by_image(records: list[dict[str, Any]]) -> dict[int, list[dict[str, Any]]]:
    out: dict[int, list[dict[str, Any]]] = {}
    for record in records:
        out.setdefault(record["image_id"], []).append(record)
    return out


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
