"""Scenes: the same seed draws the same; the truth is exact and complete; nothing withheld slips in."""

import numpy as np
import pytest

from florence2.scenes import KINDS, WITHHELD_KINDS, draw

SEEDS = range(60)


@pytest.fixture(scope="module")
def scenes():
    return [draw(seed, objects=(1, 5), signs=0.5) for seed in SEEDS]


def test_same_seed_same_scene():
    for seed in (0, 2**31 + 5):
        one, other = draw(seed), draw(seed)
        assert one[0].tobytes() == other[0].tobytes() and one[1] == other[1]


def test_picture_is_rgb_of_the_size_asked():
    pixels, sample = draw(3, size=(96, 160))
    assert pixels.shape == (160, 96, 3) and pixels.dtype == np.uint8
    assert sample.image.size_wh == (96, 160)


def test_boxes_are_the_extents_of_their_outlines(scenes):
    for _, sample in scenes:
        for region in sample.regions:
            outline = region.quad or region.polygons[0]
            assert region.box == (min(outline[::2]), min(outline[1::2]), max(outline[::2]), max(outline[1::2]))
            assert 0 <= region.box[0] and 0 <= region.box[1] and max(region.box[2:]) <= 128


def test_spans_slice_to_their_phrases(scenes):
    for _, sample in scenes:
        texts = {text.id: text.text for text in sample.texts}
        for grounding in sample.groundings:
            for start, end in grounding.spans:
                assert texts[grounding.text_id][start:end] == grounding.phrase


def test_no_withheld_kind_unless_asked(scenes):
    drawn = {r.label for _, sample in scenes for r in sample.regions if r.kind == "object"}
    assert drawn <= set(KINDS) and not drawn & set(WITHHELD_KINDS)
