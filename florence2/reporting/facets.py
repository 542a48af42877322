"""What pictures of a page are filtered by: labels, sources, statuses, reasons, scores. Knows records and HTML.

An item bears its facets as five numbers: places in the lists of labels, sources and reasons, its status, its score in
hundredths (-1 where it has none). The script of the page reads them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from florence2.records import Decision, Grounding, Item, Region, Sample
from florence2.reporting.html_page import Html, element, join

STATUSES = ("kept", "superseded", "rejected")
CHOICES = 300  # entries of one list; the rest is found by the others
LETTERS = 60  # of an entry


class Facets:
    """The lists of one page, grown as samples come; how many items bear each entry."""

    def __init__(self) -> None:
        self.labels: dict[str, int] = {}
        self.sources: dict[str, int] = {}
        self.reasons: dict[str, int] = {}
        self.counts: Counter[tuple[str, int]] = Counter()

    def of(self, item: Item, verdict: Decision | None) -> str:
        """The numbers of an item."""
        label = item.label or item.description if isinstance(item, Region) and item.kind == "object" else ""
        source = f"{item.source.name} {item.source.version}".strip() if item.source else ""
        status = verdict.status if verdict else "kept"
        reason = (verdict.reason or verdict.rule) if verdict and status != "kept" else ""
        places = (
            self._place("labels", self.labels, label),
            self._place("sources", self.sources, source),
            STATUSES.index(status),
            self._place("reasons", self.reasons, reason),
            -1 if item.score is None else round(100 * min(max(item.score, 0.0), 1.0)),
        )
        return ",".join(map(str, places))

    def items(self, sample: Sample, verdicts: Mapping[str, Decision]) -> str:
        """The numbers of all items of a sample."""
        items: list[Item] = [*sample.regions, *sample.texts]
        return ";".join(self.of(item, verdicts.get(item.id)) for item in items)

    def _place(self, kind: str, places: dict[str, int], name: str) -> int:
        if not name:
            return -1
        place = places.setdefault(name, len(places))
        self.counts[kind, place] += 1
        return place

    def toolbar(self) -> Html:
        """Search, lists and scores; the script shows and works it."""
        lists = (("label", self.labels), ("source", self.sources), ("reason", self.reasons))
        fields = [element("input", type="search", placeholder="name of a picture", aria_label="name", class_="by-name")]
        fields += [self._list(name, places) for name, places in lists if places]
        for name, value in (("least", "0"), ("most", "1")):
            what = f"{name} score"
            fields.append(
                element("label", f"{what} ", element("input", type="number", min="0", max="1", step="0.05", value=value,
                        aria_label=what, class_=f"by-{name}"))
            )  # fmt: skip
        fields.append(element("span", class_="found"))
        pager = (
            element("button", "previous", type="button", class_="previous"),
            element("span", class_="place"),
            element("button", "next", type="button", class_="next"),
        )
        return element("div", *fields, element("span", *pager, class_="pager"), class_="filters", hidden="hidden")

    def _list(self, name: str, places: Mapping[str, int]) -> Html:
        kind = f"{name}s"
        most = sorted(places.items(), key=lambda entry: (-self.counts[kind, entry[1]], entry[0]))[:CHOICES]
        options = [element("option", f"any {name}", value="")]
        for text, place in most:
            shown = text if len(text) <= LETTERS else f"{text[: LETTERS - 1]}\u2026"
            options.append(element("option", f"{shown} ({self.counts[kind, place]:,})", value=place))
        return element("select", *options, aria_label=name, class_=f"by-{name}")


def last_verdicts(decisions: Iterable[Decision]) -> dict[str, Decision]:
    """The last verdict on each item, by the item's id."""
    return {d.item_id: d for d in sorted(decisions, key=lambda d: (d.round, d.seq))}


def phrase_of(region: Region, groundings: Iterable[Grounding]) -> str:
    """The phrase of a region that has no label of its own."""
    return next((g.phrase for g in groundings if region.id in g.region_ids), "")


def hidden_json(text: str, class_name: str) -> Html:
    """JSON for the script of the page; nothing in it can end the element."""
    safe = text.replace("<", "\\u003c").replace(">", "\\u003e")
    return join([Html(f'<script type="application/json" class="{class_name}">{safe}</script>')])
