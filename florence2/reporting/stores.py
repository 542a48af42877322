"""What a store holds, as sections of a page: what each round and source made, what was rejected and why, pictures.

Reads the newest snapshot group by group, in bounded memory, and shows a bounded sample: first pictures that show each
reason for which something was rejected, then others evenly spread. What is counted is `surveys`'s.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from typing import Any

from florence2.records import Sample
from florence2.reporting.charts import histogram
from florence2.reporting.html_page import Cell, Html, Section, element, escape, join, number, shares, table, tiles
from florence2.reporting.paper_sections import paper_sections
from florence2.reporting.picture_cards import Load, board
from florence2.reporting.surveys import STATUSES, Survey, survey
from florence2.store import Store, UnitGroup

CHARTS = 24  # at most so many histograms
FAILURES = 200  # at most so many failures are listed
LABELS = 60  # at most so many labels
PAIRS = 40  # at most so many disagreements
MOST = 600  # pictures of one page: it opens in two seconds
GROUPS = 8  # of units, read for the pictures


def store_sections(store: Store, load: Load, pictures: int = 24) -> list[Section]:
    """Overview, what each phase kept, labels, scores, disagreements, the paper's statistics, failures, pictures."""
    found, tally = survey(store), store.tally()
    return [
        Section("Overview", _overview(store)),
        Section("What was kept", _kept(tally), "Every annotation by round and source, and why the others were not."),
        *_rules(tally),
        *_labels(found),
        *_scores(found),
        *_disagreements(found),
        *paper_sections(store),
        *_failures(store),
        _pictures(store, found, load, pictures),
    ]


def _overview(store: Store) -> Html:
    counts = store.counts()
    images, annotations = counts["images"], counts["annotations"]
    others = {name: images.get(name, 0) for name in ("rejected", "failed", "missing")}
    out = ", ".join(f"{count:,} {name}" for name, count in others.items() if count or name != "missing")
    return tiles(
        [
            ("pictures", images["ok"], out),
            ("annotations", annotations["total"], f"{counts['decisions']:,} verdicts"),
            ("kept", annotations["kept"], _percent(annotations["kept"], annotations["total"])),
            ("rejected", annotations["rejected"], _percent(annotations["rejected"], annotations["total"])),
            ("superseded", annotations["superseded"], _percent(annotations["superseded"], annotations["total"])),
            ("snapshot", counts["snapshot"], "the newest"),
        ]
    )


def _kept(tally: Sequence[Mapping[str, Any]]) -> Html:
    """A row for each round, source and family; a key to the colours."""
    made: dict[tuple[Any, ...], Counter[str]] = defaultdict(Counter)
    why: dict[tuple[Any, ...], Counter[str]] = defaultdict(Counter)
    for row in tally:
        key = (row["round"] or 0, row["source"], row["source_version"] or "", row["family"], row["kind"] or "")
        made[key][row["status"]] += row["count"]
        if row["status"] != "kept":
            why[key][row["reason"] or row["rule"] or row["status"]] += row["count"]
    rows = []
    for key, counts in sorted(made.items()):
        round_, source, version, family, kind = key
        bar = shares(**{status: counts[status] for status in STATUSES})
        words = (f"{reason} {number(count)}" for reason, count in why[key].most_common())
        reasons = element("span", *(element("span", text) for text in words), class_="reasons")
        name = f"{source} {version}".strip()
        rows.append(
            [round_, name, _family(family, kind), sum(counts.values()), *(counts[s] for s in STATUSES), bar, reasons]
        )
    header = ("round", "source", "what", "made", *STATUSES, "shares", "why not kept")
    if not rows:
        return element("p", "The store holds no annotations yet.")
    keys = join(
        element("span", element("i", class_=f"key {s}"), s, class_="small", style="margin-right:1rem") for s in STATUSES
    )
    return join([element("p", keys), table(header, rows)])


def _rules(tally: Sequence[Mapping[str, Any]]) -> list[Section]:
    """Which rule threw out how much of what."""
    dropped: Counter[tuple[str, ...]] = Counter()
    for row in tally:
        if row["status"] != "kept":
            kind = _family(row["family"], row["kind"] or "")
            dropped[(row["rule"] or "", row["reason"] or "", row["status"], kind)] += row["count"]
    rows: list[tuple[Cell, ...]] = [
        (*key, count) for key, count in sorted(dropped.items(), key=lambda entry: -entry[1])
    ]
    body = table(("rule", "reason", "verdict", "of what", "how many"), rows)
    return [Section("Why not kept", body, "The last verdict on each, by the rule that gave it.")] if rows else []


def _family(family: str, kind: str) -> str:
    return {"region_text": f"{kind or 'object'} regions", "text": "texts", "text_phrase_region": "phrases"}.get(
        family, family
    )


def _labels(found: Survey) -> list[Section]:
    """How often each label was given, and how often it was kept."""
    counts = sorted(found.labels.items(), key=lambda entry: (-entry[1].total(), entry[0]))
    rows: list[list[Cell]] = [
        [label, c.total(), *(c[s] for s in STATUSES), shares(**{s: c[s] for s in STATUSES})]
        for label, c in counts[:LABELS]
    ]
    if not rows and not found.unnamed:
        return []
    notes = [f"{len(counts) - LABELS:,} more labels are not listed."] if len(counts) > LABELS else []
    notes += [f"{count:,} boxes of {source} have no name." for source, count in found.unnamed.most_common()]
    body = [table(("label", "boxes", *STATUSES, "shares"), rows)] if rows else []
    body += [element("p", note, class_="small") for note in notes]
    return [Section("Labels", join(body), "Of objects; what details another box is not counted.")]


def _scores(found: Survey) -> list[Section]:
    charts = [
        histogram(f"{source}, round {round_}: score", parts)
        for (round_, source), parts in sorted(found.scores.items())[:CHARTS]
    ]
    if any(map(any, found.sides.values())):
        charts.append(histogram("boxes: side, as a share of the picture's", found.sides))
    if not charts:
        return []
    left = len(found.scores) - CHARTS
    more = element("p", f"{left} more are not shown.", class_="small") if left > 0 else ""
    lead = "Scores by round and source, and the sizes of boxes; what was rejected is stacked on what was kept."
    return [Section("Scores and sizes", join([element("div", *charts, class_="charts"), more]), lead)]


def _disagreements(found: Survey) -> list[Section]:
    """What two sources both found, and what they call differently."""
    pairs = sorted({(one, other) for one, other, _ in found.found})
    if not pairs:
        return []
    rows: list[list[Cell]] = [
        [
            one,
            other,
            found.shared[one, other],
            *(found.found[one, other, s] - found.shared[one, other] for s in (one, other)),
        ]
        for one, other in pairs
    ]
    body = [table(("source", "other source", "both", "the first alone", "the other alone"), rows)]
    named = sorted(found.disagreements.items(), key=lambda entry: (-entry[1].count, entry[0]))
    if named:
        listed: list[list[Cell]] = [[*key, each.count, each.picture] for key, each in named[:PAIRS]]
        body.append(element("h3", "One object, two names"))
        body.append(table(("source", "says", "other source", "says", "how often", "first in"), listed))
        if len(named) > PAIRS:
            body.append(element("p", f"{len(named) - PAIRS:,} more pairs of names are not listed.", class_="small"))
    lead = f"In {found.compared:,} pictures with boxes of two sources or more; an overlap (IoU) of half is one object."
    return [Section("Where sources disagree", join(body), lead)]


def _failures(store: Store) -> list[Section]:
    counted: Counter[tuple[str, str]] = Counter()
    listed: list[Sequence[Any]] = []
    for row in store.current_failures():
        counted[(row["source"] or "", row["reason"] or "")] += 1
        if len(listed) < FAILURES:
            listed.append((row["image_id"], row["source"], row["reason"], (row.get("detail") or "")[:300]))
    if not counted:
        return []
    totals = table(("source", "reason", "pictures"), [(s, r, n) for (s, r), n in counted.most_common()])
    left = sum(counted.values()) - len(listed)
    more = element("p", f"{left:,} more are not listed.", class_="small") if left else ""
    names = _names(store, {row[0] for row in listed})
    rows: list[list[Cell]] = [[names.get(image, image), *rest] for image, *rest in listed]
    which = table(("picture", "source", "reason", "detail"), rows)
    body = join([totals, element("details", element("summary", "which"), which, more)])
    return [Section("Failures", body, "Work that gave nothing; the rest went on.")]


def _names(store: Store, ids: set[Any]) -> dict[str, str]:
    """What the files of some pictures are called."""
    return {i: name.rsplit("/", 1)[-1] for i, name in store.picture_names(ids).items()}


def _pictures(store: Store, found: Survey, load: Load, pictures: int) -> Section:
    wanted, pictures = pictures, min(pictures, MOST)
    groups = store.groups()
    spread = _spread(store, groups, found.sizes, pictures)
    turns = zip_longest(*found.examples.values())  # each reason's first example, then each one's second
    examples = [place for turn in turns for place in turn if place][: -(-pictures // 2)]
    places = list(dict.fromkeys([*examples, *spread]))[:pictures]
    total = sum(found.sizes)
    lead = "Pictures that show each reason come first, then others evenly spread. Hover over an outline for its story."
    more = f"a page holds {MOST}, evenly spread" if wanted > MOST else "--pictures N shows more"
    left = f"{total - len(places):,} of {total:,} pictures are not shown ({more})."
    note = element("p", left, class_="small") if total > len(places) else ""
    return Section("Pictures", join([board(_in_order(store, groups, places), load, len(places)), note]), lead)


def _in_order(store: Store, groups: Sequence[UnitGroup], places: Sequence[tuple[int, str]]) -> Iterator[Sample]:
    """The samples of places in their order, a few groups read at a time."""
    kept: dict[int, dict[str, Sample]] = {}
    for group, image in places:
        if group not in kept:
            if len(kept) >= GROUPS:
                kept.pop(next(iter(kept)))
            kept[group] = {s.id: s for s in store.group_samples(groups[group], "all")}
        if image in kept[group]:
            yield kept[group][image]


def _spread(store: Store, groups: Sequence[UnitGroup], sizes: Sequence[int], count: int) -> list[tuple[int, str]]:
    """Places of `count` good pictures, evenly spread over the store."""
    total = sum(sizes)
    wanted = [i * total // count for i in range(count)] if total > count else list(range(total))
    out: list[tuple[int, str]] = []
    start = 0
    for number_, (group, size) in enumerate(zip(groups, sizes)):
        here = [position - start for position in wanted if start <= position < start + size]
        ids = [picture.id for picture in store.pictures(group)] if here else []
        out += [(number_, ids[position]) for position in here]
        start += size
    return out


def _percent(part: int, whole: int) -> Html:
    return escape(f"{100 * part / whole:.0f} %" if whole else "")
