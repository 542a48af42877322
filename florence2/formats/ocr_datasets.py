"""Sets of texts in pictures, read only: SROIE (receipts), ICDAR 2015 (street text), DocVQA (questions on pages).

sroie    img/*.jpg  box/*.csv|txt  x1,y1,..,x4,y4,text   key/*.json|txt  field -> text
icdar    img/*.jpg  gt/gt_*.txt    x1,y1,..,x4,y4,text   ### marks a word not to be scored
docvqa   val_v1.0.json  documents/*.png
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from florence2 import geometry
from florence2.formats import validation
from florence2.records import Coverage, Region, Sample, Source, Text

TEXT_COVERAGE = {"text": (Coverage("exhaustive"),)}
UNREADABLE = "###"


def read_sroie(path: str | Path, images: str | Path | None = None) -> Iterator[Sample]:
    """Receipts: quads with their lines, and the four fields as answers to their names."""
    root = Path(path)
    source = Source("import", "sroie")
    for file in _files(root / "box", (".csv", ".txt")):
        picture = validation.picture_of_stem(Path(images) if images else root / "img", file.stem)
        regions = _quads(file, source)
        texts = []
        key = next((root / "key" / f"{file.stem}{s}" for s in (".json", ".txt") if _is_file(root, file, s)), None)
        if key is not None:
            fields = validation.read_json(key)
            if not isinstance(fields, Mapping):
                raise ValueError(f"{key}: expected an object of fields, got {fields!r:.60}")
            for n, (name, value) in enumerate(fields.items()):
                texts.append(Text(f"t{n}", str(value), "answer", question=str(name), source=source))
        image = validation.image_ref(picture.name, picture)
        yield Sample(file.stem, image, tuple(texts), tuple(regions), coverage=TEXT_COVERAGE)


def read_icdar(path: str | Path, images: str | Path | None = None) -> Iterator[Sample]:
    """Street text: quads with their words; unreadable ones are ignored regions."""
    root = Path(path)
    source = Source("import", "icdar")
    for file in _files(root / "gt", (".txt",)):
        stem = file.stem.removeprefix("gt_")
        picture = validation.picture_of_stem(Path(images) if images else root / "img", stem)
        image = validation.image_ref(picture.name, picture)
        yield Sample(stem, image, regions=tuple(_quads(file, source)), coverage=TEXT_COVERAGE)


def read_docvqa(path: str | Path, images: str | Path | None = None) -> Iterator[Sample]:
    """Pages with their questions: one Text for each true answer; a page of a test part has questions only."""
    root = Path(path)
    files = [root] if root.is_file() else sorted(root.glob("*_v1.0*.json"))
    source = Source("import", "docvqa")
    if not files:
        raise ValueError(f"{root}: holds no val_v1.0.json")
    for file in files:
        data = validation.read_json(file)
        pages: dict[str, list[Text]] = {}
        seen: dict[object, str] = {}
        for n, row in enumerate(validation.field(data, "data", str(file))):
            where = f"{file}: data[{n}]"
            key = validation.field(row, "questionId", where)
            validation.once(seen, key, where)
            answers = row.get("answers") or []
            if isinstance(answers, str) or not all(isinstance(answer, str) for answer in answers):
                raise ValueError(f"{where}: answers: expected a list of strings, got {answers!r:.60}")
            question = str(validation.field(row, "question", where))
            said = pages.setdefault(str(validation.field(row, "image", where)), [])
            said += [Text(f"{key}.{i}", a, "answer", question, source=source) for i, a in enumerate(answers)]
        split = {"train": "train", "val": "test", "test": "test"}.get(str(data.get("dataset_split", "")), "")
        folders = [Path(images)] if images else [file.parent, file.parent / "documents"]
        for name, texts in pages.items():
            picture = validation.find_picture(name, folders)
            if not picture.is_file():
                picture = validation.find_picture(Path(name).name, [*folders, file.parent / "documents"])
            yield Sample(name, validation.image_ref(name, picture), tuple(texts), split=split)


def _is_file(root: Path, file: Path, suffix: str) -> bool:
    return (root / "key" / f"{file.stem}{suffix}").is_file()


def _files(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    files = [p for p in folder.iterdir() if p.suffix in suffixes] if folder.is_dir() else []
    if not files:
        raise ValueError(f"{folder}: holds no {' or '.join(suffixes)} file")
    return sorted(files, key=lambda p: (len(p.stem), p.name))


def _quads(file: Path, source: Source) -> list[Region]:
    regions = []
    for n, line in enumerate(validation.read_text(file).splitlines(), 1):
        if not line.strip():
            continue
        cells = line.split(",", 8)
        try:
            if len(cells) < 9:
                raise ValueError(f"{file}:{n}: expected 8 corners and a text, got {len(cells)} cells")
            quad = validation.numbers([cell.strip() for cell in cells[:8]], f"{file}:{n}", 8)
        except ValueError as error:
            validation.refuse(error)
            continue
        label = cells[8].strip()
        ignore = label == UNREADABLE
        box = geometry.quad_box(quad)
        regions.append(
            Region(f"r{n - 1}", "text", box, label, "text", quad=quad, ignore=ignore, source=source)
        )  # fmt: skip
    return regions


def is_docvqa(path: Path) -> bool:
    """Whether a folder holds a questions file of DocVQA beside documents/, or a file is one."""
    if path.is_dir():
        return any(path.glob("*_v1.0*.json")) and (
            (path / "documents").is_dir() or is_docvqa(next(path.glob("*_v1.0*.json")))
        )
    if path.suffix != ".json" or not path.is_file():
        return False
    with open(path, "rb") as file:
        start = file.read(4096)
    return b'"questionId"' in start or b'"dataset_name"' in start and json.dumps("data").encode() in start
