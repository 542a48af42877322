"""ms-swift's rows as samples: `messages` (or `query` and `response`) with <bbox> and <ref-object> tags, `objects`.

    {"messages": [{"role": "user", "content": "<image>Find <ref-object>"}, {"role": "assistant", "content": "<bbox>"}],
     "images": ["a.jpg"], "objects": {"ref": ["the red car"], "bbox": [[10, 20, 50, 90]]}}

Tags take the objects in order. References with their boxes are a grounded caption, or objects where nothing else is
given; boxes alone answer what a question refers to; a text about one box describes it: the words around the tags of
such a question are not kept, which is noted. Boxes are pixels, or with bbox_type norm1 (norm1000) fractions
(thousandths) of the picture.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from florence2.codec.tasks import Task
from florence2.formats import documents, validation
from florence2.formats.frames import Frame
from florence2.formats.problems import LostObjects, ReadProblems
from florence2.records import Grounding, Region, Sample, Source, Text
from florence2.sources.prompt_pairs import Collected, files_of, rows_of, with_pair

SOURCE = Source("import", "swift")
_TAG = re.compile(r"(<ref-object>|<bbox>)")
_SPOKEN = re.compile(r"\w")
_SCALES = {"real": 0.0, "norm1": 1.0, "norm1000": 1000.0}

Segment = tuple[str, Any]  # ("text" | "ref" | "box", what it is)


def read(
    path: str | Path,
    images: str | Path | None = None,
    problems: ReadProblems | None = None,
    tasks: Mapping[str, Task] | None = None,
) -> Iterator[Sample]:
    """A sample for each picture, with the annotations of all its rows."""
    problems = problems or ReadProblems()
    found = Collected()
    for file, part, lookup in files_of(Path(path), images):
        for where, row in rows_of(file, problems):
            with problems.record():
                name = _image(row, where)
                picture = lookup.picture(name, f"{where}: images")
                turns = _turns(row, where, problems)
                objects = _Objects(row, where, Frame.of(picture, (0, 0), where).in_shares())
                spoken = [(objects.segments(asked), objects.segments(answer)) for asked, answer in turns]
                key = found.start(name, part, picture, where)
                for asked, answer in spoken:
                    found.samples[key] = _with_turn(found.samples[key], asked, answer, where, problems, tasks)
    yield from found.samples.values()


def _image(row: Mapping[str, Any], where: str) -> str:
    given = row.get("images", row.get("image"))
    names = given if isinstance(given, list) else [given]
    if len(names) != 1:
        raise ValueError(f"{where}: images: expected one picture a row, got {len(names)}")
    name = names[0].get("path") if isinstance(names[0], Mapping) else names[0]
    return validation.word(name, f"{where}: images")


def _turns(row: Mapping[str, Any], where: str, problems: ReadProblems) -> list[tuple[str, str]]:
    """(user, assistant) message pairs, <image> taken out."""
    if "messages" not in row:
        asked = validation.word(validation.field(row, "query", where), f"{where}: query")
        texts = [asked, validation.word(validation.field(row, "response", where), f"{where}: response", empty=True)]
        return [(texts[0].replace("<image>", "").strip(), texts[1].strip())]
    turns, asked = [], ""
    for n, message in enumerate(validation.rows(row, "messages", where)):
        place = f"{where}: messages[{n}]"
        role = validation.field(message, "role", place)
        content = validation.word(validation.field(message, "content", place), f"{place}: content", empty=True)
        content = content.replace("<image>", "").strip()
        if role == "user":
            asked = content
        elif role == "assistant":
            turns.append((asked, content))
        else:
            problems.note("messages of other roles than user and assistant are left out", place)
    if not turns:
        raise ValueError(f"{where}: messages: expected one of the role assistant")
    return turns


class _Objects:
    """A row's references and boxes, in the order in which its tags take them."""

    def __init__(self, row: Mapping[str, Any], where: str, frame: Frame) -> None:
        given = row.get("objects") or {}
        if isinstance(given, str):
            given = documents.parse_json(given, f"{where}: objects")
        if isinstance(given, list):  # as version 2 has it: {"caption", "bbox"} each
            rows = [validation.record(entry, f"{where}: objects") for entry in given]
            kinds = {entry.get("bbox_type") for entry in rows if isinstance(entry.get("bbox_type"), str)}
            refs, boxes = [entry.get("caption") for entry in rows], [entry.get("bbox") for entry in rows]
            kind: Any = kinds.pop() if len(kinds) == 1 else "real"
        else:
            refs = list(validation.rows(given, "ref", f"{where}: objects", optional=True))
            boxes = list(validation.rows(given, "bbox", f"{where}: objects", optional=True))
            kind = given.get("bbox_type") or "real"
        if not isinstance(kind, str) or kind not in _SCALES:
            raise ValueError(f"{where}: objects: bbox_type: expected one of {', '.join(_SCALES)}")
        self.where, self.frame, self.scale = where, frame, _SCALES[kind]
        self.refs, self.boxes = iter(refs), iter(boxes)

    def segments(self, content: str) -> list[Segment]:
        """A message's text, references and boxes."""
        out: list[Segment] = []
        for part in _TAG.split(content):
            if part == "<ref-object>":
                out.append(("ref", validation.word(next(self.refs, None), f"{self.where}: objects: ref")))
            elif part == "<bbox>":
                out.append(("box", self._box(next(self.boxes, None))))
            elif part:
                out.append(("text", part))
        return out

    def _box(self, value: Any) -> tuple[float, ...]:
        box = validation.numbers(value, f"{self.where}: objects: bbox", 4)
        if self.scale:
            width, height = self.frame.size_wh
            if not width * height:
                raise ValueError(f"{self.where}: the picture's size is needed for its boxes; put the picture in place")
            box = tuple(v / self.scale * side for v, side in zip(box, (width, height) * 2))
        region = Region(box=(box[0], box[1], box[2], box[3]))
        self.frame.place([(f"{self.where}: objects: bbox", region)], LostObjects(ReadProblems()))
        return box


def _with_turn(
    sample: Sample,
    asked: Sequence[Segment],
    answer: Sequence[Segment],
    where: str,
    problems: ReadProblems,
    tasks: Mapping[str, Task] | None,
) -> Sample:
    """The sample with one question and its answer."""
    kinds = {kind for kind, _ in answer}
    refs = [value for kind, value in asked if kind == "ref"]
    boxes = [value for kind, value in asked if kind == "box"]
    words = "".join(value for kind, value in answer if kind != "box").strip()
    if ("box" in kinds or boxes) and _SPOKEN.search("".join(value for kind, value in asked if kind == "text")):
        problems.note(
            "a question about boxes is asked by the task that its objects belong to, not in its own words", where
        )
    if "box" in kinds and "ref" in kinds:
        return _grounded(sample, answer)
    if "box" in kinds:
        if len(refs) != 1:
            raise ValueError(f"{where}: boxes without one <ref-object> that they are of")
        regions = [_region(sample, n, value) for n, (kind, value) in enumerate(answer) if kind == "box"]
        phrase = Grounding(_fresh(sample, "g"), "", refs[0], (), tuple(r.id for r in regions), source=SOURCE)
        sample = dataclasses.replace(sample, regions=(*sample.regions, *regions))
        return dataclasses.replace(sample, groundings=(*sample.groundings, phrase))
    if boxes:
        if len(boxes) != 1 or not words:
            raise ValueError(f"{where}: expected a text about one <bbox>, got {len(boxes)} boxes")
        region = _region(sample, 0, boxes[0])
        named = "ref" in kinds
        region = dataclasses.replace(region, label=words if named else "", description="" if named else words)
        return dataclasses.replace(sample, regions=(*sample.regions, region))
    prompt = "".join(str(value) for _, value in asked).strip()
    return with_pair(sample, prompt, words, SOURCE, where, problems, tasks)


def _grounded(sample: Sample, answer: Sequence[Segment]) -> Sample:
    """References, each with the boxes behind it: phrases of a caption, or the names of objects."""
    text = ""
    phrases: list[tuple[int, int, list[Sequence[float]]]] = []  # start, end, boxes
    for kind, value in answer:
        if kind == "box":
            if phrases:
                phrases[-1][2].append(value)
            continue
        if kind == "ref":
            phrases.append((len(text), len(text) + len(value), []))
        text += value
    spoken = "".join(value for kind, value in answer if kind == "text")
    regions, groundings = list(sample.regions), list(sample.groundings)
    bare = not any(letter.isalnum() for letter in spoken)
    name = _fresh(sample, "t")
    for n, (start, end, boxes) in enumerate(phrases):
        made = [_region(sample, len(regions) + k, box, text[start:end] if bare else "") for k, box in enumerate(boxes)]
        regions += made
        if made and not bare:
            ids = tuple(region.id for region in made)
            phrase = text[start:end]
            groundings.append(Grounding(f"{name}.{n}", name, phrase, ((start, end),), ids, source=SOURCE))
    texts = sample.texts if bare else (*sample.texts, Text(name, text, source=SOURCE))
    return dataclasses.replace(sample, texts=texts, regions=tuple(regions), groundings=tuple(groundings))


def _region(sample: Sample, n: int, box: Sequence[float], label: str = "") -> Region:
    place = (box[0], box[1], box[2], box[3])
    return Region(f"{_fresh(sample, 'r')}.{n}", "object", place, label, source=SOURCE)


def _fresh(sample: Sample, letter: str) -> str:
    """A name that no item of the sample has."""
    return f"{letter}{len(sample.texts)}-{len(sample.regions)}-{len(sample.groundings)}"
