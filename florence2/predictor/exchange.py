"""An answer in the forms of other tools: plain dictionaries, and supervision's Detections. Knows no model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Union

import numpy as np

from florence2 import arguments, geometry
from florence2.predictor.images import is_path
from florence2.records import Polygon, Region, Text

if TYPE_CHECKING:
    import supervision

    from florence2.predictor.answer import Answer


def to_supervision(answer: Answer) -> supervision.Detections:
    """A `supervision.Detections`: labels under `class_name`, corners of quads under `xyxyxyxy`, as its own parser."""
    import supervision

    regions = answer.boxed
    outlined = any(region.polygons or region.mask for region in regions)
    scored = regions and all(region.score is not None for region in regions)
    data: dict[str, Any] = {"class_name": answer.labels}
    if regions and all(len(region.quad) == 8 for region in regions):
        data["xyxyxyxy"] = np.array([region.quad for region in regions], np.float32).reshape(-1, 4, 2)
    return supervision.Detections(
        xyxy=answer.xyxy,
        mask=answer.masks() if outlined else None,
        confidence=answer.scores if scored else None,
        class_id=answer.stable_ids,
        data=data,
    )


def to_coco(answer: Answer, image_id: int, categories: Mapping[str, int] | None) -> dict[str, Any]:
    """A COCO data set of one picture."""
    width, height = answer.size_wh
    image_id = arguments.whole("image_id", image_id)
    ids = _category_ids(categories) or {label: n for n, label in enumerate(answer.classes, 1)}
    missing = sorted(set(answer.labels.tolist()) - set(ids))
    if missing:
        raise ValueError(f"categories: {missing[0]!r} has no id; expected one for each label of the answer")
    named = {number: label for label, number in ids.items()}
    twice = next((label for label, number in ids.items() if named[number] != label), None)
    if twice is not None:
        raise ValueError(
            f"categories: {twice!r} and {named[ids[twice]]!r} have one id, {ids[twice]!r}; give each its own"
        )
    return {
        "images": [{"id": image_id, "file_name": _path(answer), "width": width, "height": height}],
        "annotations": [
            _coco_annotation(region, number, image_id, ids[label])
            for number, (region, label) in enumerate(zip(answer.boxed, answer.labels.tolist()), 1)
        ],
        "categories": [{"id": number, "name": label} for label, number in ids.items()],
    }


def _category_ids(categories: object) -> dict[str, int]:
    """Labels to whole numbers, as JSON has them."""
    if not isinstance(categories, Mapping):
        if categories is None:
            return {}
        raise ValueError(f"categories: expected ids of labels as {{label: id}}, got {categories!r:.80}")
    return {label: arguments.whole(f"categories: {label!r:.60}", number) for label, number in categories.items()}


def to_label_studio(answer: Answer) -> dict[str, Any]:
    """A Label Studio task with the answer as its prediction."""
    width, height = answer.size_wh
    results: list[dict[str, Any]] = []
    for region, label in zip(answer.boxed, answer.labels.tolist()):
        for kind, value in _label_studio_shapes(region, answer.size_wh):
            result = {
                "id": f"{region.id or len(results)}-{len(results)}",
                "type": kind,
                "from_name": "label",
                "to_name": "image",
                "original_width": width,
                "original_height": height,
                "image_rotation": 0,
                "value": {**value, kind: [label]},
            }
            results.append(result if region.score is None else {**result, "score": region.score})
    for text in answer.texts:
        value = {"text": [text.text]}
        results.append({"type": "textarea", "from_name": "text", "to_name": "image", "value": value})
    items: tuple[Union[Region, Text], ...] = (*answer.regions, *answer.texts)
    scores = [item.score for item in items if item.score is not None]
    prediction: dict[str, Any] = {"model_version": "florence2", "result": results}
    if scores:
        prediction["score"] = float(np.mean(scores))
    return {"data": {"image": _path(answer)}, "predictions": [prediction]}


def to_fiftyone(answer: Answer) -> dict[str, Any]:
    """A FiftyOne sample: its fields as FiftyOne writes them (`fo.Detections.from_dict` and so on read them)."""
    width, height = answer.size_wh
    out: dict[str, Any] = {
        "filepath": _path(answer),
        "metadata": {"_cls": "ImageMetadata", "width": width, "height": height},
    }
    detections, polylines = [], []
    for region, label in zip(answer.boxed, answer.labels.tolist()):
        score = {} if region.score is None else {"confidence": region.score}
        outlines = geometry.mask_polygons(geometry.decode_rle(region.mask)) if region.mask else region.polygons
        if outlines or region.quad:
            points = [(geometry.points(o) / answer.size_wh).tolist() for o in outlines or (region.quad,)]
            row = {"_cls": "Polyline", "label": label, "points": points, "closed": True, "filled": bool(outlines)}
            polylines.append({**row, **score})
        else:
            x1, y1, x2, y2 = geometry.region_box(region) or (0, 0, 0, 0)
            box = [x1 / width, y1 / height, (x2 - x1) / width, (y2 - y1) / height]
            detections.append({"_cls": "Detection", "label": label, "bounding_box": box, **score})
    if polylines:
        out["polylines"] = {"_cls": "Polylines", "polylines": polylines}
    if detections or not (polylines or answer.texts):
        out["detections"] = {"_cls": "Detections", "detections": detections}
    if answer.texts:
        text = answer.texts[0]
        score = {} if text.score is None else {"confidence": text.score}
        out["text"] = {"_cls": "Classification", "label": text.text, **score}
    return out


def outline(region: Region) -> tuple[Polygon, ...]:
    """The region's polygons, else its quad or the corners of its box."""
    if region.polygons:
        return region.polygons
    return (geometry.region_quad(region) or geometry.box_quad((0, 0, 0, 0)),)


def _path(answer: Answer) -> str:
    return str(answer.image) if is_path(answer.image) else ""


def _coco_annotation(region: Region, number: int, image_id: int, category_id: int) -> dict[str, Any]:
    x1, y1, x2, y2 = geometry.region_box(region) or (0, 0, 0, 0)
    out: dict[str, Any] = {
        "id": number,
        "image_id": image_id,
        "category_id": category_id,
        "bbox": [x1, y1, x2 - x1, y2 - y1],
        "area": geometry.box_area((x1, y1, x2, y2)),
        "iscrowd": 0,
        "segmentation": [],
    }
    if region.mask is not None:
        out["segmentation"] = {"size": [region.mask.height, region.mask.width], "counts": region.mask.counts}
        out["area"] = float(geometry.rle_area(region.mask))
    elif region.polygons or region.quad:
        outlines = outline(region)
        out["segmentation"] = [list(polygon) for polygon in outlines]
        out["area"] = sum(geometry.polygon_area(polygon) for polygon in outlines)
    if region.score is not None:
        out["score"] = region.score
    return out


def _label_studio_shapes(region: Region, size_wh: tuple[int, int]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The region as shapes whose numbers are percent of the picture."""
    percent = 100 / np.array(size_wh, float)
    if region.polygons or region.quad:
        for polygon in outline(region):
            yield "polygonlabels", {"points": (geometry.points(polygon) * percent).tolist(), "closed": True}
        return
    x1, y1, x2, y2 = geometry.region_box(region) or (0, 0, 0, 0)
    (x, y), (width, height) = (x1, y1) * percent, (x2 - x1, y2 - y1) * percent
    yield "rectanglelabels", {"x": x, "y": y, "width": width, "height": height, "rotation": 0}
