"""A picture and its truth moved together: a window of it (crop, or a larger ground), and its mirror image.

A window is in whole pixels of the upright picture, so that moving a drawing and drawing what was moved are the same.
What is asked about a picture decides which moves leave it true (`allowed`); what a window cuts away is dropped or
clipped (`moved`). The words left and right change places in a mirror image. Knows no model.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from florence2 import geometry
from florence2.formats.problems import LostObjects, ReadProblems
from florence2.records import CAPTION_DETAILS, Box, Grounding, Polygon, Region, Sample, Text
from florence2.training.examples import TaskMixture

GREY = 128
TRIES = 10  # windows drawn before the picture is left whole
LEAST = 8  # pixels of a window's side

SIDES = re.compile(r"\b(left|right)(most|wards?|[- ]?hand(?:ed)?)?\b", re.IGNORECASE)
OTHER_SENSE = re.compile(  # left and right that are no sides, and turns that a mirror reverses
    r"\b(?:(?:counter|anti)?-?clockwise|(?:all|that's|is) right|human rights?"
    r"|left[- ]?(?:over|overs|behind|alone|open|out|unattended)"
    r"|right (?:now|away|after|before|behind|next|angles?|angled|triangle|in|under|above|over|at|here|there|up|down|by"
    r"|beside|through|into|where|when|answer|of way)"
    r"|(?:is|are|was|were|be|been|has|have|had|he|she|they|who|it|just|nothing|one|some|any|much) left"
    r"(?! of| side| hand))\b",
    re.IGNORECASE,
)
PLACES = re.compile(  # of the whole picture, or by comparison: a window makes them false
    r"\b(?:left|right|top|bottom|upper|lower|middle|cent(?:er|re)|corner|edge|side|side by side|foreground|background"
    r"|small|large|big|tiny|huge|giant|little|tall|short|wide|close-?up|\w+most|\w+est|\w+er than|first|second|third"
    r"|smaller|larger|bigger|taller|shorter|longer|wider|nearer|closer|farther|further|higher"
    r"|fourth|fifth|last|only|entire|whole|full|half)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class MoveSettings:
    """How often and how far. `keep`: the share of an object that a window has to leave for it to stay in the truth."""

    flip: float = 0.0
    crop: float = 0.0
    scale: tuple[float, float] = (0.6, 1.3)
    keep: float = 0.4

    @property
    def any(self) -> bool:
        return bool(self.flip or self.crop)


@dataclass(frozen=True)
class Move:
    """The window x1, y1, x2, y2 of a picture of `size_wh`, beyond whose edges it is grey; then mirrored or not."""

    size_wh: tuple[int, int]
    window: tuple[int, int, int, int]
    mirrored: bool = False

    @property
    def moved_wh(self) -> tuple[int, int]:
        x1, y1, x2, y2 = self.window
        return x2 - x1, y2 - y1

    def pixels(self, array: np.ndarray) -> np.ndarray:
        """The window of an (H, W, ...) array, GREY where the picture ends (of a mask false)."""
        width, height = self.size_wh
        x1, y1, x2, y2 = self.window
        ground = False if array.dtype == bool else GREY
        out = np.full((y2 - y1, x2 - x1, *array.shape[2:]), ground, array.dtype)
        left, top, right, bottom = max(0, x1), max(0, y1), min(width, x2), min(height, y2)
        out[top - y1 : bottom - y1, left - x1 : right - x1] = array[top:bottom, left:right]
        return np.ascontiguousarray(out[:, ::-1]) if self.mirrored else out

    def points(self, flat: Sequence[float]) -> Polygon:
        """Flat x, y of the picture as those of what was moved."""
        x1, y1, x2, _ = self.window
        xs = [x2 - x if self.mirrored else x - x1 for x in flat[0::2]]
        return tuple(float(value) for pair in zip(xs, (y - y1 for y in flat[1::2])) for value in pair)

    def box(self, box: Box) -> Box:
        """A box of the picture as that of what was moved, clipped to it."""
        a, b, c, d = self.points(box)
        width, height = self.moved_wh
        left, right = sorted((min(max(a, 0.0), width), min(max(c, 0.0), width)))
        return left, min(max(b, 0.0), height), right, min(max(d, 0.0), height)


# ---- which moves leave the truth true ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Allowed:
    """What may be done to a picture, by what is asked about it."""

    flip: bool = True
    cut: bool = True
    """A window may leave something out; else it may only put the picture on a larger ground."""
    window: bool = True
    lines: tuple[Box, ...] = ()
    """Lines of text that are read: a window leaves none of them out."""


NOTHING = Allowed(False, False, False)


def allowed(sample: Sample, tasks: TaskMixture, letters: bool = False) -> Allowed:
    """The moves that leave every answer of these tasks true; `letters`: those in the picture are trained on as well.

    Answers to questions, and rows of prompts and answers: none, as nobody knows what they are about. Text that is read:
    no mirror image, and no line left out. Captions: nothing left out. Words of place or size: no window. Left and right
    in another sense: no mirror image.
    """
    truths = tasks.truths(sample)
    texts = [text for _, _, parsed in truths for text in parsed.texts]
    if any(text.detail not in (*CAPTION_DETAILS, "ocr") for text in texts):
        return NOTHING
    regions = [region for _, _, parsed in truths for region in parsed.regions]
    words = [text.text for text in texts] + [ask.text for _, ask, _ in truths]
    words += [g.phrase for _, _, parsed in truths for g in parsed.groundings]
    words += [word for region in regions if region.kind != "text" for word in (region.label, region.description)]
    read = [r for r in sample.current().regions if r.kind == "text"] if letters else []
    read += [region for region in regions if region.kind == "text"]
    whole = any(text.detail == "ocr" for text in texts)
    captions = any(text.detail in CAPTION_DETAILS for text in texts) or any(ask.text_id for _, ask, _ in truths)
    boxes = tuple(box for region in read if (box := geometry.region_box(region)) is not None)
    return Allowed(
        flip=not read and not whole and not any(map(OTHER_SENSE.search, words)),
        cut=not captions and (not whole or bool(boxes)),
        window=not any(map(PLACES.search, words)),
        lines=boxes,
    )


def drawn_move(sample: Sample, may: Allowed, settings: MoveSettings, rng: random.Random) -> Move | None:
    """A move of a sample whose size is known; None where it stays as it is."""
    width, height = sample.image.size_wh
    whole = (0, 0, width, height)
    mirrored = rng.random() < settings.flip and may.flip
    window = whole
    if rng.random() < settings.crop and may.window:
        boxes = [box for region in sample.current().regions if (box := geometry.region_box(region)) is not None]
        for _ in range(TRIES):
            tried = _window(width, height, settings.scale, may.cut, rng)
            lost = any(_share(line, tried) < 1 for line in may.lines)
            if not lost and (not boxes or any(_share(box, tried) >= settings.keep for box in boxes)):
                window = tried
                break
    return Move((width, height), window, mirrored) if mirrored or window != whole else None


def _window(
    width: int, height: int, scale: tuple[float, float], cut: bool, rng: random.Random
) -> tuple[int, int, int, int]:
    """A window of the picture's form, its side that share of the picture's, anywhere within it (or around it)."""
    low, high = scale
    if not cut:
        low = max(1.0, low)
    share = float(np.exp(rng.uniform(np.log(low), np.log(max(low, high)))))
    w, h = max(LEAST, round(share * width)), max(LEAST, round(share * height))
    x, y = (rng.randint(min(0, size - side), max(0, size - side)) for size, side in ((width, w), (height, h)))
    return x, y, x + w, y + h


def _share(box: Box, window: Sequence[int]) -> float:
    """The share of a box's area within a window; of one without an area, whether it is there."""
    x1, y1, x2, y2 = box
    left, top, right, bottom = max(x1, window[0]), max(y1, window[1]), min(x2, window[2]), min(y2, window[3])
    if right < left or bottom < top:
        return 0.0
    area = (x2 - x1) * (y2 - y1)
    return (right - left) * (bottom - top) / area if area > 0 else 1.0


# ---- the truth, moved --------------------------------------------------------------------------------------------


def moved(sample: Sample, move: Move, keep: float) -> Sample:
    """What is kept of a sample, as the moved picture shows it.

    A region of which a window leaves less than `keep` is dropped, with every phrase that names it, and its label is no
    longer listed wholly if some of it can still be seen; of others the box, polygons and mask are clipped. A line of
    text is kept whole or dropped. A text stays: `allowed` decides whether it may.
    """
    sample = sample.current()
    regions: list[Region] = []
    gone: set[str] = set()
    coverage = dict(sample.coverage)
    for region in sample.regions:
        box = geometry.region_box(region)
        share = 1.0 if box is None else _share(box, move.window)
        found = None if share < (1.0 if region.kind == "text" else keep) else _region(region, box, share, move)
        if found is not None:
            regions.append(found)
            continue
        gone.add(region.id)
        if share > 0:
            lost = LostObjects(ReadProblems())
            lost.add(region.label)
            space = "text" if region.kind == "text" else region.label_space
            coverage = lost.withdraw(coverage, space, [r for r in sample.regions if r.id not in gone])
    texts, groundings = _words(sample, gone, move.mirrored)
    width, height = move.moved_wh
    return replace(
        sample,
        image=replace(sample.image, width=width, height=height),
        regions=tuple(regions),
        texts=texts,
        groundings=groundings,
        coverage=coverage,
    )


def _region(region: Region, box: Box | None, share: float, move: Move) -> Region | None:
    """A region where it now is, clipped; None where none of its outline is left."""
    polygons, mask, quad = region.polygons, region.mask, region.quad
    if polygons:
        cut = [clipped(part, move.window) for part in polygons]
        polygons = tuple(move.points(part) for part in cut if len(part) >= 6)
        if not polygons:
            return None
    if mask is not None:
        inside = move.pixels(geometry.decode_rle(mask))
        if not inside.any():
            return None
        mask = geometry.encode_rle(inside)
    if quad:
        quad = move.points(quad)
        if move.mirrored:
            quad = (*quad[2:4], *quad[0:2], *quad[6:8], *quad[4:6])  # from its new top left, clockwise
    if region.box is not None and box is not None:
        box = move.box(box)
        outline = geometry.polygon_box(*polygons) if polygons else mask and geometry.rle_box(mask)
        if share < 1 and outline:  # what is left of it may not reach as far as the clipped box
            box = max(box[0], outline[0]), max(box[1], outline[1]), min(box[2], outline[2]), min(box[3], outline[3])
    label, description = region.label, region.description
    if move.mirrored and region.kind != "text":
        label, description = mirrored(label)[0], mirrored(description)[0]
    return replace(
        region, box=box if region.box is not None else None, polygons=polygons, mask=mask, quad=quad, label=label,
        description=description,
    )  # fmt: skip


def clipped(polygon: Sequence[float], window: Sequence[float]) -> Polygon:
    """The part of a ring within a window (Sutherland and Hodgman); its parts are joined along the window's edge."""
    ring = list(zip(polygon[0::2], polygon[1::2]))
    for axis, edge, sign in ((0, window[0], 1), (0, window[2], -1), (1, window[1], 1), (1, window[3], -1)):
        kept: list[tuple[float, float]] = []
        for number, point in enumerate(ring):
            before = ring[number - 1]
            inside, was = sign * (point[axis] - edge), sign * (before[axis] - edge)
            if (inside > 0 > was) or (inside < 0 < was):
                t = was / (was - inside)
                kept.append((before[0] + (point[0] - before[0]) * t, before[1] + (point[1] - before[1]) * t))
            if inside >= 0:
                kept.append(point)
        ring = kept
    flat = tuple(float(value) for point in ring for value in point)
    return flat if len(flat) >= 6 and geometry.polygon_area(flat) > 0 else ()


def _words(sample: Sample, gone: Iterable[str], in_mirror: bool) -> tuple[tuple[Text, ...], tuple[Grounding, ...]]:
    """Texts and phrases, sides exchanged in a mirror image; a phrase of which a region is gone goes too."""
    gone = set(gone)
    groundings = [g for g in sample.groundings if not gone.intersection(g.region_ids)]
    if not in_mirror:
        return sample.texts, tuple(groundings)
    texts: dict[str, Callable[[int], int]] = {}
    out = []
    for text in sample.texts:
        words, place = (text.text, None) if text.detail == "ocr" else mirrored(text.text)
        texts[text.id] = place or (lambda index: index)
        out.append(replace(text, text=words, question=mirrored(text.question)[0]))
    phrases = [
        replace(
            g,
            phrase=mirrored(g.phrase)[0],
            spans=tuple(
                (texts[g.text_id](a), texts[g.text_id](b)) if g.text_id in texts else (a, b) for a, b in g.spans
            ),
        )
        for g in groundings
    ]
    return tuple(out), tuple(phrases)


def mirrored(text: str) -> tuple[str, Callable[[int], int]]:
    """The text with left and right exchanged, and where a place of the old text is in the new one."""
    shifts: list[tuple[int, int]] = []  # (end in the old text, characters that it moved by so far)
    total = 0

    def other(found: re.Match[str]) -> str:
        nonlocal total
        word = found[1]
        new = "right" if word.lower() == "left" else "left"
        new = new.upper() if word.isupper() else new.capitalize() if word[0].isupper() else new
        total += len(new) - len(word)
        shifts.append((found.end(1), total))
        return new + (found[2] or "")

    words = SIDES.sub(other, text)

    def place(index: int) -> int:
        return index + max(((end, moved_by) for end, moved_by in shifts if end <= index), default=(0, 0))[1]

    return words, place
