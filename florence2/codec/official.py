"""Generated text to the official dictionaries, their faults included, in linear time.

`style="transformers"` is what transformers' native processor answers (coordinates truncated to int); it is tested
against that processor. `style="microsoft"` is what the remote code answers since July 2024 (floats); where the two
differ beyond that, the remote side was taken from reading it, without running it, and is marked [read].

The official code searches with regular expressions that take quadratic time on long runs. What each finds is documented
here beside the scan that finds the same. Our own answers (answers.py) share none of this: docs/codec.md lists what
differs.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from florence2 import arguments
from florence2.codec.locations import bin_widths
from florence2.codec.tasks import TASKS, Task
from florence2.codec.tokenizer import Tokenizer

STYLES = ("microsoft", "transformers")
KINDS = {  # our answer kinds -> the official names
    "text": "pure_text",
    "quads": "ocr",
    "labelled_boxes": "description_with_bboxes",
    "boxes": "bboxes",
    "phrases": "phrase_grounding",
    "polygons": "polygons",
    "open_boxes": "description_with_bboxes_or_polygons",
    "region_text": "pure_text",
}
BANNED_PHRASES = frozenset(
    "it,I,me,mine,you,your,yours,he,him,his,she,her,hers,they,them,their,theirs,one,oneself,we,us,our,ours,its,myself,"
    "yourself,himself,herself,itself,ourselves,yourselves,themselves,this,that,these,those,who,whom,whose,which,what,"
    "all,another,any,anybody,anyone,anything,each,everybody,everyone,everything,few,many,nobody,none,several,some,"
    "somebody,someone,something,each other,one another,the image,image,images,the,a,an,a group,other objects,lots,"
    "a set".split(",")
)

_LOCATION = re.compile(r"<loc_(\d+)>")
_MARK = re.compile(r"<loc_\d+>|<sep>|<poly>|</poly>")
_LOCATIONS = re.compile(rf"(?:{_LOCATION.pattern})+")
_MARKS = re.compile(rf"(?:{_MARK.pattern})+")
_LETTERS = re.compile(r"[^<]+")


def official(text: str, task: Task | str, size_wh: tuple[int, int], style: str = "microsoft") -> dict[str, Any]:
    """{task: answer} of a text as generated, special tokens in; a task that is not official answers plain text."""
    if style not in STYLES:
        raise ValueError(f"style: expected one of {', '.join(STYLES)}, got {style!r}")
    text = arguments.text("text", text)
    token = task.token if isinstance(task, Task) else arguments.text("task", task)
    token = token if token.startswith("<") or not token else f"<{token}>"
    kind = KINDS[TASKS[token].output_kind] if token in TASKS else "pure_text"
    native = style == "transformers"
    if kind == "pure_text":
        plain = text.replace("<s>", "").replace("</s>", "")
        return {token: plain.strip() if native else plain}
    if kind == "ocr":
        return {token: _ocr(text, size_wh, native)}
    if kind == "polygons":
        return {token: dict(zip(("polygons", "labels"), _columns(_polygons(text, size_wh, native, phrase=False))))}
    if kind == "phrase_grounding":
        rows = [row for phrase, row in _boxes(text, size_wh, native) if phrase not in BANNED_PHRASES]
        return {token: dict(zip(("bboxes", "labels"), _columns(rows)))}
    if kind == "description_with_bboxes_or_polygons":
        outlined = "<poly>" in text
        polygons = _polygons(text, size_wh, native, phrase=True) if outlined else []
        boxes = [] if outlined else [row for _, row in _boxes(text, size_wh, native)]
        names = ("bboxes", "bboxes_labels", "polygons", "polygons_labels")
        return {token: dict(zip(names, (*_columns(boxes), *_columns(polygons))))}
    boxes = [row for _, row in _boxes(text, size_wh, native, phrase=kind != "bboxes")]
    return {token: dict(zip(("bboxes", "labels"), _columns(boxes)))}


def avg_loc_scores(text: str, spans: Sequence[tuple[int, int]], log_probabilities: Sequence[float]) -> list[float]:
    """The remote code's score of each box of detection [read]: exp of the mean log-probability of its four locations.

    `text` is generated text without the decoder's start id, `spans` the (start, end) of each id in it
    (`decode_with_spans`). The fault is kept: one leading `<s>` is reckoned with, further ones shift which ids are
    taken.
    """
    if len(spans) != len(log_probabilities):
        raise ValueError(f"log_probabilities: expected one an id, {len(spans)}, got {len(log_probabilities)}")
    starts, ends = [start for start, _ in spans], [end for _, end in spans]
    offset = 3 if text.startswith("<s>") else 0
    scores = []
    cleaned = _cleaned(text)
    for start, middle, end in _runs(cleaned, _LOCATIONS, phrase=True):
        if "\n" not in cleaned[start:middle].lstrip():
            places = [match.span() for match in _LOCATION.finditer(cleaned, middle, end)]
            for first in range(0, len(places) - 3, 4):
                here = offset - start + places[first][0], offset - start + places[first + 3][1]
                taken = log_probabilities[bisect_right(ends, here[0]) : bisect_left(starts, here[1])]
                scores.append(math.exp(sum(taken) / len(taken)) if taken else math.nan)
        offset += end - start
    return scores


def decode_with_spans(ids: Sequence[int], tokenizer: Tokenizer) -> tuple[str, list[tuple[int, int]]]:
    """The text of ids decoded one by one, as the official code does it, and the (start, end) of each id in it.

    A letter that takes several ids becomes several U+FFFD.
    """
    pieces = [tokenizer.decode([index]) for index in ids]
    ends = np.cumsum([len(piece) for piece in pieces]).tolist()
    return "".join(pieces), [(end - len(piece), end) for piece, end in zip(pieces, ends)]


# ---- scans ------------------------------------------------------------------------------------------------------


def _cleaned(text: str) -> str:
    return text.replace("<s>", "").replace("</s>", "").replace("<pad>", "")


def _runs(text: str, marks: re.Pattern[str], phrase: bool) -> Iterator[tuple[int, int, int]]:
    r"""(start, start of the marks, end) of what `([^<]+(?:MARK){4,})`, or without a phrase `(?:MARK){4,}`, finds.

    A run of letters is taken whole or not at all, for only its end comes before a `<`; so one try a run is enough.
    A broken mark leaves its letters: in `<loc_3>cat<loc_1>..` the run is `loc_3>cat`.
    """
    position = 0
    while found := (_LETTERS if phrase else marks).search(text, position):
        position = found.end()
        run = marks.match(text, position) if phrase else found
        if run and sum(1 for _ in zip(range(4), _MARK.finditer(run.group()))) == 4:
            yield found.start(), run.start(), run.end()
            position = run.end()


def _boxes(
    text: str, size_wh: tuple[int, int], native: bool, phrase: bool = True
) -> list[tuple[str, tuple[list[float], str]]]:
    r"""(phrase, (box, label)) of each box; the label is the phrase without its non-ASCII letters.

    The phrase is `^\s*(.*?)(?=<loc_|..)`: a line break in it, but for leading ones, drops it with its boxes.
    """
    rows: list[tuple[str, tuple[list[float], str]]] = []
    text = _cleaned(text)
    for start, middle, end in _runs(text, _LOCATIONS, phrase):
        letters = text[start:middle]
        if "\n" in letters.lstrip():
            continue
        phrase_text = letters.strip()
        label = phrase_text.encode("ascii", "ignore").decode("ascii")
        values = _pixels(_LOCATION.findall(text, middle, end), size_wh, native)
        rows.extend((phrase_text, (values[i : i + 4], label)) for i in range(0, len(values) - 3, 4))
    return rows


def _ocr(text: str, size_wh: tuple[int, int], native: bool) -> dict[str, list[Any]]:
    r"""What `(.+?)` and eight locations find: from the first possible letter of a line up to the first eight locations.

    The label may itself hold locations. The remote code leaves `</s>` and `<pad>` in and strips nothing [read].
    """
    text = _cleaned(text) if native else text.replace("<s>", "")
    places = [(match.start(), match.end(), match.group(1)) for match in _LOCATION.finditer(text)]
    following = [1] * len(places)  # how many locations are adjacent from each on
    for index in range(len(places) - 2, -1, -1):
        if places[index][1] == places[index + 1][0]:
            following[index] += following[index + 1]
    quads, labels = [], []
    position = index = 0
    while index < len(places):
        start = places[index][0]
        if start <= position or following[index] < 8:
            index += 1
            continue
        line = text.rfind("\n", position, start)
        if line >= 0:  # no dot crosses it: the label starts behind it
            position = line + 1
            continue
        label = text[position:start]
        quads.append(_pixels([digits for _, _, digits in places[index : index + 8]], size_wh, native))
        labels.append(label.strip() if native else label)
        position = places[index + 7][1]
        index += 8
    return {"quad_boxes": quads, "labels": labels}


def _polygons(text: str, size_wh: tuple[int, int], native: bool, phrase: bool) -> list[tuple[list[list[float]], str]]:
    """(polygons, label) of each instance; polygons' labels keep their non-ASCII letters."""
    rows: list[tuple[list[list[float]], str]] = []
    text = _cleaned(text)
    for start, _, end in _runs(text, _MARKS, phrase):
        found = text[start:end]
        label = _polygon_label(found, native)
        if label is None:
            continue
        whole = "<poly>" not in found or "</poly>" not in found
        for instance in [found] if whole else _wrapped(found):
            parts = [_pixels(run, size_wh, native) for run in _parts(instance)]
            if parts:
                rows.append((parts, label))
    return rows


def _polygon_label(found: str, native: bool) -> str | None:
    r"""What `^\s*(.*?)(?=<loc_|<poly>|..)` says of the match without its first location; None drops the match.

    Native removes `^<loc_\d+>`, which only a match without letters begins with; the remote code `^loc_\d+>`, which only
    a broken location does [read].
    """
    found = re.sub(r"^<loc_\d+>" if native else r"^loc_\d+>", "", found, count=1)
    stop = re.search("<loc_|<poly>", found)
    if stop is None:
        return None
    letters = found[: stop.start()]
    return None if "\n" in letters.lstrip() else letters.strip()


def _wrapped(found: str) -> Iterator[str]:
    """What `<poly>(.*?)</poly>` finds."""
    position = 0
    while (start := found.find("<poly>", position)) >= 0 and (end := found.find("</poly>", start)) >= 0:
        yield found[start + 6 : end]
        position = end + 7


def _parts(instance: str) -> Iterator[list[str]]:
    """What `((?:<loc_N>)+)(?:<sep>|$)` finds, as digits, an odd last one dropped; other runs are lost."""
    for run in _LOCATIONS.finditer(instance):
        if run.end() == len(instance) or instance.startswith("<sep>", run.end()):
            digits = _LOCATION.findall(run.group())
            yield digits[: len(digits) // 2 * 2]


def _pixels(digits: Sequence[str], size_wh: tuple[int, int], native: bool) -> list[float]:
    """Flat x, y pixels of bins as the model spelt them, beyond 999 too: floats, or ints truncated toward zero."""
    bins = np.array([int(d) if len(d) < 19 else 10**18 for d in digits], dtype=np.float32)
    paired = bins[: len(bins) // 2 * 2].reshape(-1, 2)
    values = ((paired + np.float32(0.5)) * bin_widths(size_wh)).ravel()
    return [int(value) for value in values.tolist()] if native else values.tolist()


def _columns(rows: Sequence[tuple[Any, str]]) -> tuple[list[Any], list[str]]:
    return [row[0] for row in rows], [row[1] for row in rows]
