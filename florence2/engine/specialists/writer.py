"""Detailed captions written by a language model from the annotations at hand, as the paper makes its sparse set.

Any server with the OpenAI chat API will do (POST URL/chat/completions): a cloud's, vLLM's, llama.cpp's,
Ollama's.

    specialist: writer
    url: http://localhost:8000/v1
    model: my-model
    picture: true          # send the picture too
    key: OPENAI_API_KEY    # the environment variable that holds the key
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from florence2 import pixels
from florence2.engine.operator import Spec
from florence2.engine.specialists.cloud import Cloud, CloudError, key_of
from florence2.labels import fold_spaces
from florence2.records import Parsed, Region, Result, Sample, Text

DETAILS = {
    "detailed": "Write one paragraph of two to three sentences",
    "more_detailed": "Write one paragraph of five to eight sentences",
}
PROMPT = (
    "{task} that describes the picture to someone who cannot see it. Use only what these annotations say, name no box "
    "numbers, scores or coordinates, and do not guess. Answer with the description alone.\n\n"
    "Picture: {width}x{height} pixels.\n{facts}"
)
MAX_FACTS = 60  # regions that are listed, the most confident first


class Writer:
    """One text a picture, from its captions, its objects with places, and the text read off it."""

    def __init__(
        self,
        model: str,
        url: str = "https://api.openai.com/v1",
        detail: str = "detailed",
        picture: bool = False,
        key: str = "OPENAI_API_KEY",
        max_tokens: int = 300,
        per_second: float = 2.0,
        cost: float = 0.0,
        budget: float = 10.0,
        cache: str = "~/.cache/florence2/writer",
        attempts: int = 5,
        timeout_s: float = 60.0,
    ) -> None:
        if detail not in DETAILS:
            raise ValueError(f"writer: detail: expected one of {', '.join(DETAILS)}, got {detail!r}")
        self.model, self.url, self.detail, self.picture = model, url.rstrip("/"), detail, picture
        self.variable, self.max_tokens = key, max_tokens
        self.cloud = Cloud("writer", per_second, attempts, timeout_s, cost, budget, cache)
        self.spec = Spec(
            "writer",
            "1",
            produces=frozenset({f"text/{detail}"}),
            requires=frozenset({"text/brief", "box"}),
            deterministic=False,
            billed=True,
        )
        prompt = hashlib.sha256(PROMPT.encode()).hexdigest()[:12]
        self.config = {"model": model, "detail": detail, "picture": picture, "max_tokens": max_tokens, "prompt": prompt}
        self.weights_sha256 = ""
        self._key = ""

    def setup(self, device: str) -> None:
        """Read the key; a server on this machine needs none."""
        if not self.url.startswith(("https://", "http://localhost", "http://127.0.0.1")):
            raise ValueError(f"writer: url: expected https://..., or http:// on this machine, got {self.url!r}")
        self._key = key_of(self.variable, "writer") if self.url.startswith("https://") else ""

    def annotate(self, samples: Sequence[Sample], images: Sequence[np.ndarray]) -> list[Result]:
        """One request a picture; where nothing is known and no picture is sent, nothing is asked."""
        return self.cloud.each(samples, images, self._write)

    def _write(self, sample: Sample, image: np.ndarray) -> Parsed:
        height, width = image.shape[:2]
        known = facts(sample.current())
        if not known and not self.picture:
            return Parsed()
        prompt = PROMPT.format(task=DETAILS[self.detail], width=width, height=height, facts="\n".join(known))
        content: Any = prompt
        if self.picture:
            data = base64.b64encode(pixels.encode(image, "PNG")).decode()
            content = [
                {"type": "text", "text": prompt},
                {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}},
            ]
        request = {
            "model": self.model,
            "messages": [{"role": "user", "content": content}],
            "max_tokens": self.max_tokens,
            "temperature": 0,
        }
        body = json.dumps(request).encode()
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {self._key}"} if self._key else {})
        key = f"{self.url}|{hashlib.sha256(body).hexdigest()}"
        text = answer_text(self.cloud.ask(f"{self.url}/chat/completions", body, headers, key))
        return Parsed(texts=(Text(id="written", text=text, detail=self.detail),) if text else ())

    def close(self) -> None:
        """Forget the key."""
        self._key = ""


def facts(sample: Sample) -> list[str]:
    """The annotations in words, one a line."""
    lines = [f"Caption: {text.text}" for text in sample.texts if text.detail == "brief"]
    regions = sorted((r for r in sample.regions if r.box and not r.ignore and not r.refines), key=_by_descending_score)[
        :MAX_FACTS
    ]
    for region in sorted(regions, key=lambda r: (r.kind, r.box[1] if r.box else 0)):
        x1, y1, x2, y2 = (round(v) for v in region.box or ())
        what = f'Text "{region.label}"' if region.kind == "text" else f"Object: {region.description or region.label}"
        lines.append(f"{what}, from ({x1}, {y1}) to ({x2}, {y2})")
    return lines


def answer_text(answer: Any) -> str:
    """The message of a chat completion."""
    try:
        text = answer["choices"][0]["message"]["content"]
    except (KeyError, TypeError, IndexError):
        raise CloudError("garbled", "writer: expected choices[0].message.content, got an answer without it") from None
    if not isinstance(text, str):
        raise CloudError("garbled", f"writer: expected a text, got {type(text).__name__}")
    return fold_spaces(text)


def _by_descending_score(region: Region) -> float:
    return -(1.0 if region.score is None else region.score)
