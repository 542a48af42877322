"""Scenes as nano is trained on them: many small objects, outlines of few corners, more faces and widths of letters."""

import dataclasses

import numpy as np
import pytest

from florence2 import geometry
from florence2.scenes import FONTS, MORE_FONTS, WITHHELD_FONTS, draw
from florence2.scenes.lettering import font
from florence2.sources.scenes import parse, pixels, read

SPEC = "scenes:count=6,seed=3,objects=1-20,min_side=0.04,size=256,signs=1.0,corners=16,stretch=0.75-1.3,fonts=more"


def outlines(sample):
    return [region.polygons[0] for region in sample.regions if region.kind == "object"]


def test_outlines_have_few_corners_and_begin_at_the_top():
    for seed in range(30):
        options = {"objects": (1, 4), "signs": 0, "size": 256}
        array, whole = draw(seed, **options)
        again, few = draw(seed, **options, corners=16)
        assert np.array_equal(array, again)
        for full, short in zip(outlines(whole), outlines(few)):
            ys = short[1::2]
            assert 6 <= len(short) <= 32 and ys[0] == min(ys)
            masks = [geometry.rasterize([ring], (256, 256)) for ring in (full, short)]
            assert (masks[0] & masks[1]).sum() / (masks[0] | masks[1]).sum() > 0.75
        assert [r.box for r in whole.regions] == [r.box for r in few.regions]


def test_the_quad_of_stretched_letters_is_where_the_ink_is():
    for seed in range(12):
        options = {"objects": (0, 0), "signs": 1, "size": 256, "clutter": 0, "stretch": (0.7, 1.4)}
        array, sample = draw(seed, **options)
        for region in sample.regions:
            inside = geometry.rasterize([region.quad], (256, 256))
            x1, y1, x2, y2 = (round(side) for side in region.box)
            patch = array[y1:y2, x1:x2].reshape(-1, 3).astype(int)
            plate = np.median(patch, 0)
            ink = np.abs(array.astype(int) - plate).max(2) > 90
            ink[: max(0, y1 - 1)] = ink[y2 + 1 :] = False
            ink[:, : max(0, x1 - 1)] = ink[:, x2 + 1 :] = False
            xs = np.nonzero((ink & inside).any(0))[0]
            assert xs.min() - region.box[0] < 0.2 * (region.box[2] - region.box[0]) + 2
            assert region.box[2] - xs.max() < 0.2 * (region.box[2] - region.box[0]) + 3


def test_more_faces_are_set_where_asked_for_and_none_is_withheld():
    assert set(FONTS) < set(MORE_FONTS) and len(MORE_FONTS) >= 17 and not set(MORE_FONTS) & set(WITHHELD_FONTS)
    names = {font(name, 20).getname() for name in MORE_FONTS}
    assert len(names) == len(MORE_FONTS) and font(WITHHELD_FONTS[0], 20).getname()[0] not in {name for name, _ in names}


def test_a_scenes_reference_draws_it_again():
    samples = list(read(SPEC))
    assert max(len(outlines(sample)) for sample in samples) > 8
    for sample in samples:
        options = parse(sample.image.uri)
        assert options.pop("count", None) is None
        array, drawn = draw(options.pop("seed"), **options)
        assert np.array_equal(pixels(sample.image.uri), array)
        assert dataclasses.replace(drawn, image=sample.image) == sample


def test_kinds_are_chosen_from_where_named():
    spec = "scenes:count=8,seed=3,objects=1-3,signs=0,kinds=star/house"
    samples = list(read(spec))
    assert {region.label for sample in samples for region in sample.regions} == {"star", "house"}
    assert all(pixels(sample.image.uri).shape == (128, 128, 3) for sample in samples)
    assert parse(samples[0].image.uri)["kinds"] == ("star", "house")


@pytest.mark.parametrize("key", ["kinds=dragon", "kinds="])
def test_an_unknown_kind_is_refused(key):
    with pytest.raises(ValueError, match="kind '.*': expected some of circle"):
        list(read(f"scenes:count=1,{key}"))


@pytest.mark.parametrize("key", ["corners=2", "stretch=0-1", "fonts=all", "letters=x"])
def test_what_cannot_be_drawn_is_refused(key):
    with pytest.raises(ValueError, match=key.partition("=")[0]):
        list(read(f"scenes:count=1,{key}"))
