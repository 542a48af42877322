"""The pixels behind a reference: a picture file wherever its bytes are, a drawn scene, plain grey."""

from __future__ import annotations

import numpy as np

from florence2 import pixels as loader
from florence2.labels import one_line
from florence2.object_store import is_object_url
from florence2.records import ImageRef
from florence2.sources import files, scenes

GREY = "grey:"  # grey:WIDTHxHEIGHT, the picture that shows nothing


def pixels(ref: ImageRef, max_pixels: int = loader.MAX_PIXELS) -> np.ndarray:
    """HWC uint8 RGB, upright; BadImage names the picture and the cause."""
    name = files.name_of(ref)
    if ref.uri.startswith((scenes.PREFIX, GREY)):
        return _made(ref.uri, max_pixels, name)
    if not is_object_url(ref.uri):  # to ask first would be a second request
        refuse_absent(ref)
    source = files.plain_path(ref) or files.read_bytes(ref)
    return loader.load(source, max_pixels=max_pixels, frame=ref.frame, name=name)


def refuse_absent(ref: ImageRef) -> None:
    """BadImage where the file of a picture is not there; nothing of it is read."""
    if not ref.uri:
        raise loader.BadImage(files.name_of(ref), "missing", "has no uri; the sample does not say where its picture is")
    if not ref.uri.startswith((scenes.PREFIX, GREY)):
        files.present_path(ref)


def _made(uri: str, max_pixels: int, name: str) -> np.ndarray:
    """A picture that its own uri describes, which a stranger may have written."""
    try:
        if uri.startswith(scenes.PREFIX):
            size = scenes.parse(uri).get("size", 1)
            loader.check_size(size if isinstance(size, tuple) else (size, size), max_pixels, name)
            return scenes.pixels(uri)
        width, _, height = uri.removeprefix(GREY).partition("x")
        size_wh = int(width), int(height)
        loader.check_size(size_wh, max_pixels, name)
        return np.full((size_wh[1], size_wh[0], 3), 128, dtype=np.uint8)
    except loader.BadImage:
        raise
    except (ValueError, KeyError, OverflowError) as error:
        raise loader.BadImage(name, "corrupt", f"describes no picture ({one_line(error, 120)})") from None
