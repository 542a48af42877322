"""Closed sets of labels: what they cost, what they do for F1, and how several classes are best asked for.

Cost: a decoding step with 1,200 names (two-word names and the scenes' kinds) beside one without a set, alternated, and
what compiling the set takes once. F1 at IoU 0.5 with a data set's names as the label set and without: held-out scenes,
and BCCD and cards where models of theirs are given. One
open-vocabulary question for four kinds, about half of them in the picture, beside a question a kind.
"""

from __future__ import annotations

import itertools
import statistics
import time

import numpy as np

import florence2
from answers_parts.asked import samples_of, sets
from benchmarks.pairs import alternate
from florence2 import geometry, sources
from florence2.codec.label_trie import LabelTrie
from florence2.records import Ask
from florence2.scenes import KINDS, TRAINING_SEEDS

FIRST = TRAINING_SEEDS + 920_000
REGIMES = {"1-3 objects": "objects=1-3,min_side=0.15", "4-8 smaller": "objects=4-8,min_side=0.08"}


def names(count: int) -> list[str]:
    """So many names as a large vocabulary has them: kinds, and kinds with a word before and behind."""
    words = "bath garden kitchen toy wall water paper plastic metal baby school dining street race sports hand".split()
    behind = "cover handle stand holder box cloth rack lid top frame".split()
    made = [*KINDS, *(f"{a} {k}" for a, k in itertools.product(words, KINDS))]
    made += [f"{k}, {b}" for k, b in itertools.product(KINDS, behind)]
    made += [f"{a} {k} {b}" for a, k, b in itertools.product(words, KINDS, behind)]
    return list(dict.fromkeys(made))[:count]


def run(args) -> dict[str, object]:
    """The tables, and their figures."""
    model = florence2.load(args.model)
    return {"cost": cost(model, args), "f1": closed(model, args), "several": several(model, args)}


def cost(model, args) -> dict[str, float]:
    """Processor milliseconds a token, the call's own work in it, with and without a set of 1,200 names."""
    many = names(1200)
    start = time.perf_counter()
    LabelTrie(many, model.tokenizer)
    compiled = time.perf_counter() - start
    scenes = list(sources.open(f"scenes:count=16,seed={FIRST},objects=8-12,min_side=0.06"))
    encoded = [model.encode_image(scene.image) for scene in scenes]
    asks = {"none": Ask("<OD>"), "1,200": Ask("<OD>", labels=tuple(many)), "kinds": Ask("<OD>", labels=tuple(KINDS))}
    tokens = {name: sum(len(model.predict(e, a, grammar=True).token_ids) for e in encoded) for name, a in asks.items()}

    def call(ask):
        return lambda: [model.predict(one, ask, grammar=True) for one in encoded]

    times = alternate({name: call(ask) for name, ask in asks.items()}, 7)
    cost = {name: [1e3 * seconds / tokens[name] for seconds in times[name].cpu] for name in asks}
    ratio = statistics.median(a / b for a, b in zip(cost["1,200"], cost["none"]))
    print(f"labels: 1,200 names compiled once in {1e3 * compiled:.0f} ms; {tokens} tokens")
    print("| set | processor ms a token |\n|---|---|")
    for name, values in cost.items():
        print(f"| {name} | {statistics.median(values):.3f} |")
    print(f"a token costs {ratio:.3f} times as much with 1,200 names (median of {len(cost['none'])} pairs)")
    return {"compile_ms": round(1e3 * compiled, 1), "ratio_1200": round(ratio, 4)}


def closed(model, args) -> dict[str, object]:
    """F1 with a set's own names as the label set, with 1,200 names on scenes, and without a set."""
    out: dict[str, object] = {}
    print("| data | set | precision | recall | F1 |\n|---|---|---|---|---|")
    for regime, spec in REGIMES.items():
        scenes = list(sources.open(f"scenes:count={args.pictures},seed={FIRST + 1000},{spec}"))
        for name, labels in {"none": (), "kinds": tuple(KINDS), "1,200": tuple(names(1200))}.items():
            out[f"{regime}, {name}"] = _row(model, regime, scenes, name, labels)
    for data, (checkpoint, path, split) in sets(args).items():
        if data != "scenes":
            samples = samples_of(path, split)
            own = tuple(sorted({r.label for s in samples for r in s.regions if r.kind == "object"}))
            for name, labels in {"none": (), f"its {len(own)} names": own}.items():
                out[f"{data}, {name}"] = _row(florence2.load(checkpoint), data, samples, name, labels)
    return out


def _row(model, data: str, samples, name: str, labels: tuple[str, ...]) -> tuple[float, float, float]:
    asked = model.predict_many([s.image for s in samples], Ask("<OD>", labels=labels), batch_size=32, on_error="raise")
    figures = f1([counted(sample, answer) for sample, answer in zip(samples, asked)])
    print(f"| {data} | {name} | " + " | ".join(f"{value:.3f}" for value in figures) + " |", flush=True)
    return figures


def several(model, args) -> dict[str, object]:
    """Four kinds in one question joined by <and>, beside one question each."""
    out: dict[str, object] = {}
    print("| scenes | asked | precision | recall | F1 | kinds there with an answer |\n|---|---|---|---|---|---|")
    rng = np.random.default_rng(0)
    for regime, spec in REGIMES.items():
        scenes = list(sources.open(f"scenes:count={args.pictures},seed={FIRST + 5000},{spec}"))
        sets = []
        for scene in scenes:
            there = list(dict.fromkeys(r.label for r in scene.regions if r.kind == "object"))[:2]
            others = [k for k in rng.permutation(KINDS) if k not in {r.label for r in scene.regions}]
            sets.append(tuple(str(k) for k in rng.permutation([*there, *others[: 4 - len(there)]])))
        pairs = [(s.image, Ask("<OPEN_VOCABULARY_DETECTION>", labels=labels)) for s, labels in zip(scenes, sets)]
        alone = [
            (s.image, [Ask("<OPEN_VOCABULARY_DETECTION>", labels=(k,)) for k in ks]) for s, ks in zip(scenes, sets)
        ]
        joined = list(model.predict_many(pairs, batch_size=32, each_class=False))
        missing = list(model.predict_many(pairs, batch_size=32))
        each = list(model.predict_many(alone, batch_size=16))
        for name, asked in {
            "joined": joined,
            "one each": [merged(found) for found in each],
            "joined, then each class left open": missing,
        }.items():
            rows = [counted(s, found, set(ks)) for s, found, ks in zip(scenes, asked, sets)]
            answered = [
                (len(kinds & set(found.labels.tolist())), len(kinds))
                for s, found, ks in zip(scenes, asked, sets)
                for kinds in [set(ks) & {r.label for r in s.regions}]
            ]
            share = sum(a for a, _ in answered) / sum(b for _, b in answered)
            figures = (*f1(rows), round(share, 4))
            out[f"{regime}, {name}"] = figures
            print(f"| {regime} | {name} | " + " | ".join(f"{value:.3f}" for value in figures) + " |")
    return out


def merged(answers):
    """Answers about one picture as one."""
    from dataclasses import replace

    return replace(answers[0], regions=tuple(region for one in answers for region in one.regions))


def counted(scene, answer, kinds=None) -> tuple[int, int, int]:
    """(objects, boxes, right boxes) of one picture; of some kinds only, where named."""
    true = [r for r in scene.regions if r.kind == "object" and (kinds is None or r.label in kinds)]
    boxes, taken, right = geometry.as_boxes([r.box for r in true]), np.zeros(len(true), bool), 0
    for place in np.argsort(-answer.scores, kind="stable") if len(true) else ():
        overlaps = geometry.iou(answer.xyxy[place], boxes)[0]
        overlaps[[r.label != answer.labels[place] for r in true]] = 0
        overlaps[taken] = 0
        if overlaps.max() >= 0.5:
            taken[overlaps.argmax()] = True
            right += 1
    return len(true), len(answer.boxed), right


def f1(rows) -> tuple[float, float, float]:
    """(precision, recall, F1) of counts summed over pictures."""
    objects, boxes, right = np.sum(rows, axis=0)
    precision, recall = right / max(boxes, 1), right / max(objects, 1)
    both = 2 * precision * recall / max(precision + recall, 1e-9)
    return round(float(precision), 4), round(float(recall), 4), round(float(both), 4)
