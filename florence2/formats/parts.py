"""The parts that a set's folders and files name: train, val, test."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

Key = TypeVar("Key")
PARTS = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "dev": "val",
    "test": "test", "testing": "test",
}  # fmt: skip


def part_of(name: str) -> str:
    """The part that a name states by one of its words (instances_val2017, train-00000-of-00001), "" where none does."""
    words = re.split(r"[^a-z]+", name.casefold())
    return next((PARTS[word] for word in words if word in PARTS), "")


def part_of_folder(folder: Path) -> str:
    """The part that a folder is called after (valid, val2017), "" where it is called otherwise."""
    return PARTS.get(folder.name.casefold().rstrip("0123456789"), "")


def part_folders(root: Path) -> list[Path]:
    """The folders of a set that are called after a part."""
    found = (folder for folder in sorted(root.iterdir()) if part_of_folder(folder))
    return [folder for folder in found if folder.is_dir()]


def tested_on(parts: Mapping[Key, str]) -> dict[Key, str]:
    """What belongs to which part, where folders are called after parts.

    A set with one such folder alone has no parts; one without a test part is tested on its val part.
    """
    named = set(parts.values()) - {""}
    if len(named) < 2:
        return dict.fromkeys(parts, "")
    return {key: "test" if part == "val" and "test" not in named else part for key, part in parts.items()}
