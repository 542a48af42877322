"""Which tokens of a target teach nothing, and in which order its items come: what is known of labels that lack objects.

An item that may not be there is written, so that what follows has it before it, and not scored: its place is neither an
object nor background. Of one whose name is in doubt the place alone is scored. The end of a list is not scored where
the list may not be whole. Knows targets, no loss.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence
from dataclasses import dataclass

from florence2.codec.answers import canonical, parse_ids
from florence2.codec.tasks import Task
from florence2.codec.tokenizer import Tokenizer
from florence2.records import Ask, Parsed, Region, Sample

LISTS = ("labelled_boxes", "boxes", "open_boxes")  # output kinds that are lists of things in no order of their own


@dataclass(frozen=True)
class ListRules:
    """How lists of objects are taught."""

    unsure_below: float = 0.0
    open_end: bool = False
    shuffled: bool = False
    unsure_names_below: float = 0.0

    def ordered(self, task: Task, parsed: Parsed, rng: random.Random | None) -> Parsed:
        """The answer with its items in a random order where lists are shuffled."""
        if not self.shuffled or rng is None or task.output_kind not in LISTS:
            return parsed
        return dataclasses.replace(parsed, regions=tuple(rng.sample(parsed.regions, len(parsed.regions))))

    def unscored(
        self, sample: Sample, task: Task, ask: Ask, parsed: Parsed, ids: Sequence[int], tokenizer: Tokenizer
    ) -> tuple[int, ...]:
        """The positions of target ids, `<s>` first and `</s>` last, that are not scored."""
        if task.output_kind not in LISTS:
            return ()
        out = set[int]()
        if self.open_end and not exhaustive(sample):
            out.add(len(ids) - 1)
        places, names = (below(parsed, task, sample, ask, least) for least in (self.unsure_below, self.least_named))
        if names:
            found, spans = parse_ids(list(ids[1:-1]), tokenizer, task, sample.image.size_wh, ask)
            sure = set[int]()  # tokens of names that a sure item shares
            for region in found.regions:
                span = spans[region.id]
                (out if _key(region) in names else sure).update(1 + position for position in span.text_tokens)
                if _key(region) in places:
                    out.update(1 + position for position in span.location_tokens)
            out -= sure
        return tuple(sorted(out))

    @property
    def least_named(self) -> float:
        """The score from which an item's name is scored: never that of an item whose place is not."""
        return max(self.unsure_below, self.unsure_names_below)


def below(parsed: Parsed, task: Task, sample: Sample, ask: Ask, least: float) -> set[tuple[str, object]]:
    """The items that are scored lower, as they come back from a target."""
    unsure = tuple(r for r in parsed.regions if r.score is not None and r.score < least)
    return {_key(r) for r in canonical(Parsed(regions=unsure), task, sample.image.size_wh, ask).regions}


def exhaustive(sample: Sample) -> bool:
    """Whether a sample's objects are all listed, by what its coverage says; nothing said means that they may not be."""
    return any(
        each.state == "exhaustive" and not each.labels
        for space, stated in sample.coverage.items()
        if space != "text"
        for each in stated
    )


def _key(region: Region) -> tuple[str, object]:
    return region.label or region.description, region.box or region.polygons
