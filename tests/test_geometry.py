"""Geometry against slow versions of itself and against pycocotools."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pycocotools import mask as coco_mask

from florence2 import geometry
from florence2.records import Rle

SIZES = st.tuples(st.integers(1, 40), st.integers(1, 40))
MASKS = hnp.arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 12)))


def slow_iou(a, b):
    wide = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    high = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - wide * high
    return wide * high / union if union else 0.0


def slow_nms(boxes, scores, threshold, labels):
    left = sorted(range(len(boxes)), key=lambda i: -scores[i])
    kept = []
    while left:
        best, *left = left
        kept.append(best)
        left = [i for i in left if labels[i] != labels[best] or slow_iou(boxes[i], boxes[best]) <= threshold]
    return kept


def random_boxes(rng, count, side=50):
    corners = np.sort(rng.uniform(0, side, (count, 2, 2)), axis=1)
    return corners.reshape(count, 4)


def test_area_of_an_inverted_box_is_zero():
    assert geometry.area([[0, 0, 2, 3], [5, 5, 4, 9]]).tolist() == [6, 0]
    assert geometry.area([]).shape == (0,)


def test_iou_equals_slow_iou():
    rng = np.random.default_rng(0)
    a, b = random_boxes(rng, 30), random_boxes(rng, 20)
    expected = [[slow_iou(x, y) for y in b] for x in a]
    np.testing.assert_allclose(geometry.iou(a, b), expected)
    assert geometry.iou([], b).shape == (0, 20)
    assert geometry.iou([[1, 1, 1, 1]], [[1, 1, 1, 1]]).tolist() == [[0]]  # empty boxes share nothing


def test_clip_cuts_at_the_edges():
    assert geometry.clip([[-3, 2, 12, 9]], (10, 8)).tolist() == [[0, 2, 10, 8]]


@pytest.mark.parametrize("seed", range(20))
def test_nms_equals_slow_nms(seed):
    rng = np.random.default_rng(seed)
    boxes, scores = random_boxes(rng, 60, 20), rng.permutation(60) / 60
    labels = [str(n) for n in rng.integers(0, 3, 60)]
    for threshold in (0.0, 0.3, 0.7):
        assert geometry.nms(boxes, scores, threshold).tolist() == slow_nms(boxes, scores, threshold, [0] * 60)
        assert geometry.nms(boxes, scores, threshold, labels).tolist() == slow_nms(boxes, scores, threshold, labels)
    assert geometry.nms([], [], 0.5).tolist() == []


def test_soft_nms_lowers_what_overlaps():
    boxes, scores = [[0, 0, 10, 10], [0, 0, 10, 10], [20, 20, 30, 30]], [0.9, 0.8, 0.5]
    kept, decayed = geometry.soft_nms(boxes, scores, sigma=0.5)
    assert kept.tolist() == [0, 2, 1]
    np.testing.assert_allclose(decayed, [0.9, 0.5, 0.8 * np.exp(-2)])
    apart, same = geometry.soft_nms(boxes, scores, labels=["a", "b", "a"])
    assert apart.tolist() == [0, 1, 2] and same.tolist() == scores  # other labels do not lower a score


@settings(max_examples=200, deadline=None)
@given(SIZES, st.lists(st.tuples(st.floats(-10, 50), st.floats(-10, 50)), min_size=3, max_size=8), st.booleans())
def test_a_drawn_polygon_equals_pycocotools(size_wh, corners, whole):
    polygon = [float(round(v)) if whole else v for corner in corners for v in corner]
    w, h = size_wh
    theirs = coco_mask.frPyObjects([polygon], h, w)[0]
    assert geometry.rle_from_polygons([polygon], size_wh) == Rle(h, w, theirs["counts"].decode())
    assert geometry.rle_area(Rle(h, w, theirs["counts"].decode())) == coco_mask.area(theirs)


def test_the_union_of_polygons_equals_pycocotools():
    rng = np.random.default_rng(1)
    for _ in range(50):
        polygons = [rng.uniform(0, 30, 2 * n).tolist() for n in rng.integers(3, 7, 3)]
        theirs = coco_mask.merge(coco_mask.frPyObjects(polygons, 30, 25))
        assert geometry.rle_from_polygons(polygons, (25, 30)).counts == theirs["counts"].decode()


@settings(max_examples=200, deadline=None)
@given(MASKS)
def test_run_lengths_equal_pycocotools_and_come_back(mask):
    rle = geometry.encode_rle(mask)
    assert rle.counts == coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()
    assert np.array_equal(geometry.decode_rle(rle), mask)
    assert geometry.rle_area(rle) == mask.sum()
    assert geometry.pack_counts(geometry.rle_counts(rle).tolist()) == rle.counts


@pytest.mark.parametrize(
    "rle",
    [
        Rle(2, 2, "3"),  # too short
        Rle(2, 2, "\x7f"),  # not a letter of the code
        Rle(2, 2, "P"),  # breaks off inside a number
        Rle(2, 2, "O5"),  # a negative run
    ],
)
def test_broken_run_lengths_are_refused(rle):
    with pytest.raises(ValueError, match="mask: run lengths"):
        geometry.decode_rle(rle)


def test_a_hull_has_corners_only():
    square = (0, 0, 5, 0, 10, 0, 10, 10, 4, 4, 5, 10, 0, 10, 0, 5)
    assert geometry.convex_hull(square) == [(0, 0), (10, 0), (10, 10), (0, 10)]
    assert len(geometry.convex_hull((0, 0, 5, 5, 10, 10))) < 3


@settings(max_examples=200, deadline=None)
@given(MASKS)
def test_polygons_of_a_mask_draw_the_mask(mask):
    polygons = geometry.mask_polygons(mask)
    assert np.array_equal(geometry.rasterize(polygons, mask.shape[::-1]), mask)
    assert sum(geometry.polygon_area(p) for p in polygons) == mask.sum()


def test_a_square_with_a_hole_is_one_polygon():
    mask = np.ones((5, 5), dtype=bool)
    mask[2, 2] = False
    (polygon,) = geometry.mask_polygons(mask)
    assert geometry.polygon_area(polygon) == 24
    assert geometry.mask_polygons(np.ones((2, 3), dtype=bool)) == [(0, 0, 3, 0, 3, 2, 0, 2)]


def test_simplify_keeps_within_tolerance_and_three_corners():
    angles = np.linspace(0, 2 * np.pi, 200, endpoint=False)
    circle = np.stack([50 + 40 * np.cos(angles), 50 + 40 * np.sin(angles)], axis=1)
    few = geometry.simplify(circle.reshape(-1), 1.0)
    assert 6 <= len(few) <= 60
    corners = np.array(few).reshape(-1, 2)
    ring = list(zip(corners, np.roll(corners, -1, axis=0)))
    for point in circle:
        gaps = []
        for a, b in ring:
            t = np.clip((point - a) @ (b - a) / ((b - a) @ (b - a)), 0, 1)
            gaps.append(np.hypot(*(point - a - t * (b - a))))
        assert min(gaps) <= 1.0 + 1e-9
    assert geometry.simplify((0, 0, 5, 0, 10, 0, 10, 10, 0, 10), 0.5) == (0, 0, 10, 0, 10, 10, 0, 10)
    assert len(geometry.simplify(circle.reshape(-1), 1000)) == 6


def test_boxes_of_polygons_and_quads():
    assert geometry.polygon_box((1, 2, 5, 0, 3, 8)) == (1, 0, 5, 8)
    assert geometry.polygon_box((1, 2, 5, 0), (9, 9)) == (1, 0, 9, 9)
    assert geometry.polygon_box(geometry.box_quad((1, 2, 3, 4))) == (1, 2, 3, 4)
    assert geometry.polygon_area(geometry.box_quad((1, 2, 3, 5))) == 6


def test_the_intersection_of_quads_equals_drawn_ones():
    rng = np.random.default_rng(2)
    for _ in range(40):
        a, b = (np.array(geometry.convex_hull(rng.uniform(5, 95, 8))).reshape(-1) for _ in range(2))
        fine = 8
        drawn = geometry.rasterize([a * fine], (800, 800)) & geometry.rasterize([b * fine], (800, 800))
        (shared,) = geometry.quad_intersection([a], [b])[0]
        assert shared == pytest.approx(drawn.sum() / fine**2, abs=12)
    square = geometry.box_quad((0, 0, 10, 10))
    assert geometry.quad_intersection([square], [square]).tolist() == [[100]]
    assert geometry.convex_area((0, 0, 10, 10, 10, 0, 0, 10)) == 100  # corners out of order
    assert geometry.quad_intersection([(0, 0, 5, 5, 9, 9, 2, 2)], [square]).tolist() == [[0]]  # a line
    assert geometry.quad_intersection([], [square]).shape == (0, 1)


def test_the_box_of_a_mask_is_its_pixels():
    for seed in range(100):
        rng = np.random.default_rng(seed)
        mask = rng.random((rng.integers(1, 9), rng.integers(1, 9))) < rng.choice([0.02, 0.1, 0.5])
        rows, columns = np.nonzero(mask)
        expected = None if not len(rows) else (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        assert geometry.rle_box(geometry.encode_rle(mask)) == expected
