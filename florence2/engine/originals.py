"""What the data sets that a store's labels came with call their pictures, annotations and categories.

An import notes them (a picture's in its fragment's metadata, an annotation's in its row, the categories in runs/), so
that an export in the same format gives them back. Where two sets hold one picture, the first set's names are used.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from florence2.formats import coco
from florence2.records import Item, Sample
from florence2.store import Fragment, Snapshot, Store, UnitGroup
from florence2.structuring import parse_json

KEY = "originals"  # in a fragment's metadata
ID = "id"  # among an annotation's attrs
FORMATS = ("coco",)


def categories_of(path: str | Path, format: str) -> list[dict[str, Any]]:
    """The categories of a set as its files number them: {id, name, supercategory}."""
    return coco.categories(Path(path)) if format in FORMATS else []


def encode(names: Mapping[str, Sample]) -> str:
    """Picture -> what its set calls it: its record's id, and its name."""
    return json.dumps({i: [s.id, s.image.id] for i, s in names.items()}, ensure_ascii=False, separators=(",", ":"))


def attributes(items: Iterable[Item]) -> list[list[tuple[str, str]]]:
    """Of each annotation the id that its item had in its set, as it is stored with it."""
    return [[(ID, item.id)] if item.id.isdecimal() else [] for item in items]


class Originals:
    """The names for one snapshot, a group of pictures at a time."""

    def __init__(self, store: Store, snapshot: Snapshot) -> None:
        self.store = store
        imports = [o for o in snapshot.operators if o.kind == "import" and o.name in FORMATS and not o.replaced]
        runs = {operator.run_id for operator in imports}
        self.categories = [row for o in imports for row in (store.run(o.run_id) or {}).get("categories", ())]
        self._fragments: dict[str, list[Fragment]] = defaultdict(list)
        while True:  # compacting merges fragments away; those it was made of stay, and hold the names
            for fragment in snapshot.of("annotations"):
                if fragment.run_id in runs:
                    for unit in fragment.units:
                        self._fragments[unit].append(fragment)
            if not snapshot.compacts:
                break
            snapshot = store.snapshot(snapshot.compacts)
        self._items: dict[str, str] = {}
        self._pictures: dict[str, list[str]] = {}

    def open(self, group: UnitGroup) -> None:
        """Take up the names of a group's pictures and annotations."""
        fragments = {f.path: f for unit in group.units for f in self._fragments.get(unit, ())}
        self._items, self._pictures = {}, {}
        for fragment in fragments.values():
            named = parse_json(self.store.fragment_facts(fragment).get(KEY, "{}"))
            self._pictures.update({image: names for image, names in named.items() if image not in self._pictures})
        if fragments:
            self._items = self.store.attributes(group, ID)

    def annotation(self, ann_id: str) -> str:
        """The id that an annotation of the group had, else its own."""
        return self._items.get(ann_id, ann_id)

    def named(self, sample: Sample) -> Sample:
        """A sample of the group under the id and with the picture's name that its set gave it."""
        if sample.image.id not in self._pictures:
            return sample
        name, picture = self._pictures[sample.image.id]
        return replace(sample, id=name, image=replace(sample.image, id=picture))
