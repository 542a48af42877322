"""Opens a path as samples. Its files tell the format; a store and drawn scenes are sources like any other."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path

from florence2.formats import coco, labelstudio, ocr_datasets, voc
from florence2.records import Sample
from florence2.sources import scenes, splits
from florence2.store import Store, is_store

# format -> the reader, opened when first used
READERS = {
    "jsonl": "florence2.formats.jsonl:read",
    "coco": "florence2.formats.coco:read",
    "voc": "florence2.formats.voc:read",
    "yolo": "florence2.formats.yolo:read",
    "labelstudio": "florence2.formats.labelstudio:read",
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
}
FORMATS = (*READERS, "store", "scenes")
WRITERS = ("jsonl", "coco", "voc", "yolo", "labelstudio")


def open(
    path: str | Path,
    split: str | None = None,
    format: str | None = None,
    limit: int | None = None,
    images: str | Path | None = None,
) -> Iterator[Sample]:
    """The samples of anything: a data set in one of FORMATS, a store, or `scenes:COUNT`.

    `split` names a part (the set's own lists, else the rule of `split_of`); `images` says where the pictures are when
    they are not beside their annotations. The first `limit` samples are given. A wrong path or format raises at once.
    """
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
        samples = reader(format)(path, images)
    if split is not None and format != "scenes":
        samples = (sample for sample in samples if splits.in_split(sample, split))
    return islice(samples, limit)


def reader(format: str) -> Callable[..., Iterator[Sample]]:
    """The `read` of a format."""
    module, _, name = READERS[format].partition(":")
    return getattr(importlib.import_module(module), name)


def format_of(path: str | Path) -> str:
    """The format that a path's files tell; ValueError says what was looked for."""
    if str(path).startswith(scenes.PREFIX):
        return "scenes"
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: does not exist; expected a data set in one of {', '.join(FORMATS)}")
    for format, holds in _MARKS.items():
        if holds(path):
            return format
    raise ValueError(
        f"{path}: no known data set; expected Annotations/ JPEGImages/ (voc), a COCO .json, data.yaml (yolo), "
        "img/ box/ key/ (sroie), img/ gt/ (icdar), val_v1.0.json documents/ (docvqa), a .jsonl or a store; "
        "or name --format"
    )


def _folders(*names: str) -> Callable[[Path], bool]:
    return lambda path: all((path / name).is_dir() for name in names)


def _any(path: Path, pattern: str) -> bool:
    return path.is_dir() and any(path.glob(pattern))


# in the order in which they are looked for
_MARKS: dict[str, Callable[[Path], bool]] = {
    "store": is_store,
    "flickr30k": _folders("Annotations", "Sentences"),
    "vizwiz": lambda path: any((path / "Annotations" / f"{part}.json").is_file() for part in ("train", "val", "test")),
    "voc": lambda path: (path / "Annotations").is_dir() or (path.is_dir() and any(map(voc.is_voc, path.glob("*.xml")))),
    "yolo": lambda path: (path / "data.yaml").is_file() or path.suffix in (".yaml", ".yml"),
    "sroie": _folders("img", "box"),
    "icdar": _folders("img", "gt"),
    "docvqa": ocr_datasets.is_docvqa,
    "karpathy": lambda path: path.name.startswith("dataset_") or _any(path, "dataset_*.json"),
    "refcoco": lambda path: _any(path, "refs(*).p"),
    "openimages": lambda path: path.name.endswith("-annotations-bbox.csv") or _any(path, "*-annotations-bbox.csv"),
    "vqa": lambda path: _any(path, "*OpenEnded_mscoco_*_questions.json"),
    "textvqa": lambda path: path.name.startswith("TextVQA_") or _any(path, "TextVQA_*.json"),
    "textcaps": lambda path: path.name.startswith("TextCaps_") or _any(path, "TextCaps_*.json"),
    "jsonl": lambda path: path.suffix == ".jsonl" or (path.is_dir() and any(path.glob("*.jsonl"))),
    "coco": lambda path: coco.is_coco(path) or (path.is_dir() and any(map(coco.is_coco, path.glob("*.json")))),
    "labelstudio": lambda path: (
        labelstudio.is_labelstudio(path)
        or (path.is_dir() and any(map(labelstudio.is_labelstudio, path.glob("*.json"))))
    ),
}
