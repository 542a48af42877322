"""Opens a path as samples. Its files tell the format; a store and drawn scenes are sources like any other."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from itertools import islice
from pathlib import Path

from florence2 import arguments
from florence2.codec.tasks import Task
from florence2.formats import coco, cvat, labelstudio, lookup, ocr_datasets, voc, yolo
from florence2.formats.problems import ReadProblems
from florence2.object_store import is_object_url
from florence2.records import Sample
from florence2.sources import hub_datasets, image_folders, prompt_pairs, scenes, splits, table_datasets
from florence2.store import Store, is_store

# format -> the reader, opened when first used
READERS = {
    "jsonl": "florence2.formats.jsonl:read",
    "coco": "florence2.formats.coco:read",
    "voc": "florence2.formats.voc:read",
    "yolo": "florence2.formats.yolo:read",
    "labelstudio": "florence2.formats.labelstudio:read",
    "cvat": "florence2.formats.cvat:read",
    "openimages": "florence2.formats.openimages:read",
    "sroie": "florence2.formats.ocr_datasets:read_sroie",
    "icdar": "florence2.formats.ocr_datasets:read_icdar",
    "docvqa": "florence2.formats.ocr_datasets:read_docvqa",
    "karpathy": "florence2.formats.benchmarks:read_karpathy",
    "flickr30k": "florence2.formats.benchmarks:read_flickr30k",
    "refcoco": "florence2.formats.benchmarks:read_refcoco",
    "vqa": "florence2.formats.benchmarks:read_vqa",
    "textvqa": "florence2.formats.benchmarks:read_textvqa",
    "textcaps": "florence2.formats.benchmarks:read_textcaps",
    "vizwiz": "florence2.formats.benchmarks:read_vizwiz",
    "prefix_suffix": "florence2.sources.prompt_pairs:read_prefix_suffix",
    "swift": "florence2.sources.swift:read",
    "parquet": "florence2.sources.table_datasets:read",
    "imagefolder": "florence2.sources.image_folders:read_metadata",
    "captions": "florence2.sources.image_folders:read_captions",
}
PROMPTS = ("prefix_suffix", "swift", "parquet", "imagefolder")  # whose rows name a task by its prompt
FORMATS = (*READERS, "store", "scenes")
LABEL_FILES = (".json", ".jsonl", ".xml", ".csv", ".yaml", ".yml", ".txt")
WRITERS = ("jsonl", "coco", "voc", "yolo", "labelstudio")


def open(
    path: str | Path,
    split: str | None = None,
    format: str | None = None,
    limit: int | None = None,
    images: str | Path | None = None,
    problems: ReadProblems | None = None,
    tasks: Mapping[str, Task] | None = None,
) -> Iterator[Sample]:
    """The samples of anything: a data set in one of FORMATS, a store, or `scenes:COUNT`.

    `split` names a part (the set's own lists, else the rule of `split_of`); `images` says where the pictures are when
    they are not beside their annotations. The first `limit` samples are given. A wrong path or format raises at once.
    The first bad record raises; `problems` may collect them instead. What has no place in a Sample is noted there, or
    else logged when all is read. Rows of prompts and answers are read by `tasks`, a model's table; else by the known
    rows.
    """
    limit = None if limit is None else arguments.whole("limit", limit, least=0)
    path = located(arguments.path("path", path) if not isinstance(path, Path) else path)
    format = format or format_of(path)
    if format not in FORMATS:
        raise ValueError(f"{path}: format {format!r}: expected one of {', '.join(FORMATS)}")
    if format == "scenes":
        samples: Iterable[Sample] = scenes.read(str(path), split)
    elif format == "store":
        samples = Store(path).samples()
    else:
        if not Path(path).exists():
            raise FileNotFoundError(f"{path}: does not exist; expected a data set in one of {', '.join(FORMATS)}")
        read = partial(reader(format), tasks=tasks) if format in PROMPTS else reader(format)
        samples = read(path, images, problems) if problems else _logged(read, path, images)
    if split is not None and format != "scenes":
        samples = _part(samples, split, path)
    return islice(samples, limit)


def located(path: str | Path) -> str | Path:
    """The path, or of `hf:OWNER/NAME@REVISION` the folder of its files."""
    return hub_datasets.download(str(path)) if hub_datasets.is_hub(path) else path


def _part(samples: Iterable[Sample], split: str, path: str | Path) -> Iterator[Sample]:
    """The samples of one part; a set without a val part of its own has none."""
    found = False
    for sample in samples:
        if splits.in_split(sample, split):
            found = True
            yield sample
    if split == "val" and not found:
        raise ValueError(f"{path}: has no val part of its own beside what it is tested on; name --split train or test")
    if not found:
        raise ValueError(f"{path}: has no {split} part: none of its pictures belongs to it; leave --split out for all")


def _logged(read: Callable[..., Iterator[Sample]], path: str | Path, images: str | Path | None) -> Iterator[Sample]:
    problems = ReadProblems()
    try:
        yield from read(path, images, problems)
    finally:
        problems.log_notes()


def reader(format: str) -> Callable[..., Iterator[Sample]]:
    """The `read` of a format."""
    module, _, name = READERS[format].partition(":")
    reader: Callable[..., Iterator[Sample]] = getattr(importlib.import_module(module), name)
    return reader


def format_of(path: str | Path) -> str:
    """The format detected from a path's files; ValueError names the formats that were tried."""
    if str(path).startswith(scenes.PREFIX):
        return "scenes"
    if is_object_url(path):
        if is_store(path):
            return "store"
        raise ValueError(
            f"{path}: no store lies there; of an object store only stores are opened (copy other sets here)"
        )
    path = Path(located(path))
    if not path.exists():
        raise FileNotFoundError(f"{path}: does not exist; expected a data set in one of {', '.join(FORMATS)}")
    for format, holds in _MARKS.items():
        if holds(path):
            return format
    raise ValueError(
        f"{path}: no known data set; expected Annotations/ JPEGImages/ (voc), a COCO .json, data.yaml or classes.txt "
        "(yolo), img/ box/ key/ (sroie), img/ gt/ (icdar), val_v1.0.json documents/ (docvqa), a .jsonl or a store; "
        f"or name --format{_seen(path)}"
    )


def _seen(path: Path) -> str:
    """The files that may have been meant as labels, for the end of a refusal."""
    files = lookup.files_in(path, LABEL_FILES) if path.is_dir() else [path]
    if not files:
        return ""
    state = "is empty" if not files[0].stat().st_size else "begins as none of these"
    return f"; {files[0].name}{f' and {len(files) - 1} more' if len(files) > 1 else ''} {state}"


def _folders(*names: str) -> Callable[[Path], bool]:
    return lambda path: all((path / name).is_dir() for name in names)


def _any(path: Path, pattern: str) -> bool:
    return lookup.holds(path, pattern)


def _has(path: Path, suffix: str, matches: Callable[[Path], bool] = lambda path: True) -> bool:
    """Whether a path is a file of this suffix, or a folder that holds one, whose content shows it."""
    if path.is_dir():
        return any(map(matches, lookup.files_in(path, (suffix,))))
    return path.suffix.lower() == suffix and matches(path)


# in the order in which they are tried
_MARKS: dict[str, Callable[[Path], bool]] = {
    "store": is_store,
    "flickr30k": _folders("Annotations", "Sentences"),
    "vizwiz": lambda path: any((path / "Annotations" / f"{part}.json").is_file() for part in ("train", "val", "test")),
    "cvat": lambda path: _has(path, ".xml", cvat.is_cvat),
    "voc": voc.is_voc,
    "yolo": yolo.is_yolo,
    "sroie": _folders("img", "box"),
    "icdar": _folders("img", "gt"),
    "docvqa": ocr_datasets.is_docvqa,
    "karpathy": lambda path: path.name.startswith("dataset_") or _any(path, "dataset_*.json"),
    "refcoco": lambda path: _any(path, "refs(*).p"),
    "openimages": lambda path: path.name.endswith("-annotations-bbox.csv") or _any(path, "*-annotations-bbox.csv"),
    "vqa": lambda path: _any(path, "*OpenEnded_mscoco_*_questions.json"),
    "textvqa": lambda path: path.name.startswith("TextVQA_") or _any(path, "TextVQA_*.json"),
    "textcaps": lambda path: path.name.startswith("TextCaps_") or _any(path, "TextCaps_*.json"),
    "prefix_suffix": lambda path: prompt_pairs.begins_with(path, "prefix", "suffix"),
    "swift": lambda path: (
        prompt_pairs.begins_with(path, "messages") or prompt_pairs.begins_with(path, "query", "response")
    ),
    "imagefolder": image_folders.is_image_folder,
    "jsonl": lambda path: _has(path, ".jsonl"),
    "coco": lambda path: coco.is_coco(path) or (path.is_dir() and bool(coco.files_of(path))),
    "labelstudio": lambda path: _has(path, ".json", labelstudio.is_labelstudio),
    "parquet": table_datasets.is_labelled,
    "captions": image_folders.is_captioned,
}
