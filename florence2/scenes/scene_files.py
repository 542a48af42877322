"""Drawn pictures as files: a folder of PNGs and their truth in JSON Lines, one Sample a line."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from florence2.atomic_files import replacing
from florence2.pixels import encode
from florence2.records import Sample, to_json


def write(folder: str | Path, drawn: Iterable[tuple[np.ndarray, Sample]]) -> Path:
    """FOLDER/images/*.png and FOLDER/truth.jsonl, which appears when all are written; the path of the latter.

    `drawn` is what draw or draw_page gave; a picture's file bears its sample's id. The truth's image paths are relative
    to it, and it stays out of the folder of pictures, which annotators may see whole.
    """
    folder = Path(folder)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    truth = folder / "truth.jsonl"
    with replacing(truth, sole=True) as temp_path, open(temp_path, "w", encoding="utf-8") as out:
        for pixels, sample in drawn:
            data = encode(pixels, "PNG", compress_level=3)
            uri = f"images/{sample.id}.png"
            (folder / uri).write_bytes(data)
            image = dataclasses.replace(sample.image, uri=uri, sha256=hashlib.sha256(data).hexdigest())
            line = to_json(dataclasses.replace(sample, image=image))
            out.write(json.dumps(line, ensure_ascii=False, separators=(",", ":")) + "\n")
    return truth
