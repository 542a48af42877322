"""Is "it is not there" said of what is not there? Held-out scenes, questions of both kinds, before and after negatives.

Detection of a kind that is in the picture or verifiably not (half of those come together with what is there in other
scenes); captions of which one phrase names what is not there; regions with a thing in them or nothing. recall: of what
is there that which is answered for rightly; false: of what is absent that which is answered for at all. As the model
decides by itself, and where a threshold leaves 90 % of the right answers: on how surely the item is begun and so named,
and on all signals (fitted to other pictures). AUROC: a right answer before what is said of an absent thing.
"""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np

from answers_parts.asked import SCENES, model_of, samples_of
from florence2.codec.tasks import TASKS
from florence2.evaluation.presence import KEPT, presence_items, questions
from florence2.evaluation.rightness import right_items
from florence2.evaluation.score_maps import cross_fitted
from florence2.scenes import TRAINING_SEEDS

ASKED = [
    TASKS[f"<{name}>"] for name in ("OPEN_VOCABULARY_DETECTION", "CAPTION_TO_PHRASE_GROUNDING", "REGION_TO_CATEGORY")
]
HEADS = (
    "model",
    "task",
    "things there, absent",
    "recall",
    "false",
    "AUROC",
    "begun: false at 90 %",
    "all signals: false at 90 %",
)


def run(args) -> dict:
    """A table of the models; the figures."""
    pictures = max(20, args.pictures // 5)
    samples = samples_of(f"scenes:count={pictures},seed={TRAINING_SEEDS + 2 * 10**6},{SCENES}", None)
    named = {"as it is": args.model, "trained further": args.control, "with negatives": args.negatives}
    figures = {}
    print(f"\n| {' | '.join(HEADS)} |\n|{'---|' * len(HEADS)}")
    for title, name in named.items():
        for task in ASKED if name else ():
            file = Path(args.out) / f"absent-{Path(name).name}-{task.name}-{pictures}.pickle"
            if not file.is_file():
                file.write_bytes(pickle.dumps(questions(model_of(name), samples, task)))
            f = decided(task, pickle.loads(file.read_bytes()), args.resamples)
            figures[f"{title}, {task.name}"] = f
            cells = [title, task.name, f"{f['there']}, {f['absent']}", f"{f['recall']:.3f}"]
            cells += [f"{f[key]:.3f} ({_span(f[f'{key}_interval'])})" for key in ("false", "auroc", "begun", "signals")]
            print(f"| {' | '.join(cells)} |", flush=True)
    return figures


def decided(task, asked, resamples: int) -> dict:
    """Recall, false answers as the model decides and at KEPT of its right answers, and the ranking of both."""
    items = presence_items(task, asked)
    true = [one for one in asked if one.there]
    things = [len(one.item.truths[0].groundings) or 1 for one in true]
    hits = [_right(task, one) for one in true]
    begun = np.array([signals.there for signals in items.signals])
    fitted = cross_fitted(items.signals, items.right, items.pictures, "logistic")
    of_absent = [one.item.image for one in asked if not one.there]
    numbers = {image: n for n, image in enumerate(dict.fromkeys(one.item.image for one in asked))}
    pictures = np.array([numbers[image] for image in of_absent])
    false = {
        name: np.array([max(v[list(own)], default=0.0) for own in items.absent])
        for name, v in (("begun", begun), ("signals", fitted))
    }
    right = {name: v[items.right] for name, v in (("begun", begun), ("signals", fitted))}
    answered, of_right = np.array([bool(own) for own in items.absent]), items.pictures[items.right]

    def measure(weights: np.ndarray) -> list[float]:
        there, gone = weights[of_right], weights[pictures]
        total = max(gone.sum(), 1)
        out = [float((gone * answered).sum() / total), _ranking(right["signals"], false["signals"], there, gone)]
        for name in ("begun", "signals"):
            least = _quantile(right[name], there, 1 - KEPT)
            out.append(float((gone * (answered & (false[name] >= least))).sum() / total))
        return out

    rng = np.random.default_rng(0)
    count = len(numbers)
    whole = measure(np.ones(count))
    draws = [
        measure(np.bincount(rng.integers(0, count, count), minlength=count).astype(float)) for _ in range(resamples)
    ]
    spans = np.percentile(draws, [2.5, 97.5], axis=0).T.round(4).tolist()
    out = {"there": sum(things), "absent": len(of_absent), "recall": round(sum(hits) / max(1, sum(things)), 4)}
    for name, value, span in zip(("false", "auroc", "begun", "signals"), whole, spans):
        out |= {name: round(value, 4), f"{name}_interval": span}
    return out


def _right(task, one) -> int:
    """How many of the things that a question is about are answered for rightly."""
    judged = right_items(task, one.item, one.answer)
    if one.item.truths[0].groundings:
        return len({g.phrase.casefold() for g in one.answer.groundings if judged.get(g.id)})
    return int(any(judged.values()))


def _quantile(values: np.ndarray, weights: np.ndarray, share: float) -> float:
    order = np.argsort(values)
    below = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(below, share * below[-1])]) if len(values) and below[-1] else 1.0


def _ranking(high: np.ndarray, low: np.ndarray, of_high: np.ndarray, of_low: np.ndarray) -> float:
    wins = (high[:, None] > low) + 0.5 * (high[:, None] == low)
    return float(of_high @ wins @ of_low / max(of_high.sum() * of_low.sum(), 1e-9))


def _span(pair) -> str:
    return f"{pair[0]:.3f} to {pair[1]:.3f}"
