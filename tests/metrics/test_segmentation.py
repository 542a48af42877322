"""Masks: unions of parts at the picture's size."""

import pytest

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
