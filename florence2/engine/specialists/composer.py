"""Writes texts from the regions that others found: captions of three lengths, and what was read, line by line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from florence2.codec.places import reading_order
from florence2.engine.operator import Spec
from florence2.geometry import box_area, iou
from florence2.labels import fold_label, fold_spaces, plural
from florence2.records import Box, Parsed, Region, Result, Sample, Text

MIN_SCORE = 0.5  # a region below is left out; one without a score is not
MAX_OVERLAP = 0.5  # IoU over which two regions of one label are one object
MAX_SHARED = 0.3  # share of the smaller of two lines, by two readers, over which they read the same letters
MAX_LABELS, MAX_WORDS = 6, 12  # labels, and words of read text, that a sentence names
LARGE, SMALL = 0.25, 0.02  # shares of the picture: what a more detailed text calls large and small
MAX_RELATIONS, MAX_LINES = 4, 8  # sentences about relations of objects, and lines of text that it quotes

NUMBERS = ("no", "a", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
PLACES = (
    ("at the top left", "at the top", "at the top right"),
    ("on the left", "in the middle", "on the right"),
    ("at the bottom left", "at the bottom", "at the bottom right"),
)


class Composer:
    """Texts for a picture in which something was found (brief, detailed, more detailed; ocr where text was read)."""

    def __init__(self) -> None:
        self.spec = Spec(
            "composer",
            "4",
            produces=frozenset({"text/brief", "text/detailed", "text/more_detailed", "text/ocr"}),
            requires=frozenset({"box"}),
            batch_size=64,
        )
        self.config = {"min_score": MIN_SCORE, "max_overlap": MAX_OVERLAP}
        self.weights_sha256 = ""

    def setup(self, device: str) -> None:
        """Nothing to load."""

    def annotate(self, samples: Sequence[Sample], images: Sequence[np.ndarray]) -> list[Result]:
        """The texts of each sample's regions."""
        return [compose(sample, image.shape[1], image.shape[0]) for sample, image in zip(samples, images)]

    def close(self) -> None:
        """Nothing to release."""


def compose(sample: Sample, width: int, height: int) -> Parsed:
    """The texts; their score is the mean of the scores of what they name."""
    regions = _distinct([r for r in sample.current().regions if r.box and r.label.strip() and not r.ignore])
    objects = [r for r in regions if r.kind == "object"]
    lines = one_reading([r for r in regions if r.kind == "text"])
    together: dict[str, list[Region]] = {}
    for region in sorted(objects, key=lambda r: -box_area(r.box)):
        together.setdefault(fold_label(region.label), []).append(region)
    groups = {_name(found[0]): found for found in list(together.values())[:MAX_LABELS]}
    if not groups and not lines:
        return Parsed()
    words = _words(lines)
    brief = join([counted(label, len(found)) for label, found in groups.items()] or [f'a text that says "{words}"'])
    detailed = [
        f"{_capital(place)} you can see {join(contents)}."
        for place, contents in _by_place(groups, lines, width, height)
    ]
    named = [r for found in groups.values() for r in found]
    texts = {"brief": _capital(brief) + ".", "detailed": " ".join(detailed)}
    more = [*_counted(groups), *detailed, *_related(groups, width, height), *_read(lines)]
    texts["more_detailed"] = " ".join(more)
    out = [Text(id=kind, text=text, detail=kind, score=_mean([*named, *lines])) for kind, text in texts.items()]
    if lines:
        read = "\n".join(line.label.strip() for line in reading_order(lines))
        out.append(Text(id="ocr", text=read, detail="ocr", score=_mean(lines)))
    return Parsed(texts=tuple(out))


def one_reading(lines: Sequence[Region]) -> list[Region]:
    """Lines without what a second reader read as well: the better reader's, and of the others what it left out.

    Readers cut lines differently, so that they are compared by the place that they share, and as wholes: who read more,
    by letters times score, is taken first.
    """
    readers: dict[str, list[Region]] = {}
    for line in lines:
        readers.setdefault(line.source.name if line.source else "", []).append(line)
    kept: list[Region] = []
    for found in sorted(readers.values(), key=lambda found: -sum(len(r.label) * _score(r) for r in found)):
        kept += [line for line in found if not any(_shared(line, other) > MAX_SHARED for other in kept)]
    return [line for line in lines if line in kept]


def _score(region: Region) -> float:
    return 1.0 if region.score is None else region.score


def _shared(one: Region, other: Region) -> float:
    """The share of the smaller box that lies in the other; of one reader's own lines 0."""
    a, b = one.box or (0, 0, 0, 0), other.box or (0, 0, 0, 0)
    if (one.source and one.source.name) == (other.source and other.source.name):
        return 0.0
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    return max(width, 0) * max(height, 0) / max(1e-9, min(box_area(one.box), box_area(other.box)))


def counted(label: str, count: int) -> str:
    """A label with its article or number: "an apple", "two people", "many cars"."""
    if count == 1:
        return ("an " if label[0] in "aeiou" else "a ") + label
    return f"{NUMBERS[count] if count < len(NUMBERS) else 'many'} {plural(label)}"


def join(phrases: Sequence[str]) -> str:
    """Phrases as an English list."""
    return phrases[0] if len(phrases) == 1 else ", ".join(phrases[:-1]) + " and " + phrases[-1]


def _mean(regions: Sequence[Region]) -> float | None:
    scores = [r.score for r in regions if r.score is not None]
    return sum(scores) / len(scores) if scores else None


def _counted(groups: Mapping[str, Sequence[Region]]) -> list[str]:
    """How much there is of what: "The picture shows three things: two dogs and a cat."."""
    total = sum(map(len, groups.values()))
    if total < 2:
        return []
    everything = join([counted(label, len(found)) for label, found in groups.items()])
    return [f"The picture shows {counted('thing', total)}: {everything}."]


def _related(groups: Mapping[str, Sequence[Region]], width: int, height: int) -> list[str]:
    """What is large or small, and the relations between objects whose label occurs once."""
    single = [found[0] for found in groups.values() if len(found) == 1]
    out = []
    for region in single:
        share = box_area(region.box) / max(1, width * height)
        if share >= LARGE:
            out.append(f"The {_name(region)} is large and fills {'most' if share > 0.5 else 'much'} of the view.")
        elif share <= SMALL:
            out.append(f"The {_name(region)} looks small.")
    for one, other in list(zip(single, single[1:]))[:MAX_RELATIONS]:
        out.append(f"The {_name(one)} {_relation(one.box, other.box)} the {_name(other)}.")
    return out


def _relation(one: Box | None, other: Box | None) -> str:
    assert one is not None and other is not None
    if one[0] <= other[0] and one[1] <= other[1] and one[2] >= other[2] and one[3] >= other[3]:
        return "surrounds"
    if other[0] <= one[0] and other[1] <= one[1] and other[2] >= one[2] and other[3] >= one[3]:
        return "lies within"
    dx, dy = (one[0] + one[2] - other[0] - other[2]) / 2, (one[1] + one[3] - other[1] - other[3]) / 2
    if abs(dx) >= abs(dy):
        return "is on the left of" if dx < 0 else "is on the right of"
    return "is above" if dy < 0 else "is below"


def _read(lines: Sequence[Region]) -> list[str]:
    """The lines of text in reading order, quoted."""
    quoted = ['"' + _words([line]) + '"' for line in reading_order(lines)]
    more = ", and more" if len(quoted) > MAX_LINES else ""
    return [f"The text reads {', '.join(quoted[:MAX_LINES])}{more}."] if quoted else []


def _name(region: Region) -> str:
    return fold_spaces(region.label).lower()


def _distinct(regions: Sequence[Region]) -> list[Region]:
    sure = [r for r in regions if r.score is None or r.score >= MIN_SCORE]
    kept: list[Region] = []
    for region in sorted(sure, key=lambda r: (-_score(r), r.box or ())):
        same = [k.box for k in kept if fold_label(k.label) == fold_label(region.label) and k.kind == region.kind]
        if not same or iou(np.array([region.box]), np.array(same)).max() <= MAX_OVERLAP:
            kept.append(region)
    return sorted(kept, key=lambda r: (r.box[1], r.box[0]) if r.box else ())


def _by_place(
    groups: Mapping[str, Sequence[Region]], lines: Sequence[Region], width: int, height: int
) -> list[tuple[str, list[str]]]:
    """Each place in reading order, with what is there."""
    there: dict[tuple[int, int], list[str]] = {}
    for label, found in groups.items():
        places = [_place(r.box, width, height) for r in found if r.box]
        for place in dict.fromkeys(places):
            there.setdefault(place, []).append(counted(label, places.count(place)))
    places = [_place(r.box, width, height) for r in lines if r.box]
    for place in dict.fromkeys(places):
        words = _words([line for line, at in zip(lines, places) if at == place])
        there.setdefault(place, []).append(f'a text that says "{words}"')
    return [(PLACES[row][column], there[row, column]) for row, column in sorted(there)]


def _words(lines: Sequence[Region]) -> str:
    return " ".join(" ".join(line.label for line in lines).split()[:MAX_WORDS]).replace('"', "'")


def _place(box: Box, width: int, height: int) -> tuple[int, int]:
    return _third((box[1] + box[3]) / 2 / max(height, 1)), _third((box[0] + box[2]) / 2 / max(width, 1))


def _third(position: float) -> int:
    return min(max(int(position * 3), 0), 2)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
