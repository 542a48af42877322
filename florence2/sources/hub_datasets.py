"""A data set of the Hugging Face hub, by `hf:OWNER/NAME` (@REVISION): its files in the hub's own local cache."""

from __future__ import annotations

import re
from pathlib import Path

from florence2.labels import one_line

PREFIX = "hf:"
WANTED = ("*.parquet", "*.arrow", "*.tar", "*.jpg", "*.jpeg", "*.png", "*.webp", "*.gif", "*.bmp", "*.tif", "*.tiff")
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")  # OWNER/NAME
_SOURCE = re.compile(rf"hf:(?://datasets/|//)?({HUB_ID.pattern})(?:@([\w./-]+))?")


def is_hub(source: object) -> bool:
    """Whether a source names a data set of the hub."""
    return isinstance(source, str) and source.startswith(PREFIX)


def download(source: str) -> Path:
    """The folder of its files that hold pictures, downloaded or found in the cache."""
    match = _SOURCE.fullmatch(source)
    if not match:
        raise ValueError(f"{source}: expected hf:OWNER/NAME, or hf:OWNER/NAME@REVISION")
    from huggingface_hub import snapshot_download

    try:
        folder = snapshot_download(match[1], repo_type="dataset", revision=match[2], allow_patterns=list(WANTED))
    except (OSError, ValueError) as error:
        why = one_line(error, 300)
        raise OSError(
            f"{source}: the hub cannot give it ({why}); to go on without a network, download the data set's files "
            "elsewhere and give their folder"
        ) from None
    return Path(folder)
