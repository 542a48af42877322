"""RapidOCR and OpenCV on the photos of scikit-image's wheel."""

import dataclasses

import numpy as np
import pytest

from florence2.engine import specialists
from florence2.records import ImageRef, Sample


def look(name, image):
    found = specialists.open(name)
    found.setup("cpu")
    (result,) = found.annotate([Sample("p", ImageRef("p", width=image.shape[1], height=image.shape[0]))], [image])
    found.close()
    return result.regions


@pytest.fixture(scope="module")
def page():
    from skimage import data

    return np.repeat(np.asarray(data.page())[:, :, None], 3, axis=2)


def test_rapidocr_reads_lines_with_quads(page):
    lines = look("rapidocr", page)
    text = " ".join(line.label for line in lines)
    assert "Region-based segmentation" in text and "markers" in text
    assert all(len(line.quad) == 8 and line.kind == "text" and 0 < line.score <= 1 for line in lines)
    heading = next(line for line in lines if line.label.startswith("Region"))
    assert heading.box[1] < 12 and heading.quad[:2] == pytest.approx(heading.box[:2], abs=6)


def test_rapidocr_on_an_empty_picture_finds_nothing():
    assert look("rapidocr", np.full((64, 64, 3), 255, np.uint8)) == ()


def test_opencv_finds_the_astronauts_face_and_eyes():
    from skimage import data

    regions = look("opencv", np.asarray(data.astronaut()))
    best = max((r for r in regions if r.label == "face"), key=lambda r: r.score)
    assert np.allclose(best.box, (177, 66, 272, 161), atol=15) and best.score > 0.7
    eyes = [r for r in regions if r.label == "eye"]
    assert len(eyes) == 2 and all(best.box[0] < e.box[0] and e.box[3] < best.box[3] for e in eyes)
    assert all(0 < r.score < 1 for r in regions)


def test_opencv_scales_boxes_back():
    from skimage import data

    large = np.repeat(np.repeat(np.asarray(data.astronaut()), 3, axis=0), 3, axis=1)
    best = max((r for r in look("opencv", large) if r.label == "face"), key=lambda r: r.score)
    assert np.allclose(best.box, (531, 198, 816, 483), atol=50)


@pytest.mark.parametrize("side", [1, 16, 40])
def test_small_pictures_are_no_trouble(side):
    assert look("opencv", np.zeros((side, side, 3), np.uint8)) == ()


def test_a_missing_library_says_what_to_install(monkeypatch):
    import importlib.metadata

    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    with pytest.raises(ValueError, match=r"pip install 'florence2\[demo\]'"):
        specialists.open("rapidocr")


def test_settings_are_plain_and_hashed():
    from florence2.engine.operator import fingerprint

    found = specialists.open("opencv")
    before = fingerprint(found)
    found.spec = dataclasses.replace(found.spec, version="0")
    assert fingerprint(found) != before
