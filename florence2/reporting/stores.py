"""What a store holds, as sections of a page: what each round and source made, what was rejected and why, pictures.

Reads the newest snapshot group by group, in bounded memory, and shows a bounded sample: first pictures that show each
reason for which something was rejected, then others evenly spread.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

from florence2.records import Sample
from florence2.reporting.charts import histogram
from florence2.reporting.html_page import Cell, Html, Section, element, escape, join, number, shares, table, tiles
from florence2.reporting.picture_cards import Load, cards, sample_card
from florence2.store import Store, parquet, scan

BINS = 20
STATUSES = ("kept", "superseded", "rejected")
EXAMPLES = 4  # pictures for each reason, where there is room
CHARTS = 24  # at most so many histograms
FAILURES = 30  # at most so many failures are listed


@dataclass
class Survey:
    """One pass over a snapshot: scores in bins, and where examples are. A place is (group, image id)."""

    scores: dict[tuple[int, str], dict[str, list[int]]] = field(default_factory=dict)
    examples: dict[str, list[tuple[int, str]]] = field(default_factory=dict)  # reason -> a few places
    sizes: list[int] = field(default_factory=list)  # good pictures in each group


def store_sections(store: Store, load: Load, pictures: int = 24) -> list[Section]:
    """Overview, what each phase kept, scores, failures, pictures."""
    survey, tally = _survey(store), store.tally()
    return [
        Section("Overview", _overview(store)),
        Section("What was kept", _kept(tally), "Every annotation by round and source, and why the others were not."),
        *_rules(tally),
        *(
            [Section("Scores", _scores(survey), "By round and source; what was rejected is stacked on what was kept.")]
            * bool(survey.scores)
        ),
        *_failures(store),
        _pictures(store, survey, load, pictures),
    ]


def _overview(store: Store) -> Html:
    counts = store.counts()
    images, annotations = counts["images"], counts["annotations"]
    out = f"{images['rejected']:,} rejected, {images['failed']:,} failed"
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


def _scores(survey: Survey) -> Html:
    charts = [
        histogram(f"{source}, round {round_}", parts)
        for (round_, source), parts in sorted(survey.scores.items())[:CHARTS]
    ]
    left = len(survey.scores) - len(charts)
    more = element("p", f"{left} more are not shown.", class_="small") if left > 0 else ""
    return join([element("div", *charts, class_="charts"), more])


def _failures(store: Store) -> list[Section]:
    counted: Counter[tuple[str, str]] = Counter()
    listed: list[Sequence[Any]] = []
    for row in store.standing_failures():
        counted[(row["source"] or "", row["reason"] or "")] += 1
        if len(listed) < FAILURES:
            listed.append((row["source"], row["reason"], (row.get("detail") or "")[:300]))
    if not counted:
        return []
    totals = table(("source", "reason", "pictures"), [(s, r, n) for (s, r), n in counted.most_common()])
    left = sum(counted.values()) - len(listed)
    more = element("p", f"{left:,} more are not listed.", class_="small") if left else ""
    body = join(
        [totals, element("details", element("summary", "which"), table(("source", "reason", "detail"), listed), more)]
    )
    return [Section("Failures", body, "Work that gave nothing; the rest went on.")]


def _pictures(store: Store, survey: Survey, load: Load, pictures: int) -> Section:
    groups = scan.unit_groups(store.snapshot())
    spread = _spread(store, groups, survey.sizes, pictures)
    turns = zip_longest(*survey.examples.values())  # each reason's first example, then each one's second
    examples = [place for turn in turns for place in turn if place][: -(-pictures // 2)]
    places = list(dict.fromkeys([*examples, *spread]))[:pictures]
    found: dict[tuple[int, str], Sample] = {}
    for group in dict.fromkeys(place[0] for place in places):
        for sample in scan.group_samples(store.storage, groups[group], "all"):
            if (group, sample.id) in places:
                found[(group, sample.id)] = sample
    shown = [found[place] for place in places if place in found]
    total = sum(survey.sizes)
    lead = "Pictures that show each reason come first, then others evenly spread. Hover over an outline for its story."
    left = f"{total - len(shown):,} of {total:,} pictures are not shown."
    note = element("p", left, class_="small") if total > len(shown) else ""
    return Section("Pictures", join([cards([sample_card(s, load) for s in shown], switches=True), note]), lead)


def _survey(store: Store) -> Survey:
    survey = Survey()
    for number_, group in enumerate(scan.unit_groups(store.snapshot())):
        ok = _good(store, group)
        survey.sizes.append(len(ok))
        _survey_group(store, group, number_, set(ok), survey)
    return survey


def _good(store: Store, group: scan.UnitGroup) -> list[str]:
    """The ids of a group's good pictures."""
    rows = parquet.read_table(store.storage, "images", group.fragments.get("images", ()), ["id", "status"])
    return [i for i, status in zip(rows["id"].to_pylist(), rows["status"].to_pylist()) if status == "ok"]


def _spread(store: Store, groups: Sequence[scan.UnitGroup], sizes: Sequence[int], count: int) -> list[tuple[int, str]]:
    """Places of `count` good pictures, evenly spread over the store."""
    total = sum(sizes)
    wanted = [i * total // count for i in range(count)] if total > count else list(range(total))
    out: list[tuple[int, str]] = []
    start = 0
    for number_, (group, size) in enumerate(zip(groups, sizes)):
        here = [position - start for position in wanted if start <= position < start + size]
        ids = _good(store, group) if here else []
        out += [(number_, ids[position]) for position in here]
        start += size
    return out


def _survey_group(store: Store, group: scan.UnitGroup, number_: int, ok: set[str], survey: Survey) -> None:
    names = ["ann_id", "image_id", "source", "round", "score"]
    annotations = parquet.read_table(store.storage, "annotations", group.fragments.get("annotations", ()), names)
    wanted = ["ann_id", "round", "seq", "status", "rule", "reason"]
    last = scan.last_decisions(
        parquet.read_table(store.storage, "decisions", group.fragments.get("decisions", ()), wanted)
    )
    for ann, image, source, round_, score in zip(*(annotations[name].to_pylist() for name in names)):
        status, rule, reason = last.get(ann, ("kept", None, None))
        if status != "kept" and image in ok:
            places = survey.examples.setdefault(reason or rule or status, [])
            if len(places) < EXAMPLES and (number_, image) not in places:
                places.append((number_, image))
        if score is not None and score == score:
            parts = survey.scores.setdefault((round_ or 0, source or ""), {name: [0] * BINS for name in STATUSES})
            parts.get(status, parts["kept"])[min(BINS - 1, max(0, int(score * BINS)))] += 1


def _percent(part: int, whole: int) -> Html:
    return escape(f"{100 * part / whole:.0f} %" if whole else "")
