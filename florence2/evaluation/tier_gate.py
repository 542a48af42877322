"""Whether a quicker tier is worth using for a checkpoint: every task's metric beside float32's on the same data.

A tier is refused where the paired interval of a task's main metric reaches below -2 % of float32's value, or where it
picks the same token as float32 in under 99 % of places when both are given float32's own answers. Layers that hurt int8
most, found by measurement, stay in float32. What was decided lies beside the weights, in tiers.json.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from florence2 import arguments, sources
from florence2.atomic_files import write_atomic
from florence2.codec.tasks import Task, task_of
from florence2.evaluation.comparison import compare
from florence2.evaluation.eval_items import EvalItem, eval_items_of
from florence2.evaluation.metric_specs import ERRORS
from florence2.evaluation.run import evaluate
from florence2.model import tiers
from florence2.model.tensor_files import read_json
from florence2.predictor import checkpoints
from florence2.predictor.answer import Answer
from florence2.predictor.florence2 import Florence2, load
from florence2.predictor.prompted_model import PromptedModel
from florence2.records import Sample
from florence2.structuring import brief

WORST_LOSS = 0.02  # of float32's value of a metric
LEAST_AGREEMENT = 0.99
FORCED = 64  # answers that are compared token by token
PROBED = 8  # answers by which the groups of layers are ranked
TRIES = 3  # evaluations of int8, each with more layers in float32
EVALUATIONS = "gate"  # in OUT: what an interrupted run goes on from

OnLine = Callable[[str], None]


@dataclass
class Verdict:
    """A tier's figures: agreement of forced tokens, each task's main metric, and whether it may be used."""

    passed: bool
    why: str
    agreement: float
    tokens: int
    keep: list[str] = field(default_factory=list)
    """Groups of layers that stay in float32."""
    tasks: dict[str, dict[str, Any]] = field(default_factory=dict)


def quantize(
    source: str | os.PathLike[str],
    data: str,
    out: str | os.PathLike[str],
    *,
    tasks: Sequence[str] = (),
    split: str | None = None,
    format: str | None = None,
    limit: int | None = None,
    wanted: Sequence[str] = tiers.QUICKER_TIERS,
    resamples: int | None = None,
    report: OnLine = lambda line: None,
) -> dict[str, Verdict]:
    """Try the tiers of a checkpoint on `data`; OUT gets the checkpoint, tiers.json, and the evaluations under gate/.

    OUT is new or empty, or what an interrupted call left: the same call again goes on there.
    """
    folder = Path(arguments.path("out", out))
    _check_free(folder)
    wanted = list(dict.fromkeys(wanted))
    if not wanted or any(tier not in tiers.QUICKER_TIERS for tier in wanted):
        got = next((tier for tier in wanted if tier not in tiers.QUICKER_TIERS), None)
        raise ValueError(f"tiers: expected some of {', '.join(tiers.QUICKER_TIERS)}, got {brief(got)}")
    exact = load(source, dtype="float32", device="cpu")
    samples = list(sources.open(data, split, format, limit, tasks=exact.tasks))
    rows = scored_tasks(exact, samples, tasks, data)
    facts = {"data": data, "split": split or "", "samples": len(samples), "tasks": [row.name for row in rows]}
    _same_call(folder / EVALUATIONS / "call.json", {"weights": exact.identity, **facts})
    gate = TierGate(exact, samples, rows, folder / EVALUATIONS, resamples, report)
    exact.save(folder)
    found = {tier: gate.try_tier(folder, tier) for tier in wanted}
    record: dict[str, Any] = {"weights_sha256": checkpoints.weights_sha256(checkpoints.find(folder))}
    record |= {"worst_loss": WORST_LOSS, "least_agreement": LEAST_AGREEMENT, **facts}
    record["tiers"] = {tier: asdict(verdict) for tier, verdict in found.items()}
    write_atomic(folder / tiers.GATE, json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    return found


def _check_free(folder: Path) -> None:
    """Refuse a folder that holds anything else than what an interrupted call left."""
    if (folder / tiers.GATE).exists():
        raise ValueError(f"{folder / tiers.GATE}: exists; name another folder, or remove it")
    if blocked := [parent for parent in (folder, *folder.parents) if parent.exists() and not parent.is_dir()]:
        raise ValueError(f"{blocked[-1]}: is a file; expected a folder for the measured checkpoint")
    if folder.exists() and any(folder.iterdir()) and not (folder / EVALUATIONS).is_dir():
        raise ValueError(
            f"{folder}: holds something else already; name a new folder: the measured checkpoint is written there"
        )


def _same_call(file: Path, call: dict[str, Any]) -> None:
    """Note what the evaluations in a folder are of; refuse to go on with those of other weights or other data."""
    if file.is_file():
        before = read_json(file)
        if different := [key for key, value in call.items() if before.get(key) != value]:
            raise ValueError(
                f"{file}: an interrupted run of another kind ({different[0]} {brief(before.get(different[0]))}, now "
                f"{brief(call[different[0]])}); name another folder, or remove {file.parent.parent}"
            )
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(file, json.dumps(call, indent=2, ensure_ascii=False) + "\n")


def scored_tasks(model: PromptedModel[Any], samples: Sequence[Sample], tasks: Sequence[str], data: str) -> list[Task]:
    """The tasks that the data holds a truth for, or those of them that are named."""
    named = {task_of(name, model.tasks).token for name in tasks}
    rows = [row for token, row in model.tasks.items() if not named or token in named]
    found = [row for row in rows if eval_items_of(samples, row)]
    if missing := named - {row.token for row in found}:
        raise ValueError(f"{data}: {len(samples)} samples hold no truth for {min(missing)}; leave it out")
    if not found:
        raise ValueError(f"{data}: {len(samples)} samples hold no truth for any task of the model")
    return found


class TierGate:
    """Float32's answers and scores, and other tiers beside them, of whatever runtime."""

    def __init__(
        self,
        exact: Florence2,
        samples: Sequence[Sample],
        rows: Sequence[Task],
        folder: Path,
        resamples: int | None,
        report: OnLine,
    ) -> None:
        self.samples, self.rows, self.folder, self.resamples, self.report = samples, rows, folder, resamples, report
        self.exact = exact
        asks = ", ".join(f"{row.name} {len(eval_items_of(samples, row))}" for row in rows)
        report(f"judged on {len(samples)} pictures, asks: {asks}; float32 first, then the tier")
        items = [item for row in rows for item in _spread(eval_items_of(samples, row), -(-FORCED // len(rows)))]
        self.forced = [answer for item in items if (answer := _answer(exact, item))]
        self.picks = [picks_of(exact, answer) for answer in self.forced]
        for row in rows:
            self._evaluate(exact, "float32", row)

    def try_tier(self, source: str | os.PathLike[str], tier: str) -> Verdict:
        """The tier as a whole; int8 with ever more of its worst groups in float32 until it passes."""
        if tier == "bfloat16":
            return self.judge(load(source, dtype=tier, device="cpu"), tier, [])
        keep: list[str] = []
        model = load(source, dtype="float32", device="cpu")
        worst = self._worst_groups(model)
        verdict = None
        for _ in range(TRIES):
            model.accelerate(tier, keep)
            while self.agreement(model)[0] < LEAST_AGREEMENT and len(keep) < len(worst):
                keep.append(worst[len(keep)])
                model.accelerate(tier, keep)
            if len(keep) == len(worst):
                break
            verdict = self.judge(model, tier, keep)
            if verdict.passed or len(keep) + 1 >= len(worst):
                break
            keep.append(worst[len(keep)])
        if verdict is None:
            return Verdict(False, "every group of layers would have to stay in float32", *self.agreement(model), keep)
        return verdict

    def _worst_groups(self, model: Florence2) -> list[str]:
        """Groups of layers by the error of the logits when they alone are in int8, the largest first."""
        probes = self.forced[:: max(1, len(self.forced) // PROBED)][:PROBED]
        expected = [logits_of(self.exact, answer) for answer in probes]
        errors = {}
        for group in tiers.GROUPS:
            model.accelerate("int8", [name for name in tiers.GROUPS if name != group])
            gaps = [np.square(logits_of(model, answer) - e).mean() for answer, e in zip(probes, expected)]
            errors[group] = float(np.sqrt(np.mean(gaps)))
        self.report("int8, rms of logits by group: " + ", ".join(f"{g} {e:.2g}" for g, e in errors.items()))
        return sorted((group for group in errors if errors[group] > 0), key=lambda group: -errors[group])

    def agreement(self, model: PromptedModel[Any]) -> tuple[float, int]:
        """How often the model picks float32's token, given the same tokens before; and of how many."""
        same = [picks_of(model, answer) == picks for answer, picks in zip(self.forced, self.picks)]
        tokens = sum(len(picks) for picks in self.picks)
        return sum(int(row.sum()) for row in same) / max(1, tokens), tokens

    def judge(self, model: PromptedModel[Any], tier: str, keep: Sequence[str]) -> Verdict:
        """The figures of a model that computes in a tier, and whether they are good enough."""
        agreement, tokens = self.agreement(model)
        verdict = Verdict(True, "", agreement, tokens, list(keep))
        reasons = []
        if agreement < LEAST_AGREEMENT:
            reasons.append(f"{100 * agreement:.1f} % of {tokens} forced tokens agree, under {LEAST_AGREEMENT:.0%}")
        for row in self.rows:
            figures = self._evaluate(model, "-".join([tier, *keep]).replace(" ", ""), row)
            verdict.tasks[row.name] = figures
            if figures["interval"][0] < -WORST_LOSS * abs(figures["float32"]):
                reasons.append(_reason(row.name, figures))
        if all(_tells_nothing(figures["metric"], figures["float32"]) for figures in verdict.tasks.values()):
            reasons.append(
                "float32 itself is never right on this data, which so tells nothing; give data that it knows"
            )
        verdict.passed, verdict.why = not reasons, "; ".join(reasons) or "as good as float32 on this data"
        self.report(f"{tier}{f', {chr(44).join(keep)} in float32' if keep else ''}: {verdict.why}")
        return verdict

    def _evaluate(self, model: PromptedModel[Any], name: str, row: Task) -> dict[str, Any]:
        """The task's main metric, and its paired difference from float32's."""
        folder, beside = self.folder / name / row.name, self.folder / "float32" / row.name
        scores = evaluate(model, list(self.samples), row.token, folder, grey=False, resamples=self.resamples)
        main = scores["main"]
        figures = {"metric": main, "asks": scores["asks"], "pictures": scores["pictures"]}
        if folder == beside:
            nothing = ": tells nothing of a tier" if _tells_nothing(main, scores["metrics"][main]) else ""
            self.report(f"float32, {row.name}: {main} {scores['metrics'][main]:.4f} of {scores['asks']} asks{nothing}")
            return figures
        exact = read_json(beside / "scores.json")["metrics"][main]
        found = compare(folder, beside).get(main, {"interval": None, "value": 0.0})
        interval = found["interval"] or [-math.inf, math.inf]
        figures |= {"float32": exact, "tier": scores["metrics"][main], "difference": found["value"]}
        return {**figures, "interval": [max(-9.0, interval[0]), min(9.0, interval[1])]}


def _tells_nothing(metric: str, exact: float) -> bool:
    """Whether float32 has nothing to lose by the metric: no answer right, or no more right than wrong."""
    return exact >= 1 if metric in ERRORS else exact <= 0


def _reason(task: str, figures: dict[str, Any]) -> str:
    low, high = figures["interval"]
    allowed = WORST_LOSS * abs(figures["float32"])
    summary = (
        f"{task}: {figures['metric']} {figures['tier']:.4f} for {figures['float32']:.4f}, {low:+.4f} to {high:+.4f}"
    )
    if low <= -9:
        return f"{task}: {figures['metric']}: no resample has a value, nothing can be paired; give more data"
    if figures["difference"] >= -allowed and allowed > 0:
        half = figures["difference"] - low
        need = math.ceil(figures["pictures"] * (half / max(allowed + figures["difference"], 1e-9)) ** 2)
        return f"{summary}: too little data to decide, {figures['pictures']} pictures; some {need} would do"
    return f"{summary}: worse than {-WORST_LOSS:.0%} of it"


def _spread(items: Sequence[EvalItem], count: int) -> Iterable[EvalItem]:
    return items[:: max(1, len(items) // count)][:count]


def _answer(model: PromptedModel[Any], item: EvalItem) -> Answer | None:
    try:
        return model.predict(item.sample.image, item.ask)
    except (ValueError, OSError):
        return None  # evaluate counts it as a failure


def logits_of(model: PromptedModel[Any], answer: Answer) -> np.ndarray:
    """Logits (T, V) after each token of an answer, the picture seen and the prompt read by this model."""
    assert answer.image is not None  # `predict` keeps the picture it was asked about
    arrays = model.model.arrays
    with arrays.inference():
        features = model.encode_image(answer.image).features[None]
        prompt = arrays.put([model.tokenizer.prompt_ids(answer.prompt)])
        logits = model.model(features, prompt, None, arrays.put([answer.token_ids[:-1]]))
        return np.asarray(arrays.floats(logits[0]))


def picks_of(model: PromptedModel[Any], answer: Answer) -> np.ndarray:
    """The likeliest token at each place of an answer."""
    picks: np.ndarray = logits_of(model, answer).argmax(-1)
    return picks
