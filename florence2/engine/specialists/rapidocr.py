"""Text with quads by RapidOCR; the wheel carries its models (PP-OCR detection, direction, recognition)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from florence2.engine.operator import Spec
from florence2.engine.specialists.requirements import version_of
from florence2.records import Parsed, Region, Result, Sample


class RapidOcr:
    """Lines of text: a quad, what it reads, and the recogniser's score."""

    def __init__(self) -> None:
        self.spec = Spec(
            "rapidocr",
            version_of("rapidocr", "rapidocr", "demo"),
            produces=frozenset({"region_text/ocr"}),
            batch_size=1,  # it reads one picture at a time
        )
        self.config = {"max_side": MAX_SIDE}
        self.weights_sha256 = ""  # they come in the wheel: its version names them
        self._reader: Any = None

    def setup(self, device: str) -> None:
        """Load the three models; one thread, since the runner has a process a core."""
        from rapidocr import RapidOCR

        self._reader = RapidOCR(
            params={
                "Global.log_level": "error",
                "Global.max_side_len": MAX_SIDE,
                "EngineConfig.onnxruntime.intra_op_num_threads": 1,
                "EngineConfig.onnxruntime.inter_op_num_threads": 1,
            }
        )

    def annotate(self, samples: Sequence[Sample], images: Sequence[np.ndarray]) -> list[Result]:
        """The lines read in each picture."""
        return [self._read(image) for image in images]

    def _read(self, image: np.ndarray) -> Parsed:
        found = self._reader(np.ascontiguousarray(image[..., ::-1]))  # it takes BGR
        if found.boxes is None:
            return Parsed()
        regions: list[Region] = []
        for corners, text, score in zip(found.boxes, found.txts, found.scores):
            if not text.strip():
                continue
            quad = np.asarray(corners, dtype=float)
            x1, y1 = quad.min(axis=0)
            x2, y2 = quad.max(axis=0)
            regions.append(
                Region(
                    id=f"line-{len(regions)}",
                    kind="text",
                    box=(float(x1), float(y1), float(x2), float(y2)),
                    label=text,
                    quad=tuple(float(v) for v in quad.ravel()),
                    score=float(score),
                )
            )
        return Parsed(regions=tuple(regions))

    def close(self) -> None:
        """Drop the models."""
        self._reader = None


MAX_SIDE = 2000  # pixels; a larger picture is shrunk before detection
