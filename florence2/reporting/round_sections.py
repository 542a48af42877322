"""What changed between two rounds of a store's refinement, and why: counts by reason, and pictures before and after.

A box of the same name in the same place is the same object, whoever says it. What went and what came is drawn in
colour; what both views hold is grey.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from florence2.drawing.html_figure import svg
from florence2.drawing.overlays import overlays_of
from florence2.geometry import iou
from florence2.pixels import BadImage
from florence2.records import Decision, Item, Region, Sample, Text
from florence2.refinement.changes import SAME_PLACE, Changes, of_sample
from florence2.refinement.rounds import done_rounds
from florence2.refinement.stopping import agreement_of, ending, stop_of
from florence2.reporting.facets import last_verdicts
from florence2.reporting.html_page import Cell, Html, Section, element, join, table, tiles
from florence2.reporting.picture_cards import CARD, Load, cards, name_of, verdict_words
from florence2.store import Snapshot, Store

LINES = 14  # of one picture's changes in words
GREY = (150, 150, 150)

AGREEMENT = (
    "What each round's answers agreed on with the labels of held-out pictures, as both were when it ended. "
    "Whether a round was the last was decided on what it and an earlier one were both asked about."
)


@dataclass
class PictureChange:
    """One picture's items that went and came, and the sample after with all items and verdicts."""

    before: Sample
    after: Sample
    whole: Sample
    gone: tuple[Item, ...]
    new: tuple[Item, ...]

    @property
    def weight(self) -> int:
        return len(self.gone) + len(self.new)


@dataclass
class Difference:
    """What changed in all: counts, reasons, and the pictures that changed most."""

    changes: Changes = field(default_factory=Changes)
    pictures: int = 0
    changed: int = 0
    gone: Counter[tuple[str, ...]] = field(default_factory=Counter)
    new: Counter[tuple[str, ...]] = field(default_factory=Counter)
    shown: list[PictureChange] = field(default_factory=list)


def round_sections(store: Store, first: int, second: int, load: Load, pictures: int = 24) -> list[Section]:
    """Sections that compare the store after one round with the store after another; round 0 is before the first."""
    if first == second:
        raise ValueError(f"rounds {first} {second}: expected two different rounds")
    before, after = (snapshot_of(store, number) for number in (first, second))
    found = difference(store, before, after, pictures)
    lead = (
        f"The store after round {first} (snapshot {before.number}) and after round {second} (snapshot {after.number})."
    )
    return [
        Section("Changes", _counts(found), lead),
        Section("Rounds", _rounds(store), AGREEMENT),
        *_why(found),
        Section(
            "Pictures",
            cards(_card(change, first, second, load) for change in found.shown),
            "Those that changed most: before, after, and what became of each item. Grey is what both hold.",
        ),
    ]


def snapshot_of(store: Store, number: int) -> Snapshot:
    """The store as a round left it; as it was before the first, where the number is 0."""
    newest = store.snapshot()
    if number == 0:
        first = ending(store, newest, 1)
        return newest if first is None else store.snapshot(first.parent)
    found = ending(store, newest, number) if number > 0 else None
    if found is None:
        raise ValueError(f"{store.root}: has no round {number}; expected two of 0 (before the first) to {_last(store)}")
    return found


def _last(store: Store) -> int:
    return done_rounds(store.snapshot())


def difference(store: Store, before: Snapshot, after: Snapshot, pictures: int) -> Difference:
    """Compare the kept items of two snapshots picture by picture."""
    out = Difference()
    old = {sample.image.id: sample for sample in store.samples(before.number)}
    gone = (Sample(then.id, then.image) for then in _rest(old))  # pictures that the second view has not
    for whole in itertools.chain(store.samples(after.number, view="all"), gone):
        now = whole.current()
        then = old.pop(whole.image.id, Sample(whole.id, whole.image))
        out.pictures += 1
        out.changes += of_sample(then, now)
        change = PictureChange(then, now, whole, tuple(_missing(then, now)), tuple(_missing(now, then)))
        if not change.weight:
            continue
        out.changed += 1
        verdicts = last_verdicts(whole.decisions)
        out.gone.update((_maker(item), _reason(item, verdicts)) for item in change.gone)
        out.new.update((_maker(item), _arrival(item, change)) for item in change.new)
        out.shown = sorted([*out.shown, change], key=lambda c: -c.weight)[:pictures]
    return out


def _rest(old: dict[str, Sample]) -> Iterator[Sample]:
    """What is left of the samples by the time it is asked for."""
    yield from list(old.values())


def _missing(one: Sample, other: Sample) -> Iterator[Item]:
    """The regions and texts of a view that another does not say in the same place."""
    for region in one.regions:
        same = [r for r in other.regions if (r.kind, r.label) == (region.kind, region.label)]
        if region.box is None or region.refines:
            if all(r.id != region.id for r in other.regions):
                yield region
        elif not any(r.box is not None and float(iou([region.box], [r.box])[0, 0]) >= SAME_PLACE for r in same):
            yield region
    said = {(text.detail, text.question, text.text) for text in other.texts}
    yield from (text for text in one.texts if (text.detail, text.question, text.text) not in said)


def _maker(item: Item) -> str:
    source = item.source
    return f"{source.name}, round {source.round}" if source else ""


def _reason(item: Item, verdicts: Mapping[str, Decision]) -> str:
    """Why an item is not kept any more, as a countable word."""
    verdict = verdicts.get(item.id)
    return "not in this snapshot" if verdict is None else f"{verdict.status}: {verdict.reason or verdict.rule}"


def _arrival(item: Item, change: PictureChange) -> str:
    """How an item came to be kept, as a countable word."""
    if isinstance(item, Region) and item.derived_from:
        return "fused of sources that agree"
    return "found or kept anew"


def _counts(found: Difference) -> Html:
    c = found.changes
    return tiles(
        [
            ("pictures changed", found.changed, f"of {found.pictures:,}"),
            ("boxes added", c.added, f"{c.boxes:,} after"),
            ("boxes removed", c.removed, ""),
            ("boxes moved", c.moved, ""),
            ("labels changed", c.relabelled, ""),
            ("texts added", c.texts_added, f"{c.texts:,} after"),
            ("texts removed", c.texts_removed, ""),
            ("texts changed", c.texts_changed, ""),
        ]
    )


def _rounds(store: Store) -> Html:
    """A line for each round of the store as it is."""
    newest, rows = store.snapshot(), list[list[Cell]]()
    for number in range(1, _last(store) + 1):
        ended = ending(store, newest, number)
        if ended is not None:
            found = agreement_of(ended)
            value = found.value if found else None
            kinds = ", ".join(f"{name} {value:.3f}" for name, value in found.by_kind.items()) if found else ""
            pictures, why = found.pictures if found else None, stop_of(ended) if number == _last(store) else ""
            rows.append([number, ended.number, value, kinds, pictures, why])
    header = ("round", "snapshot", "agreement", "of what", "held-out pictures", "why it was the last")
    return table(header, rows) if rows else element("p", "No round yet.")


def _why(found: Difference) -> list[Section]:
    out = []
    for title, counted, lead in (
        ("What went", found.gone, "Items of the first view that the second has not, and the verdict that took them."),
        ("What came", found.new, "Items of the second view that the first had not."),
    ):
        rows: list[list[Cell]] = [[*key, count] for key, count in counted.most_common(60)]
        if rows:
            out.append(Section(title, table(("made by", "why", "how many"), rows), lead))
    return out


def _card(change: PictureChange, first: int, second: int, load: Load) -> Html:
    """One picture twice, and its changes in words."""
    words: list[Html] = [element("b", name_of(change.after))]
    try:
        image = load(change.after.image)
        figures = [
            join(
                [
                    element("p", f"after round {number}" if number else "before round 1", class_="small"),
                    Html(svg(image, _overlays(view, items), width=CARD, side=2 * CARD)),
                ]
            )
            for number, view, items in ((first, change.before, change.gone), (second, change.after, change.new))
        ]
    except (BadImage, OSError) as error:
        figures = [element("p", f"The picture cannot be shown: {error}", class_="words")]
    verdicts = last_verdicts(change.whole.decisions)
    lines = [f"- {_name(item)}: {_verdict(item, verdicts)}" for item in change.gone]
    lines += [f"+ {_name(item)}: {_maker(item)}, {_arrival(item, change)}" for item in change.new]
    left = len(lines) - LINES
    lines = lines[:LINES] + ([f"and {left} more"] if left > 0 else [])
    words.append(element("ul", *(element("li", line) for line in lines), class_="small"))
    return element("figure", *figures, element("figcaption", *words, class_="words"), class_="card")


def _overlays(view: Sample, items: tuple[Item, ...]) -> list:
    changed = {item.id for item in items}
    shown = [r for r in view.regions if not r.refines]
    grey = [dataclasses.replace(o, color=GREY) for o in overlays_of([r for r in shown if r.id not in changed])]
    return [*grey, *overlays_of([r for r in shown if r.id in changed])]


def _name(item: Item) -> str:
    said = item.text if isinstance(item, Text) else getattr(item, "label", "") or getattr(item, "description", "")
    score = "" if item.score is None else f" {item.score:.2f}"
    return f"{said[:200]}{score}"


def _verdict(item: Item, verdicts: Mapping[str, Decision]) -> str:
    verdict = verdicts.get(item.id)
    return "not in this snapshot" if verdict is None else verdict_words(verdict)
