"""Lines of text by Tesseract; tesserocr's wheel carries the library, the language's `.traineddata` is yours.

It is searched for in the folder given (`tesseract:FOLDER`), in TESSDATA_PREFIX, and where Linux distributions put it.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from florence2.engine.operator import Spec
from florence2.engine.specialists.requirements import sha256_of, version_of
from florence2.labels import fold_spaces
from florence2.records import Parsed, Region, Result, Sample

LANGUAGE = "eng"
SYSTEM = ("/usr/share/tesseract-ocr/5/tessdata", "/usr/share/tesseract-ocr/4.00/tessdata", "/usr/share/tessdata")
SILENT = 6  # Leptonica's L_SEVERITY_NONE
MIN_SIDE = 10  # pixels; Tesseract refuses smaller pictures


class Tesseract:
    """Lines with axis-aligned quads, what they read, and the mean confidence of their words."""

    def __init__(self, folder: str = "") -> None:
        version = version_of("tesserocr", "tesseract", "engine")
        self.folder = _tessdata(folder)
        self.spec = Spec("tesseract", version, produces=frozenset({"region_text/ocr"}), batch_size=1)
        self.config = {"language": LANGUAGE}
        self.weights_sha256 = sha256_of([self.folder / f"{LANGUAGE}.traineddata"])
        self._api: Any = None

    def setup(self, device: str) -> None:
        """Load the language; one thread, since the runner has a process a core."""
        os.environ.setdefault("OMP_THREAD_LIMIT", "1")
        import tesserocr

        _quiet(tesserocr)
        self._api = tesserocr.PyTessBaseAPI(path=str(self.folder), lang=LANGUAGE, psm=tesserocr.PSM.AUTO)

    def annotate(self, samples: Sequence[Sample], images: Sequence[np.ndarray]) -> list[Result]:
        """The lines read in each picture."""
        return [self._read(image) for image in images]

    def _read(self, image: np.ndarray) -> Parsed:
        import tesserocr

        height, width = image.shape[:2]
        if min(height, width) < MIN_SIDE:
            return Parsed()
        self._api.SetImageBytes(np.ascontiguousarray(image).tobytes(), width, height, 3, 3 * width)
        self._api.Recognize()
        regions: list[Region] = []
        level = tesserocr.RIL.TEXTLINE
        for line in tesserocr.iterate_level(self._api.GetIterator(), level):
            if line.Empty(level) or not (text := line.GetUTF8Text(level).strip()):
                continue
            x1, y1, x2, y2 = (float(v) for v in line.BoundingBox(level))
            regions.append(
                Region(
                    id=f"line-{len(regions)}",
                    kind="text",
                    box=(x1, y1, x2, y2),
                    label=fold_spaces(text),
                    quad=(x1, y1, x2, y1, x2, y2, x1, y2),
                    score=float(line.Confidence(level)) / 100,
                )
            )
        self._api.Clear()
        return Parsed(regions=tuple(regions))

    def close(self) -> None:
        """Release Tesseract."""
        if self._api is not None:
            self._api.End()
        self._api = None


def _quiet(tesserocr: Any) -> None:
    """Silence Leptonica's warnings about odd pictures: the library in tesserocr's wheel."""
    package = Path(tesserocr.__file__).parent
    places = (package.parent / "tesserocr.libs", package / ".libs", package / ".dylibs")
    for library in (file for place in places for file in place.glob("*lept*")):
        ctypes.CDLL(str(library)).setMsgSeverity(SILENT)


def _tessdata(folder: str) -> Path:
    prefix = os.environ.get("TESSDATA_PREFIX", "")
    tried = [folder] if folder else [p for p in (prefix, prefix and f"{prefix}/tessdata", *SYSTEM) if p]
    for place in tried:
        if (Path(place) / f"{LANGUAGE}.traineddata").is_file():
            return Path(place)
    raise FileNotFoundError(
        f"specialist tesseract: expected {LANGUAGE}.traineddata in {', '.join(tried)}, found none; "
        "set TESSDATA_PREFIX to its folder, or name it: tesseract:FOLDER"
    )
