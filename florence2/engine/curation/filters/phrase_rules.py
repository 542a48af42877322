"""Rules for phrases: present in their text, nameable, and with sufficient scores of phrase and boxes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from florence2.codec.official import BANNED_PHRASES
from florence2.engine.curation.filters.verdicts import by_people, verdict
from florence2.labels import fold_label
from florence2.records import Decision, Grounding, Sample

# what has no place in a picture: parts of its composition, and abstractions
ABSTRACT = frozenset(
    "photo,picture,view,scene,shot,close-up,closeup,top,front,back,side,middle,center,centre,left,right,bottom,edge,"
    "corner,background,foreground,distance,couple,bunch,pair,variety,lot,number,piece,pieces,kind,type,way,part,"
    "time,day,moment,love,freedom,life,fun,peace,beauty,joy,happiness,idea,memory,history,attempt,motion,air,there".split(
        ","
    )
)
_FOLDED = frozenset(map(fold_label, BANNED_PHRASES))
_ARTICLE = re.compile(r"^(the|a|an|this|that|these|those|some|its|his|her|their|my|our|your) ")


def span(sample: Sample, settings: Mapping[str, Any]) -> Iterator[Decision]:
    """A phrase with a text must be what its spans cut out of it; without spans it must occur in it."""
    texts = {text.id: text.text for text in sample.texts}
    for phrase in _judged(sample):
        if phrase.text_id:
            share = _holding(phrase, texts[phrase.text_id]) if phrase.text_id in texts else 0.0
            yield verdict(phrase, share >= settings["min"], share, settings["min"])


def blacklist(sample: Sample, settings: Mapping[str, Any]) -> Iterator[Decision]:
    """The official list and abstract words, with or without an article; `also` adds words."""
    also = {fold_label(str(word)) for word in settings["also"]}
    for phrase in _judged(sample):
        yield verdict(phrase, not is_blacklisted(phrase.phrase, also), None, None)


def score(sample: Sample, settings: Mapping[str, Any]) -> Iterator[Decision]:
    """The lower of what the phrase lacks to its floor and its best box to its own; what has no score is not judged."""
    boxes = {region.id: region.score for region in sample.regions}
    for phrase in _judged(sample):
        found = [s for s in (boxes.get(i) for i in phrase.region_ids) if s is not None]
        floor = settings["sources"].get(phrase.source.name if phrase.source else "", settings["min"])
        if phrase.score is not None and phrase.score < floor:
            yield verdict(phrase, False, phrase.score, floor)
        elif found and max(found) < settings["box"]:
            yield verdict(phrase, False, max(found), settings["box"])
        elif phrase.score is not None:
            yield verdict(phrase, True, phrase.score, floor)


def is_blacklisted(phrase: str, also: set[str] | frozenset[str] = frozenset()) -> bool:
    """Whether a phrase names nothing that has a place in the picture."""
    folded = fold_label(phrase)
    bare = _ARTICLE.sub("", folded)
    return not bare or any(word in _FOLDED or word in ABSTRACT or word in also for word in (folded, bare))


def _judged(sample: Sample) -> Iterator[Grounding]:
    return (g for g in sample.groundings if not by_people(g))


def _holding(phrase: Grounding, text: str) -> float:
    if not phrase.spans:
        return float(bool(phrase.phrase) and fold_label(phrase.phrase) in fold_label(text))
    inside = [0 <= start < end <= len(text) for start, end in phrase.spans]
    cut = " ".join(text[start:end] for start, end in phrase.spans)
    if all(inside) and cut != phrase.phrase:
        return 0.0
    return sum(inside) / len(inside)
