"""Faces, eyes and cats' faces by the cascades that come in OpenCV's wheel (4.x; 5 has none); people where asked for.

The detector of people (HOG) costs most of the time and finds little but people that are not there: it is off unless a
card says `specialist: opencv` and `people: true`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from florence2.engine.operator import Spec
from florence2.engine.specialists.requirements import version_of
from florence2.records import Box, Parsed, Region, Result, Sample

LABEL_SPACE = "opencv"
MAX_SIDE = 960  # pixels; a larger picture is shrunk first
HOG_MIDDLE, HOG_SPREAD = 1.0, 0.4  # false people score 0.2-0.9 on photos without any


@dataclass(frozen=True)
class Cascade:
    """One Haar cascade: its file, its label, and the stage weight at which about half of what it finds is right."""

    file: str
    label: str
    neighbours: int
    middle: float
    spread: float


FACE = Cascade("haarcascade_frontalface_default.xml", "face", 5, middle=2.5, spread=1.5)
PROFILE = Cascade("haarcascade_profileface.xml", "face", 5, middle=2.0, spread=1.0)
CAT = Cascade("haarcascade_frontalcatface_extended.xml", "cat face", 3, middle=0.5, spread=0.5)
EYE = Cascade("haarcascade_eye.xml", "eye", 5, middle=1.5, spread=1.0)  # searched for in the upper part of faces only
CASCADES = (FACE, PROFILE, CAT, EYE)


class OpenCv:
    """Boxes with labels and scores between 0 and 1; `people` turns the detector of people on."""

    def __init__(self, people: bool = False) -> None:
        if not isinstance(people, bool):
            raise ValueError(f"people: expected true or false, got {people!r}")
        version = version_of("opencv-python-headless", "opencv", "demo")
        self.spec = Spec("opencv", version, produces=frozenset({"region_text/object"}), batch_size=1)
        self.config: dict[str, Any] = {"max_side": MAX_SIDE, "cascades": [c.__dict__ for c in CASCADES]}
        if people:
            self.config["hog"] = [HOG_MIDDLE, HOG_SPREAD]
        self.weights_sha256 = ""  # they come in the wheel: its version names them
        self._cascades: dict[str, Any] = {}
        self._people: Any = None

    def setup(self, device: str) -> None:
        """Read the cascades of the wheel."""
        import cv2

        if not hasattr(cv2, "CascadeClassifier"):
            raise ValueError(
                f"specialist opencv: expected OpenCV 4, got {cv2.__version__}, which has no cascades; "
                "pip install 'opencv-python-headless<5'"
            )
        cv2.setNumThreads(1)
        folder = Path(cv2.__file__).parent / "data"
        self._cascades = {c.file: cv2.CascadeClassifier(str(folder / c.file)) for c in CASCADES}
        if "hog" in self.config:
            self._people = cv2.HOGDescriptor()
            self._people.setSVMDetector(cv2.HOGDescriptor.getDefaultPeopleDetector())

    def annotate(self, samples: Sequence[Sample], images: Sequence[np.ndarray]) -> list[Result]:
        """What is found in each picture."""
        return [self._look(image) for image in images]

    def _look(self, image: np.ndarray) -> Parsed:
        import cv2

        factor = min(1.0, MAX_SIDE / max(image.shape[:2]))
        if factor < 1:
            image = cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
        grey = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY)
        return Parsed(
            regions=tuple(
                Region(
                    id=f"found-{i}",
                    box=(box[0] / factor, box[1] / factor, box[2] / factor, box[3] / factor),
                    label=label,
                    label_space=LABEL_SPACE,
                    score=score,
                )
                for i, (box, label, score) in enumerate(self._found(grey, image))
            )
        )

    def _found(self, grey: np.ndarray, image: np.ndarray) -> Iterator[tuple[Box, str, float]]:
        faces = list(self._cascade(FACE, grey)) + list(self._cascade(PROFILE, grey))
        for (x1, y1, x2, y2), label, score in faces:
            yield (x1, y1, x2, y2), label, score
            upper = grey[int(y1) : int(y1 + 0.6 * (y2 - y1)), int(x1) : int(x2)]
            for (ex1, ey1, ex2, ey2), eye, eye_score in self._cascade(EYE, upper):
                yield (ex1 + int(x1), ey1 + int(y1), ex2 + int(x1), ey2 + int(y1)), eye, eye_score
        yield from self._cascade(CAT, grey)
        if self._people is not None and grey.shape[0] >= 128 and grey.shape[1] >= 64:  # the HOG's window
            boxes, weights = self._people.detectMultiScale(image, winStride=(8, 8), padding=(8, 8), scale=1.05)
            for (x, y, w, h), weight in zip(boxes, np.ravel(weights)):
                yield _box(x, y, w, h), "person", _score(float(weight), HOG_MIDDLE, HOG_SPREAD)

    def _cascade(self, cascade: Cascade, grey: np.ndarray) -> Iterator[tuple[Box, str, float]]:
        if min(grey.shape) < 24:
            return
        boxes, _, weights = self._cascades[cascade.file].detectMultiScale3(
            grey, scaleFactor=1.1, minNeighbors=cascade.neighbours, minSize=(20, 20), outputRejectLevels=True
        )
        for (x, y, w, h), weight in zip(boxes, np.ravel(weights)):
            yield _box(x, y, w, h), cascade.label, _score(float(weight), cascade.middle, cascade.spread)

    def close(self) -> None:
        """Drop the cascades."""
        self._cascades, self._people = {}, None


def _box(x: int, y: int, w: int, h: int) -> Box:
    return float(x), float(y), float(x + w), float(y + h)


def _score(weight: float, middle: float, spread: float) -> float:
    return 1 / (1 + math.exp(-(weight - middle) / spread))
