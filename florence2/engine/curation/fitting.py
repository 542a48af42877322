"""Rules fitted together to a labelled set: thresholds by source, by label and by length of text that raise F1.

The labelled pictures are parted in three by their names: on two parts a threshold is changed only where that raises F1
on both, one after another until nothing does; the third part, which no change saw, gives the F1 before and after. Where
that F1 does not rise, nothing is suggested.

F1 is that of what all rules together keep: objects and lines of text against the labelled regions (name, and IoU 0.5;
each labelled one found once), phrases and texts as `tuning.good_of` judges them; the mean over those of which
the labelled set states the truth.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from florence2.engine.curation.filters.rules import RULES, RuleFilter, open_chain
from florence2.engine.curation.filters.verdicts import by_people
from florence2.engine.curation.tuning import MATCH, good_of, labelled_kinds, labelled_pairs
from florence2.geometry import iou
from florence2.labels import fold_label
from florence2.records import CAPTION_DETAILS, Item, Region, Sample

STEPS = 24  # values tried of a threshold
ENOUGH = 20  # judged items from which a source, a label or a length of text gets a threshold of its own
GAIN = 0.003  # F1 that a change must bring on the parts together
ROUNDS = 3
AFTER = ("nms", "crowd")  # rules whose verdicts depend on what the others keep
Counts = dict[str, np.ndarray]  # family -> (right, kept, true)


@dataclass(frozen=True)
class Fit:
    """What to change, as a YAML of rules takes it, and the F1 before and after on pictures that no change saw."""

    changes: Mapping[str, Any]
    before: Mapping[str, float]
    after: Mapping[str, float]
    pictures: int
    held_out: int
    refused: str = ""

    def to_text(self) -> str:
        """Lines for a person."""
        rows = [f"fitted on {self.pictures} pictures; on {self.held_out} others, rules together:"]
        rows += [f"  F1 of {name:8} {self.before[name]:.3f} -> {self.after[name]:.3f}" for name in self.before]
        return "\n".join(rows)


@dataclass(frozen=True)
class Knob:
    """One threshold: of a rule's setting, for a source, a label or a length of text ("" = the setting itself)."""

    rule: str
    setting: str
    key: str = ""

    def read(self, rules: Mapping[str, dict[str, Any]]) -> float:
        """Its value now; of a source or label without one, the general floor's."""
        value = rules[self.rule][self.setting]
        if not self.key:
            return float(value)
        return float(value.get(self.key, rules[self.rule].get("min", 0.0)))

    def written(self, rules: Mapping[str, dict[str, Any]], value: float) -> dict[str, dict[str, Any]]:
        """The rules with another value."""
        old = rules[self.rule][self.setting]
        return {**rules, self.rule: {**rules[self.rule], self.setting: {**old, self.key: value} if self.key else value}}


@dataclass
class _Seen:
    """A picture: what can be judged of it, what the labels say, and the values that rules see in its items."""

    sample: Sample
    truth: Sample
    good: dict[str, bool]
    values: dict[str, dict[str, float]] = field(default_factory=dict)
    items: dict[str, Item] = field(default_factory=dict)


def fit(samples: Iterable[Sample], labelled: Iterable[Sample], chain: Sequence[RuleFilter]) -> Fit:
    """Fit the rules of a chain together; ValueError where the labelled set holds none of the pictures."""
    pairs, labels = labelled_pairs(samples, labelled)
    if len(pairs) < 6:
        return Fit({}, {}, {}, 0, 0, f"{len(pairs)} labelled pictures are too few to fit on some and judge on others")
    seen = [_Seen(sample, truth, good_of(sample, truth, labels)) for sample, truth in pairs]
    for rule in chain:
        rule.prepare([one.sample for one in seen])
        for one in seen:
            one.items = {item.id: item for item in _items(one.sample)}
            verdicts = [] if rule.spec.name in AFTER else rule.verdicts(one.sample)
            one.values[rule.spec.name] = {v.item_id: v.value for v in verdicts if v.value is not None}
    parts: list[list[_Seen]] = [[], [], []]
    for one in sorted(seen, key=lambda one: _order(one.sample)):
        parts[min(range(3), key=lambda i: (len(parts[i]), i))].append(one)
    rules = {rule.spec.name: dict(rule.config) for rule in chain}
    found = _climb(rules, parts[0], parts[1], labels)
    before, after = _f1(_counts(rules, parts[2], labels)), _f1(_counts(found, parts[2], labels))
    changes = _changes(rules, found)
    refused = ""
    if changes and _mean(after) <= _mean(before):
        changes, refused = (
            {},
            f"F1 would be {_mean(after):.3f} in place of {_mean(before):.3f} on the held-out pictures",
        )
        after = before
    return Fit(changes, before, after, len(parts[0]) + len(parts[1]), len(parts[2]), refused)


def _climb(
    rules: dict[str, dict[str, Any]], one: list[_Seen], two: list[_Seen], labels: set[str]
) -> dict[str, dict[str, Any]]:
    """Change one threshold after another where both parts gain, until none does."""

    def scores(of: Mapping[str, dict[str, Any]]) -> tuple[float, float]:
        return _mean(_f1(_counts(of, one, labels))), _mean(_f1(_counts(of, two, labels)))

    now = scores(rules)
    for _ in range(ROUNDS):
        before = now
        for knob, values in _knobs(rules, [*one, *two]):
            best = None
            for value in values:
                tried = knob.written(rules, value)
                found = scores(tried)
                gains = found[0] - now[0], found[1] - now[1]
                if min(gains) >= 0 and sum(gains) / 2 > GAIN and (best is None or sum(found) > sum(best[0])):
                    best = found, tried
            if best is not None:
                now, rules = best
        if now == before:
            break
    return rules


def _knobs(rules: Mapping[str, dict[str, Any]], seen: Sequence[_Seen]) -> list[tuple[Knob, list[float]]]:
    """The thresholds that have enough judged items, the broad before the narrow, and the values to try."""
    out = []
    for name, settings in rules.items():
        setting = next((key for key in ("min", "max") if key in settings), "")
        if name in AFTER:
            grid = [0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.8, 0.9] if name == "nms" else [10.0, 20.0, 60.0, 200.0]
            out.append((Knob(name, "max"), grid))
            continue
        groups: dict[Knob, list[float]] = defaultdict(list)
        for one in seen:
            for item_id, value in one.values[name].items():
                if item_id in one.good:
                    for knob in _of(name, setting, settings, one.items[item_id]):
                        groups[knob].append(value)
        for knob, values in sorted(groups.items(), key=lambda pair: (pair[0].setting != setting, pair[0].setting)):
            if len(values) >= ENOUGH:
                out.append((knob, _grid(values)))
    return out


def _of(name: str, setting: str, settings: Mapping[str, Any], item: Item) -> list[Knob]:
    """The thresholds that may judge an item."""
    if not setting:
        return []
    if isinstance(settings[setting], Mapping):
        detail = getattr(item, "detail", "")
        return [Knob(name, setting, detail)] if detail in CAPTION_DETAILS else []
    out = [Knob(name, setting)]
    if "sources" in settings and item.source is not None:
        out.append(Knob(name, "sources", item.source.name))
    if "labels" in settings and isinstance(item, Region) and item.label:
        out.append(Knob(name, "labels", item.label))
    return out


def _grid(values: Sequence[float]) -> list[float]:
    """Values between neighbouring ones, evenly by rank, and one on either side of all."""
    ranked = np.unique(np.asarray(values, float))
    cuts = [ranked[0], *((ranked[1:] + ranked[:-1]) / 2), ranked[-1]]
    places = np.unique(np.linspace(0, len(cuts) - 1, min(STEPS, len(cuts))).round().astype(int))
    return [round(float(cuts[place]), 4) for place in places]


def _counts(rules: Mapping[str, dict[str, Any]], seen: Sequence[_Seen], labels: set[str]) -> Counts:
    """What the rules together keep of these pictures, by family: right, kept, true."""
    total: Counter[tuple[str, int]] = Counter()
    after = [RuleFilter(name, rules[name]) for name in AFTER if name in rules]
    for one in seen:
        gone = {
            item_id
            for name, values in one.values.items()
            for item_id, value in values.items()
            if not _passes(rules[name], value, one.items[item_id])
        }
        kept = _without(one.sample, gone)
        for rule in after:
            kept = _without(kept, {verdict.item_id for verdict in rule.judge(kept)})
        for family, numbers in _score(kept, one, labels).items():
            for place, number in enumerate(numbers):
                total[family, place] += number
    families = dict.fromkeys(family for family, _ in total)
    return {family: np.array([total[family, place] for place in range(3)]) for family in families}


def _passes(settings: Mapping[str, Any], value: float, item: Item) -> bool:
    setting = "min" if "min" in settings else "max"
    threshold = settings[setting]
    if isinstance(threshold, Mapping):
        threshold = threshold.get(getattr(item, "detail", ""))
    if setting == "max" and getattr(item, "kind", "") == "text" and "text" in settings:
        threshold = settings["text"]
    if "sources" in settings and item.source is not None:
        threshold = settings["sources"].get(item.source.name, threshold)
    if "labels" in settings and isinstance(item, Region):
        threshold = settings["labels"].get(item.label, threshold)
    sure = settings.get("sure")
    if sure is not None and item.score is not None and item.score >= sure:
        return True
    return threshold is None or (value >= threshold if setting == "min" else value <= threshold)


def _score(kept: Sample, one: _Seen, labels: set[str]) -> dict[str, tuple[int, int, int]]:
    """(right, kept, true) of a picture by family."""
    out = {}
    for kind in sorted(labelled_kinds(one.truth)):
        found = [r for r in kept.regions if r.kind == kind and r.box and not r.refines and not by_people(r)]
        found = [r for r in found if kind == "text" or fold_label(r.label) in labels]
        true = [r for r in one.truth.current().regions if r.kind == kind and r.box and not r.refines]
        wanted = sum(not r.ignore for r in true)
        right, ignored = _matched(found, true)
        out["lines" if kind == "text" else "objects"] = (right, len(found) - ignored, wanted)
    for family, items in (("phrases", kept.groundings), ("texts", kept.texts)):
        all_of = one.sample.groundings if family == "phrases" else one.sample.texts
        verdicts = [one.good[item.id] for item in items if item.id in one.good]
        true_items = sum(one.good.get(item.id, False) for item in all_of)
        if any(item.id in one.good for item in all_of):
            out[family] = (sum(verdicts), len(verdicts), true_items)
    return out


def _matched(found: Sequence[Region], true: Sequence[Region]) -> tuple[int, int]:
    """(labelled regions found, regions on those that are ignored), the best scored first."""
    if not found or not true:
        return 0, 0
    order = sorted(found, key=lambda r: -(1.0 if r.score is None else r.score))
    overlaps = iou([r.box for r in order], [r.box for r in true])
    right = ignored = 0
    taken: set[int] = set()
    for i, region in enumerate(order):
        fits = [
            j
            for j, other in enumerate(true)
            if j not in taken
            and overlaps[i, j] >= MATCH
            and (region.kind == "text" or fold_label(other.label) == fold_label(region.label))
        ]
        if fits:
            best = max(fits, key=lambda j: (not true[j].ignore, overlaps[i, j]))
            if true[best].ignore:
                ignored += 1
            else:
                taken.add(best)
                right += 1
    return right, ignored


def _f1(counts: Counts) -> dict[str, float]:
    return {
        family: 2 * float(right) / float(kept + true) if kept + true else 1.0
        for family, (right, kept, true) in counts.items()
    }


def _mean(scores: Mapping[str, float]) -> float:
    return sum(scores.values()) / len(scores) if scores else 0.0


def _changes(old: Mapping[str, dict[str, Any]], new: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """What differs from the shipped rules where fitting changed a rule, so that the YAML can be used as it is."""
    shipped = {rule.spec.name: rule.config for rule in open_chain()}
    changes: dict[str, Any] = {}
    if all(old[name] == new[name] for name in old):
        return changes
    for name in RULES:
        if name not in new:
            changes[name] = False
        elif new[name] != shipped[name]:
            changes[name] = {key: value for key, value in new[name].items() if value != shipped[name][key]}
    return changes


def _without(sample: Sample, gone: set[str]) -> Sample:
    """The sample without items, nor what leans on them."""
    if not gone:
        return sample
    regions = tuple(r for r in sample.regions if r.id not in gone and r.refines not in gone)
    texts = tuple(text for text in sample.texts if text.id not in gone)
    left = {region.id for region in regions} | {text.id for text in texts}
    groundings = tuple(
        g
        for g in sample.groundings
        if g.id not in gone and (not g.text_id or g.text_id in left) and any(i in left for i in g.region_ids)
    )
    return dataclasses.replace(sample, regions=regions, texts=texts, groundings=groundings)


def _items(sample: Sample) -> list[Item]:
    return [*sample.texts, *sample.regions, *sample.groundings]


def _order(sample: Sample) -> str:
    return hashlib.blake2b(sample.image.uri.rsplit("/", 1)[-1].encode("utf-8", "surrogateescape")).hexdigest()
