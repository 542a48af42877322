"""Is "it is not there" said of what is not there? Held-out scenes, questions of both kinds, before and after negatives.

Detection of a kind that is in the picture or verifiably not (half of those come together with what is there in other
scenes); captions of which one phrase names what is not there. recall: of true questions those answered with a right
box; false: of questions about absent things those answered at all. As the model decides by itself, and where a
threshold on how surely the item is begun leaves 90 % of that recall.
"""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np

from answers_parts.asked import SCENES, model_of, samples_of
from florence2.codec.tasks import TASKS
from florence2.evaluation.eval_items import EvalItem
from florence2.evaluation.rightness import right_items
from florence2.scenes import TRAINING_SEEDS
from florence2.sources.negatives import Negatives

DETECT, GROUND = TASKS["<OPEN_VOCABULARY_DETECTION>"], TASKS["<CAPTION_TO_PHRASE_GROUNDING>"]
REGION = TASKS["<REGION_TO_CATEGORY>"]
KEPT = 0.9


def run(args) -> dict:
    """A table of both models; the figures."""
    pictures = max(20, args.pictures // 3)
    samples = samples_of(f"scenes:count={pictures},seed={TRAINING_SEEDS + 2 * 10**6},{SCENES}", None)
    named = {"as it is": args.model, "trained further": args.control, "with negatives": args.negatives}
    models = {title: name for title, name in named.items() if name}
    figures = {}
    print(
        "\n| model | task | true, absent questions | recall | false | ranking (AUROC) | false at 90 % of the recall |"
    )
    print("|---|---|---|---|---|---|---|")
    for title, name in models.items():
        for task in (DETECT, GROUND, REGION):
            file = Path(args.out) / f"absent-{Path(name).name}-{task.name}-{pictures}.pickle"
            if not file.is_file():
                rows = empty_regions(name, samples) if task is REGION else asked(name, samples, task)
                file.write_bytes(pickle.dumps(rows))
            f = decided(pickle.loads(file.read_bytes()), args.resamples)
            figures[f"{title}, {task.name}"] = f
            at = f"{f['false_at']:.3f} ({_span(f['false_at_interval'])})"
            cells = f"{f['recall']:.3f} | {f['false']:.3f} ({_span(f['false_interval'])}) | {f['auroc']:.3f} | {at}"
            print(f"| {title} | {task.name} | {f['true']}, {f['absent']} | {cells} |", flush=True)
    return figures


def asked(name: str, samples, task):
    """(picture, how surely it is there, answered, right, whether it is there) of each question."""
    model = model_of(name)
    negatives = Negatives.of(samples, 1.0)
    turns = []
    for picture, sample in enumerate(samples):
        true = [(ask, parsed) for ask, parsed in task.truths(sample) if parsed.regions and not ask.labels]
        true = true[:1] if task is GROUND else true
        absent = negatives.pairs(task, sample, true)
        turns += [(picture, sample, ask, parsed, True) for ask, parsed in true]
        turns += [(picture, sample, ask, parsed, False) for ask, parsed in absent]
    answers = model.predict_many(
        [(sample.image, ask) for _, sample, ask, _, _ in turns], batch_size=16, max_new_tokens=80
    )
    rows = []
    for (picture, sample, ask, parsed, there), answer in zip(turns, answers):
        right = right_items(task, EvalItem(sample, ask, (parsed,)), answer)
        signals = answer.signals()
        if task is DETECT:
            sure = 1.0 - float(answer.token_measures[2, 1]) if len(answer.token_ids) > 2 else 0.0
            rows.append((picture, sure, bool(answer.regions), any(right.values()), there))
            continue
        true = {grounding.phrase for grounding in parsed.groundings}
        of_answer = {g.phrase: g for g in answer.groundings}
        if there:
            for phrase in true:
                found = of_answer.get(phrase)
                sure = signals[found.id].begun * signals[found.id].name if found else 0.0
                rows.append((picture, sure, found is not None, bool(found and right[found.id]), True))
        else:
            false = [g for g in answer.groundings if g.phrase not in true]
            sure = max((signals[g.id].begun * signals[g.id].name for g in false), default=0.0)
            rows.append((picture, sure, bool(false), False, False))
    return rows


def empty_regions(name: str, samples):
    """The category of a true box, and of a box of its size where nothing is: the score is how surely it is there."""
    from florence2 import geometry
    from florence2.records import Ask

    rng, model, turns = np.random.default_rng(0), model_of(name), []
    for picture, sample in enumerate(samples):
        boxes = [region.box for region in sample.regions]
        for ask, parsed in REGION.truths(sample):
            turns.append((picture, sample, ask, parsed, True))
            x1, y1, x2, y2 = ask.region
            for _ in range(20):
                dx, dy = rng.uniform(0, 1, 2) * (sample.image.width - (x2 - x1), sample.image.height - (y2 - y1))
                moved = (float(dx), float(dy), float(dx + x2 - x1), float(dy + y2 - y1))
                if not geometry.intersection([moved], boxes).any():
                    turns.append((picture, sample, Ask(REGION.token, region=moved), None, False))
                    break
    answers = model.predict_many([(sample.image, ask) for _, sample, ask, _, _ in turns], batch_size=16)
    rows = []
    for (picture, sample, ask, parsed, there), answer in zip(turns, answers):
        right = there and any(right_items(REGION, EvalItem(sample, ask, (parsed,)), answer).values())
        sure = max((region.score for region in answer.regions), default=0.0)
        rows.append((picture, sure, bool(answer.regions), right, there))
    return rows


def decided(rows, resamples: int) -> dict:
    """Recall and false answers, as the model decides and at KEPT of its recall."""
    table = np.array(rows, float)

    def measure(part):
        true, absent = part[part[:, 4] == 1], part[part[:, 4] == 0]
        recall, false = true[:, 3].mean(), absent[:, 2].mean()
        right = np.sort(true[true[:, 3] == 1][:, 1])
        least = right[int((1 - KEPT) * len(right))] if len(right) else 1.0
        above = (absent[:, 1] >= least) & (absent[:, 2] == 1)
        pairs = (true[:, 1][:, None] > absent[:, 1]) + 0.5 * (true[:, 1][:, None] == absent[:, 1])
        return recall, false, above.mean(), least, pairs.mean()

    rng = np.random.default_rng(0)
    pictures = np.unique(table[:, 0])
    of = {p: table[table[:, 0] == p] for p in pictures}
    draws = np.array(
        [measure(np.concatenate([of[p] for p in rng.choice(pictures, len(pictures))])) for _ in range(resamples)]
    )
    recall, false, at, least, auroc = measure(table)
    spans = np.percentile(draws, [2.5, 97.5], axis=0).T
    return {
        "true": int((table[:, 4] == 1).sum()),
        "absent": int((table[:, 4] == 0).sum()),
        "recall": round(float(recall), 4),
        "recall_interval": [round(float(v), 4) for v in spans[0]],
        "false": round(float(false), 4),
        "false_interval": [round(float(v), 4) for v in spans[1]],
        "auroc": round(float(auroc), 4),
        "least": round(float(least), 4),
        "false_at": round(float(at), 4),
        "false_at_interval": [round(float(v), 4) for v in spans[2]],
    }


def _span(pair) -> str:
    return f"{pair[0]:.3f} to {pair[1]:.3f}"
