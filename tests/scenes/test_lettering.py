"""Signs and pages: quads hug the ink, letters are as high as promised, files hold what was drawn."""

import importlib.util
import json

import numpy as np
import pytest

from florence2.pixels import load
from florence2.records import Sample, from_json
from florence2.scenes import FONTS, WITHHELD_FONTS, draw, draw_page, lettering, write


def side(quad, i):
    """Length of a quad's side from corner i."""
    points = np.array(quad).reshape(4, 2)
    return float(np.linalg.norm(points[(i + 1) % 4] - points[i]))


def read(sample):
    return [region for region in sample.regions if region.kind == "text"]


def test_signs_come_as_often_as_asked():
    assert not any(read(draw(seed, signs=0)[1]) for seed in range(20))
    assert sum(bool(read(draw(seed, signs=1)[1])) for seed in range(40)) >= 36  # few find no room


def test_letters_are_high_enough_and_turned_a_little():
    turned = 0
    for seed in range(40):
        for region in read(draw(seed, signs=1, letters=0.12)[1]):
            assert side(region.quad, 1) >= 0.12 * 128 - 0.02  # corners are rounded
            (x1, y1), (x2, y2) = np.array(region.quad).reshape(4, 2)[:2]
            angle = np.degrees(np.arctan2(y2 - y1, x2 - x1))
            assert abs(angle) <= 15.1
            turned += abs(angle) > 2
    assert turned > 10


@pytest.mark.parametrize("name", FONTS + WITHHELD_FONTS)
@pytest.mark.parametrize("degrees", [0, 11])
def test_quad_hugs_the_ink(name, degrees):
    from PIL import Image

    from florence2.scenes.object_layout import SUPERSAMPLE

    canvas = Image.new("RGB", (400, 300), (255, 255, 255))
    line = lettering.write(canvas, "Agfx 25", name, 60, (100, 75), degrees, (0, 0, 0))
    dark = np.asarray(canvas.reduce(SUPERSAMPLE))[..., 0] < 200
    ys, xs = np.nonzero(dark)
    angle = np.radians(-degrees)
    back = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    ink, quad = np.stack([xs + 0.5, ys + 0.5], 1) @ back.T, np.array(line.quad) @ back.T
    assert np.abs(ink.min(0) - quad.min(0)).max() < 1.6 and np.abs(ink.max(0) - quad.max(0)).max() < 1.6


def test_page_reads_from_top_to_bottom_and_its_sum_is_right():
    for seed in range(30):
        _, sample = draw_page(seed)
        lines = [region.label for region in sample.regions]
        assert all(region.kind == "text" and len(region.quad) == 8 for region in sample.regions)
        assert [text.text for text in sample.texts if text.detail == "ocr"] == ["\n".join(lines)]
        total = lines.index("TOTAL")
        start = 3 if "/" in lines[1] else 1
        assert round(sum(float(price) for price in lines[start + 1 : total : 2]), 2) == float(lines[total + 1])
        for text in sample.texts[:3]:
            for grounding in (g for g in sample.groundings if g.text_id == text.id):
                ((a, b),) = grounding.spans
                assert text.text[a:b] == grounding.phrase
        for region in sample.regions:
            assert 0 <= region.box[0] and region.box[2] <= 384 and 0 <= region.box[1] and region.box[3] <= 512


def test_page_asks_for_fonts_by_name():
    assert draw_page(3)[0].tobytes() != draw_page(3, withheld=True)[0].tobytes()
    assert draw_page(3, fonts=["aileron"])[0].shape == (512, 384, 3)
    with pytest.raises(ValueError, match="lines"):
        draw_page(0, lines=(1, 2))
    with pytest.raises(ValueError, match="size"):
        draw_page(0, size=32)


def test_absent_font_names_the_extra(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    lettering._font_bytes.cache_clear()
    lettering.font.cache_clear()
    with pytest.raises(ValueError, match=r"florence2\[demo\]"):
        draw_page(0, fonts=["dejavu-mono"])
    assert draw(0, signs=1, fonts=["aileron"])[0].shape == (128, 128, 3)  # Pillow's own is always there


def test_written_pictures_load_and_truth_reads_back(tmp_path):
    drawn = [draw(2**31 + seed) for seed in range(4)] + [draw_page(2**31, size=128, lines=(3, 4))]
    truth = write(tmp_path / "set", drawn)
    assert truth == tmp_path / "set" / "truth.jsonl"
    samples = [from_json(Sample, json.loads(line)) for line in truth.read_text().splitlines()]
    for (pixels, told), sample in zip(drawn, samples, strict=True):
        assert np.array_equal(load(truth.parent / sample.image.uri), pixels)
        assert sample.regions == told.regions and sample.groundings == told.groundings
        assert sample.image.size_wh == told.image.size_wh and len(sample.image.sha256) == 64
    assert {p.name for p in (tmp_path / "set").iterdir()} == {"images", "truth.jsonl"}
