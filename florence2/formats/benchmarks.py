"""Benchmarks in exactly their published layouts, read only; each sample names the benchmark's own split.

karpathy   dataset_coco.json (or dataset_flickr30k.json)  val2014/ train2014/ (flickr30k-images/)
flickr30k  Annotations/*.xml  Sentences/*.txt  train.txt val.txt test.txt  flickr30k-images/
refcoco    refs(unc).p, refs(umd).p or refs(google).p beside instances.json  train2014/
vqa        v2_OpenEnded_mscoco_val2014_questions.json  v2_mscoco_val2014_annotations.json  val2014/
textvqa    TextVQA_0.5.1_val.json  train_images/
textcaps   TextCaps_0.1_val.json  train_images/
vizwiz     Annotations/val.json  val/
"""

from __future__ import annotations

import io
import pickle
import pickletools
import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from florence2.formats import coco, documents, validation
from florence2.formats.frames import Frame
from florence2.formats.lookup import Lookup, matching
from florence2.formats.problems import LostObjects, ReadProblems
from florence2.records import Box, Grounding, ImageRef, Region, Sample, Source, Text

_PHRASE = re.compile(r"\[/EN#(\d+)((?:/\w+)+) ([^\]]+)\]")
NOT_A_THING = "0"  # the entity number of phrases that name nothing in the picture


def read_karpathy(
    path: str | Path, images: str | Path | None = None, problems: ReadProblems | None = None
) -> Iterator[Sample]:
    """Captions with Karpathy's splits: train, restval, val, test."""
    file, problems = _only(Path(path), "dataset_*.json"), problems or ReadProblems()
    source = Source("import", "karpathy")
    data = validation.rows(documents.read_json(file), "images", str(file))
    seen: dict[Any, str] = {}
    for n, (where, row) in enumerate(validation.objects(data, f"{file}: images", problems)):
        with problems.record():
            name = validation.word(validation.field(row, "filename", where), f"{where}: filename")
            key = str(validation.ident(row.get("cocoid", row.get("imgid", n)), f"{where}: cocoid"))
            validation.once(seen, key, where)
            texts = []
            sentences = validation.rows(row, "sentences", where)
            for i, (place, sentence) in enumerate(validation.objects(sentences, f"{where}: sentences", problems)):
                with problems.record():
                    words = validation.sentence(validation.field(sentence, "raw", place), f"{place}: raw")
                    number = str(validation.ident(sentence.get("sentid", f"{key}.{i}"), f"{place}: sentid"))
                    texts.append(Text(number, words, source=source))
            part = validation.word(row.get("filepath") or "", f"{where}: filepath", empty=True)
            split = validation.word(row.get("split") or "", f"{where}: split", empty=True)
            image = _image(name, where, _lookup(file, images, part, "flickr30k-images"))
            yield Sample(key, image, tuple(texts), split=split)


def read_flickr30k(
    path: str | Path, images: str | Path | None = None, problems: ReadProblems | None = None
) -> Iterator[Sample]:
    """Flickr30k Entities: five captions a picture, their phrases with spans and boxes."""
    root, problems = Path(path), problems or ReadProblems()
    splits = {
        line.strip(): split
        for split in ("train", "val", "test")
        if (root / f"{split}.txt").is_file()
        for line in documents.read_text(root / f"{split}.txt").splitlines()
    }
    files = sorted(matching(root / "Sentences", "*.txt"), key=lambda p: (len(p.stem), p.stem))
    if not files:
        raise ValueError(f"{root / 'Sentences'}: holds no .txt file; expected Flickr30k Entities")
    lookup = _lookup(root / "x", images, "flickr30k-images", "images")
    for file in files:
        with problems.record():
            yield _flickr30k_sample(file, root, lookup, splits.get(file.stem, ""), problems)


def _flickr30k_sample(file: Path, root: Path, lookup: Lookup, split: str, problems: ReadProblems) -> Sample:
    source = Source("import", "flickr30k")
    labels = root / "Annotations" / f"{file.stem}.xml"
    lost = LostObjects(problems)
    size, boxes = _entities(labels, lost)
    name = f"{file.stem}.jpg"
    frame = Frame.of(lookup.picture(name, str(file)), size, str(labels))
    found = [
        (f"{labels}: object of {entity}", Region(f"{entity}.{n}", "object", box, source=source))
        for entity, places in boxes.items()
        for n, box in enumerate(places)
    ]
    regions = frame.place(found, lost)
    kept = [region.id for region in regions]
    texts, groundings = [], []
    for n, line in enumerate(documents.read_text(file).splitlines()):
        if not line.strip():
            continue
        words, phrases = _caption(line.strip())
        texts.append(Text(f"t{n}", words, source=source))
        for k, (entity, start, end) in enumerate(phrases):
            ids = tuple(name for name in kept if name.rpartition(".")[0] == entity)
            if ids:  # phrases of no box are not asked for
                phrase = words[start:end]
                groundings.append(Grounding(f"t{n}.g{k}", f"t{n}", phrase, ((start, end),), ids, source=source))
    return Sample(file.stem, frame.image(name), tuple(texts), regions, tuple(groundings), split=split)


def _caption(line: str) -> tuple[str, list[tuple[str, int, int]]]:
    """A caption without its brackets, and (entity, start, end) of each phrase that names an object."""
    words, phrases, last = "", [], 0
    for match in _PHRASE.finditer(line):
        words += line[last : match.start()]
        if match[1] != NOT_A_THING:
            phrases.append((match[1], len(words), len(words) + len(match[3])))
        words += match[3]
        last = match.end()
    return words + line[last:], phrases


def _entities(file: Path, lost: LostObjects) -> tuple[tuple[int, int], dict[str, list[Box]]]:
    if not file.is_file():
        raise ValueError(f"{file}: does not exist; expected one for each file of Sentences")
    root = documents.read_xml(file)
    size = [validation.whole(root.findtext(f"size/{s}") or 0, f"{file}: size/{s}") for s in ("width", "height")]
    boxes: dict[str, list[Box]] = {}
    for n, node in enumerate(root.findall("object")):
        corners = [node.findtext(f"bndbox/{corner}") for corner in ("xmin", "ymin", "xmax", "ymax")]
        if None not in corners:
            with lost.object():
                x1, y1, x2, y2 = validation.numbers(corners, f"{file}: object {n}: bndbox", 4)
                for name in node.findall("name"):
                    boxes.setdefault((name.text or "").strip(), []).append((x1, y1, x2, y2))
    return (size[0], size[1]), boxes


class _Plain(pickle.Unpickler):
    """Reads lists, dicts, texts and numbers; anything that would run code is refused."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"names {module}.{name}; expected plain lists and dicts only")


def read_refcoco(
    path: str | Path, images: str | Path | None = None, problems: ReadProblems | None = None
) -> Iterator[Sample]:
    """RefCOCO, RefCOCO+ or RefCOCOg: a sample for each picture of each split, its expressions as groundings."""
    root, problems = Path(path), problems or ReadProblems()
    file = root if root.is_file() else _only(root, "refs(*).p")
    refs = _unpickled(file)
    objects: dict[Any, Region] = {}
    pictures: dict[Any, Sample] = {}
    for sample in coco.read(file.parent / "instances.json", images, problems):
        pictures[sample.id] = sample
        objects.update((region.id, region) for region in sample.regions)
    parts: dict[tuple[str, str], list[tuple[str, list[str]]]] = {}
    for n, ref in enumerate(refs):
        with problems.record():
            number = ref.get("ref_id", n) if isinstance(ref, Mapping) else n
            where = f"{file}: reference {validation.shown(number)}"
            keys = [validation.ident(validation.field(ref, k, where), f"{where}: {k}") for k in ("image_id", "ann_id")]
            picture, annotation = map(str, keys)
            if picture not in pictures or annotation not in objects:
                what = f"image_id {picture}" if picture not in pictures else f"ann_id {annotation}"
                raise ValueError(f"{where}: {what} is not in instances.json")
            phrases = []
            sentences = validation.rows(ref, "sentences", where)
            for place, sentence in validation.objects(sentences, f"{where}: sentences", problems):
                with problems.record():
                    phrases.append(validation.word(sentence.get("sent") or sentence.get("raw"), f"{place}: sent"))
            split = validation.word(validation.field(ref, "split", where), f"{where}: split")
            parts.setdefault((split, picture), []).append((annotation, phrases))
    yield from _references(parts, pictures, objects)


def _unpickled(file: Path) -> Sequence[Any]:
    data = documents.read_bytes(file)
    try:
        for opcode, argument, _ in pickletools.genops(data):  # a place in its memo is made at once, however far out
            if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and isinstance(argument, int) and argument > len(data):
                raise ValueError(f"names place {argument} of {len(data)}")
        refs = _Plain(io.BytesIO(data), encoding="latin1").load()
    except (
        pickle.UnpicklingError, EOFError, ValueError, LookupError, TypeError, AttributeError, ImportError,
        RecursionError, MemoryError, OverflowError, struct.error,
    ) as error:  # fmt: skip
        raise ValueError(f"{file}: not a plain list of references ({' '.join(str(error).split())[:200]})") from None
    if not isinstance(refs, (list, tuple)):
        raise ValueError(f"{file}: not a plain list of references, but {type(refs).__name__}")
    return refs


def _references(
    parts: Mapping[tuple[str, str], list[tuple[str, list[str]]]],
    pictures: Mapping[str, Sample],
    objects: Mapping[str, Region],
) -> Iterator[Sample]:
    several = len(parts) - len({picture for _, picture in parts})
    source = Source("import", "refcoco")
    for (split, picture), found in parts.items():
        groundings = [
            Grounding(f"{annotation}.{k}", "", phrase, (), (annotation,), source=source)
            for annotation, phrases in found
            for k, phrase in enumerate(dict.fromkeys(phrases))
        ]
        regions = [replace(objects[annotation], label="", ignore=False) for annotation, _ in found]
        once = {region.id: region for region in regions}
        name = f"{picture}-{split}" if several else picture
        image = pictures[picture].image
        yield Sample(name, image, regions=tuple(once.values()), groundings=tuple(groundings), split=split)


def _rows_of(file: Path, key: str, problems: ReadProblems) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(where, row) of each object in a JSON file's list `key`; a file without one is refused as one record."""
    rows: Sequence[Any] = ()
    with problems.record():
        rows = validation.rows(documents.read_json(file), key, str(file))
    yield from validation.objects(rows, f"{file}: {key}", problems)


def read_vqa(
    path: str | Path, images: str | Path | None = None, problems: ReadProblems | None = None
) -> Iterator[Sample]:
    """VQAv2: a sample a picture, one Text for each person's answer; a part without answers cannot be scored."""
    problems = problems or ReadProblems()
    for file in _all(Path(path), "*OpenEnded_mscoco_*_questions.json"):
        part = file.name.partition("OpenEnded_mscoco_")[2].removesuffix("_questions.json")
        answers_file = file.with_name(f"v2_mscoco_{part}_annotations.json")
        answers: dict[Any, list[str]] = {}
        if answers_file.is_file():
            for where, row in _rows_of(answers_file, "annotations", problems):
                with problems.record():
                    key = validation.ident(validation.field(row, "question_id", where), f"{where}: question_id")
                    answers[key] = _answers(validation.rows(row, "answers", where), where, problems)
        pages = _Pages(Source("import", "vqa"), problems)
        for where, row in _rows_of(file, "questions", problems):
            with problems.record():
                key = validation.ident(validation.field(row, "question_id", where), f"{where}: question_id")
                pages.ask(row, key, answers.get(key, []), where)
        lookup = _lookup(file, images, part, "images")
        for picture, (where, texts) in pages.found.items():
            with problems.record():
                name = f"COCO_{part}_{picture.zfill(12)}.jpg" if picture.isdecimal() else picture
                split = re.sub(r"\d{4}$", "", part)
                yield Sample(picture, _image(name, where, lookup), tuple(texts), split=split)


def read_textvqa(
    path: str | Path, images: str | Path | None = None, problems: ReadProblems | None = None
) -> Iterator[Sample]:
    """TextVQA: a sample a picture, one Text for each person's answer."""
    problems = problems or ReadProblems()
    for file in _all(Path(path), "TextVQA_*.json"):
        pages = _Pages(Source("import", "textvqa"), problems)
        for where, row in _rows_of(file, "data", problems):
            with problems.record():
                key = validation.ident(validation.field(row, "question_id", where), f"{where}: question_id")
                answers = validation.rows(row, "answers", where, optional=True)
                pages.ask(row, key, _answers(answers, where, problems), where)
                pages.split(row, file, where)
        yield from _of_open_images(file, images, pages)


def read_textcaps(
    path: str | Path, images: str | Path | None = None, problems: ReadProblems | None = None
) -> Iterator[Sample]:
    """TextCaps: a sample a picture with all its captions; the file has a row for each of them."""
    problems = problems or ReadProblems()
    for file in _all(Path(path), "TextCaps_*.json"):
        pages = _Pages(Source("import", "textcaps"), problems)
        for where, row in _rows_of(file, "data", problems):
            with problems.record():
                given = row.get("caption_str")
                captions = [given] if given else validation.rows(row, "reference_strs", where, optional=True)
                pages.caption(row, captions, where)
                pages.split(row, file, where)
        yield from _of_open_images(file, images, pages)


def read_vizwiz(
    path: str | Path, images: str | Path | None = None, problems: ReadProblems | None = None
) -> Iterator[Sample]:
    """VizWiz VQA: a question a picture, one Text for each person's answer; the test part has no answers."""
    root, problems = Path(path), problems or ReadProblems()
    seen: dict[Any, str] = {}
    for file in [root] if root.is_file() else _all(root / "Annotations", "*.json"):
        lookup = _lookup(file, images, f"../{file.stem}", file.stem, "images")
        rows: Any = []
        with problems.record():
            rows = documents.read_json(file)
            if not isinstance(rows, list):
                rows, kind = [], type(rows).__name__
                raise ValueError(f"{file}: expected a list of questions, got {kind}")
        for where, row in validation.objects(rows, f"{file}: ", problems):
            with problems.record():
                name = validation.word(validation.field(row, "image", where), f"{where}: image")
                validation.once(seen, name, where)
                pages = _Pages(Source("import", "vizwiz"), problems)
                answers = validation.rows(row, "answers", where, optional=True)
                pages.ask({**row, "image_id": name}, name, _answers(answers, where, problems), where)
                yield Sample(name, _image(name, where, lookup), tuple(pages.found[name][1]), split=file.stem)


class _Pages:
    """The texts of each picture of a file of questions or captions, by the picture's id."""

    def __init__(self, source: Source, problems: ReadProblems) -> None:
        self.source, self.problems = source, problems
        self.found: dict[str, tuple[str, list[Text]]] = {}
        self.splits: dict[str, str] = {}
        self.seen: dict[Any, str] = {}

    def ask(self, row: Mapping[str, Any], key: Any, answers: Sequence[str], where: str) -> None:
        """Add a question with each person's answer."""
        validation.once(self.seen, key, where)
        question = validation.word(validation.field(row, "question", where), f"{where}: question")
        texts = self._texts(row, where)
        texts += [Text(f"{key}.{n}", a, "answer", question, source=self.source) for n, a in enumerate(answers)]

    def caption(self, row: Mapping[str, Any], captions: Sequence[Any], where: str) -> None:
        """Add captions."""
        texts = self._texts(row, where)
        for caption in captions:
            with self.problems.record():
                words = validation.sentence(caption, f"{where}: caption_str")
                texts.append(Text(f"{row['image_id']}.{len(texts)}", words, source=self.source))

    def split(self, row: Mapping[str, Any], file: Path, where: str) -> None:
        """Note the split that a row names, else the file's."""
        name = row.get("set_name") or file.stem.rpartition("_")[2]
        self.splits[str(row["image_id"])] = validation.word(name, f"{where}: set_name")

    def _texts(self, row: Mapping[str, Any], where: str) -> list[Text]:
        picture = str(validation.ident(validation.field(row, "image_id", where), f"{where}: image_id"))
        return self.found.setdefault(picture, (where, []))[1]


def _of_open_images(file: Path, images: str | Path | None, pages: _Pages) -> Iterator[Sample]:
    """A sample a picture, with its texts; TextVQA and TextCaps take their pictures from Open Images."""
    for picture, (where, texts) in pages.found.items():
        with pages.problems.record():
            split = pages.splits.get(picture, "")
            lookup = _lookup(file, images, "test_images" if split == "test" else "train_images", "images")
            yield Sample(picture, _image(f"{picture}.jpg", where, lookup), tuple(texts), split=split)


def _answers(values: Sequence[Any], where: str, problems: ReadProblems) -> list[str]:
    """Each person's answer, given as text or as an object's `answer`."""
    out = []
    for n, value in enumerate(values):
        with problems.record():
            place = f"{where}: answers[{n}]"
            answer = validation.field(value, "answer", place) if isinstance(value, Mapping) else value
            out.append(validation.word(answer, place, empty=True))
    return out


def _image(name: str, where: str, lookup: Lookup) -> ImageRef:
    return Frame.of(lookup.picture(name, where), (0, 0), where).image(name)


def _lookup(file: Path, images: str | Path | None, *names: str) -> Lookup:
    """In the given folder and its parts, else in the parts beside the file."""
    if images is not None:
        return Lookup(file.parent, [Path(images), *(Path(images) / name for name in names if name)], images)
    return Lookup(file.parent, [*(file.parent / name for name in names if name), file.parent])


def _all(path: Path, pattern: str) -> list[Path]:
    files = [path] if path.is_file() else matching(path, pattern)
    if not files:
        raise ValueError(f"{path}: holds no {pattern}")
    return files


def _only(path: Path, pattern: str) -> Path:
    files = _all(path, pattern)
    if len(files) > 1:
        raise ValueError(f"{path}: holds {len(files)} files {pattern}; name one of them")
    return files[0]
