"""The one split rule. A set's own lists come first; else a picture's base name decides, the same on every machine."""

from __future__ import annotations

from hashlib import blake2b
from pathlib import PurePosixPath

from florence2.records import Sample
from florence2.sources import scenes

TRAIN_SHARE = 0.7


def split_of(name: str) -> str:
    """train or test, from a picture's base name with its suffix."""
    return "train" if share_of(name) < TRAIN_SHARE else "test"


def share_of(name: str) -> float:
    """The rule's number in [0, 1) for a picture's base name with its suffix."""
    base = PurePosixPath(name.replace("\\", "/")).name
    number = int.from_bytes(blake2b(base.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")
    return number / 2**64


def in_split(sample: Sample, split: str) -> bool:
    """Whether a sample belongs to `split`: by the split it names (of a drawn scene, its seed's), else by the rule."""
    image = sample.image
    if image.uri.startswith(scenes.PREFIX):
        return scenes.split_of(image.uri) == split
    return (sample.split or split_of(image.member or image.uri or image.id)) == split


def held_out(image_id: str, share: float) -> bool:
    """Whether a picture is of that share of all which nothing is trained on; independent of its fold and split."""
    number = int.from_bytes(blake2b(f"held out:{image_id}".encode(), digest_size=8).digest(), "big")
    return number / 2**64 < share


def fold_of(image_id: str, folds: int) -> int:
    """The part of `folds` that a picture is in."""
    return int.from_bytes(blake2b(image_id.encode(), digest_size=8).digest(), "big") % folds
