"""A data set in the numbers of the paper's own (Xiao et al., arXiv 2311.06242, tables 2 and 3, figure 5).

Counted over what a view keeps, in one pass and bounded memory. Semantic coverage is measured on at most MEASURED texts
of each kind, spread over the set by the hash of their ids, with the parser of `engine/text`; tokens are words between
white space. FLD5B holds the paper's own columns, as far as it states them; how it counts tokens it does not say.
"""

from __future__ import annotations

import hashlib
import importlib.util
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from florence2.engine.curation.statistics import described
from florence2.records import Box, Region, Sample

MEASURED = 500
BINS = 20
CENTRES = 8  # a side of the grid of centres
ASPECTS = 4.0  # the histogram of log2(width / height) goes from -ASPECTS to ASPECTS
DETAILS = {"brief": "brief", "detailed": "detailed", "more_detailed": "more detailed"}
SEMANTIC = ("objects", "attributes", "actions", "proper_nouns", "object_complexity", "action_complexity")


@dataclass(frozen=True)
class Row:
    """A line of table 2: how many annotations, their mean tokens, regions, regions and tokens a region."""

    annotations: float
    tokens: float | None = None
    regions: float | None = None
    mean_regions: float | None = None
    region_tokens: float | None = None


FLD5B: Mapping[tuple[str, str], Row] = {
    ("text", "brief"): Row(235e6, 7.95),
    ("text", "detailed"): Row(126e6, 31.65),
    ("text", "more detailed"): Row(126e6, 70.53),
    ("region-text", "phrase"): Row(126e6, None, 681e6, 5.42, 1.19),
    ("region-text", "brief"): Row(126e6, None, 681e6, 5.42, 2.55),
    ("text-phrase-region", "brief"): Row(235e6, 7.95, 1007e6, 4.27, 1.93),
    ("text-phrase-region", "detailed"): Row(126e6, 31.65, 1289e6, 10.25, 1.49),
    ("text-phrase-region", "more detailed"): Row(126e6, 70.53, 1278e6, 10.17, 1.35),
}
FLD5B_SEMANTIC: Mapping[str, tuple[float, ...]] = {
    "brief": (3.23, 2.80, 0.58, 1.10, 2.80, 1.14),
    "detailed": (13.31, 7.27, 4.21, 2.40, 4.00, 3.63),
    "more detailed": (28.06, 16.25, 8.76, 2.41, 4.02, 4.38),
}


@dataclass
class Spatial:
    """Boxes of one family: the root of their share of the picture, log2 of their aspect, where their centres are."""

    sides: list[int] = field(default_factory=lambda: [0] * BINS)
    aspects: list[int] = field(default_factory=lambda: [0] * BINS)
    centres: list[list[int]] = field(default_factory=lambda: [[0] * CENTRES for _ in range(CENTRES)])

    def add(self, box: Box, size_wh: tuple[int, int]) -> None:
        """Count a box of a picture; one without area or outside is passed over."""
        width, height = size_wh
        w, h = box[2] - box[0], box[3] - box[1]
        if min(width, height, w, h) <= 0:
            return
        self.sides[_bin(math.sqrt(w * h / (width * height)), BINS)] += 1
        self.aspects[_bin((math.log2(w / h) / ASPECTS + 1) / 2, BINS)] += 1
        column = _bin((box[0] + box[2]) / 2 / width, CENTRES)
        self.centres[_bin((box[1] + box[3]) / 2 / height, CENTRES)][column] += 1


@dataclass
class PaperStatistics:
    """Table 2, table 3 (means over `measured` texts of each kind) and figure 5 of a data set."""

    rows: dict[tuple[str, str], Row] = field(default_factory=dict)
    semantic: dict[str, tuple[float, ...]] = field(default_factory=dict)
    measured: dict[str, int] = field(default_factory=dict)
    spatial: dict[str, Spatial] = field(default_factory=dict)
    unparsed: str = ""
    """Why there is no semantic coverage."""

    def to_json(self) -> dict[str, Any]:
        """As plain values, FLD-5B's beside."""
        return {
            "table": [
                {"type": key[0], "kind": key[1], **vars(row), "fld5b": vars(FLD5B[key])}
                for key, row in self.rows.items()
            ],
            "semantic": {
                kind: {
                    "texts": self.measured[kind],
                    **dict(zip(SEMANTIC, values)),
                    "fld5b": dict(zip(SEMANTIC, FLD5B_SEMANTIC[kind])),
                }
                for kind, values in self.semantic.items()
            },
            "spatial": {name: vars(spatial) for name, spatial in self.spatial.items()},
            **({"unparsed": self.unparsed} if self.unparsed else {}),
        }


@dataclass
class _Sums:
    annotations: int = 0
    tokens: int = 0
    regions: int = 0
    region_tokens: int = 0


def paper_statistics(samples: Iterable[Sample]) -> PaperStatistics:
    """Go through samples once; texts are measured where spaCy is installed."""
    sums: dict[tuple[str, str], _Sums] = {}
    texts: dict[str, dict[str, str]] = {kind: {} for kind in DETAILS.values()}  # kind -> hash of the id -> text
    spatial = {"region-text": Spatial(), "text-phrase-region": Spatial()}
    for sample in samples:
        for key, tokens, regions, region_tokens in _annotations(sample):
            row = sums.setdefault(key, _Sums())
            row.annotations += 1
            row.tokens += tokens
            row.regions += regions
            row.region_tokens += region_tokens
        for text in sample.texts:
            if text.detail in DETAILS:
                _keep(texts[DETAILS[text.detail]], sample.image.id + text.id, text.text)
        told = {text.id for text in sample.texts if text.detail in DETAILS}
        grounded = {
            name for grounding in sample.groundings if grounding.text_id in told for name in grounding.region_ids
        }
        for region in _objects(sample):
            if region.box is not None and (region.label or region.description):
                spatial["region-text"].add(region.box, sample.image.size_wh)
        for region in sample.regions:
            if region.box is not None and region.id in grounded:
                spatial["text-phrase-region"].add(region.box, sample.image.size_wh)
    out = PaperStatistics({key: _row(key, sums[key]) for key in FLD5B if key in sums})
    out.spatial = {name: one for name, one in spatial.items() if any(one.sides)}
    out.semantic, out.measured, out.unparsed = _measured(texts)
    return out


def _annotations(sample: Sample) -> Iterator[tuple[tuple[str, str], int, int, int]]:
    """(type, kind), tokens, regions and tokens of regions of each annotation of a picture.

    As in the paper a picture's regions are one annotation of each kind, and a text with phrases is one.
    """
    for text in sample.texts:
        if text.detail in DETAILS:
            yield ("text", DETAILS[text.detail]), _tokens(text.text), 0, 0
    objects = _objects(sample)
    for kind, words in (
        ("phrase", [region.label for region in objects if region.label]),
        ("brief", [region.description for region in objects if region.description]),
    ):
        if words:
            yield ("region-text", kind), 0, len(words), sum(map(_tokens, words))
    for text in sample.texts:
        phrases = [grounding for grounding in sample.groundings if grounding.text_id == text.id]
        if phrases and text.detail in DETAILS:
            regions = sum(len(grounding.region_ids) for grounding in phrases)
            words_each = sum(_tokens(one.phrase) * len(one.region_ids) for one in phrases)
            yield ("text-phrase-region", DETAILS[text.detail]), _tokens(text.text), regions, words_each


def _objects(sample: Sample) -> list[Region]:
    return [region for region in described(sample.regions) if region.kind == "object"]


def _row(key: tuple[str, str], sums: _Sums) -> Row:
    n = sums.annotations
    tokens = sums.tokens / n if key[0] != "region-text" else None
    if key[0] == "text":
        return Row(n, tokens)
    return Row(n, tokens, sums.regions, sums.regions / n, sums.region_tokens / max(1, sums.regions))


def _keep(kept: dict[str, str], name: str, text: str) -> None:
    """Keep the MEASURED texts whose hashes are least, and at most twice as many for a while."""
    kept[hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()] = text
    if len(kept) >= 2 * MEASURED:
        for key in sorted(kept)[MEASURED:]:
            del kept[key]


def _measured(texts: Mapping[str, Mapping[str, str]]) -> tuple[dict[str, tuple[float, ...]], dict[str, int], str]:
    chosen = {kind: [rows[key] for key in sorted(rows)[:MEASURED]] for kind, rows in texts.items() if rows}
    if chosen and importlib.util.find_spec("spacy") is None:
        return {}, {}, 'needs spaCy: pip install "florence2[demo]"'
    from florence2.engine.text.parser import Parser

    parser, out = Parser(), {}
    for kind, rows in chosen.items():
        parser.read(rows)
        found = [parser.measure(text) for text in rows]
        names = (*SEMANTIC[:4], "mean_object_complexity", "mean_action_complexity")
        out[kind] = tuple(round(sum(getattr(one, name) for one in found) / len(found), 2) for name in names)
    return out, {kind: len(rows) for kind, rows in chosen.items()}, ""


def _tokens(text: str) -> int:
    return sum(any(letter.isalnum() for letter in word) for word in text.split())


def _bin(value: float, bins: int) -> int:
    return min(bins - 1, max(0, int(value * bins)))
