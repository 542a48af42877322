"""Text by Azure AI Vision, Image Analysis 4.0 (the OCR of the paper): `analyze` with the feature `read`.

Requests and answers have the shapes of the vendor's documentation (POST ENDPOINT/computervision/imageanalysis:analyze
?api-version=2024-02-01&features=read); this was not verified against the service. Key and endpoint come from the
environment: AZURE_VISION_KEY, AZURE_VISION_ENDPOINT. Answers are kept in `cache` ("" for none), and what they cost is
counted there against `budget`, over all runs.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from florence2 import pixels
from florence2.engine.operator import Spec
from florence2.engine.specialists.cloud import Cloud, CloudError, key_of
from florence2.records import Parsed, Region, Result, Sample

API_VERSION = "2024-02-01"
KEY, ENDPOINT = "AZURE_VISION_KEY", "AZURE_VISION_ENDPOINT"
MIN_SIDE, MAX_SIDE = 50, 16_000  # pixels that the service takes
MAX_BYTES = 20_000_000


class Azure:
    """Lines of text with quads; a line's score is the mean confidence of its words."""

    def __init__(
        self,
        per_second: float = 10.0,
        cost: float = 0.0015,
        budget: float = 10.0,
        cache: str = "~/.cache/florence2/azure",
        attempts: int = 5,
        timeout_s: float = 30.0,
    ) -> None:
        self.cloud = Cloud("azure", per_second, attempts, timeout_s, cost, budget, cache)
        self.spec = Spec(
            "azure", API_VERSION, produces=frozenset({"region_text/ocr"}), deterministic=False, billed=True
        )
        self.config = {"features": "read", "api_version": API_VERSION}
        self.weights_sha256 = ""
        self._url, self._key = "", ""

    def setup(self, device: str) -> None:
        """Read key and endpoint from the environment."""
        self._key = key_of(KEY, "azure")
        endpoint = os.environ.get(ENDPOINT, "").rstrip("/")
        if not endpoint.startswith(("https://", "http://localhost", "http://127.0.0.1")):
            raise ValueError(
                f"azure: expected https://NAME.cognitiveservices.azure.com in {ENDPOINT}, got {endpoint!r}"
            )
        self._url = f"{endpoint}/computervision/imageanalysis:analyze?api-version={API_VERSION}&features=read"

    def annotate(self, samples: Sequence[Sample], images: Sequence[np.ndarray]) -> list[Result]:
        """One request a picture; a service that does not answer fails that picture."""
        return self.cloud.each(samples, images, self._read)

    def _read(self, sample: Sample, image: np.ndarray) -> Parsed:
        height, width = image.shape[:2]
        if min(height, width) < MIN_SIDE or max(height, width) > MAX_SIDE:
            raise CloudError("size", f"azure takes sides of {MIN_SIDE} to {MAX_SIDE} pixels, got {width}x{height}")
        body = pixels.encode(image, "PNG")
        if len(body) > MAX_BYTES:
            body = pixels.encode(image, "JPEG", quality=95)
        headers = {"Content-Type": "application/octet-stream", "Ocp-Apim-Subscription-Key": self._key}
        key = f"{API_VERSION}|read|{hashlib.sha256(body).hexdigest()}"
        return parsed(self.cloud.ask(self._url, body, headers, key))

    def close(self) -> None:
        """Forget the key."""
        self._key = ""


def parsed(answer: Any) -> Parsed:
    """The lines of an answer: readResult.blocks[].lines[] of text, boundingPolygon and words."""
    try:
        lines = [line for block in answer["readResult"]["blocks"] for line in block["lines"]]
        return Parsed(regions=tuple(_region(i, line) for i, line in enumerate(lines)))
    except (KeyError, TypeError, IndexError, ValueError) as error:
        raise CloudError(
            "garbled", f"azure: expected readResult.blocks[].lines[], got an answer without {error}"
        ) from None


def _region(index: int, line: Mapping[str, Any]) -> Region:
    points = [(float(p["x"]), float(p["y"])) for p in line["boundingPolygon"]]
    if len(points) != 4:
        raise ValueError("four corners")
    xs, ys = [p[0] for p in points], [p[1] for p in points]
    scores = [float(word["confidence"]) for word in line.get("words", ())]
    return Region(
        id=f"line-{index}",
        kind="text",
        box=(min(xs), min(ys), max(xs), max(ys)),
        label=str(line["text"]),
        quad=tuple(v for point in points for v in point),
        score=sum(scores) / len(scores) if scores else None,
    )
