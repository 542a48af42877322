"""Tesseract with the language file of the optional test data."""

import numpy as np
import pytest

from florence2.engine import specialists
from florence2.records import ImageRef, Sample
from tests.shared import shared


def test_lines_of_a_page_with_quads_and_scores():
    from skimage import data

    reader = specialists.open(f"tesseract:{shared('models/tesseract_eng')}")
    reader.setup("cpu")
    image = np.repeat(np.asarray(data.page())[:, :, None], 3, axis=2)
    sample = Sample("p", ImageRef("p"))
    page, blank = reader.annotate([sample, sample], [image, np.full((4, 40, 3), 255, np.uint8)])
    reader.close()
    text = " ".join(r.label for r in page.regions)
    assert "markers of the coins" in text and "object or background" in text
    assert all(r.kind == "text" and len(r.quad) == 8 and 0 <= r.score <= 1 for r in page.regions)
    assert blank.regions == ()


def test_leptonica_says_nothing(capfd):
    """Its library is loaded once in a process: what reading a bad file prints shows whether it speaks."""
    import ctypes
    from pathlib import Path

    import tesserocr

    reader = specialists.open(f"tesseract:{shared('models/tesseract_eng')}")
    reader.setup("cpu")
    (library,) = (Path(tesserocr.__file__).parents[1] / "tesserocr.libs").glob("*lept*")
    ctypes.CDLL(str(library)).pixRead(b"/nowhere")
    reader.close()
    assert capfd.readouterr().err == ""


def test_the_language_file_is_found_by_the_environment(monkeypatch):
    folder = shared("models/tesseract_eng")
    monkeypatch.setenv("TESSDATA_PREFIX", str(folder))
    assert specialists.open("tesseract").folder == folder


def test_a_missing_language_file_says_what_to_set(monkeypatch, tmp_path):
    monkeypatch.delenv("TESSDATA_PREFIX", raising=False)
    with pytest.raises(OSError, match="TESSDATA_PREFIX"):
        specialists.open(f"tesseract:{tmp_path}")
