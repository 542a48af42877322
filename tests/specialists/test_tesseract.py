"""Tesseract: what it says of a page as it was recorded, and with the language file of the optional test data."""

import ctypes
import json
from pathlib import Path

import numpy as np
import pytest
import tesserocr

from florence2.engine import specialists
from florence2.records import ImageRef, Sample
from tests.shared import shared
from tests.specialists.recorded_tesseract import RECORD, RecordedAPI, page

SAMPLE = Sample("p", ImageRef("p"))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a language file that is none, and Tesseract answering from the record."""
    monkeypatch.setattr(tesserocr, "PyTessBaseAPI", RecordedAPI)
    (tmp_path / "eng.traineddata").write_bytes(b"none")
    return tmp_path


def read(folder, *images):
    reader = specialists.open(f"tesseract:{folder}")
    reader.setup("cpu")
    found = reader.annotate([SAMPLE] * len(images), images)
    reader.close()
    return found


def test_lines_of_a_page_with_quads_and_scores(folder):
    found, small = read(folder, page(), np.full((4, 40, 3), 255, np.uint8))
    said = [line for line in json.loads(RECORD.read_text(encoding="utf-8"))["lines"] if line["text"].strip()]
    assert len(said) == 5  # and three lines of blanks
    assert [r.label for r in found.regions] == [" ".join(line["text"].split()) for line in said]
    assert [r.score for r in found.regions] == pytest.approx([line["confidence"] / 100 for line in said])
    assert [list(r.box) for r in found.regions] == [line["box"] for line in said]
    for region in found.regions:
        x1, y1, x2, y2 = region.box
        assert region.kind == "text" and region.quad == (x1, y1, x2, y1, x2, y2, x1, y2)
    assert len({r.id for r in found.regions}) == len(said)
    assert small.regions == ()


def test_a_view_of_a_picture_is_given_row_by_row(folder):
    wide = np.zeros((page().shape[0], page().shape[1] + 7, 3), np.uint8)
    wide[:, :-7] = page()
    (found,) = read(folder, wide[:, :-7])  # not contiguous
    assert len(found.regions) == 5


def test_the_language_file_reads_a_page():
    (found,) = read(shared("models/tesseract_eng"), page())
    text = " ".join(r.label for r in found.regions)
    assert "markers of the coins" in text and "object or background" in text
    assert found.regions and all(len(r.quad) == 8 and 0 < r.score <= 1 for r in found.regions)


def test_leptonica_says_nothing(folder, capfd):
    """Its library is loaded once in a process: what reading a bad file prints shows whether it speaks."""
    (library,) = (Path(tesserocr.__file__).parents[1] / "tesserocr.libs").glob("*lept*")
    lept = ctypes.CDLL(str(library))
    lept.setMsgSeverity(3)  # warnings and above
    lept.pixRead(b"/nowhere")
    assert "pixRead" in capfd.readouterr().err
    read(folder)
    lept.pixRead(b"/nowhere")
    assert capfd.readouterr().err == ""


def test_the_language_file_is_found_by_the_environment(folder, monkeypatch):
    monkeypatch.setenv("TESSDATA_PREFIX", str(folder))
    assert specialists.open("tesseract").folder == folder


def test_a_missing_language_file_says_what_to_set(monkeypatch, tmp_path):
    monkeypatch.delenv("TESSDATA_PREFIX", raising=False)
    with pytest.raises(OSError, match="TESSDATA_PREFIX"):
        specialists.open(f"tesseract:{tmp_path}")
