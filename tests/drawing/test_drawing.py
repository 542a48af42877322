"""What is drawn where; that nothing said by a picture becomes markup."""

import numpy as np
import pytest

from florence2.drawing.html_figure import html_figure
from florence2.drawing.overlays import color_of, overlays_of
from florence2.drawing.picture import contact_sheet, draw
from florence2.records import Grounding, Parsed, Region, Rle, Text

GREY = np.full((100, 120, 3), 128, np.uint8)
BOX = Region(id="a", box=(20, 30, 80, 90), label="cat", score=0.5)


def changed(picture, scale=4):
    """The picture's pixels at its own size that are no longer grey."""
    return np.any(picture[::scale, ::scale] != 128, axis=2)


@pytest.mark.parametrize(
    "region, inside, filled",
    [
        (BOX, (60, 50), False),
        (Region(quad=(20, 30, 80, 30, 80, 90, 20, 90), label="text"), (60, 50), False),
        (Region(polygons=((20, 30, 80, 30, 80, 90, 20, 90),), label="cat"), (60, 50), True),
        (Region(mask=Rle(100, 120, "Tno3l0d2"), label="cat"), None, True),
    ],
)
def test_each_kind_of_region_is_drawn(region, inside, filled):
    if region.mask is not None:
        from florence2.geometry import encode_rle, rasterize

        mask = encode_rle(rasterize([(20, 30, 80, 30, 80, 90, 20, 90)], (120, 100)))
        region, inside = Region(mask=mask, label="cat"), (60, 50)
    picture = draw(GREY, [region])
    assert picture.shape == (400, 480, 3)  # small pictures are enlarged
    marks = changed(picture)
    assert marks[60, 20] and marks[60, 80] and marks[90, 50]  # the sides
    assert marks[inside] == filled
    assert not marks[5, 110] and not marks[95, 5]


def test_a_label_has_one_colour_everywhere():
    assert color_of("traffic light") == color_of("Traffic  Light") != color_of("cat")
    colors = {color_of(f"label {n}") for n in range(50)}
    assert len(colors) > 45


def test_a_grounded_region_is_named_by_its_phrase():
    parsed = Parsed(
        regions=(Region(id="r", box=(0, 0, 9, 9)),), groundings=(Grounding(phrase="a hat", region_ids=("r",)),)
    )
    assert [m.caption for m in overlays_of(parsed)] == ["a hat"]
    assert [m.caption for m in overlays_of([BOX])] == ["cat 0.50"]
    assert [m.caption for m in overlays_of([BOX], {"a": "low_score"})] == ["cat 0.50 (low_score)"]


def test_texts_stand_below_and_long_ones_wrap():
    short = draw(GREY, Parsed(texts=(Text(text="a grey wall"),)))
    long = draw(GREY, Parsed(texts=(Text(text="a grey wall " * 40),)))
    assert 400 < short.shape[0] < long.shape[0] and short.shape[1] == long.shape[1] == 480


def test_odd_input_is_drawn():
    strange = [
        Region(label="nowhere"),
        Region(box=(-50, -50, 500, 500), label="beyond"),
        Region(box=(5, 5, 5, 5), label="a point"),
        Region(polygons=((1.0, 2.0),), label="one corner"),
        Region(box=(0, 0, 9, 9), label="汽车 <b>" * 40),
    ]
    assert draw(GREY, strange).shape == (400, 480, 3)
    assert draw(GREY, strange, rejected={"": "odd"}).shape == (400, 480, 3)
    assert html_figure(GREY, strange).count("<g>") == 4


def test_rejected_is_drawn_dashed():
    kept, rejected = changed(draw(GREY, [BOX])), changed(draw(GREY, [BOX], rejected={"a": "nms"}))
    assert 0 < rejected[35:85, 20].sum() < kept[35:85, 20].sum()


def test_a_contact_sheet_holds_every_picture():
    sheet = contact_sheet([GREY, np.zeros((10, 300, 3), np.uint8)] * 3, ["one", "two", "three"], columns=3, cell=100)
    assert sheet.shape == (2 * 126 + 4, 3 * 104 + 4, 3)
    assert (sheet == 128).all(axis=2).sum() > 3 * 80 * 90
    assert contact_sheet([]).ndim == 3


def test_the_figure_escapes_every_text():
    evil = '<script>alert("x")</script>&'
    shown = Parsed(texts=(Text(text=evil),), regions=(Region(box=(1, 1, 9, 9), label=evil),), truncated=True)
    page = html_figure(GREY, shown, title=evil)
    assert "<script" not in page and page.count("&lt;script&gt;") >= 4 and "<i>truncated</i>" in page


def test_the_figure_is_well_formed_and_holds_the_picture():
    import base64
    import re
    from xml.etree import ElementTree

    from florence2 import pixels

    page = html_figure(GREY, [BOX], title="one", format="PNG")
    root = ElementTree.fromstring(page)
    assert root.tag == "figure"
    data = re.search(r"data:image/png;base64,([^\"]+)", page).group(1)
    assert np.array_equal(pixels.load(base64.b64decode(data)), GREY)
    large = html_figure(np.zeros((1000, 4000, 3), np.uint8), [BOX], width=200)
    assert 'viewBox="0 0 4000 1000"' in large and len(large) < 20_000
