"""Pixels and bins: the published vectors, and float32 equal to torch's own arithmetic."""

import numpy as np
import pytest
import torch

from florence2.codec.locations import dequantize, quantize

VECTORS = [  # size, pixels, bins
    (
        (800, 1200),
        [0, 0, 30, 40, 500, 550, 600, 690, 750, 1121, 851, 1239],
        [0, 0, 37, 33, 625, 458, 750, 575, 937, 934, 999, 999],
    ),
    ((800, 1200), [0, 0, 800, 1200], [0, 0, 999, 999]),
    ((1024, 1024), [128, 512], [124, 499]),  # in double these are 125 and 500
    ((512, 512), [256, 256], [499, 499]),
    ((1080, 1080), [27, 27], [24, 24]),
    ((100, 100), [-5, 1e30], [0, 999]),  # outside goes to the edge
]


@pytest.mark.parametrize("size_wh, pixels, bins", VECTORS)
def test_published_bins(size_wh, pixels, bins):
    assert quantize(pixels, size_wh) == bins


def test_published_pixels():
    boxes = quantize([0, 0, 30, 40, 500, 550, 600, 690, 750, 1121, 851, 1239], (800, 1200))
    assert [int(v) for v in dequantize(boxes, (800, 1200))] == [0, 0, 30, 40, 500, 550, 600, 690, 750, 1121, 799, 1199]


def test_equal_to_torch_and_stable():
    rng = np.random.default_rng(0)
    for size in [*range(1, 2000, 37), 576, 640, 1080, 4096]:
        bins = np.repeat(np.arange(1000), 2)
        centres = dequantize(bins, (size, size))
        theirs = (torch.arange(1000).reshape(-1, 1) + 0.5) * (size / 1000)
        assert list(centres[::2]) == theirs.flatten().tolist()
        assert quantize(centres, (size, size)) == bins.tolist()  # a bin's centre falls into the bin
        values = (rng.random(500) * size * 1.2).astype(np.float32)
        theirs = (torch.from_numpy(values) / (size / 1000)).floor().clamp(0, 999).int()
        assert quantize(np.repeat(values, 2), (size, size))[::2] == theirs.tolist()


@pytest.mark.parametrize("pixels", [[1, 2, 3], [float("nan"), 1], [float("inf"), 1]])
def test_what_is_no_coordinate_is_refused(pixels):
    with pytest.raises(ValueError, match="coordinates"):
        quantize(pixels, (10, 10))
