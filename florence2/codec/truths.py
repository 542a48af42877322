"""Where a Sample keeps the truth of a task, and where a task's answer goes in a Sample: one pair a kind.

Knows records only: neither tokens nor prompts. Order is decided here and nowhere else: labels by code point, boxes by
descending area in pixels, text in reading order, phrases as the caption has them, polygons clockwise; what is written
as a target keeps it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from florence2.codec.places import by_area, polygons_of, reading_order
from florence2.geometry import clockwise, ordered, polygon_box, region_box, region_quad
from florence2.records import Ask, Box, Grounding, Item, Parsed, Region, Sample, Source, Text

if TYPE_CHECKING:
    from florence2.codec.tasks import Task

Pairs = list[tuple[Ask, Parsed]]
K = TypeVar("K")


def truths(task: Task, sample: Sample) -> Pairs:
    """All (ask, answer) pairs of the task; equal pairs are given once."""
    pairs = _TRUTHS[task.output_kind](task, sample.current())
    return list({(ask, _content(task, parsed)): (ask, parsed) for ask, parsed in reversed(pairs)}.values())[::-1]


def add(task: Task, sample: Sample, ask: Ask, parsed: Parsed, source: Source) -> Sample:
    """The sample with the answer's items appended, ids made unique, `source` stamped."""
    texts, regions, groundings = _ADDED[task.output_kind](task, sample, ask, parsed)
    there: list[Item] = [*sample.texts, *sample.regions, *sample.groundings]
    coming: list[Item] = [*texts, *regions, *groundings]
    taken = {item.id for item in there}
    names: dict[str, str] = {}
    for item in coming:
        stem = f"{source.kind}:{source.name}:{source.round}:{task.name or 'RAW'}:{item.id}"
        name, count = stem, 1
        while name in taken:
            name, count = f"{stem}.{count}", count + 1
        taken.add(name)
        names[item.id] = name
    return replace(
        sample,
        texts=(*sample.texts, *(replace(t, id=names[t.id], source=source) for t in texts)),
        regions=(*sample.regions, *(replace(r, id=names[r.id], source=source) for r in regions)),
        groundings=(
            *sample.groundings,
            *(
                replace(
                    g,
                    id=names[g.id],
                    source=source,
                    text_id=names.get(g.text_id, g.text_id),
                    region_ids=tuple(names[i] for i in g.region_ids),
                )
                for g in groundings
            ),
        ),
    )


# ---- sample -> truths -------------------------------------------------------------------------------------------


def _text_truths(task: Task, sample: Sample) -> Pairs:
    asked = "answer" == task.storage_rule
    texts = [text for text in sample.texts if text.detail == task.storage_rule and text.text.strip()]
    if asked and not task.input_kind:
        texts = [text for text in texts if text.question in ("", task.token, task.prompt)]
    elif asked:
        texts = _asked(task, texts)
    if task.storage_rule == "ocr" and not texts:
        lines = "\n".join(region.label for region in reading_order(_text_regions(sample)))
        texts = [Text(id="t0", text=lines, detail="ocr")] if lines else []
    return [(Ask(task.token, text=text.question if task.input_kind else ""), Parsed(texts=(text,))) for text in texts]


def _asked(task: Task, texts: Iterable[Text]) -> list[Text]:
    asked = [replace(text, question=task.question_of(text.question)) for text in texts]
    return [text for text in asked if text.question.strip()]


def _quad_truths(task: Task, sample: Sample) -> Pairs:
    regions = reading_order(_text_regions(sample))
    return _if_any(task, sample, [replace(region, quad=region_quad(region)) for region in regions])


def _labelled_truths(task: Task, sample: Sample) -> Pairs:
    return _if_any(task, sample, _by_label(_objects(sample, task.storage_rule), task.storage_rule))


def _box_truths(task: Task, sample: Sample) -> Pairs:
    return _if_any(task, sample, by_area(_distinct(_unrefined(sample))))


def _phrase_truths(task: Task, sample: Sample) -> Pairs:
    pairs = []
    for text in sample.texts:
        found = []
        for grounding in sample.groundings:
            if grounding.text_id != text.id or not text.id:
                continue
            phrase = grounding.phrase or (text.text[slice(*grounding.spans[0])] if grounding.spans else "")
            regions = by_area(_grounded(sample, grounding))
            if phrase.strip() and regions:
                at = grounding.spans[0][0] if grounding.spans else text.text.find(phrase)
                start = at if at >= 0 else len(text.text)  # not a phrase of the caption: last
                found.append((start, replace(grounding, phrase=phrase, region_ids=_ids(regions)), regions))
        if found and text.text.strip():
            found.sort(key=lambda row: row[0])
            regions = list({region.id: region for row in found for region in row[2]}.values())
            parsed = Parsed(regions=tuple(regions), groundings=tuple(row[1] for row in found))
            pairs.append((Ask(task.token, text=text.text, text_id=text.id), parsed))
    return pairs


def _polygon_truths(task: Task, sample: Sample) -> Pairs:
    if task.storage_rule == "region":
        outlined = _outlined(sample, _unrefined(sample))
        return [(Ask(task.token, region=ordered(_box(r))), Parsed(regions=(r,))) for r in outlined]
    phrases = _grouped(sample.groundings, lambda grounding: grounding.phrase)
    pairs = []
    for phrase, groundings in phrases.items():
        own = [grounding for grounding in groundings if not grounding.text_id]
        used = own or (groundings if len(groundings) == 1 else [])  # a caption's phrase refers only where it is unique
        grounded = list({r.id: r for grounding in used for r in _grounded(sample, grounding)}.values())
        regions = by_area(_outlined(sample, grounded))
        if phrase.strip() and regions and len(regions) == len(grounded):
            grounding = Grounding(id=used[0].id, phrase=phrase, region_ids=_ids(regions))
            pairs.append((Ask(task.token, text=phrase), Parsed(regions=tuple(regions), groundings=(grounding,))))
    return pairs


def _open_truths(task: Task, sample: Sample) -> Pairs:
    named = _grouped(_objects(sample, "label"), lambda region: region.label)
    asked = {label: _by_label(named[label], "label") for label in sorted(named)}
    for grounding in sample.groundings:
        if not grounding.text_id and grounding.phrase.strip() and grounding.phrase not in named:
            regions = [replace(region, label=grounding.phrase) for region in _grounded(sample, grounding)]
            if regions:
                asked[grounding.phrase] = _by_label([*asked.get(grounding.phrase, []), *regions], "label")
    for states in sample.coverage.values():
        for coverage in states:
            for label in coverage.labels if coverage.state == "negatives" else ():
                asked.setdefault(label, [])
    for label, regions in asked.items():  # boxes are the answer, whatever outlines there are
        asked[label] = [replace(region, polygons=(), mask=None) for region in regions]
    pairs = [(Ask(task.token, text=label), Parsed(regions=tuple(regions))) for label, regions in asked.items()]
    if len(named) > 1:
        everything = [region for label in sorted(named) for region in asked[label]]
        pairs.append((Ask(task.token, labels=tuple(sorted(named))), Parsed(regions=tuple(everything))))
    return pairs


def _region_truths(task: Task, sample: Sample) -> Pairs:
    regions = _text_regions(sample) if task.storage_rule == "text" else _objects(sample, task.storage_rule)
    boxed = [replace(region, box=ordered(_box(region))) for region in regions if region_box(region)]
    return [(Ask(task.token, region=_box(region)), Parsed(regions=(region,))) for region in boxed]


_TRUTHS: dict[str, Callable[[Task, Sample], Pairs]] = {
    "text": _text_truths,
    "quads": _quad_truths,
    "labelled_boxes": _labelled_truths,
    "boxes": _box_truths,
    "phrases": _phrase_truths,
    "polygons": _polygon_truths,
    "open_boxes": _open_truths,
    "region_text": _region_truths,
}


# ---- sample -> truths as they are judged -------------------------------------------------------------------------


def judged_truths(task: Task, sample: Sample) -> Pairs:
    """All (ask, answer) pairs of the task, with what training leaves out and scoring must know."""
    sample = sample.current()
    return _JUDGED.get(task.output_kind, truths)(task, sample)


def _judged_texts(task: Task, sample: Sample) -> Pairs:
    if task.storage_rule != "answer" or not task.input_kind:
        return truths(task, sample)
    texts = _asked(task, [text for text in sample.texts if text.detail == "answer"])
    return [(Ask(task.token, text=text.question), Parsed(texts=(text,))) for text in texts]


def _judged_quads(task: Task, sample: Sample) -> Pairs:
    unread = [region for region in sample.regions if region.kind == "text" and region.ignore and region_box(region)]
    ignored = [replace(region, quad=region_quad(region)) for region in unread]
    pairs = truths(task, sample)
    readable = [region for _, truth in pairs for region in truth.regions]
    return [(Ask(task.token), Parsed(regions=(*readable, *ignored)))] if pairs or ignored else []


def _judged_boxes(task: Task, sample: Sample) -> Pairs:
    """Object regions with a box, ignored ones included, refinements of another left out."""
    if task.storage_rule == "description":
        return truths(task, sample)
    present = {region.id for region in sample.regions if region.id}
    regions = [
        replace(region, box=region_box(region))
        for region in sample.regions
        if region.kind == "object"
        and region_box(region) is not None
        and (region.label.strip() or task.storage_rule != "label")
        and (not region.refines or region.refines not in present)
    ]
    return [(Ask(task.token), Parsed(regions=tuple(regions)))] if regions or truths(task, sample) else []


_JUDGED: dict[str, Callable[[Task, Sample], Pairs]] = {  # the other kinds are judged by their truths
    "text": _judged_texts,
    "quads": _judged_quads,
    "labelled_boxes": _judged_boxes,
    "boxes": _judged_boxes,
}


def _objects(sample: Sample, field: str = "") -> list[Region]:
    """Object regions with a box (and with `field` filled) that are neither ignored nor repeated by a refinement."""
    by_id = {region.id: region for region in sample.regions if region.id}
    out = []
    for region in sample.regions:
        box = region_box(region)
        if region.kind != "object" or region.ignore or box is None:
            continue
        base = by_id.get(region.refines)
        if field and (not getattr(region, field).strip() or (base and getattr(base, field) == getattr(region, field))):
            continue
        out.append(region if region.box is not None else replace(region, box=box))
    return out


def _text_regions(sample: Sample) -> list[Region]:
    """Lines of text with a place, but those that repeat a line of the sample with a description."""
    read = {region.id: region.label for region in sample.regions if region.id}
    lines = [r for r in sample.regions if r.kind == "text" and not r.ignore and r.label.strip() and region_box(r)]
    return [r for r in lines if read.get(r.refines) != r.label]


def _by_label(regions: Iterable[Region], field: str) -> list[Region]:
    groups = _grouped(regions, lambda region: getattr(region, field))
    return [region for label in sorted(groups) for region in by_area(_distinct(groups[label]))]


def _distinct(regions: Iterable[Region]) -> list[Region]:
    """The first region of each box."""
    first: dict[Box | None, Region] = {}
    for region in regions:
        first.setdefault(region.box, region)
    return list(first.values())


def _grounded(sample: Sample, grounding: Grounding) -> list[Region]:
    by_id = {region.id: region for region in sample.regions}
    regions = [by_id[i] for i in grounding.region_ids if i in by_id]
    return [replace(r, box=region_box(r)) for r in regions if not r.ignore and region_box(r)]


def _outlined(sample: Sample, regions: Iterable[Region]) -> list[Region]:
    """The regions that have polygons, their own or those of a region that refines them."""
    refined = {r.refines: r for r in reversed(sample.regions) if r.refines and (r.polygons or r.mask) and not r.ignore}
    out = []
    for region in regions:
        polygons = polygons_of(region) or (polygons_of(refined[region.id]) if region.id in refined else ())
        whole = tuple(clockwise(part) for part in polygons if len(part) >= 6 and len(part) % 2 == 0)
        if whole:
            out.append(replace(region, polygons=whole))
    return out


def _unrefined(sample: Sample) -> list[Region]:
    """Objects that detail no other region of the sample."""
    present = {region.id for region in sample.regions if region.id}
    return [region for region in _objects(sample) if region.refines not in present]


def _box(region: Region) -> Box:
    box = region_box(region)
    assert box is not None
    return box


def _ids(regions: Iterable[Region]) -> tuple[str, ...]:
    return tuple(region.id for region in regions)


def _grouped(items: Iterable[K], key: Callable[[K], str]) -> dict[str, list[K]]:
    groups: dict[str, list[K]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups


def _if_any(task: Task, sample: Sample, regions: Sequence[Region]) -> Pairs:
    """One pair; with no regions only where the sample states that all of it was searched and nothing is there, not even
    what is ignored (a crowd, lines that nobody can read)."""
    states = {space: {coverage.state for coverage in states} for space, states in sample.coverage.items()}
    spaces = {space for space, found in states.items() if "exhaustive" in found and "partial" not in found}
    searched = (
        "text" in spaces if task.output_kind == "quads" else spaces - {"text"} and task.storage_rule != "description"
    )
    kind = "text" if task.output_kind == "quads" else "object"
    empty = searched and not any(region.ignore and region.kind == kind for region in sample.regions)
    return [(Ask(task.token), Parsed(regions=tuple(regions)))] if regions or empty else []


def _content(task: Task, parsed: Parsed) -> str:
    """What an answer to the task says: without ids, sources and what the ask says or the task does not write."""
    if task.output_kind == "region_text":
        return repr([r.description if task.storage_rule == "description" else r.label for r in parsed.regions])
    if task.output_kind == "polygons":
        return repr([r.polygons for r in parsed.regions])
    place = {region.id: index for index, region in enumerate(parsed.regions)}
    texts = [(text.text, text.question) for text in parsed.texts]
    regions = [(r.box, r.label, r.description, r.quad, r.polygons) for r in parsed.regions]
    phrases = [(g.phrase, g.spans, tuple(place[i] for i in g.region_ids)) for g in parsed.groundings]
    return repr((texts, regions, phrases))


# ---- answer -> sample -------------------------------------------------------------------------------------------

Items = tuple[Sequence[Text], Sequence[Region], Sequence[Grounding]]


def _add_texts(task: Task, sample: Sample, ask: Ask, parsed: Parsed) -> Items:
    question = ask.text if task.storage_rule == "answer" else ""
    return [replace(text, detail=task.storage_rule, question=question) for text in parsed.texts], (), ()


def _add_regions(task: Task, sample: Sample, ask: Ask, parsed: Parsed) -> Items:
    kind = "text" if task.storage_rule == "text" else "object"
    return (), [replace(region, kind=kind) for region in parsed.regions], ()


def _add_phrases(task: Task, sample: Sample, ask: Ask, parsed: Parsed) -> Items:
    """The phrases hang on the sample's text; a caption that the sample lacks comes with them."""
    known = [text.id for text in sample.texts if text.id and ask.text_id in ("", text.id) and text.text == ask.text]
    new = [] if known else [Text(id="caption", text=ask.text, detail="brief")]
    text_id = known[0] if known else "caption"
    return new, parsed.regions, [dataclasses.replace(g, text_id=text_id) for g in parsed.groundings]


def _add_polygons(task: Task, sample: Sample, ask: Ask, parsed: Parsed) -> Items:
    if task.storage_rule == "region":
        return (), _refining(sample, ask, parsed), ()
    grounding = Grounding(id="g0", phrase=ask.text, region_ids=_ids(parsed.regions))
    return (), parsed.regions, parsed.groundings or ([grounding] if parsed.regions else [])


def _add_region_text(task: Task, sample: Sample, ask: Ask, parsed: Parsed) -> Items:
    kind = "text" if task.storage_rule == "text" else "object"
    return (), [replace(region, kind=kind) for region in _refining(sample, ask, parsed)], ()


def _refining(sample: Sample, ask: Ask, parsed: Parsed) -> list[Region]:
    """The answer's regions at the place asked for, naming the sample's region of that very box."""
    if not ask.region:
        return list(parsed.regions)
    box = ordered(ask.region) if len(ask.region) == 4 else polygon_box(ask.region)
    known = [r.id for r in sample.regions if r.id and not r.refines and region_box(r) == box]
    return [replace(region, box=box, refines=known[0] if known else "") for region in parsed.regions]


_ADDED: dict[str, Callable[[Task, Sample, Ask, Parsed], Items]] = {
    "text": _add_texts,
    "quads": _add_regions,
    "labelled_boxes": _add_regions,
    "boxes": _add_regions,
    "phrases": _add_phrases,
    "polygons": _add_polygons,
    "open_boxes": _add_regions,
    "region_text": _add_region_text,
}
