"""What a prefix of an object store holds: its pictures by name, as `discovery` lists a folder. Opens few objects.

An object whose name is not a picture's is read at its first bytes; tars and Parquet tables in ranges. Arrow files are
left out by name: they are mapped into memory, which wants a disk.
"""

from __future__ import annotations

import os
from pathlib import PurePath, PurePosixPath

from florence2.engine.ingest.inspection import ImageCandidate
from florence2.engine.ingest.packed import all_there_is, in_file, with_splits
from florence2.object_store import Objects, root_of, url_of
from florence2.sources import file_types
from florence2.sources.child_process import TableLister

STORE_MARK = "/snapshots/"


def discover_objects(
    source: PurePath, leave_out: PurePath | None, lister: TableLister
) -> tuple[list[ImageCandidate], list[str]]:
    """Every picture below a URL, by name, and the names of objects that hold none; stores below it are left out."""
    objects = Objects(source)
    found: list[ImageCandidate] = []
    skipped: list[str] = []
    names = list(objects.list())
    if not names and objects.facts() is not None:
        inside, left = (None, []) if _is_mapped(objects.url) else in_file(root_of(source), "", lister)
        if inside is None:
            raise ValueError(
                f"{objects.url}: is one object; name a .tar, a .parquet or the prefix that holds the pictures"
            )
        return all_there_is(inside, left)
    stores = {f"{facts.path.rpartition(STORE_MARK)[0]}/" for facts in names if STORE_MARK in f"/{facts.path}"}
    below = url_of(leave_out).removeprefix(objects.url).lstrip("/") if leave_out is not None else ""
    stores |= {f"{below}/"} if below and "://" not in below else set()
    hidden: set[str] = set()
    for facts in sorted(names):  # what lies in one archive stays in its order
        path = facts.path
        if path.endswith("/") or any(path.startswith(store) for store in stores):
            continue  # what consoles show as a folder; a store
        folder = next((p for p in PurePosixPath(path).parents if file_types.is_hidden_folder(p.name)), None)
        if folder is not None:
            hidden.add(f"{folder}/{file_types.LEFT_BEHIND}")
        elif file_types.is_mac_copy(os.path.basename(path)):
            skipped.append(f"{path}{file_types.LEFT_BEHIND}")
        elif _is_mapped(path):
            skipped.append(f"{path} (an Arrow file, in an object store: copy it to a disk, or save it as Parquet)")
        elif (packed := in_file(root_of(objects.location(path)), f"{path}/", lister))[0] is not None:
            found += packed[0]
            skipped += packed[1]
        elif _is_picture(objects, path, facts.size):
            found.append(ImageCandidate(path, objects.location(path), bytes=facts.size))
        else:
            skipped.append(path)
    return with_splits(found), sorted([*skipped, *hidden])


def _is_mapped(path: str) -> bool:
    return path.lower().endswith(".arrow")


def _is_picture(objects: Objects, path: str, size: int) -> bool:
    return file_types.has_picture_suffix(path) or (size > 0 and bool(file_types.format_of(objects.get(path, 0, 16))))
