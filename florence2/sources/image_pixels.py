"""The pixels behind a reference: a picture file wherever its bytes are, a drawn scene, plain grey."""

from __future__ import annotations

import numpy as np

from florence2 import pixels as loader
from florence2.records import ImageRef
from florence2.sources import files, scenes

GREY = "grey:"  # grey:WIDTHxHEIGHT, the picture that shows nothing


def pixels(ref: ImageRef, max_pixels: int = loader.MAX_PIXELS) -> np.ndarray:
    """HWC uint8 RGB, upright; BadImage names the picture and the cause."""
    if ref.uri.startswith(scenes.PREFIX):
        return scenes.pixels(ref.uri)
    if ref.uri.startswith(GREY):
        width, _, height = ref.uri.removeprefix(GREY).partition("x")
        return np.full((int(height), int(width), 3), 128, dtype=np.uint8)
    name = files.name_of(ref)
    if not ref.uri:
        raise loader.BadImage(name, "missing", "has no uri; the sample does not say where its picture is")
    source = files.plain_path(ref) or files.read_bytes(ref)
    return loader.load(source, max_pixels=max_pixels, frame=ref.frame, name=name)
