"""An evaluation: ask a model or any callable for every item of a data set, write its answers, score the file.

Knows no model's internals: what has `predict` is called through it, anything else is called with (sample, ask) pairs.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any, Protocol, Union, runtime_checkable

from florence2 import arguments, sources
from florence2.atomic_files import write_atomic
from florence2.codec.tasks import Task, task_of
from florence2.evaluation import predictions as files
from florence2.evaluation.comparison import pictures_key
from florence2.evaluation.diagnostics import diagnostics, unknown_labels
from florence2.evaluation.eval_items import EvalItem, ItemKey, ask_key, check_keys, eval_items_of
from florence2.evaluation.metric_specs import metric_spec_of
from florence2.evaluation.score import POLICY, Scored, bootstrap, finite, score
from florence2.records import Ask, Failure, Parsed, Result, Sample
from florence2.sources.image_pixels import GREY
from florence2.structuring import parse_json

Answerer = Callable[[list[tuple[Sample, Ask]]], Sequence[Result]]


@runtime_checkable
class Predictor(Protocol):
    """What `florence2.load` returns, as far as an evaluation asks it."""

    @property
    def predict_many(self) -> Callable[..., Iterator[Any]]: ...


Model = Union[Predictor, Answerer]
BATCH = 8

log = logging.getLogger(__name__)


def evaluate(
    model: Model | None,
    data: str | os.PathLike[str] | Sequence[Sample],
    task: str,
    out: str | os.PathLike[str],
    *,
    split: str | None = None,
    format: str | None = None,
    images: str | os.PathLike[str] | None = None,
    predictions: str | os.PathLike[str] | None = None,
    limit: int | None = None,
    batch_size: int = BATCH,
    grey: bool = True,
    resamples: int | None = None,
    seed: int = 0,
    decoding: Mapping[str, object] | None = None,
    progress: Callable[[int, int], None] | None = None,
    tasks: Mapping[str, Task] | None = None,
    **facts: object,
) -> dict[str, Any]:
    """The scores of `model` on `data`, written to OUT/scores.json beside OUT/predictions.jsonl.

    `model` is what `florence2.load` returns, or a callable from a list of (Sample, Ask) to as many Parsed or Failure.
    The same call again goes on where it stopped. With `predictions`, that file is scored and no model is asked. The
    blank-image baseline (the same asks about a grey picture: what the picture adds) goes to
    OUT/predictions_grey.jsonl. `decoding` goes to the model's `predict`; `task` is looked up in `tasks`,
    else in the model's own table; `facts` are kept in scores.json as it is.
    """
    table = getattr(model, "tasks", None) if tasks is None else tasks
    row = task_of(task, table)
    folder = Path(arguments.path("out", out))
    where = os.fspath(data) if isinstance(data, (str, os.PathLike)) else ""
    everything = _samples(data, format, images, limit if split is None else None, table)
    samples = [s for s in everything if split is None or sources.in_split(s, split)][: _limit(limit)]
    items = eval_items_of(samples, row)
    if not items:
        what = f"split {split!r} of {len(everything)} samples" if split else f"{len(samples)} samples"
        raise ValueError(f"{where or 'data'}: {what} hold no truth for {row.name}")
    check_keys(items, where or "data")
    file, blank = folder / "predictions.jsonl" if predictions is None else Path(predictions), None
    if predictions is None:
        decoding = dict(decoding or {})
        answerer = _answerer(model, batch_size, decoding)
        run_of = {"task": row.name, "data": where, "split": split or "", "model": facts.get("model_name", "")}
        run_of |= {"identity": getattr(model, "identity", ""), "decoding": decoding}
        _same_run(folder / "run.json", run_of)
        _ask_all(answerer, items, file, batch_size, progress)
        if grey:
            blank_file = folder / "predictions_grey.jsonl"
            _ask_all(_once_for_all(answerer), [_blank_item(q) for q in items], blank_file, batch_size, None)
            blank = files.read(blank_file, items)
    found = files.read(file, items, everything)
    spec = metric_spec_of(row)
    run = Scored(spec, items, found)
    resampled = bootstrap(run, resamples, seed)
    if blank is None:
        scores = score(run, found, resampled)
    else:
        baseline = Scored(spec, items, blank)
        scores = score(run, found, resampled, baseline, bootstrap(baseline, resamples, seed))
    strange = unknown_labels(row, everything, items, found)
    _name_faults(items, found, strange)
    source = {"data": where} if where else {}
    report = {"task": row.name, **source, "split": split or "", **scores, **facts}
    report |= {"unknown_labels": strange, "policy": POLICY}
    _save(folder / "details.json", finite(diagnostics(run, items, found)))
    _save(folder / "resamples.json", {"key": pictures_key(row.name, run.pictures, seed), "scores": finite(resampled)})
    _save(folder / "scores.json", finite(report))
    return report


def _name_faults(items: Sequence[EvalItem], found: Mapping[ItemKey, Result], strange: Mapping[str, int]) -> None:
    """Log what counts as an empty or a wrong answer without being scored."""
    for item in items:
        result = found.get(item.key)
        if not isinstance(result, Parsed):
            why = f"{result.reason} {result.detail}".strip() if result else "missing"
            log.warning("%s %s: %s; counted as an empty answer", item.image, item.ask.text[:60], why)
    if strange:
        some = ", ".join(f"{label!r} ({count})" for label, count in list(strange.items())[:8])
        log.warning("%d regions bear a label that is no category of the data: %s", sum(strange.values()), some)


def _samples(
    data: str | os.PathLike[str] | Sequence[Sample],
    format: str | None,
    images: str | os.PathLike[str] | None,
    limit: int | None,
    tasks: Mapping[str, Task] | None,
) -> list[Sample]:
    if isinstance(data, (str, os.PathLike)):
        folder = None if images is None else os.fspath(images)
        return list(sources.open(os.fspath(data), format=format, images=folder, limit=limit, tasks=tasks))
    return list(data)[: _limit(limit)]


def _limit(limit: int | None) -> int | None:
    return None if limit is None else arguments.whole("limit", limit, least=0)


def _ask_all(
    answerer: Answerer,
    items: Sequence[EvalItem],
    file: Path,
    batch_size: int,
    progress: Callable[[int, int], None] | None,
) -> None:
    """Answers to all items that the file does not hold yet, a batch at a time."""
    with files.Predictions(file) as out:
        left = [item for item in items if item.key not in out.keys]
        done = len(items) - len(left)
        for start in range(0, len(left), batch_size):
            batch = left[start : start + batch_size]
            results = list(answerer([(item.sample, item.ask) for item in batch]))
            if len(results) != len(batch):
                raise ValueError(f"model: expected {len(batch)} results for {len(batch)} asks, got {len(results)}")
            wrong = [type(result).__name__ for result in results if not isinstance(result, (Parsed, Failure))]
            if wrong:
                raise ValueError(f"model: expected a Parsed or a Failure for each ask, got {wrong[0]}")
            for item, result in zip(batch, results):
                out.write(item, result)
            done += len(batch)
            if progress is not None:
                progress(done, len(items))


def _blank_item(item: EvalItem) -> EvalItem:
    """The item about a grey picture of the same size, under the same name, so that it is matched alike."""
    width, height = item.sample.image.size_wh
    if not width or not height:
        width, height = 640, 480
    image = replace(item.sample.image, uri=f"{GREY}{width}x{height}", member="", offset=-1, length=-1, sha256="")
    return replace(item, sample=replace(item.sample, image=image))


def _once_for_all(answerer: Answerer) -> Answerer:
    """Equal asks about grey pictures of equal size have one answer: it is asked for once."""
    known: dict[ItemKey, Result] = {}

    def answer(pairs: list[tuple[Sample, Ask]]) -> list[Result]:
        new: dict[ItemKey, tuple[Sample, Ask]] = {}
        for sample, ask in pairs:
            key = (sample.image.uri, ask_key(ask))
            if key not in known:
                new.setdefault(key, (sample, ask))
        known.update(zip(new, answerer(list(new.values())) if new else ()))
        return [known[sample.image.uri, ask_key(ask)] for sample, ask in pairs]

    return answer


# ---- models -----------------------------------------------------------------------------------------------------


def _answerer(model: Model | None, batch_size: int, decoding: Mapping[str, object]) -> Answerer:
    batch_size = arguments.whole("batch_size", batch_size, least=1)
    if isinstance(model, Predictor):
        predictor = model
        return lambda pairs: list(_predicted(predictor, pairs, batch_size, decoding))
    if callable(model):
        return model
    raise ValueError(f"model: expected what florence2.load returns or a callable, got {type(model).__name__}")


def _predicted(
    model: Predictor, pairs: Sequence[tuple[Sample, Ask]], batch_size: int, decoding: Mapping[str, object]
) -> Iterator[Result]:
    """A model's answers: a picture is encoded once for its adjacent asks, all in one batch."""
    runs = [list(run) for _, run in groupby(pairs, key=lambda pair: (pair[0].image.id, pair[0].image.uri))]
    turns = [(run[0][0].image, [ask for _, ask in run]) for run in runs]
    for (_, asks), found in zip(turns, model.predict_many(turns, batch_size=batch_size, **decoding)):
        yield from [found] * len(asks) if isinstance(found, Failure) else found


def _same_run(file: Path, run: dict[str, Any]) -> None:
    """Note what the folder's predictions are of; refuse to go on with another model's or another set's."""
    if not file.is_file():
        _save(file, run)
        return
    try:
        before = parse_json(file.read_text(encoding="utf-8"))
    except ValueError:
        raise ValueError(f"{file}: not JSON; name another folder for this run") from None
    for key, value in run.items():
        if before.get(key, value) != value and key == "identity":
            raise ValueError(
                f"{file.parent}: the model has changed since its predictions; name another folder, or remove it"
            )
        if before.get(key, value) != value:
            raise ValueError(
                f"{file.parent}: holds the predictions of another run ({key} {before[key]!r}, not {value!r}); "
                "name another folder, or remove it"
            )


def _save(file: Path, report: dict[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(file, json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
