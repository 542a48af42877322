"""Pictures with all their annotations, kept and rejected, as cards of a page. Knows records, no store."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from florence2.drawing.html_figure import svg
from florence2.drawing.overlays import Overlay, color_of, overlays_of
from florence2.pixels import BadImage
from florence2.records import Decision, Grounding, Item, Parsed, Polygon, Region, Sample, Text
from florence2.reporting.facets import Facets, hidden_json, last_verdicts, phrase_of
from florence2.reporting.html_page import Html, element, join

OVERLAYS = 150  # a picture shows at most this many, and says how many it does not
DENSE = 14  # beyond this many, labels show on hover only
CARD = 300  # CSS pixels that a card's picture is wide, at least; it is at most so much higher as page.css says
PER_PAGE = 24  # cards that are shown at once; the rest is kept aside for the script
MANY = 120  # beyond so many pictures, thumbnails are small
WORDS = 1200  # letters of one text that are shown

Load = Callable[[Any], np.ndarray]  # an ImageRef -> HWC uint8 RGB


def cards(items: Iterable[Html], switches: bool = False) -> Html:
    """Cards in a grid, with switches for what was kept, rejected and superseded."""
    grid = element("div", *items, class_="cards")
    return join([_switches(), grid]) if switches else grid


def board(samples: Iterable[Sample], load: Load, count: int) -> Html:
    """Cards of samples (`count` of them), which can be searched, filtered and leafed through."""
    facets, side = Facets(), 2 * CARD if count <= MANY else CARD
    shown: list[Html] = []
    chunks: list[Html] = []
    names: list[str] = []
    items: list[str] = []
    for sample in samples:
        card = sample_card(sample, load, facets, side)
        names.append(name_of(sample))
        items.append(facets.items(sample, last_verdicts(sample.decisions)) if count > PER_PAGE else "")
        if len(shown) < PER_PAGE:
            shown.append(card)
        else:
            chunks.append(card)
    hidden: list[Html] = []
    if chunks:
        index = json.dumps({"per": PER_PAGE, "names": names, "items": items}, separators=(",", ":"))
        parts = (chunks[i : i + PER_PAGE] for i in range(0, len(chunks), PER_PAGE))
        hidden = [hidden_json(index, "index"), *(hidden_json(json.dumps(part), "chunk") for part in parts)]
        note = f"Without JavaScript the first {PER_PAGE} of {len(names):,} pictures are shown."
        hidden.append(element("noscript", element("p", note, class_="small")))
    grid = element("div", *shown, class_="cards")
    return element("div", facets.toolbar(), _switches(), grid, *hidden, class_="board")


def _switches() -> Html:
    shown = (("kept", True), ("rejected", False), ("superseded", False), ("labels", True))
    boxes = (
        element(
            "label",
            Html(f'<input type="checkbox" class="show-{name}"{" checked" if on else ""}>'),
            element("i", class_=f"key {name}") if name != "labels" else "",
            name,
        )
        for name, on in shown
    )
    return element("div", *boxes, class_="switches")


def name_of(sample: Sample) -> str:
    """What a picture is called: its file's name, or its own where it lies in an archive."""
    return (sample.image.member or sample.image.uri).rsplit("/", 1)[-1] or sample.id


def sample_card(sample: Sample, load: Load, facets: Facets | None = None, side: int = 2 * CARD) -> Html:
    """One picture with its regions, texts and verdicts; `sample` holds rejected items too."""
    facets = facets or Facets()
    verdicts = last_verdicts(sample.decisions)
    regions = sample.regions[:OVERLAYS]
    overlays = [
        overlay
        for region in regions
        for overlay in _overlays(region, verdicts.get(region.id), sample.groundings, facets)
    ]
    name = name_of(sample)
    words: list[Html] = [element("b", name)]
    try:
        picture = _picture(load(sample.image), overlays, side)
    except (BadImage, OSError) as error:
        picture = element("p", f"The picture cannot be shown: {error}", class_="words")
    for text in sample.texts:
        verdict = verdicts.get(text.id)
        spoken = [g for g in sample.groundings if g.text_id == text.id]
        words.append(_text(text, spoken, sample.regions, verdict, facets.of(text, verdict)))
    words.append(_listing(sample, verdicts, facets))
    if len(sample.regions) > OVERLAYS:
        words.append(element("p", f"{len(sample.regions) - OVERLAYS} more regions are not drawn.", class_="small"))
    return element("figure", picture, element("figcaption", *words, class_="words"), class_="card", data_name=name)


def answer_card(
    image: np.ndarray, title: str, asked: str, answer: Parsed, region: Polygon = (), truth: Parsed | None = None
) -> Html:
    """One answer of a model drawn on its picture; `asked` is the request, `region` the place that was asked about."""
    overlays = list(overlays_of(answer))[:OVERLAYS]
    if region:
        where = Region(box=(region[0], region[1], region[2], region[3])) if len(region) == 4 else Region(quad=region)
        overlays = [
            dataclasses.replace(overlay, color=(128, 128, 128), rejected="asked") for overlay in overlays_of([where])
        ] + overlays
    words = [element("h3", title), *([element("p", asked, class_="small")] if asked else [])]
    for text in answer.texts:
        words.append(_text(text, [], (), None))
    counts = _label_counts(answer)
    unnamed = len(answer.regions) - sum(bool(name) for name in _names(answer))
    if counts:
        words.append(element("p", counts))
    if unnamed:
        words.append(element("p", f"{unnamed:,} {'box' if unnamed == 1 else 'boxes'} without a name", class_="small"))
    if not answer.texts and not answer.regions and not counts:
        words.append(element("p", "An empty answer.", class_="small"))
    if answer.truncated:
        words.append(element("p", "Cut off at the token limit.", class_="small"))
    if truth is not None:
        expected = " ".join([*(text.text for text in truth.texts), _label_counts(truth)]).strip()
        words.append(element("p", f"truth: {expected[:WORDS] or 'nothing'}", class_="small"))
    return element(
        "figure", _picture(image, overlays, 2 * CARD), element("figcaption", *words, class_="words"), class_="card"
    )


def verdict_words(verdict: Decision) -> str:
    """Such as "rejected: low_score (confidence 0.21, limit 0.3)"."""
    numbers = "" if verdict.value is None else f" {verdict.value:.3g}"
    limit = "" if verdict.threshold is None else f", limit {verdict.threshold:.3g}"
    return f"{verdict.status}: {verdict.reason or verdict.rule} ({verdict.rule}{numbers}{limit})"


def _picture(image: np.ndarray, overlays: Sequence[Overlay], side: int) -> Html:
    shown = "picture dense" if sum(overlay.status != "rejected" for overlay in overlays) > DENSE else "picture"
    quality = 85 if side > CARD else 70
    return Html(svg(image, overlays, width=CARD, class_name=shown, side=side, quality=quality))


def _overlays(
    region: Region, verdict: Decision | None, groundings: Sequence[Grounding], facets: Facets
) -> list[Overlay]:
    """The region's overlay, its status as class, its whole story as hint."""
    named = region
    if not (region.label or region.description):
        named = dataclasses.replace(region, label=phrase_of(region, groundings))
    status = verdict.status if verdict else "kept"
    story = " \u00b7 ".join(
        part for part in (named.label or region.kind, region.description, *_story(region, verdict)) if part
    )
    rejected = "" if status == "kept" else verdict.reason if verdict else ""
    return [
        dataclasses.replace(
            overlay, status=status, hint=story, caption=_cut(overlay.caption), facets=facets.of(region, verdict)
        )
        for overlay in overlays_of([named], {region.id: rejected} if rejected else None)
    ]


def _story(item: Item, verdict: Decision | None) -> list[str]:
    """Score, maker and verdict of an item in words."""
    source = item.source
    made = f"{source.name} {source.version}".strip() + f", round {source.round}" if source else ""
    score = "" if item.score is None else f"score {item.score:.2f}"
    return [
        part for part in (score, made, verdict_words(verdict) if verdict and verdict.status != "kept" else "") if part
    ]


def _text(
    text: Text,
    groundings: Sequence[Grounding],
    regions: Sequence[Region],
    verdict: Decision | None,
    facets: str | None = None,
) -> Html:
    """A text with its phrases underlined in the colours of their regions."""
    status = verdict.status if verdict else "kept"
    shown, at, parts = text.text[:WORDS], 0, []
    names = {region.id: region.label or region.description for region in regions}
    spans = sorted((span, g) for g in groundings for span in g.spans) if groundings else []
    for (start, end), grounding in sorted(spans, key=lambda row: row[0]):
        if at <= start < end <= len(shown):
            label = next((names[i] for i in grounding.region_ids if names.get(i)), grounding.phrase)
            color = "#{:02x}{:02x}{:02x}".format(*color_of(label))
            parts += [shown[at:start], element("mark", shown[start:end], style=f"text-decoration-color:{color}")]
            at = end
    parts.append(shown[at:])
    if len(text.text) > WORDS:
        parts.append(f"\u2026 ({len(text.text) - WORDS} more letters)")
    kind = f"{text.detail.replace('_', ' ')}: "
    story = " \u00b7 ".join(_story(text, verdict))
    tag = "pre" if text.detail == "ocr" else "p"
    return element(tag, element("span", kind, class_="small"), *parts, class_=status, title=story, data_f=facets)


def _listing(sample: Sample, verdicts: dict[str, Decision], facets: Facets) -> Html:
    """All regions in words, folded away."""
    if not sample.regions:
        return Html("")
    rows = []
    for region in sample.regions[:OVERLAYS]:
        verdict = verdicts.get(region.id)
        story = " \u00b7 ".join([region.label or region.description or region.kind, *_story(region, verdict)])
        status = verdict.status if verdict else "kept"
        rows.append(element("li", story, class_=status, data_f=facets.of(region, verdict)))
    counts = Counter(verdicts[r.id].status for r in sample.regions if r.id in verdicts)
    gone = (f", {counts[status]} {status}" for status in ("rejected", "superseded") if counts[status])
    summary = f"{len(sample.regions)} regions{''.join(gone)}"
    return element("details", element("summary", summary), element("ul", *rows, class_="small"))


def _label_counts(answer: Parsed) -> str:
    """What an answer says beside its drawing: labels counted."""
    named = _names(answer)
    if not any(named) and answer.groundings:
        named = [g.phrase for g in answer.groundings]
    counted = {label: named.count(label) for label in named if label}
    return ", ".join(f"{label} \u00d7{count}" if count > 1 else label for label, count in counted.items())


def _cut(caption: str, letters: int = 36) -> str:
    return caption if len(caption) <= letters else caption[: letters - 1] + "\u2026"


def _names(answer: Parsed) -> list[str]:
    """What each region of an answer is called, by itself or by a phrase."""
    return [r.label or r.description or phrase_of(r, answer.groundings) for r in answer.regions]
