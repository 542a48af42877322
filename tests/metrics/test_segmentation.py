"""Masks: unions of parts at the picture's size."""

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from florence2.geometry import encode_rle, rasterize
from florence2.metrics.segmentation import Segmentation
from florence2.records import Region, Rle

LEFT = (0.0, 0.0, 10.0, 0.0, 10.0, 10.0, 0.0, 10.0)
RIGHT = (10.0, 0.0, 20.0, 0.0, 20.0, 10.0, 10.0, 10.0)


def test_mean_and_cumulative_iou():
    metric = Segmentation()
    metric.update([Region(polygons=(LEFT, RIGHT))], [Region(polygons=(LEFT,)), Region(polygons=(RIGHT,))], (40, 20))
    metric.update([Region(polygons=(LEFT,))], [Region(polygons=(LEFT, RIGHT))], (40, 20))
    assert metric.compute() == {"mIoU": pytest.approx(0.75), "oIoU": pytest.approx(300 / 400)}
    assert metric.compute([1]) == {"mIoU": 0.5, "oIoU": 0.5}


def test_masks_polygons_and_boxes_are_one_place():
    mask = encode_rle(rasterize([LEFT], (40, 20)))
    metric = Segmentation()
    metric.update([Region(mask=mask)], [Region(box=(0, 0, 10, 10))], (40, 20))
    assert metric.compute()["mIoU"] == 1


def test_iou_equals_pycocotools_on_random_polygons():
    rng = np.random.default_rng(0)
    metric, expected, shared, united = Segmentation(), [], 0, 0
    for _ in range(1200):
        width, height = (int(v) for v in rng.integers(8, 60, 2))
        parts = [
            [tuple(rng.uniform(0, 50, 2 * rng.integers(3, 7))) for _ in range(rng.integers(1, 3))] for _ in range(2)
        ]
        metric.update([Region(polygons=tuple(parts[0]))], [Region(polygons=(p,)) for p in parts[1]], (width, height))
        masks = [coco_mask.merge(coco_mask.frPyObjects([list(p) for p in own], height, width)) for own in parts]
        expected.append(coco_mask.iou([masks[1]], [masks[0]], [0])[0][0] if coco_mask.area(masks).any() else 1.0)
        shared += int(coco_mask.area(coco_mask.merge(masks, intersect=True)))
        united += int(coco_mask.area(coco_mask.merge(masks)))
    assert metric.compute() == {"mIoU": pytest.approx(np.mean(expected)), "oIoU": pytest.approx(shared / united)}


def test_empty_answers():
    metric = Segmentation()
    metric.update([Region(polygons=(LEFT,))], [], (40, 20))
    assert metric.compute() == {"mIoU": 0, "oIoU": 0}
    metric = Segmentation()
    metric.update([], [], (40, 20))
    assert metric.compute() == {"mIoU": 1, "oIoU": 1}
    assert Segmentation().compute() == {"mIoU": 0, "oIoU": 0}


def test_a_mask_of_another_size_is_refused():
    with pytest.raises(ValueError, match="4 x 2 for a picture of 40 x 20"):
        Segmentation().update([Region(id="m", mask=Rle(2, 4, "8"))], [], (40, 20))
