"""What is drawn where; that nothing said by a picture becomes markup."""

import unicodedata
from pathlib import Path

import numpy as np
import pytest

from florence2.drawing import fonts
from florence2.drawing import picture as picture_module
from florence2.drawing.fonts import Lettering, lettering
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
    evil = '<script>alert("x")</script>&\x1b\x07\x00\x85\ud800'
    shown = Parsed(texts=(Text(text=evil),), regions=(Region(box=(1, 1, 9, 9), label=evil),), truncated=True)
    page = html_figure(GREY, shown, title=evil)
    assert "<script" not in page and page.count("&lt;script&gt;") >= 4 and "<i>truncated</i>" in page
    assert not [letter for letter in page if unicodedata.category(letter) in ("Cc", "Cs") and letter not in "\t\n"]


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


@pytest.mark.parametrize("size_wh", [(128, 128), (640, 480), (4000, 3000), (300, 1200), (20, 400), (600, 15), (1, 1)])
@pytest.mark.parametrize("count", [1, 60])
def test_labels_are_inside_and_legible_at_any_size(size_wh, count, monkeypatch):
    labels, sizes = [], []

    def noting(pen, overlay, scale, font, drawn_wh, taken):
        caption(pen, overlay, scale, font, drawn_wh, taken)
        labels.append(taken[-1])
        sizes.append(drawn_wh)

    caption = picture_module._caption
    monkeypatch.setattr(picture_module, "_caption", noting)
    width, height = size_wh
    rng = np.random.default_rng(1)
    corners = np.sort(rng.uniform(-0.1, 1.1, (count, 2, 2)), axis=1) * size_wh  # some leave the picture
    regions = [Region(box=tuple(b.reshape(-1)), label="a label of some length", score=0.5) for b in corners]
    drawn = draw(np.full((height, width, 3), 128, np.uint8), regions)
    assert len(labels) == count and sizes[0] == drawn.shape[1::-1]
    for x1, y1, x2, y2 in labels:
        assert 0 <= x1 < x2 <= sizes[0][0] and 0 <= y1 < y2 <= sizes[0][1]
        assert y2 - y1 >= max(11, min(max(sizes[0]) / 100, min(sizes[0]) / 26))  # read where it is shown 1,000 px wide


def test_a_thread_of_a_picture_is_not_enlarged_without_end():
    drawn = draw(np.zeros((1, 60_000, 3), np.uint8), [Region(box=(0, 0, 900, 1), label="a line")])
    assert drawn.shape[0] * drawn.shape[1] <= 2**25 and drawn.shape[0] > 11


def test_a_tint_stays_inside_its_outline():
    drawn = draw(GREY, [Region(polygons=((20, 30, 80, 30, 80, 90, 20, 90),), label="cat")])
    marks = changed(drawn)
    assert marks[31:59, 21:79].all() and not marks[:20].any() and not marks[:, 90:].any()
    outside = [Region(polygons=((-90, -90, -20, -90, -20, -20),)), Region(polygons=((300, 300, 400, 300, 400, 400),))]
    assert not changed(draw(GREY, outside)).any()


@pytest.mark.parametrize("size_wh", [(640, 480), (120, 900), (4000, 3000), (900, 60)])
def test_labels_of_the_figure_are_inside_it(size_wh):
    import re

    width, height = size_wh
    rng = np.random.default_rng(2)
    corners = np.sort(rng.uniform(-0.1, 1.1, (40, 2, 2)), axis=1) * size_wh
    regions = [Region(box=tuple(b.reshape(-1)), label="a label of some length " * 3, score=0.5) for b in corners]
    page = html_figure(np.full((height, width, 3), 128, np.uint8), regions)
    found = re.findall(r'<text x="([-.\d]+)" y="([-.\d]+)"[^>]*font-size="([.\d]+)"[^>]*>([^<]*)</text>', page)
    assert len(found) == 40 and page.count(("a label of some length " * 3).strip()) >= 40  # whole on hover
    for x, y, size, words in ((float(x), float(y), float(size), words) for x, y, size, words in found):
        assert 0 <= x and x + 0.56 * size * len(words) <= width + 1 and 0 < y <= height


@pytest.mark.parametrize("label", ["car", "a red car, 0.98"])
def test_english_is_drawn_in_pillows_own_letters(label):
    assert lettering([label]) == Lettering() and Lettering().written(label) == label


def test_letters_that_no_font_has_are_written_as_their_codes(monkeypatch):
    monkeypatch.setattr(fonts, "_files", lambda: ())
    fonts._lettering.cache_clear()
    found = lettering(["caf\xe9 \u6f22", "\U00020000"])
    fonts._lettering.cache_clear()
    assert found.file == "" and found.lacking == {"\xe9", "\u6f22", "\U00020000"}
    assert found.written("caf\xe9 \u6f22") == r"caf\u00e9 \u6f22" and found.written("\U00020000") == r"\U00020000"


def test_a_font_of_this_machine_is_taken_for_what_pillow_lacks(monkeypatch, tmp_path):
    matplotlib = pytest.importorskip("matplotlib")
    folder = Path(matplotlib.get_data_path()) / "fonts/ttf"
    monkeypatch.setattr(fonts, "_folders", lambda: [tmp_path / "none", folder])
    for cached in (fonts._files, fonts._lettering):
        cached.cache_clear()
    greek = lettering(["\u03b1\u03b2\u03b3", "cat"])
    partly = lettering(["\u03b1 \u6f22"])
    for cached in (fonts._files, fonts._lettering):
        cached.cache_clear()
    assert greek.file and not greek.lacking and "lastresort" not in greek.file.lower()
    assert partly.lacking == {"\u6f22"} and partly.written("\u03b1 \u6f22") == "\u03b1 \\u6f22"  # none has it


def test_a_broken_font_is_passed_over(monkeypatch, tmp_path):
    (tmp_path / "dejavusans.ttf").write_bytes(b"no font")
    monkeypatch.setattr(fonts, "_files", lambda: (str(tmp_path / "dejavusans.ttf"), str(tmp_path / "gone.ttf")))
    fonts._lettering.cache_clear()
    found = lettering(["\xe9"])
    fonts._lettering.cache_clear()
    assert found == Lettering("", frozenset("\xe9"))


def test_no_letter_of_a_label_is_drawn_as_a_box():
    picture = np.full((120, 200, 3), 255, np.uint8)
    plain = draw(picture, [Region("r", box=(40.0, 40.0, 120.0, 100.0), label="cafe")])
    marked = draw(picture, [Region("r", box=(40.0, 40.0, 120.0, 100.0), label="caf\xe9")])
    boxed = draw(picture, [Region("r", box=(40.0, 40.0, 120.0, 100.0), label="caf\uffff")])
    assert (plain != marked).any() and (marked != boxed).any()
