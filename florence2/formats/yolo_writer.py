"""YOLO written: data.yaml, images/, labels/; `yolo` reads it back.

A file holds boxes alone or outlines alone: trainers drop one that mixes them. An object of several parts is one row.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from florence2 import geometry
from florence2.formats import export_files
from florence2.formats.export_files import PLAIN, Export, ExportOptions
from florence2.records import Polygon, Region, Sample

OURS = "florence2"
FORMS = ("boxes", "outlines")
HOLDS = frozenset(("regions", "split"))


def write(samples: Iterable[Sample], path: str | Path, options: ExportOptions = PLAIN) -> Counter[str]:
    """data.yaml, images/PART, labels/PART; counts what is lost."""
    export = Export(Path(path), options)
    lost, names, parts = export.lost, export_files.Names(), _Parts(options)
    samples = export_files.repeatable(samples)
    outlines = options.yolo == "outlines" or (not options.yolo and _all_outlined(samples))
    classes: dict[str, int] = {}
    spaces: Counter[str] = Counter()
    for sample in samples:
        size_wh = export_files.size_of(sample)
        file = options.picture(sample.image)
        part, name = parts.of(sample), names.of(file.name)
        export.place(sample.image, file, f"images/{part}/{name}")
        sample = export_files.count_lost(sample, lost, HOLDS)
        spaces[export_files.space_of(sample) if sample.coverage else ""] += 1
        export_files.count_coverage(sample, export_files.space_of(sample), lost)
        for label in (x for states in sample.coverage.values() for s in states for x in s.labels):
            classes.setdefault(label, len(classes))
        rows = _LabelRows(classes, size_wh, outlines, options.scores, lost)
        text = "".join(f"{row}\n" for region in sample.regions for row in rows.of(region))
        export.write_text(f"labels/{part}/{os.path.splitext(name)[0]}.txt", text)
    space = spaces.most_common(1)[0][0] if spaces else ""
    lost["label_space"] += spaces.total() - spaces[space]
    data: dict[str, Any] = {**parts.keys(), "names": {n: name for name, n in classes.items()}}
    data[OURS] = {"label_space": space, "splits": parts.splits()}
    data[OURS] |= {"export": options.export_id} if options.export_id else {}
    export.write_text("data.yaml", yaml.safe_dump(data, allow_unicode=True, sort_keys=False))
    return export.finish()


class _Parts:
    """The folders of a set's parts: one for each split that samples name, and those of pictures that name none."""

    def __init__(self, options: ExportOptions) -> None:
        self.options = options
        self.names = export_files.Names(stems=False)
        self.folders: dict[tuple[str, str], str] = {}  # (split, part for trainers) -> folder
        for part in ("train", "val", "test", "images", "labels"):  # readers look for labels in place of the last images
            self.names.of(part)

    def of(self, sample: Sample) -> str:
        """The folder of a sample."""
        use = sample.split or (self.options.part_of(sample) if self.options.part_of else "")
        key = (sample.split, use)
        if key not in self.folders:
            taken = use in ("train", "val", "test") and use not in self.folders.values()
            self.folders[key] = use if taken else self.names.of(use or "all")
        return self.folders[key]

    def splits(self) -> dict[str, str]:
        """The split that the samples of each folder name."""
        return {f"images/{folder}": split for (split, _), folder in self.folders.items()}

    def keys(self) -> dict[str, list[str] | str]:
        """What trainers of YOLO read: all that is neither val nor test trains; val is what there is to test on."""
        of: Mapping[str, list[str]] = {"train": [], "val": [], "test": []}
        for (_, use), folder in self.folders.items():
            of[use if use in ("val", "test") else "train"].append(f"images/{folder}")
        train = of["train"] or [*of["val"], *of["test"]]
        found = {"train": train, "val": of["val"] or of["test"] or train, "test": of["test"]}
        return {key: folders[0] if len(folders) == 1 else folders for key, folders in found.items() if folders}


def _all_outlined(samples: Iterable[Sample]) -> bool:
    """Whether every object of the set has an outline, and there is one."""
    found = False
    for sample in samples:
        for region in export_files.count_lost(sample, Counter(), HOLDS).regions:
            if region.label and not region.ignore:
                if not _outlines(region):
                    return False
                found = True
    return found


@dataclass(frozen=True)
class _LabelRows:
    """How a picture's objects become rows: `class cx cy w h [score]`, or `class x y x y ...`, in fractions."""

    classes: dict[str, int]
    size_wh: tuple[int, int]
    outlines: bool
    scores: bool
    lost: Counter[str]

    def of(self, region: Region) -> list[str]:
        """The region's row, none where the format cannot hold it."""
        if not region.label or region.ignore:
            self.lost["region_ignored" if region.ignore else "region_without_label"] += 1
            return []
        self.lost["description"] += bool(region.description)
        self.lost["mask"] += region.mask is not None
        shapes = _outlines(region)
        if self.outlines:
            if not shapes:
                self.lost["region_without_outline"] += 1
                return []
            self.lost["score"] += self.scores and region.score is not None  # what a row of an outline cannot hold
            return [self._row(region.label, joined(shapes))]
        self.lost["outline"] += bool(region.polygons or region.quad)
        box = geometry.region_box(region)
        if box is None:
            self.lost["region_without_box"] += 1
            return []
        width, height = self.size_wh
        x1, y1, x2, y2 = (min(max(v, 0.0), float(side)) for v, side in zip(box, (width, height) * 2))
        values = ((x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1)
        score = [repr(float(region.score))] if self.scores and region.score is not None else []
        return [" ".join([self._row(region.label, values), *score])]

    def _row(self, label: str, values: Iterable[float]) -> str:
        number = self.classes.setdefault(label, len(self.classes))
        shares = (min(max(v / self.size_wh[n % 2], 0.0), 1.0) for n, v in enumerate(values))
        return " ".join([str(number), *(repr(float(share)) for share in shares)])


def _outlines(region: Region) -> tuple[Polygon, ...]:
    """The region's outline in its parts, of three points or more each."""
    shapes = region.polygons or ((region.quad,) if region.quad else ())
    if region.mask is not None and not shapes:
        shapes = tuple(geometry.mask_polygons(geometry.decode_rle(region.mask)))
    return tuple(shape for shape in shapes if len(shape) >= 6)


def joined(parts: tuple[Polygon, ...]) -> Polygon:
    """Several outlines as one that runs to each next part and back where they are closest; the area is their sum."""
    ring = np.asarray(parts[0], float).reshape(-1, 2)
    for part in parts[1:]:
        other = np.asarray(part, float).reshape(-1, 2)
        if _turns(other) != _turns(ring):
            other = other[::-1]
        distances = ((ring[:, None] - other[None]) ** 2).sum(axis=2)
        here, there = np.unravel_index(int(distances.argmin()), distances.shape)
        tour = np.concatenate([other[there:], other[: there + 1]])
        ring = np.concatenate([ring[: here + 1], tour, ring[here:]])
    return tuple(ring.ravel().tolist())


def _turns(ring: np.ndarray) -> bool:
    """Whether an outline turns clockwise."""
    x, y = ring.T
    return bool((x * np.roll(y, -1) - y * np.roll(x, -1)).sum() >= 0)
