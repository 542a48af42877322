"""Questions about what is not there: for detection of a text, and captions that name what the picture lacks.

Only what is verifiably absent is asked about: a label that the sample's coverage names as one, or one of a label space
that was searched all over. Half of the labels are hard ones, drawn by how often they come together with what is in the
picture in the source's other pictures; the other half are any of the source's. What is drawn for a sample never
changes.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from florence2.codec.tasks import Task
from florence2.records import Ask, Parsed, Sample

ASKED = ("open_boxes", "phrases")  # output kinds that negatives are made for
HARD = 0.5  # the share of negatives that are hard ones
SURVEYED = 300  # pictures that say which labels come together

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
        if task.output_kind not in ASKED or task.storage_rule not in ("query", "caption") or not self.rate:
            return []
        rng = random.Random(f"{sample.id}:{task.token}:negatives")
        absent = self.absent(sample)
        answered = [(ask, parsed) for ask, parsed in positives if parsed.regions]
        count = self.rate * max(1, len(answered))
        wanted = int(count) + (rng.random() < count % 1)
        labels = self.drawn(sample, absent, wanted, rng)
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


def _misled(rng: random.Random, label: str, ask: Ask, parsed: Parsed) -> tuple[Ask, Parsed]:
    """A caption with the label in place of one of its phrases, which is then no longer answered for."""
    placed = [grounding for grounding in parsed.groundings if grounding.spans]
    article = "An" if label[:1].lower() in "aeiou" else "A"
    if not placed:
        return Ask(ask.task, text=f"{article} {label}"), Parsed()
    lost = rng.choice(placed)
    start, end = lost.spans[0]
    phrase = f"{article if ask.text[start : start + 1].isupper() else article.lower()} {label}"
    kept = tuple(replace(g, spans=()) for g in parsed.groundings if g is not lost)
    named = {name for grounding in kept for name in grounding.region_ids}
    regions = tuple(region for region in parsed.regions if region.id in named)
    return Ask(ask.task, text=ask.text[:start] + phrase + ask.text[end:]), Parsed(regions=regions, groundings=kept)
