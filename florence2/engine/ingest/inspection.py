"""Pictures in: which of those found may be annotated, and why not. Knows pixels and rules.

Inspecting a picture reads and decodes it once: it is then ok, rejected by a rule, or failed, each with a reason word.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from florence2 import arguments, pixels
from florence2.engine.execution.context import WorkerContext
from florence2.engine.execution.jobs import JobOutcome
from florence2.engine.operator import digest
from florence2.engine.user_code import load_function
from florence2.records import ImageRef
from florence2.sources import file_types, files
from florence2.store import Store

MAX_PIXELS = pixels.MAX_PIXELS


@dataclass(frozen=True)
class ImageRules:
    """Which pictures may be annotated; one that breaks a rule is rejected for the reason that the rule names."""

    max_pixels: int = MAX_PIXELS
    """Over this a picture fails as too_large, before it is decoded."""
    min_side: int = 10
    """A shorter side under this many pixels: too_small."""
    max_aspect: float = 20.0
    """Longer side over shorter side above this: odd_aspect."""
    blank_range: int = 4
    """No channel spans more than this many of 256 levels: blank."""
    near_duplicates: bool = False
    """Reject pictures that are an earlier one, resized or encoded again, as their pixels show: near_duplicate."""
    near_bits: int = 4
    """Bits of 64 in which the perceptual hashes of pictures may differ whose pixels are compared."""
    licence: bool = False
    """Reject pictures without a licence: no_licence."""
    accept: str = ""
    """FILE.py:FUNCTION, given the upright RGB array; a word that it returns rejects the picture for that reason."""

    def __post_init__(self) -> None:
        arguments.whole("max_pixels", self.max_pixels, 1)
        arguments.whole("min_side", self.min_side, 0)
        arguments.above_zero("max_aspect", self.max_aspect)
        arguments.whole("blank_range", self.blank_range, -1, 255)
        arguments.whole("near_bits", self.near_bits, 0, 64)


@dataclass(frozen=True)
class ImageCandidate:
    """A picture file, or one inside an archive or a table: its name relative to the source, and where its bytes are.

    `bytes` is 0 where it is not known without reading; `origin` the address it was fetched from; `reason` and `detail`
    say why what was found cannot be read.
    """

    relative: str
    uri: str
    member: str = ""
    offset: int = -1
    length: int = -1
    bytes: int = 0
    licence: str = ""
    split: str = ""
    origin: str = ""
    reason: str = ""
    detail: str = ""

    def ref(self) -> ImageRef:
        """A reference to it, without an id yet."""
        return ImageRef("", self.uri, member=self.member, offset=self.offset, length=self.length, licence=self.licence)


@dataclass(frozen=True)
class Inspection:
    """What reading a picture showed: its id and hash, its size in pixels, its status, and `detail` where it failed."""

    id: str = ""
    sha256: str = ""
    width: int = 0
    height: int = 0
    status: str = "ok"
    reason: str = ""
    detail: str = ""
    format: str = ""
    exif_orientation: int | None = None
    phash: str = ""
    more: bool = False
    """Whether its file holds further pictures."""

    def failed(self, reason: str, detail: str) -> Inspection:
        """The picture cannot be annotated."""
        return replace(self, status="failed", reason=reason, detail=detail)


@dataclass(frozen=True)
class InspectTask:
    """Pictures to be read and decoded once; the outcome's facts are an Inspection for each, in order."""

    found: tuple[ImageCandidate, ...]
    rules: ImageRules

    def do(self, store: Store, context: WorkerContext) -> JobOutcome:
        """Inspect each."""
        accept = load_function(self.rules.accept) if self.rules.accept else None
        heartbeat, out = context.heartbeat, []
        for index, found in enumerate(self.found):
            if index in heartbeat.poison_images:
                made = _killer(found, heartbeat.poison_images[index])
            else:
                if heartbeat.isolate:
                    heartbeat.image(index)
                made = inspect(found, self.rules, accept)
                heartbeat.progress(1)
            out.append(replace(made, id=image_id(made.sha256, found.relative)))
        return JobOutcome(facts=out)


def inspect(found: ImageCandidate, rules: ImageRules, accept: Any = None) -> Inspection:
    """Read and decode one picture, and hold it to the rules; it has no id yet. NoAnswer ends the command."""
    facts = _undecoded(found)
    if facts.status == "failed":
        return facts
    try:
        data = files.bytes_or_no_answer(found.ref())
        facts = replace(facts, sha256=hashlib.sha256(data).hexdigest())
        array = pixels.load(data, max_pixels=rules.max_pixels, name=files.name_of(found.ref()))
    except pixels.BadImage as error:
        return facts.failed(error.reason, str(error))
    height, width = array.shape[:2]
    format = file_types.format_of(data[:16])
    facts = replace(
        facts,
        width=width,
        height=height,
        format=format,
        exif_orientation=pixels.read_orientation(data),
        phash=perceptual_hash(array),
        more=format != "jpeg" and pixels.holds_more(data),
    )
    try:
        reason = broken_rule(array, rules, found.licence) or (accept(array) if accept else "")
    except Exception as error:  # a user's rule may raise anything; it is not known to let this picture pass
        detail = f"{files.name_of(found.ref())}: {rules.accept}: {type(error).__name__}: {error}"
        return facts.failed("rule_failed", detail)
    return replace(facts, status="rejected", reason=word_of(reason)) if reason else facts


def broken_rule(array: np.ndarray, rules: ImageRules, licence: str = "") -> str:
    """The first rule that a picture breaks, by its reason word, or ""."""
    height, width = array.shape[:2]
    short, long = sorted((height, width))
    if short < rules.min_side:
        return "too_small"
    if long > rules.max_aspect * short:
        return "odd_aspect"
    if int((array.max(axis=(0, 1)) - array.min(axis=(0, 1))).max()) <= rules.blank_range:
        return "blank"
    return "no_licence" if rules.licence and not licence else ""


def word_of(reason: Any) -> str:
    """The reason that a user's rule returned, as one countable word; `unsafe` where it returned only True."""
    return "unsafe" if isinstance(reason, (bool, np.bool_)) else "_".join(str(reason).split())[:60]


def image_id(sha256: str, relative: str) -> str:
    """The id of a picture: of its bytes and its name relative to the source."""
    return digest([sha256, files.as_text(relative)], size=12)


def perceptual_hash(array: np.ndarray) -> str:
    """16 hex digits: for an 8x8 grid of grey levels, whether each cell is lighter than its left neighbour."""
    step = max(1, min(array.shape[:2]) // 256)
    small = pixels.resize(np.ascontiguousarray(array[::step, ::step]), (9, 8)).astype(np.int32).sum(axis=2)
    bits = (small[:, 1:] > small[:, :-1]).reshape(-1)
    return np.packbits(bits).tobytes().hex()


def rules_config(rules: ImageRules) -> dict[str, Any]:
    """The rules as plain values, the user's function as the hash of its file."""
    config = asdict(rules)
    if rules.accept:
        path, _, function = rules.accept.rpartition(":")
        config["accept"] = [function, hashlib.sha256(Path(path).read_bytes()).hexdigest()]
    return config


def _undecoded(found: ImageCandidate) -> Inspection:
    """What is known of a picture before it is read: that it cannot be, where that is known."""
    if found.reason:
        return Inspection().failed(found.reason, found.detail)
    if max(found.bytes, found.length) > files.MAX_BYTES:
        detail = f"{found.uri}: has {found.bytes:,} bytes, over the limit of {files.MAX_BYTES:,}"
        return Inspection().failed("too_large", detail)
    return Inspection()


def _killer(found: ImageCandidate, reason: str) -> Inspection:
    """Of a picture that kills whoever decodes it: its bytes are read, nothing more."""
    facts = _undecoded(found).failed(reason, f"{found.uri}: kills its reader")
    try:
        return replace(facts, sha256=hashlib.sha256(files.bytes_or_no_answer(found.ref())).hexdigest())
    except pixels.BadImage:
        return facts
