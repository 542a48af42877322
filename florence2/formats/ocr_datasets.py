"""Sets of texts in pictures, read only: SROIE (receipts), ICDAR 2015 (street text), DocVQA (questions on pages).

sroie    img/*.jpg  box/*.csv|txt  x1,y1,..,x4,y4,text   key/*.json|txt  field -> text
icdar    img/*.jpg  gt/gt_*.txt    x1,y1,..,x4,y4,text   ### marks a word not to be scored
docvqa   val_v1.0.json  documents/*.png
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from florence2 import geometry
from florence2.formats import documents, validation
from florence2.formats.frames import Frame
from florence2.formats.lookup import Lookup, files_in, is_litter, matching
from florence2.formats.problems import LostObjects, ReadProblems
from florence2.records import Coverage, Region, Sample, Source, Text

TEXT_COVERAGE = {"text": (Coverage("exhaustive"),)}
UNREADABLE = "###"


def read_sroie(
    path: str | Path, images: str | Path | None = None, problems: ReadProblems | None = None
) -> Iterator[Sample]:
    """Receipts: quads with their lines, and the four fields as answers to their names."""
    root, problems = Path(path), problems or ReadProblems()
    source = Source("import", "sroie")
    folder = Path(images) if images else root / "img"
    lookup = Lookup(root, [folder], images)
    for file in _files(root / "box", (".csv", ".txt")):
        with problems.record():
            name = file.relative_to(root / "box").with_suffix("").as_posix()
            texts: list[Text] = []
            with problems.record():
                texts = _fields(root / "key", name, source, problems)
            yield _lines_sample(file, name, folder, lookup, source, problems, texts)
    boxed = {file.stem for file in _files(root / "box", (".csv", ".txt"))}
    for file in files_in(root / "key", (".json", ".txt"), deep=True):
        if file.stem not in boxed:
            problems.note("has no file of that name in box/ and is left out", str(file))


def read_icdar(
    path: str | Path, images: str | Path | None = None, problems: ReadProblems | None = None
) -> Iterator[Sample]:
    """Street text: quads with their words; unreadable ones are ignored regions."""
    root, problems = Path(path), problems or ReadProblems()
    folder = Path(images) if images else root / "img"
    lookup = Lookup(root, [folder], images)
    for file in _files(root / "gt", (".txt",)):
        with problems.record():
            below = file.parent.relative_to(root / "gt")
            name = (below / file.stem.removeprefix("gt_")).as_posix()
            yield _lines_sample(file, name, folder, lookup, Source("import", "icdar"), problems, [])


def _fields(folder: Path, stem: str, source: Source, problems: ReadProblems) -> list[Text]:
    key = next((folder / f"{stem}{s}" for s in (".json", ".txt") if (folder / f"{stem}{s}").is_file()), None)
    fields = documents.read_json(key) if key is not None else {}
    if not isinstance(fields, Mapping):
        raise ValueError(f"{key}: expected an object of fields, got {validation.brief(fields)}")
    texts = []
    for n, (name, value) in enumerate(fields.items()):
        with problems.record():
            place = f"{key}: {validation.brief(name)}"
            question = validation.word(name, f"{key}: a field's name")
            texts.append(Text(f"t{n}", validation.word(value, place, empty=True), "answer", question, source=source))
    return texts


def _lines_sample(
    file: Path, name: str, folder: Path, lookup: Lookup, source: Source, problems: ReadProblems, texts: list[Text]
) -> Sample:
    """A picture with the lines of its file; `name` is its path below the folder of pictures, without a suffix."""
    place = folder / name
    picture = lookup.of_stem(place.parent, place.name, str(file)) or place.parent / f"{place.name}.jpg"
    frame = Frame.of(picture, (0, 0), str(file))
    lost = LostObjects(problems)
    regions = frame.place(_quads(file, source, lost), lost)
    coverage = lost.withdraw(TEXT_COVERAGE, "text", regions)
    shown = Path(name).with_name(picture.name).as_posix()
    return Sample(name, frame.image(shown), tuple(texts), regions, coverage=coverage)


def read_docvqa(
    path: str | Path, images: str | Path | None = None, problems: ReadProblems | None = None
) -> Iterator[Sample]:
    """Pages with their questions: one Text for each true answer; a page of a test part has questions only."""
    root, problems = Path(path), problems or ReadProblems()
    files = [root] if root.is_file() else matching(root, "*_v1.0*.json")
    source = Source("import", "docvqa")
    if not files:
        raise ValueError(f"{root}: holds no val_v1.0.json")
    for file in files:
        pages: dict[str, tuple[str, list[Text]]] = {}
        seen: dict[object, str] = {}
        split = ""
        with problems.record():
            data = documents.read_json(file)
            part = validation.record(data, str(file)).get("dataset_split")
            split = {"train": "train", "val": "test", "test": "test"}.get(part, "") if isinstance(part, str) else ""
            for where, row in validation.objects(validation.rows(data, "data", str(file)), f"{file}: data", problems):
                with problems.record():
                    key = validation.ident(validation.field(row, "questionId", where), f"{where}: questionId")
                    validation.once(seen, key, where)
                    answers = validation.rows(row, "answers", where, optional=True)
                    question = validation.word(validation.field(row, "question", where), f"{where}: question")
                    name = validation.word(validation.field(row, "image", where), f"{where}: image")
                    texts = pages.setdefault(name, (where, []))[1]
                    for i, answer in enumerate(answers):
                        with problems.record():
                            words = validation.word(answer, f"{where}: answers[{i}]", empty=True)
                            texts.append(Text(f"{key}.{i}", words, "answer", question, source=source))
        folders = [Path(images)] if images else [file.parent, file.parent / "documents"]
        lookup = Lookup(file.parent, folders, images)
        for name, (where, texts) in pages.items():
            with problems.record():
                image = Frame.of(lookup.picture(name, f"{where}: image"), (0, 0), where).image(name)
                yield Sample(name, image, tuple(texts), split=split)


def _files(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    files = files_in(folder, suffixes, deep=True)
    if not files:
        raise ValueError(f"{folder}: holds no {' or '.join(suffixes)} file")
    return sorted(files, key=lambda p: (str(p.parent), len(p.stem), p.name))


def _quads(file: Path, source: Source, lost: LostObjects) -> list[tuple[str, Region]]:
    regions = []
    for n, line in enumerate(documents.read_text(file).splitlines(), 1):
        if not line.strip():
            continue
        with lost.object():
            cells = line.split(",", 8)
            if len(cells) < 9:
                raise ValueError(f"{file}:{n}: expected 8 corners and a text, got {len(cells)} cells")
            quad = validation.numbers([cell.strip() for cell in cells[:8]], f"{file}:{n}", 8)
            label = cells[8].strip()
            box = geometry.polygon_box(quad)
            ignore = label in (UNREADABLE, "")
            if not label:
                lost.problems.note("a line without a text is taken as unreadable", f"{file}:{n}")
            region = Region(f"r{n - 1}", "text", box, label, "text", quad=quad, ignore=ignore, source=source)
            regions.append((f"{file}:{n}", region))
    return regions


def is_docvqa(path: Path) -> bool:
    """Whether a folder holds a questions file of DocVQA beside documents/, or a file is one."""
    if path.is_dir():
        files = matching(path, "*_v1.0*.json")
        return bool(files) and ((path / "documents").is_dir() or is_docvqa(files[0]))
    if path.suffix != ".json" or is_litter(path.name) or not path.is_file():
        return False
    start = documents.beginning(path)
    return b'"questionId"' in start or b'"dataset_name"' in start and b'"data"' in start
