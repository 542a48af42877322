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
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from florence2.formats import coco, validation
from florence2.records import Grounding, Region, Sample, Source, Text

_PHRASE = re.compile(r"\[/EN#(\d+)((?:/\w+)+) ([^\]]+)\]")
NOT_A_THING = "0"  # the entity number of phrases that name nothing in the picture


def read_karpathy(path: str | Path, images: str | Path | None = None) -> Iterator[Sample]:
    """Captions with Karpathy's splits: train, restval, val, test."""
    file = _only(Path(path), "dataset_*.json")
    source = Source("import", "karpathy")
    data = validation.field(validation.read_json(file), "images", str(file))
    seen: dict[Any, str] = {}
    for n, row in enumerate(data):
        where = f"{file}: images[{n}]"
        name = str(validation.field(row, "filename", where))
        key = str(row.get("cocoid", row.get("imgid", n)))
        validation.once(seen, key, where)
        texts = []
        for i, sentence in enumerate(validation.field(row, "sentences", where)):
            words = str(validation.field(sentence, "raw", f"{where}: sentences[{i}]")).strip()
            texts.append(Text(str(sentence.get("sentid", f"{key}.{i}")), words, source=source))
        part = str(row.get("filepath", ""))
        folders = _folders(file, images, part, "flickr30k-images")
        image = validation.image_ref(name, validation.find_picture(name, folders))
        yield Sample(key, image, tuple(texts), split=str(row.get("split", "")))


def read_flickr30k(path: str | Path, images: str | Path | None = None) -> Iterator[Sample]:
    """Flickr30k Entities: five captions a picture, their phrases with spans and boxes."""
    root = Path(path)
    splits = {
        line.strip(): split
        for split in ("train", "val", "test")
        if (root / f"{split}.txt").is_file()
        for line in validation.read_text(root / f"{split}.txt").splitlines()
    }
    files = sorted((root / "Sentences").glob("*.txt"), key=lambda p: (len(p.stem), p.stem))
    if not files:
        raise ValueError(f"{root / 'Sentences'}: holds no .txt file; expected Flickr30k Entities")
    source = Source("import", "flickr30k")
    for file in files:
        size, boxes = _entities(root / "Annotations" / f"{file.stem}.xml")
        texts, groundings = [], []
        regions = {
            f"{entity}.{n}": Region(f"{entity}.{n}", "object", box, source=source)
            for entity, found in boxes.items()
            for n, box in enumerate(found)
        }
        for n, line in enumerate(validation.read_text(file).splitlines()):
            if not line.strip():
                continue
            words, phrases = _caption(line.strip())
            texts.append(Text(f"t{n}", words, source=source))
            for k, (entity, start, end) in enumerate(phrases):
                ids = tuple(f"{entity}.{i}" for i in range(len(boxes.get(entity, ()))))
                if ids:  # phrases of no box are not asked for
                    phrase = words[start:end]
                    groundings.append(Grounding(f"t{n}.g{k}", f"t{n}", phrase, ((start, end),), ids, source=source))
        name = f"{file.stem}.jpg"
        folders = _folders(root / "x", images, "flickr30k-images", "images")
        image = validation.image_ref(name, validation.find_picture(name, folders), *size)
        split = splits.get(file.stem, "")
        yield Sample(file.stem, image, tuple(texts), tuple(regions.values()), tuple(groundings), split=split)


def _caption(line: str) -> tuple[str, list[tuple[str, int, int]]]:
    """A caption without its brackets, and (entity, start, end) of each phrase that names a thing."""
    words, phrases, last = "", [], 0
    for match in _PHRASE.finditer(line):
        words += line[last : match.start()]
        if match[1] != NOT_A_THING:
            phrases.append((match[1], len(words), len(words) + len(match[3])))
        words += match[3]
        last = match.end()
    return words + line[last:], phrases


def _entities(file: Path) -> tuple[tuple[int, int], dict[str, list[tuple[float, float, float, float]]]]:
    try:
        root = ElementTree.fromstring(file.read_bytes())
    except FileNotFoundError:
        raise ValueError(f"{file}: does not exist; expected one for each file of Sentences") from None
    except ElementTree.ParseError as error:
        raise ValueError(f"{file}:{error.position[0]}: not XML ({error})") from None
    width, height = (
        validation.whole(root.findtext(f"size/{s}") or 0, f"{file}: size/{s}") for s in ("width", "height")
    )
    boxes: dict[str, list[tuple[float, float, float, float]]] = {}
    for n, node in enumerate(root.findall("object")):
        corners = [node.findtext(f"bndbox/{corner}") for corner in ("xmin", "ymin", "xmax", "ymax")]
        if None not in corners:
            x1, y1, x2, y2 = validation.numbers(corners, f"{file}: object {n}: bndbox", 4)
            for name in node.findall("name"):
                boxes.setdefault((name.text or "").strip(), []).append((x1, y1, x2, y2))
    return (width, height), boxes


class _Plain(pickle.Unpickler):
    """Reads lists, dicts, texts and numbers; anything that would run code is refused."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"names {module}.{name}; expected plain lists and dicts only")


def read_refcoco(path: str | Path, images: str | Path | None = None) -> Iterator[Sample]:
    """RefCOCO, RefCOCO+ or RefCOCOg: a sample for each picture of each split, its expressions as groundings."""
    root = Path(path)
    file = root if root.is_file() else _only(root, "refs(*).p")
    try:
        refs = _Plain(io.BytesIO(file.read_bytes()), encoding="latin1").load()
    except (pickle.UnpicklingError, EOFError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"{file}: not a plain list of references ({error})") from None
    things: dict[Any, Region] = {}
    pictures: dict[Any, Sample] = {}
    for sample in coco.read(file.parent / "instances.json", images):
        pictures[sample.id] = sample
        things.update((region.id, region) for region in sample.regions)
    parts: dict[tuple[str, str], list[tuple[str, list[str]]]] = {}
    for n, ref in enumerate(refs):
        where = f"{file}: reference {ref.get('ref_id', n) if isinstance(ref, Mapping) else n}"
        picture, thing = str(validation.field(ref, "image_id", where)), str(validation.field(ref, "ann_id", where))
        if picture not in pictures or thing not in things:
            what = f"image_id {picture}" if picture not in pictures else f"ann_id {thing}"
            raise ValueError(f"{where}: {what} is not in instances.json")
        said = [str(s.get("sent") or s.get("raw") or "") for s in validation.field(ref, "sentences", where)]
        parts.setdefault((str(validation.field(ref, "split", where)), picture), []).append((thing, said))
    several = len(parts) - len({picture for _, picture in parts})
    source = Source("import", "refcoco")
    for (split, picture), found in parts.items():
        groundings = [
            Grounding(f"{thing}.{k}", "", phrase, (), (thing,), source=source)
            for thing, said in found
            for k, phrase in enumerate(dict.fromkeys(said))
        ]
        regions = [replace(things[thing], label="", ignore=False) for thing, _ in found]
        once = {region.id: region for region in regions}
        name = f"{picture}-{split}" if several else picture
        image = pictures[picture].image
        yield Sample(name, image, regions=tuple(once.values()), groundings=tuple(groundings), split=split)


def read_vqa(path: str | Path, images: str | Path | None = None) -> Iterator[Sample]:
    """VQAv2: a sample a picture, one Text for each person's answer; a part without answers cannot be scored."""
    root = Path(path)
    source = Source("import", "vqa")
    for file in _all(root, "*OpenEnded_mscoco_*_questions.json"):
        part = file.name.partition("OpenEnded_mscoco_")[2].removesuffix("_questions.json")
        answers_file = file.with_name(f"v2_mscoco_{part}_annotations.json")
        answers: dict[Any, list[str]] = {}
        if answers_file.is_file():
            for n, row in enumerate(
                validation.field(validation.read_json(answers_file), "annotations", str(answers_file))
            ):
                where = f"{answers_file}: annotations[{n}]"
                said = [str(validation.field(a, "answer", where)) for a in validation.field(row, "answers", where)]
                answers[validation.field(row, "question_id", where)] = said
        pages: dict[str, list[Text]] = {}
        seen: dict[Any, str] = {}
        for n, row in enumerate(validation.field(validation.read_json(file), "questions", str(file))):
            where = f"{file}: questions[{n}]"
            key = validation.field(row, "question_id", where)
            validation.once(seen, key, where)
            picture = str(validation.field(row, "image_id", where))
            question = str(validation.field(row, "question", where))
            pages.setdefault(picture, []).extend(_people(key, question, answers.get(key, []), source))
        for picture, texts in pages.items():
            name = f"COCO_{part}_{int(picture):012d}.jpg" if picture.isdigit() else picture
            image = validation.image_ref(name, validation.find_picture(name, _folders(file, images, part, "images")))
            yield Sample(picture, image, tuple(texts), split=re.sub(r"\d{4}$", "", part))


def read_textvqa(path: str | Path, images: str | Path | None = None) -> Iterator[Sample]:
    """TextVQA: a sample a picture, one Text for each person's answer."""
    source = Source("import", "textvqa")
    for file in _all(Path(path), "TextVQA_*.json"):
        pages: dict[str, list[Text]] = {}
        splits: dict[str, str] = {}
        seen: dict[Any, str] = {}
        for n, row in enumerate(validation.field(validation.read_json(file), "data", str(file))):
            where = f"{file}: data[{n}]"
            key = validation.field(row, "question_id", where)
            validation.once(seen, key, where)
            picture = str(validation.field(row, "image_id", where))
            said = [str(answer) for answer in row.get("answers") or []]
            question = str(validation.field(row, "question", where))
            pages.setdefault(picture, []).extend(_people(key, question, said, source))
            splits[picture] = str(row.get("set_name") or file.stem.rpartition("_")[2])
        yield from _open_images(file, images, pages, splits)


def read_textcaps(path: str | Path, images: str | Path | None = None) -> Iterator[Sample]:
    """TextCaps: a sample a picture with all its captions; the file has a row for each of them."""
    source = Source("import", "textcaps")
    for file in _all(Path(path), "TextCaps_*.json"):
        pages: dict[str, list[Text]] = {}
        splits: dict[str, str] = {}
        for n, row in enumerate(validation.field(validation.read_json(file), "data", str(file))):
            where = f"{file}: data[{n}]"
            picture = str(validation.field(row, "image_id", where))
            splits[picture] = str(row.get("set_name") or file.stem.rpartition("_")[2])
            said = [row["caption_str"]] if row.get("caption_str") else row.get("reference_strs") or []
            texts = pages.setdefault(picture, [])
            texts += [Text(f"{picture}.{len(texts) + i}", str(t).strip(), source=source) for i, t in enumerate(said)]
        yield from _open_images(file, images, pages, splits)


def _open_images(
    file: Path, images: str | Path | None, pages: dict[str, list[Text]], splits: dict[str, str]
) -> Iterator[Sample]:
    """A sample a picture, with its texts; TextVQA and TextCaps take their pictures from Open Images."""
    for picture, texts in pages.items():
        name = f"{picture}.jpg"
        folders = _folders(file, images, "test_images" if splits[picture] == "test" else "train_images", "images")
        image = validation.image_ref(name, validation.find_picture(name, folders))
        yield Sample(picture, image, tuple(texts), split=splits[picture])


def read_vizwiz(path: str | Path, images: str | Path | None = None) -> Iterator[Sample]:
    """VizWiz VQA: a question a picture, one Text for each person's answer; the test part has no answers."""
    root = Path(path)
    source = Source("import", "vizwiz")
    files = [root] if root.is_file() else _all(root / "Annotations", "*.json")
    seen: dict[Any, str] = {}
    for file in files:
        rows = validation.read_json(file)
        if not isinstance(rows, list):
            raise ValueError(f"{file}: expected a list of questions, got {type(rows).__name__}")
        for n, row in enumerate(rows):
            where = f"{file}: [{n}]"
            name = str(validation.field(row, "image", where))
            validation.once(seen, name, where)
            question = str(validation.field(row, "question", where))
            said = [str(validation.field(answer, "answer", where)) for answer in row.get("answers") or []]
            folders = _folders(file, images, f"../{file.stem}", file.stem, "images")
            image = validation.image_ref(name, validation.find_picture(name, folders))
            yield Sample(name, image, tuple(_people(name, question, said, source)), split=file.stem)


def _people(key: Any, question: str, answers: list[str], source: Source) -> list[Text]:
    return [Text(f"{key}.{n}", answer, "answer", question, source=source) for n, answer in enumerate(answers)]


def _folders(file: Path, images: str | Path | None, *names: str) -> list[Path]:
    """The given folder and its parts, else the parts beside the file."""
    if images is not None:
        return [Path(images), *(Path(images) / name for name in names if name)]
    return [*(file.parent / name for name in names if name), file.parent]


def _all(path: Path, pattern: str) -> list[Path]:
    files = [path] if path.is_file() else sorted(path.glob(pattern))
    if not files:
        raise ValueError(f"{path}: holds no {pattern}")
    return files


def _only(path: Path, pattern: str) -> Path:
    files = _all(path, pattern)
    if len(files) > 1:
        raise ValueError(f"{path}: holds {len(files)} files {pattern}; name one of them")
    return files[0]
