"""Specialists made of others: phrases in boxes, masks from boxes, crops described."""

import numpy as np
import pytest

from florence2.engine.specialists.crops import Crops
from florence2.engine.specialists.grounder import Grounder
from florence2.engine.specialists.masks import GrabCut, grab_cut
from florence2.geometry import decode_rle
from florence2.records import ImageRef, Parsed, Region, Sample, Text

BLANK = np.zeros((50, 50, 3), np.uint8)


def region(id, label, score=0.9, box=(5, 5, 45, 45), **fields):
    return Region(id, box=box, label=label, score=score, **fields)


def ground(caption, *regions):
    sample = Sample("s", ImageRef("s"), (Text("t", caption),), regions)
    (result,) = Grounder("bundled").annotate([sample], [BLANK])
    assert all(caption[slice(*g.spans[0])] == g.phrase and g.text_id == "t" for g in result.groundings)
    return {g.phrase: g.region_ids for g in result.groundings}


@pytest.mark.parametrize(
    "caption, found",
    [
        ("A dog sits on a chair.", {"A dog": ("d1",)}),  # the best dog; no chair was found
        ("Two dogs sit on a rug.", {"Two dogs": ("d1", "d2")}),
        ("Some dogs sit on a rug.", {"Some dogs": ("d1", "d2", "d3")}),
        ("A dog chases a dog.", {"A dog": ("d1",), "a dog": ("d2",)}),  # the second dog is another one
        ("A woman holds a red umbrella.", {"A woman": ("p",), "a red umbrella": ("u",)}),  # by synonym, by last words
        ("A cow in a meadow.", {}),
    ],
)
def test_grounder(caption, found):
    regions = [region("d3", "dog", 0.5), region("d1", "dog", 0.9), region("d2", "dog", 0.7), region("p", "person"),
               region("u", "umbrella"), region("unsure", "cow", 0.1)]  # fmt: skip
    assert ground(caption, *regions) == found


def test_grounder_does_not_take_a_part_of_a_word():
    assert ground("A hotdog on a plate.", region("d", "dog")) == {}


@pytest.fixture
def disc():
    """A bright disc on a dark, textured ground, and its mask."""
    ys, xs = np.mgrid[:90, :120]
    mask = (xs - 60) ** 2 + (ys - 45) ** 2 < 25**2
    noise = np.random.default_rng(0).integers(0, 40, (90, 120, 3))
    return np.where(mask[..., None], [220, 60, 40], noise).astype(np.uint8), mask


def test_grab_cut_finds_the_disc_in_its_box(disc):
    image, mask = disc
    found = grab_cut(image, (33, 18, 87, 72))
    assert (found & mask).sum() / (found | mask).sum() > 0.9


@pytest.mark.parametrize("box", [(0, 0, 120, 90), (10, 10, 12, 12), (118, 88, 120, 90)])
def test_grab_cut_with_nothing_to_tell_apart_gives_the_box(disc, box):
    found = grab_cut(disc[0], box)
    assert found.sum() == (box[2] - box[0]) * (box[3] - box[1])


def test_masks_refine_the_boxes_of_objects(disc):
    image, mask = disc
    regions = (
        region("a", "disc", box=(33, 18, 87, 72)),
        region("line", "SALE", kind="text"),
        region("old", "disc", refines="a"),
    )
    specialist = GrabCut()
    specialist.setup("cpu")
    (result,) = specialist.annotate([Sample("s", ImageRef("s"), regions=regions)], [image])
    (found,) = result.regions
    assert (found.refines, found.label, found.score) == ("a", "disc", 0.9)
    again = decode_rle(found.mask)
    assert again.shape == (90, 120) and (again & mask).sum() / (again | mask).sum() > 0.9
    assert found.polygons and found.box[0] >= 33


def test_crops_asks_about_the_crop_and_skips_what_is_too_small(tmp_path):
    (tmp_path / "sizes.py").write_text(
        "from florence2 import Text\n"
        "class Sizes:\n"
        "    name, version, produces = 'sizes', '1', ['text/brief']\n"
        "    def annotate(self, samples, images):\n"
        "        return [[Text(text='x'.join(map(str, i.shape[:2])))] for i in images]\n"
    )
    crops = Crops(f"{tmp_path / 'sizes.py'}:Sizes")
    crops.setup("cpu")
    regions = (region("a", "dog", box=(10, 10, 30, 40)), region("b", "cat", box=(1, 1, 5, 5)))
    (result,) = crops.annotate([Sample("s", ImageRef("s"), regions=regions)], [BLANK])
    assert isinstance(result, Parsed)
    assert [(r.refines, r.label, r.description) for r in result.regions] == [("a", "dog", "36x24")]  # with a margin
    assert crops.spec.name == "crops-sizes"


def test_crops_needs_a_specialist_that_writes():
    with pytest.raises(ValueError, match="writes texts"):
        Crops("opencv")
