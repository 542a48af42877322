"""What a call of `predict` asks and how it is to be decoded, checked: every contradiction is refused here, in one line.

Knows tasks and a model's config; no pixels, no weights.
"""

from __future__ import annotations

import dataclasses
import math
import numbers
import os
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any, TypedDict, Union

from florence2 import arguments
from florence2.codec.label_trie import label_names
from florence2.codec.tasks import Task, ask_of, check_corners, prompt_text, task_of
from florence2.decoding.generate import Rules
from florence2.formats import label_names as label_files
from florence2.model.model_config import ModelConfig
from florence2.predictor import post_filters
from florence2.records import Ask

AskLike = Union[str, Ask]
Labels = Union[Iterable[str], str, "os.PathLike[str]"]
MAX_NEW_TOKENS = 1024
MAX_BEAMS = 64
MAX_TILES = 1024
MOST_MARGIN = 1e6  # nats; no logit is as far from another, and float32 holds what is taken off


@dataclass(frozen=True)
class Decoding:
    """How one call decodes: the search, the most tokens an answer may take, the grammar or the official rules; and the
    least score of what is kept."""

    rules: Rules
    budget: int
    by_grammar: bool
    filters: tuple[str, ...] = ()
    tiles: str | tuple[int, int] | None = None
    min_score: float = 0.0
    each_class: bool = True


class DecodingOptions(TypedDict, total=False):
    """What a call may say about how its answers are decoded; `decoding_of` checks it."""

    num_beams: int | None
    max_new_tokens: int | None
    official: bool | None
    grammar: bool | None
    filters: Iterable[str]
    tiles: str | tuple[int, int] | None
    min_score: float
    margin: float
    each_class: bool
    more_above: float | None


def asks_of(
    tasks: Mapping[str, Task],
    task: AskLike | Sequence[AskLike] | None,
    prompt: str | None = None,
    text: str | None = None,
    labels: Labels | None = None,
    region: Iterable[float] | None = None,
) -> tuple[list[Ask], bool]:
    """The asks of a call as records, and whether it gave a list; what no picture could mend is refused."""
    asks = _asks(tasks, task, prompt, text, labels, region)
    for ask in asks:
        prompt_text(ask, (1, 1), tasks)
    return asks, isinstance(task, (list, tuple))


def _asks(
    tasks: Mapping[str, Task],
    task: AskLike | Sequence[AskLike] | None,
    prompt: str | None,
    text: str | None,
    labels: Labels | None,
    region: Iterable[float] | None,
) -> list[Ask]:
    given = {"prompt": prompt, "text": text, "labels": labels, "region": region}
    named = [name for name, value in given.items() if value is not None]
    if isinstance(task, (list, tuple)):
        if named:
            raise ValueError(f"{named[0]}: goes with one task, not with a list; write Ask(task, {named[0]}=...) in it")
        if not task:
            raise ValueError("task: expected at least one ask, got an empty list")
        return [_ask(one, tasks) for one in task]
    if prompt is not None:
        others = ["task"] * (task is not None) + named[1:]
        if others:
            raise ValueError(f"prompt: is sent as written and goes with nothing else; drop prompt or {others[0]}")
        if not isinstance(prompt, str) or not prompt:
            raise ValueError(f"prompt: expected a text, got {prompt!r:.80}")
        return [ask_of(prompt, tasks)]
    if task is None:
        raise ValueError(f"task: expected one of {', '.join(tasks)}; or give prompt=")
    ask = _ask(task, tasks)
    for name in named:
        if getattr(ask, name):
            raise ValueError(f"{name}: given twice, in the ask and beside it; drop one")
    if text is not None:
        ask = dataclasses.replace(ask, text=arguments.text("text", text))
    if labels is not None:
        ask = dataclasses.replace(ask, labels=_labels(labels))
    if region is not None:
        ask = dataclasses.replace(ask, region=_region(region))
    return [ask]


def prompt_of(ask: Ask, size_wh: tuple[int, int], tasks: Mapping[str, Task]) -> str:
    """The prompt that is sent; a region must lie in the picture."""
    if ask.region and not ask.prompt:
        x, y = ask.region[0::2], ask.region[1::2]
        if max(x) <= 0 or max(y) <= 0 or min(x) >= size_wh[0] or min(y) >= size_wh[1]:
            raise ValueError(
                f"region: {tuple(ask.region)} lies outside the picture of {size_wh[0]} x {size_wh[1]} pixels; "
                "expected x1, y1, x2, y2 in pixels of the upright picture"
            )
    return prompt_text(ask, size_wh, tasks)


def decoding_of(
    config: ModelConfig,
    tasks: Mapping[str, Task],
    asks: Sequence[Ask],
    *,
    num_beams: int | None = None,
    max_new_tokens: int | None = None,
    official: bool | None = None,
    grammar: bool | None = None,
    filters: Iterable[str] = (),
    tiles: str | tuple[int, int] | None = None,
    min_score: float = 0.0,
    margin: float = 0.0,
    each_class: bool = True,
    more_above: float | None = None,
) -> Decoding:
    """How to decode: as the call says, else as the checkpoint does; labels and rules of the end ask for the grammar."""
    more_above = None if more_above is None else _number("more_above", more_above, 1.0)
    min_score, margin = _number("min_score", min_score, 1.0), min(_number("margin", margin, math.inf), MOST_MARGIN)
    kinds = [task_of(ask.task, tasks).output_kind for ask in asks]
    if official is not None and grammar is not None and bool(official) == bool(grammar):
        raise ValueError(f"official, grammar: one excludes the other, got both {bool(official)}; drop one")
    if any(ask.labels for ask in asks):
        if official or grammar is False:
            raise ValueError(
                "labels: only the grammar can hold an answer to them; drop labels, or official and grammar"
            )
        grammar = True
    for name, value in (("margin", margin or None), ("more_above", more_above)):
        if value is not None:
            if official or grammar is False:
                raise ValueError(
                    f"{name}: only answers under the grammar may go on past their end, got {value:g}; drop it"
                )
            grammar = True
    if grammar is None:
        grammar = not official if official is not None else config.rules == "grammar"
    limit = config.text.max_positions
    budget = min(MAX_NEW_TOKENS, limit) if max_new_tokens is None else arguments.whole("max_new_tokens", max_new_tokens)
    least = 2 if grammar else 1
    if not least <= budget <= limit:
        raise ValueError(
            f"max_new_tokens: expected {least} to {limit} (the model's positions), got {budget}; "
            "the leading <s> and the final </s> count"
        )
    beams = (1 if grammar else config.num_beams) if num_beams is None else arguments.whole("num_beams", num_beams)
    if beams < 1:
        raise ValueError(f"num_beams: expected at least 1, got {beams}")
    if beams > MAX_BEAMS:
        raise ValueError(f"num_beams: expected at most {MAX_BEAMS}, got {beams}; each beam is a whole answer in memory")
    rules = Rules(
        num_beams=beams,
        no_repeat_ngram_size=config.no_repeat_ngram_size,
        length_penalty=config.length_penalty,
        early_stopping=config.early_stopping,
        forced_bos=config.forced_bos_id,
        forced_eos=config.forced_eos_id,
        start=config.start_id,
        eos=config.eos_id,
        margin=margin,
        more_above=more_above,
    )
    chosen = post_filters.checked(filters, kinds)
    cut = _tiles(tiles, asks, tasks, official)
    if not isinstance(each_class, bool):
        raise ValueError(f"each_class: expected True or False, got {each_class!r:.40}")
    return Decoding(rules, budget, bool(grammar), chosen, cut, min_score, each_class)


def _tiles(
    tiles: object, asks: Sequence[Ask], tasks: Mapping[str, Task], official: bool | None
) -> str | tuple[int, int] | None:
    """How the picture is cut, refused where an ask's answers cannot be put together from parts of it."""
    if tiles is None or (isinstance(tiles, str) and tiles == "auto"):
        checked: str | tuple[int, int] | None = None if tiles is None else "auto"
    elif isinstance(tiles, (tuple, list)) and len(tiles) == 2:
        checked = (arguments.whole("tiles", tiles[0]), arguments.whole("tiles", tiles[1]))
    else:
        raise ValueError(f"tiles: expected 'auto' or (columns, rows), got {tiles!r:.60}")
    if isinstance(checked, tuple) and not (1 <= min(checked) and checked[0] * checked[1] <= MAX_TILES):
        raise ValueError(f"tiles: expected from 1 to {MAX_TILES} tiles in all, got {checked[0]} x {checked[1]}")
    if checked is not None and official:
        raise ValueError("tiles: the official rules know one picture at one size; drop tiles or official")
    for task in (task_of(ask.task, tasks) for ask in asks) if checked is not None else ():
        if task.output_kind not in post_filters.PLACED or task.input_kind == "region":
            raise ValueError(
                f"tiles: {task.name or 'a prompt'} answers about the whole picture or one region; leave tiles out"
            )
    return checked


def _ask(ask: object, tasks: Mapping[str, Task]) -> Ask:
    """A task's token or name (its text may follow, as the official processor takes it), or an Ask."""
    if isinstance(ask, Ask):
        ask = _checked(ask)
        if ask.prompt and not ask.task:
            return ask_of(ask.prompt, tasks)
        return dataclasses.replace(ask, task=task_of(ask.task, tasks).token)
    if not isinstance(ask, str) or not ask:
        raise ValueError(f"task: expected one of {', '.join(tasks)}, or an Ask; got {ask!r:.80}")
    name, bracket, rest = ask.partition(">")
    if rest and name + bracket in tasks:
        return Ask(task=name + bracket, text=rest.strip())
    return Ask(task=task_of(ask, tasks).token)


def _checked(ask: Ask) -> Ask:
    """The ask with a region and labels that may have been arrays as tuples."""
    for name in ("task", "text", "text_id", "prompt"):
        arguments.text(name, getattr(ask, name))
    return dataclasses.replace(
        ask,
        labels=_labels(ask.labels) if _given(ask.labels) else (),
        region=_region(ask.region) if _given(ask.region) else (),
    )


def _given(values: Any) -> bool:
    """Whether it is anything but an empty list."""
    try:
        return len(values) > 0
    except TypeError:
        return True


def _labels(labels: Labels) -> tuple[str, ...]:
    """The set of labels, of a list or of a file that names them."""
    if isinstance(labels, (str, os.PathLike)):
        if not os.path.isfile(labels):
            raise ValueError(
                f"labels: expected a list of names, or a file that is there ({label_files.EXPECTED[9:]}); "
                f"got {os.fspath(labels)!r:.100}"
            )
        return label_names(label_files.read(labels))
    if isinstance(labels, (bytes, Set, Mapping)) or not isinstance(labels, Iterable):  # class ids are places in it
        raise ValueError(f"labels: expected a list of names, in the order of their class ids, got {labels!r:.100}")
    return label_names(labels)


def _region(region: Iterable[float]) -> tuple[float, ...]:
    try:
        flat = tuple(float(value) for value in region)
    except (TypeError, ValueError):
        flat = ()
    if len(flat) < 4 or len(flat) % 2 or not all(map(math.isfinite, flat)):
        raise ValueError(f"region: expected (x1, y1, x2, y2) or a flat polygon in pixels, got {region!r:.100}")
    check_corners(flat)
    return flat


def _number(name: str, value: object, most: float) -> float:
    real = isinstance(value, numbers.Real) and not isinstance(value, bool)  # numpy's numbers too
    try:
        number = float(value) if real else math.nan  # type: ignore[arg-type]
    except OverflowError:  # a whole number beyond all floats
        number = math.inf
    if not 0 <= number <= most or math.isinf(number):
        wanted = f"a number from 0 to {most:g}" if most < math.inf else "a number from 0 up, in nats"
        raise ValueError(f"{name}: expected {wanted}, got {value!r:.40}")
    return number
