"""Questions about what is not there: for detection of a text, captions that name what the picture lacks, empty regions.

Only what is verifiably absent is asked about: a label that the sample's coverage names as one, or one of a label space
that was searched all over. Half of the labels are hard ones, drawn by how often they come together with what is in the
picture in the source's other pictures; the other half are any of the source's. A region is empty where a label space
(of lines: the text) was searched all over and nothing that the sample holds comes near it. What is drawn for a sample
never changes.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from florence2 import geometry
from florence2.codec.tasks import Task
from florence2.labels import plural
from florence2.records import Ask, Box, Coverage, Parsed, Sample

ASKED = ("open_boxes", "phrases", "region_text")  # output kinds that negatives are made for
HARD = 0.5  # the share of negatives that are hard ones
SURVEYED = 300  # pictures that say which labels come together
TRIES = 20  # places tried for an empty region
_SEVERAL = re.compile(r"(?i)(?:two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|many|several|\d+)\b")

Pairs = list[tuple[Ask, Parsed]]


@dataclass(frozen=True)
class Negatives:
    """So many negatives for one positive; `together`: label -> the labels it comes with, and in how many pictures."""

    rate: float
    spaces: Mapping[str, tuple[str, ...]]
    """Label space -> its labels in the source."""
    together: Mapping[str, Counter[str]]

    @staticmethod
    def of(samples: Iterable[Sample], rate: float) -> Negatives:
        """As these samples have it."""
        spaces: dict[str, set[str]] = {}
        together: dict[str, Counter[str]] = {}
        for sample in samples:
            there = present(sample.current())
            for space, labels in there.items():
                spaces.setdefault(space, set()).update(labels)
                for label in labels:
                    together.setdefault(label, Counter()).update(labels - {label})
        return Negatives(rate, {space: tuple(sorted(labels)) for space, labels in spaces.items()}, together)

    def pairs(self, task: Task, sample: Sample, positives: Sequence[tuple[Ask, Parsed]]) -> Pairs:
        """What a sample is asked of a task beside its positives."""
        if task.output_kind not in ASKED or task.storage_rule == "answer" or not self.rate:
            return []
        rng = random.Random(f"{sample.id}:{task.token}:negatives")
        answered = [(ask, parsed) for ask, parsed in positives if parsed.regions]
        count = self.rate * max(1, len(answered))
        wanted = int(count) + (rng.random() < count % 1)
        if task.output_kind == "region_text":
            boxes = empty_regions(sample, "text" if task.storage_rule == "text" else "object", wanted, rng)
            return [(Ask(task.token, region=box), Parsed()) for box in boxes]
        labels = self.drawn(sample, self.absent(sample), wanted, rng)
        if task.output_kind == "open_boxes":
            asked = {ask.text for ask, _ in positives}
            return [(Ask(task.token, text=label), Parsed()) for label in labels if label not in asked]
        return [_misled(rng, label, *rng.choice(answered)) for label in labels if answered]

    def absent(self, sample: Sample) -> list[str]:
        """The labels that are verifiably not in the picture."""
        sample = sample.current()
        there = present(sample)
        everywhere = set().union(*there.values()) if there else set()
        out: set[str] = set()
        for space, states in sample.coverage.items():
            if space == "text":
                continue
            searched: set[str] = set()
            doubtful: set[str] = set()
            for coverage in states:
                named = set(coverage.labels or self.spaces.get(space, ()))
                if coverage.state == "partial":
                    doubtful |= named
                elif coverage.state == "exhaustive" or coverage.labels:
                    searched |= named
            out |= searched - doubtful
        return sorted(out - everywhere)

    def drawn(self, sample: Sample, absent: Sequence[str], count: int, rng: random.Random) -> list[str]:
        """`count` different labels of the absent ones, half of them by how often they come with what is there."""
        near: Counter[str] = Counter()
        for labels in present(sample.current()).values():
            for label in labels:
                near.update({other: n for other, n in self.together.get(label, Counter()).items() if other in absent})
        left = list(absent)
        out: list[str] = []
        while left and len(out) < count:
            hard = [label for label in left if near[label]]
            if hard and rng.random() < HARD:
                label = rng.choices(hard, [near[label] for label in hard])[0]
            else:
                label = rng.choice(left)
            left.remove(label)
            out.append(label)
        return out


def present(sample: Sample) -> dict[str, set[str]]:
    """Label space -> the labels of the picture's objects, ignored ones too."""
    out: dict[str, set[str]] = {}
    for region in sample.regions:
        if region.kind == "object" and region.label.strip():
            out.setdefault(region.label_space, set()).add(region.label)
    return out


def empty_regions(sample: Sample, kind: str, count: int, rng: random.Random) -> list[Box]:
    """Up to `count` boxes of the size of one of the picture's objects ("object") or lines ("text"), moved to where
    nothing is; none where the picture was not searched all over for them."""
    spaces = [states for space, states in sample.coverage.items() if (space == "text") == (kind == "text")]
    searched = [all(one.state != "partial" for one in states) and _whole(states) for states in spaces]
    taken = [box for box in map(geometry.region_box, sample.regions) if box is not None]
    sizes = [geometry.region_box(region) for region in sample.current().regions if region.kind == kind]
    width, height = sample.image.size_wh
    out: list[Box] = []
    while any(searched) and any(sizes) and len(out) < count:
        box = _empty_place(rng, [size for size in sizes if size], taken, width, height)
        if box is None:
            return out
        out.append(box)
    return out


def _whole(states: Iterable[Coverage]) -> bool:
    return any(one.state == "exhaustive" and not one.labels for one in states)


def _empty_place(rng: random.Random, sizes: Sequence[Box], taken: Sequence[Box], width: int, height: int) -> Box | None:
    for _ in range(TRIES):
        x1, y1, x2, y2 = rng.choice(sizes)
        left, top = rng.uniform(0, max(0.0, width - (x2 - x1))), rng.uniform(0, max(0.0, height - (y2 - y1)))
        box = left, top, left + x2 - x1, top + y2 - y1
        if not geometry.intersection([box], taken).any():
            return box
    return None


def _misled(rng: random.Random, label: str, ask: Ask, parsed: Parsed) -> tuple[Ask, Parsed]:
    """A caption with the label in place of what one of its phrases names, which is then no longer answered for."""
    placed = [grounding for grounding in parsed.groundings if grounding.spans]
    if not placed:
        return Ask(ask.task, text=f"{_article(label, capital=True)} {label}"), Parsed()
    lost = rng.choice(placed)
    start, end = lost.spans[0]
    called = {region.id: region.label for region in parsed.regions if region.kind == "object"}
    own = {called.get(name, "") for name in lost.region_ids}
    phrase = renamed(ask.text[start:end], own.pop() if len(own) == 1 else "", label)
    kept = tuple(replace(g, spans=()) for g in parsed.groundings if g is not lost)
    named = {name for grounding in kept for name in grounding.region_ids}
    regions = tuple(region for region in parsed.regions if region.id in named)
    return Ask(ask.task, text=ask.text[:start] + phrase + ask.text[end:]), Parsed(regions=regions, groundings=kept)


def renamed(phrase: str, own: str, label: str) -> str:
    """The phrase about another label: its colour and number kept, so that only the picture tells that it is false."""
    capital = phrase[:1].isupper()
    forms = sorted((own, plural(own)), key=len, reverse=True) if own.strip() else ()
    found = re.search(rf"\b(?:{'|'.join(map(re.escape, forms))})\b(?!['’])", phrase, re.IGNORECASE) if forms else None
    if not found:
        return f"{_article(label, capital)} {label}"
    before, after = phrase[: found.start()], phrase[found.end() :]
    same = own.casefold() == plural(own).casefold()  # of fish the words before say how many they are
    if _SEVERAL.match(before) if same else found.group().casefold() != own.casefold():
        label = plural(label)  # a false plural would tell without the picture
    if re.fullmatch(r"(?i)an? ", before):
        before = _article(label, capital) + " "
    return before + (label[:1].upper() + label[1:] if capital and not before else label) + after


def _article(label: str, capital: bool) -> str:
    article = "an" if label[:1].lower() in "aeiou" else "a"
    return article.capitalize() if capital else article
