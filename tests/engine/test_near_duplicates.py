"""Near duplicates: copies of a picture are found, look-alikes are not called so."""

import numpy as np
import pytest

from benchmarks.near_duplicates import figures, jpeg, pages, resized, scenes, score
from florence2 import pixels
from florence2.cli import main
from florence2.engine.ingest import near_duplicates
from florence2.scenes import draw_page


@pytest.mark.parametrize("make", [pages, scenes])
def test_copies_are_found_and_look_alikes_are_not(make):
    found = figures(score(make(3))[0])
    assert found["true"] == 12 and found["precision"] >= 0.95 and found["recall"] >= 0.95, found


def test_one_changed_line_makes_another_receipt():
    page = draw_page(3, size=(600, 800))[0]
    other = page.copy()
    other[400:430, 150:450] = other[400:430, 150:450][:, ::-1]
    grey = near_duplicates.grey
    assert near_duplicates.same_picture(grey(page), grey(jpeg(resized(page, 0.8), 60)))
    assert not near_duplicates.same_picture(grey(page), grey(other))


def test_pages_of_one_colour_are_the_same_only_in_that_colour():
    white, dark = np.full((300, 200, 3), 250, np.uint8), np.full((300, 200, 3), 20, np.uint8)
    grey = near_duplicates.grey
    assert near_duplicates.same_picture(grey(white), grey(resized(white, 0.5)))
    assert not near_duplicates.same_picture(grey(white), grey(dark))


def test_a_cut_copy_in_another_part_is_a_leak(tmp_path, capsys):
    for part in ("train", "test"):
        (tmp_path / part).mkdir()
    for seed in range(3):
        page = draw_page(seed, size=(300, 400))[0]
        (tmp_path / "train" / f"{seed}.png").write_bytes(pixels.encode(page))
    cut = np.ascontiguousarray(draw_page(1, size=(300, 400))[0][15:, 5:])
    (tmp_path / "test" / "copy.jpg").write_bytes(pixels.encode(cut, "JPEG", quality=60))
    assert main(["data", "duplicates", str(tmp_path / "train"), str(tmp_path / "test"), "--quiet"]) == 1
    out = capsys.readouterr().out
    assert "copy.jpg" in out and "1.png" in out and "0 exact, 1 near; 1 shared by two parts" in out
