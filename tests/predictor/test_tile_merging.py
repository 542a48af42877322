"""Parts of a picture made one: a perfect detector's answers about tiles give back the very things of the picture."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from florence2 import geometry
from florence2.model.model_config import SIZES
from florence2.predictor.tile_merging import Piece, joined_text, merged, piece
from florence2.predictor.tiling import OVERLAP, parts_of
from florence2.records import Region

SIZE = (1200, 900)


def seen(things, part, least=0.25):
    """What a perfect detector says of a part: what lies in it, cut at its edges, in the part's pixels."""
    x0, y0, x1, y1 = part
    for thing in things:
        a, b, c, d = thing.box
        box = max(a, x0), max(b, y0), min(c, x1), min(d, y1)
        if box[2] - box[0] > 1 and box[3] - box[1] > 1:
            share = geometry.area(box)[0] / geometry.area(thing.box)[0]
            if share >= least:
                moved = (box[0] - x0, box[1] - y0, box[2] - x0, box[3] - y0)
                yield dataclasses.replace(thing, box=(moved[0], moved[1], box[2] - x0, box[3] - y0))


def put_together(things, columns, rows, whole=True, size_wh=SIZE, least=0.25):
    parts = parts_of((columns, rows), size_wh, SIZES["nano"])
    parts = parts if whole or len(parts) == 1 else parts[1:]
    pieces = [piece(region, region.label, part, size_wh) for part in parts for region in seen(things, part, least)]
    return [region for _, region in merged(pieces, size_wh)]


@st.composite
def layouts(draw, most_side=900):
    """Boxes of which no two of a label overlap by much, none within another of its label."""
    things = []
    for n in range(draw(st.integers(1, 10))):
        w, h = draw(st.integers(8, min(most_side, 1100))), draw(st.integers(8, min(most_side, 800)))
        x, y = draw(st.integers(0, SIZE[0] - w)), draw(st.integers(0, SIZE[1] - h))
        label, box = draw(st.sampled_from("ab")), (float(x), float(y), float(x + w), float(y + h))
        same = [t.box for t in things if t.label == label]
        if not same or geometry.intersection(box, same).max() == 0:
            things.append(Region(f"r{n}", box=box, label=label, score=draw(st.integers(1, 9)) / 10))
    return things


def as_set(regions):
    return sorted((r.label, tuple(round(v) for v in r.box)) for r in regions)


@settings(max_examples=150, deadline=None)
@given(layouts(), st.integers(1, 4), st.integers(1, 4))
def test_tiles_and_the_whole_give_each_thing_once(things, columns, rows):
    assert as_set(put_together(things, columns, rows)) == as_set(things)


@settings(max_examples=150, deadline=None)
@given(layouts(), st.integers(1, 3), st.integers(1, 3))
def test_tiles_alone_join_what_their_seams_cut(things, columns, rows):
    found = put_together(things, columns, rows, whole=False, least=0.0)
    assert as_set(found) == as_set(things)


def test_parts_cover_the_picture_and_overlap():
    for columns, rows in ((1, 1), (2, 1), (3, 4), (7, 7)):
        parts = parts_of((columns, rows), SIZE, SIZES["nano"])
        assert parts[0] == (0, 0, *SIZE) and len(parts) == (1 if columns * rows == 1 else 1 + columns * rows)
        covered = np.zeros(SIZE[::-1], bool)
        for x1, y1, x2, y2 in parts[1:] or parts:
            covered[int(y1) : int(y2), int(x1) : int(x2)] = True
        assert covered.all()
        for one, two in zip(parts[1:], parts[2:]):
            if one[1] == two[1]:
                assert one[2] - two[0] >= 0.9 * OVERLAP * (one[2] - one[0])


def test_auto_makes_tiles_of_the_models_own_size_up_to_a_limit():
    assert len(parts_of("auto", (128, 100), SIZES["nano"])) == 1
    assert len(parts_of("auto", (256, 100), SIZES["nano"])) == 1 + 2
    assert len(parts_of("auto", (2000, 1500), SIZES["base"])) == 1 + 3 * 2 + 2 * 1
    assert len(parts_of("auto", (20_000, 20_000), SIZES["nano"])) == 1 + 6 * 6 + 3 * 3


def test_tiles_smaller_than_a_cell_are_refused():
    with pytest.raises(ValueError, match=r"tiles: \(100, 1\) of 640 x 480 pixels are of 8 x 480 each.* 16 x 16"):
        parts_of((100, 1), (640, 480), SIZES["nano"])


LINE = "TOTAL AMOUNT 12.50 EUR"


@pytest.mark.parametrize("columns", [2, 3, 4])
@pytest.mark.parametrize("start", [20, 150, 333])
def test_a_line_of_text_cut_by_seams_is_one_line_again(columns, start):
    size_wh, letter = (1200, 300), 36
    end = start + letter * len(LINE)
    pieces = []
    for part in parts_of((columns, 1), size_wh, SIZES["nano"])[1:]:
        a, b = max(start, part[0]), min(end, part[2])
        said = LINE[round((a - start) / letter) : round((b - start) / letter)].strip()
        if b > a and said:
            quad = (a - part[0], 40, b - part[0], 40, b - part[0], 76, a - part[0], 76)
            region = Region(kind="text", label=said, quad=quad, box=(a - part[0], 40, b - part[0], 76), score=0.8)
            pieces.append(piece(region, said, part, size_wh))
    (found,) = merged(pieces, size_wh)
    assert found[0] == found[1].label == LINE
    assert found[1].quad == pytest.approx((start, 40, end, 40, end, 76, start, 76))


@pytest.mark.parametrize(
    "one, two, shares, whole",
    [
        ("HELLO WO", "O WORLD", (0.5, 0.5), "HELLO WORLD"),  # both hold " WO"
        ("HELLO WI", "D WORLD", (0.4, 0.4), "HELLO WORLD"),  # letters that the edges cut are wrong
        ("12345", "45678", (0.4, 0.4), "12345678"),
        ("00000", "00000", (0.4, 0.4), "00000000"),  # the band says how much is shared
        ("left", "right", (0.0, 0.0), "left right"),
    ],
)
def test_readings_are_joined_where_they_agree(one, two, shares, whole):
    assert joined_text(one, two, *shares) == whole


def test_polygons_on_both_sides_of_a_seam_become_one():
    size_wh = (1000, 400)
    left, right = parts_of((2, 1), size_wh, SIZES["nano"])[1:]
    shape = (200, 100, 800, 100, 800, 300, 200, 300)

    def half(part):
        a, b = max(200, part[0]) - part[0], min(800, part[2]) - part[0]
        outline = (a, 100, b, 100, b, 300, a, 300)
        return piece(Region(box=(a, 100, b, 300), polygons=(outline,), label="", score=0.5), "", part, size_wh)

    ((_, region),) = merged([half(left), half(right)], size_wh)
    assert len(region.polygons) == 1 and region.box == (200, 100, 800, 300)
    expected = geometry.rasterize([shape], size_wh)
    found = geometry.rasterize(region.polygons, size_wh)
    assert (found & expected).sum() / (found | expected).sum() > 0.99


def test_things_of_other_labels_and_separate_things_at_a_seam_stay_apart():
    part_a, part_b = (0, 0, 600, 400), (480, 0, 1080, 400)
    cut_a = Piece(Region(box=(300, 50, 600, 90), label="a"), "a", part_a, (False, False, True, False))
    cut_b = Piece(Region(box=(480, 50, 800, 90), label="b"), "b", part_b, (True, False, False, False))
    lower = Piece(Region(box=(480, 200, 800, 240), label="a"), "a", part_b, (True, False, False, False))
    assert len(merged([cut_a, cut_b], (1080, 400))) == 2 and len(merged([cut_a, lower], (1080, 400))) == 2


def test_of_two_readings_of_one_thing_the_better_is_kept():
    part = (0, 0, 600, 400)
    low = Piece(Region(box=(100, 100, 200, 200), label="a", score=0.3), "a", part)
    high = Piece(Region(box=(105, 100, 205, 200), label="a", score=0.7), "a", part)
    assert [r.score for _, r in merged([low, high], (1000, 400))] == [0.7]
