"""What Tesseract said of one page, line by line, in place of a language file of four megabytes.

python -m tests.specialists.recorded_tesseract FOLDER     # records it again with FOLDER/eng.traineddata
"""

import hashlib
import json
import sys
from pathlib import Path

import numpy as np

RECORD = Path(__file__).with_name("recorded_tesseract.json")


def page() -> np.ndarray:
    """The page that was read: HWC uint8, from scikit-image's wheel."""
    from skimage import data

    return np.repeat(np.asarray(data.page())[:, :, None], 3, axis=2)


class Lines:
    """Tesseract's iterator over the recorded lines."""

    def __init__(self, lines):
        self._lines, self._place = lines, 0

    def Next(self, level):
        self._place += 1
        return self._place < len(self._lines)

    def Empty(self, level):
        return self._lines[self._place]["empty"]

    def GetUTF8Text(self, level):
        return self._lines[self._place]["text"]

    def BoundingBox(self, level):
        return tuple(self._lines[self._place]["box"])

    def Confidence(self, level):
        return self._lines[self._place]["confidence"]


class RecordedAPI:
    """`tesserocr.PyTessBaseAPI` for the one page: any other picture, or the page in another layout, is refused."""

    def __init__(self, path, lang, psm):
        assert (Path(path) / f"{lang}.traineddata").is_file()
        self._record, self._ready = json.loads(RECORD.read_text(encoding="utf-8")), False

    def SetImageBytes(self, data, width, height, bytes_per_pixel, bytes_per_line):
        assert len(data) == height * bytes_per_line and bytes_per_line == width * bytes_per_pixel
        given = [hashlib.sha256(data).hexdigest(), width, height]
        assert given == [self._record["sha256"], self._record["width"], self._record["height"]]

    def Recognize(self):
        self._ready = True

    def GetIterator(self):
        assert self._ready
        return Lines(self._record["lines"])

    def Clear(self):
        self._ready = False

    def End(self):
        self._record = None


def record(folder: str) -> None:
    """Write what Tesseract says of the page now."""
    import tesserocr

    image, level = page(), tesserocr.RIL.TEXTLINE
    height, width = image.shape[:2]
    lines = []
    with tesserocr.PyTessBaseAPI(path=folder, lang="eng", psm=tesserocr.PSM.AUTO) as api:
        api.SetImageBytes(image.tobytes(), width, height, 3, 3 * width)
        api.Recognize()
        for line in tesserocr.iterate_level(api.GetIterator(), level):
            empty = line.Empty(level)
            said = {"text": line.GetUTF8Text(level), "box": line.BoundingBox(level), "empty": empty}
            lines.append({**said, "confidence": line.Confidence(level)})
    made = {"tesseract": tesserocr.tesseract_version().split("\n")[0], "width": width, "height": height}
    made |= {"sha256": hashlib.sha256(image.tobytes()).hexdigest(), "lines": lines}
    RECORD.write_text(json.dumps(made, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    record(sys.argv[1])
