"""What a prefix of an object store holds: its pictures by name, as `discovery` lists a folder. Opens few objects.

An object whose name is not a picture's is read at its first bytes. Archives and tables are left out by name: their
members cannot be read where they are.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import PurePath, PurePosixPath

from florence2.engine.ingest.inspection import ImageCandidate
from florence2.object_store import Objects, url_of
from florence2.sources import file_types, tables

STORE_MARK = "/snapshots/"


def discover_objects(
    source: PurePath, leave_out: PurePath | None, packed: Sequence[str]
) -> tuple[list[ImageCandidate], list[str]]:
    """Every picture below a URL, by name, and the names of objects that hold none; stores below it are left out."""
    objects = Objects(source)
    found: list[ImageCandidate] = []
    skipped: list[str] = []
    names = list(objects.list())
    if not names and objects.facts() is not None:
        raise ValueError(f"{objects.url}: is one object; name the prefix that holds the pictures")
    stores = {f"{facts.path.rpartition(STORE_MARK)[0]}/" for facts in names if STORE_MARK in f"/{facts.path}"}
    below = url_of(leave_out).removeprefix(objects.url).lstrip("/") if leave_out is not None else ""
    stores |= {f"{below}/"} if below and "://" not in below else set()
    hidden: set[str] = set()
    for facts in names:
        path = facts.path
        if path.endswith("/") or any(path.startswith(store) for store in stores):
            continue  # what consoles show as a folder; a store
        folder = next((p for p in PurePosixPath(path).parents if file_types.is_hidden_folder(p.name)), None)
        if folder is not None:
            hidden.add(f"{folder}/{file_types.LEFT_BEHIND}")
        elif tables.is_table(path) or path.lower().endswith((".tar", *packed)):
            skipped.append(f"{path} (packed, in an object store: unpack it, or copy it to a disk)")
        elif _is_picture(objects, path, facts.size):
            if file_types.is_mac_copy(os.path.basename(path)):
                skipped.append(f"{path}{file_types.LEFT_BEHIND}")
            else:
                found.append(ImageCandidate(path, objects.location(path), bytes=facts.size))
        else:
            skipped.append(path)
    return sorted(found, key=lambda candidate: candidate.relative), sorted([*skipped, *hidden])


def _is_picture(objects: Objects, path: str, size: int) -> bool:
    return file_types.has_picture_suffix(path) or (size > 0 and bool(file_types.format_of(objects.get(path, 0, 16))))
