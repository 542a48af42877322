"""The pixels behind a reference: a file, a member of a tar, a stretch of bytes, a drawn scene, plain grey."""

from __future__ import annotations

import tarfile
from pathlib import Path

import numpy as np

from florence2 import pixels as loader
from florence2.records import ImageRef
from florence2.sources import scenes

GREY = "grey:"  # grey:WIDTHxHEIGHT, the picture that shows nothing


def pixels(ref: ImageRef, max_pixels: int = loader.MAX_PIXELS) -> np.ndarray:
    """HWC uint8 RGB, upright; BadImage names the picture and the cause."""
    if ref.uri.startswith(scenes.PREFIX):
        return scenes.pixels(ref.uri)
    if ref.uri.startswith(GREY):
        width, _, height = ref.uri.removeprefix(GREY).partition("x")
        return np.full((int(height), int(width), 3), 128, dtype=np.uint8)
    name = f"{ref.uri}!{ref.member}" if ref.member else ref.uri or ref.id
    if not ref.uri:
        raise loader.BadImage(name or "image", "missing", "has no uri; the sample does not say where its picture is")
    source = _bytes(ref, name) if ref.member or ref.offset >= 0 else Path(ref.uri)
    return loader.load(source, max_pixels=max_pixels, frame=ref.frame, name=name)


def _bytes(ref: ImageRef, name: str) -> bytes:
    try:
        if ref.offset >= 0:
            with open(ref.uri, "rb") as file:
                file.seek(ref.offset)
                return file.read(ref.length if ref.length >= 0 else -1)
        with tarfile.open(ref.uri) as tar:
            member = tar.extractfile(ref.member)
            if member is None:
                raise loader.BadImage(name, "missing", "is not a file in its archive")
            return member.read()
    except FileNotFoundError:
        raise loader.BadImage(name, "missing", "does not exist; its archive was moved") from None
    except KeyError:
        raise loader.BadImage(name, "missing", "is not in its archive") from None
    except (OSError, tarfile.TarError) as error:
        raise loader.BadImage(name, "unreadable", f"cannot be read ({error})") from None
