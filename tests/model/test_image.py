"""Preprocessing equals transformers' Pillow processor to the last bit."""

import numpy as np
import pytest
from PIL import Image

from florence2.model.image import preprocess
from florence2.model.model_config import SIZES


@pytest.mark.parametrize("size_hw", [(768, 768), (100, 37), (1300, 876), (2, 900), (1, 1)])
def test_equal_to_the_last_bit(size_hw):
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    array = np.random.default_rng(0).integers(0, 256, (*size_hw, 3), dtype=np.uint8)
    config = SIZES["base"]
    processor = CLIPImageProcessorPil(
        size={"height": 768, "width": 768}, resample=3, do_center_crop=False,
        image_mean=list(config.image_mean), image_std=list(config.image_std),
    )  # fmt: skip
    expected = processor(Image.fromarray(array), return_tensors="np")["pixel_values"][0]
    got = preprocess(array, config)
    assert got.dtype == np.float32 and np.array_equal(got, expected)


@pytest.mark.parametrize(
    "array", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32), np.zeros((4, 4, 4), np.uint8)]
)
def test_only_rgb_bytes(array):
    with pytest.raises(ValueError, match="HWC uint8 RGB"):
        preprocess(array, SIZES["base"])
