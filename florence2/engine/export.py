"""A store's view written for other tools: gone on with where it was interrupted, and remembered.

An export's folder holds JOB while it is being made; the same command goes on there. What an export held is noted in the
store's runs, so that a reviewer's file can be compared with it.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from florence2 import arguments
from florence2.atomic_files import write_atomic
from florence2.engine.operator import digest
from florence2.engine.originals import Originals
from florence2.engine.session import where_and_when
from florence2.formats.export_files import ExportOptions, PictureFile
from florence2.pixels import BadImage
from florence2.records import ImageRef, Sample
from florence2.sources import file_types, files, splits
from florence2.store import Snapshot, Store
from florence2.structuring import parse_json

# format -> the module that writes it
WRITERS = {
    "coco": "florence2.formats.coco_writer",
    "voc": "florence2.formats.voc_writer",
    "yolo": "florence2.formats.yolo_writer",
    "jsonl": "florence2.formats.jsonl",
    "labelstudio": "florence2.formats.labelstudio_writer",
    "cvat": "florence2.formats.cvat_writer",
}
JOB = ".export.json"
REVIEWED = ("coco", "labelstudio")  # formats that `import --reviewed` reads
SHARES = (80.0, 10.0, 10.0)  # per cent that train, val and test of YOLO are where a set has no parts

OnMessage = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class ExportPlan:
    """What is written and how; the user's wishes, named as the command names them."""

    to: str
    view: str = "current"
    scores: bool = False
    link: bool = False
    split: tuple[float, ...] = ()
    yolo: str = ""
    image_prefix: str = ""

    def __post_init__(self) -> None:
        if self.to not in WRITERS:
            raise ValueError(f"export: format {self.to!r}: expected one of {', '.join(WRITERS)}")
        if self.view != "current" and self.to != "jsonl":
            raise ValueError(f"--all: {self.to} cannot hold verdicts; use --to jsonl")
        for option, given, formats in (
            ("--scores", self.scores, ("coco", "yolo", "jsonl", "labelstudio")),
            ("--link", self.link, tuple(format for format in WRITERS if format != "jsonl")),
            ("--yolo", self.yolo, ("yolo",)),
            ("--image-prefix", self.image_prefix, ("labelstudio",)),
        ):
            if given and self.to not in formats:
                raise ValueError(f"{option}: goes with --to {', '.join(formats)}; got --to {self.to}")
        if self.yolo not in ("", "boxes", "outlines"):
            raise ValueError(f"--yolo {self.yolo!r}: expected boxes or outlines")
        good = len(self.split) in (0, 3) and all(0 <= part <= 100 for part in self.split)
        if not good or (self.split and abs(sum(self.split) - 100) > 1e-6):
            parts = "/".join(f"{part:g}" for part in self.split)
            raise ValueError(f"--split {parts}: expected three numbers that make 100, such as 80/10/10")


def export_labels(
    store: str | Path | Store,
    to: str,
    out: str | Path,
    snapshot: int | None = None,
    view: str = "current",
    *,
    on_message: OnMessage = lambda line: None,
    **wishes: Any,
) -> tuple[int, Counter[str]]:
    """Write a store's view in a format; returns how many samples were written, and counts of what it cannot hold.

    `wishes` are those of ExportPlan: scores, link, split (per cent for train, val and test, by the pictures' names),
    yolo, image_prefix. The same call again goes on where an interrupted one stopped, with the snapshot it began with.
    """
    plan = ExportPlan(to, view, **wishes)
    store = store if isinstance(store, Store) else Store(store)
    out = Path(arguments.path("out", out))
    _check_there(store, snapshot, plan, on_message)
    number, resume = _begin(out, plan, store, snapshot, on_message)
    samples = _View(store, store.snapshot(number), plan)
    name = f"export-{digest([dataclasses.asdict(plan), number])}" if to in REVIEWED else ""
    options = ExportOptions(plan.scores, plan.link, plan.yolo, plan.image_prefix, name, resume, picture=_picture_file)
    if samples.originals:
        original_id = samples.originals.annotation
        options = dataclasses.replace(options, categories=samples.originals.categories, original_id=original_id)
    if plan.split:
        on_message(
            f"train, val and test are {'/'.join(f'{part:g}' for part in plan.split)} per cent by the pictures' names; "
            "a set exported so is no longer held to the rule by which --split train and --split test part it"
        )
    elif to == "yolo":
        options = dataclasses.replace(options, part_of=_parts_for_trainers(samples, on_message))
    lost = +importlib.import_module(WRITERS[to]).write(samples, out, options)
    if name:
        _remember(store, name, samples, on_message)
    (out / JOB).unlink(missing_ok=True)
    return samples.written, lost


class _View:
    """The samples of a snapshot as an export writes them, as often as asked; counted, their labels noted."""

    def __init__(self, store: Store, snapshot: Snapshot, plan: ExportPlan) -> None:
        self.store, self.snapshot, self.plan = store, snapshot, plan
        self.originals = Originals(store, snapshot) if plan.to == "coco" else None
        self.written, self.labels, self.texts = 0, set[str](), False

    def __iter__(self) -> Iterator[Sample]:
        self.written = 0
        for group in self.store.groups(self.snapshot):
            if self.originals:
                self.originals.open(group)
            for sample in self.store.group_samples(group, self.plan.view):
                self.written += 1
                self.labels |= {region.label for region in sample.regions if region.kind == "object"}
                self.texts |= any(region.kind == "text" for region in sample.regions)
                if self.plan.split:
                    sample = dataclasses.replace(
                        sample, split=_part(splits.share_of(_name_of(sample)), self.plan.split)
                    )
                yield self.originals.named(sample) if self.originals else sample


def _begin(out: Path, plan: ExportPlan, store: Store, snapshot: int | None, on_message: OnMessage) -> tuple[int, bool]:
    """The number of the snapshot to export, and whether `out` holds an interrupted export of the same."""
    wanted = {"store": files.absolute_of(store.root), **json.loads(json.dumps(dataclasses.asdict(plan)))}
    job = out / JOB
    if job.is_file():
        try:
            begun = parse_json(job.read_bytes())
            number = int(begun.pop("snapshot"))
        except (ValueError, KeyError, TypeError, AttributeError):
            raise ValueError(f"{job}: not readable; remove {out} and export again") from None
        if begun != wanted or snapshot not in (None, number):
            raise ValueError(f"{out}: holds an interrupted export of another kind ({job}); name a new or empty folder")
        newest = store.snapshot().number
        if newest != number:
            on_message(f"{out}: goes on with snapshot {number}, as it began; the newest is {newest}")
        return number, True
    number = store.snapshot(snapshot).number
    if out.exists() and (not out.is_dir() or any(JOB not in path.name for path in out.iterdir())):
        raise ValueError(f"{out}: exists and is not empty; name a new or empty folder")
    out.mkdir(parents=True, exist_ok=True)
    write_atomic(job, json.dumps({**wanted, "snapshot": number}), sole=True)
    return number, False


def _check_there(store: Store, snapshot: int | None, plan: ExportPlan, on_message: OnMessage) -> None:
    """Name what the store has no good picture of; ValueError where it has none, or where none of them is in place."""
    counts = store.image_statuses(snapshot)
    others = ", ".join(f"{n} {status}" for status, n in sorted(counts.items()) if status != "ok")
    if counts["missing"] and not counts["ok"]:
        raise ValueError(
            f"{store.root}: holds no picture to export: {others}; give annotate their folder, or relocate them"
        )
    first = ""
    for sample in store.samples(snapshot) if counts["ok"] and plan.to != "jsonl" else ():
        place = files.path_of(sample.image.uri)
        if "://" in place or files.is_there(place):
            break
        first = first or place
    else:
        if first:
            raise ValueError(
                f"{store.root}: none of its {counts['ok']} pictures is there, such as {first}; say where they are: "
                f"florence2 relocate {store.root} FROM TO"
            )
    if others:
        on_message(f"left out, as the store has no good picture of them: {others}")


def _picture_file(ref: ImageRef) -> PictureFile:
    """A picture's file, wherever it is (a folder, an archive, a table); a name without a picture's suffix gets one."""
    path = files.plain_path(ref)
    name = PurePosixPath((ref.member or files.path_of(ref.uri)).replace("\\", "/")).name
    if path and file_types.has_picture_suffix(name):
        return PictureFile(name, Path(path))
    try:
        data = files.bytes_or_no_answer(ref)
    except BadImage:
        return PictureFile(name)  # the writer counts it
    suffix = "" if file_types.has_picture_suffix(name) else f".{file_types.format_of(data[:16]) or 'img'}"
    return PictureFile(f"{name}{suffix}", Path(path) if path else None, None if path else data)


def _name_of(sample: Sample) -> str:
    """The name by which the split rule knows a picture."""
    return sample.image.member or sample.image.uri or sample.image.id


def _part(share: float, shares: Sequence[float]) -> str:
    train, val, _ = shares
    return "train" if share * 100 < train else "val" if share * 100 < train + val else "test"


def _parts_for_trainers(samples: _View, on_message: OnMessage) -> Callable[[Sample], str] | None:
    """train, val or test for each picture of a set that has no parts of its own; val is not empty where two are."""
    shares = []
    for sample in samples:
        if sample.split:
            return None
        shares.append(splits.share_of(_name_of(sample)))
    if len(set(shares)) < 2:
        return None
    parts: Sequence[float] = SHARES
    if not any(_part(share, parts) == "val" for share in shares) or min(shares) * 100 >= parts[0]:
        parts = (100 * max(shares), 100.0, 0.0)  # so few: the last by the rule's number is val
    counts = Counter(_part(share, parts) for share in shares)
    on_message(
        f"the set has no parts of its own: {', '.join(f'{counts[part]} {part}' for part in ('train', 'val', 'test'))}, "
        "by the pictures' names (--split A/B/C parts it otherwise)"
    )
    return lambda sample: _part(splits.share_of(_name_of(sample)), parts)


def _remember(store: Store, name: str, samples: _View, on_message: OnMessage) -> None:
    """Note in the store what an export held, for the file that a reviewer sends back."""
    categories = samples.originals.categories if samples.originals else ()
    labels = samples.labels | {row["name"] for row in categories}
    remember_export(store, name, samples.plan.to, samples.snapshot.number, labels, samples.texts, on_message)


def remember_export(
    store: Store, name: str, to: str, snapshot: int, labels: Collection[str], texts: bool, on_message: OnMessage
) -> None:
    """Note in the store what an export held, for the file that a reviewer sends back."""
    facts = {"export": to, "snapshot": snapshot, "labels": sorted(set(labels) - {""}), "texts": texts}
    try:
        store.record_run(name, facts, where_and_when())
    except OSError as error:
        on_message(f"{store.root}: cannot be written ({error.strerror}): import --reviewed will not know this export")
