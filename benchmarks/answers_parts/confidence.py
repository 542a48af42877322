"""Which formula makes the best score: what it is worth as a probability, as a ranking, and to COCO's AP.

A half of the pictures is scored by what was fitted to the other half (the window, the logistic model, the map of
calibration), and the other way round; all figures are of scores fitted elsewhere. Intervals: resampled pictures.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from answers_parts.asked import answers_of, judged, sets
from florence2.decoding.measures import MASS
from florence2.evaluation.score_maps import fit_beta, fit_logistic, fit_platt
from florence2.metrics.coco_ap import CocoDetection
from florence2.metrics.reliability import brier, calibration_error, log_loss, ranking
from florence2.predictor.confidence import WINDOW, nearness

WINDOWS = (0.05, 0.1, 0.15, 0.2, 0.3, 0.4)
FIXED = 0.02  # 20 bins of 1,000, whatever the box
SHUFFLES = 20
SCENE_TASKS = (
    *("OD", "REGION_PROPOSAL", "DENSE_REGION_CAPTION", "OPEN_VOCABULARY_DETECTION", "CAPTION_TO_PHRASE_GROUNDING"),
    *("OCR_WITH_REGION", "REGION_TO_CATEGORY", "REGION_TO_OCR", "OCR", "CAPTION", "DETAILED_CAPTION"),
    *("REFERRING_EXPRESSION_SEGMENTATION", "REGION_TO_SEGMENTATION"),
)
FEWER = {"OPEN_VOCABULARY_DETECTION": 100, "REFERRING_EXPRESSION_SEGMENTATION": 60, "REGION_TO_SEGMENTATION": 100,
         "DENSE_REGION_CAPTION": 200, "REGION_PROPOSAL": 200, "CAPTION_TO_PHRASE_GROUNDING": 150,
         "DETAILED_CAPTION": 200, "REGION_TO_CATEGORY": 150}  # fmt: skip


def columns_of(task: str, rows) -> dict[str, np.ndarray]:
    """What formulas are made of, one value an item."""
    out: dict[str, list] = {}
    known: dict[int, dict] = {}
    for picture, number, name, right in judged(task, rows):
        answer = rows[number][2]
        if number not in known:
            known[number] = answer.signals()
        signals = known[number].get(name)
        if signals is None:
            continue
        row = {
            **vars(signals),
            "features": signals.features,
            "picture": picture,
            "row": number,
            "id": name,
            "right": right,
        }
        row["is_phrase"] = any(g.id == name for g in answer.groundings)
        region = next((r for r in answer.regions if r.id in (name, *_regions(answer, name))), None)
        span = answer.token_spans[region.id if region else name]
        near = answer.token_measures[list(span.location_tokens), MASS:]
        side_wh = (signals.area, 1.0)
        if region is not None and region.box:
            x1, y1, x2, y2 = region.box
            side_wh = (x2 - x1) / answer.size_wh[0], (y2 - y1) / answer.size_wh[1]
        for window in WINDOWS:
            row[f"placed {window}"] = nearness(near, side_wh, window)[0]
        row["fixed"] = nearness(near, (1.0, 1.0), FIXED)[0]
        row["area"] = side_wh[0] * side_wh[1]
        row["letters"] = len(span.text_tokens)
        row["smallest"] = min(
            (math.exp(v) for v in answer.token_measures[[*span.text_tokens, *span.location_tokens], 0].tolist()),
            default=1.0,
        )
        for key, value in row.items():
            out.setdefault(key, []).append(value)
    return {key: np.array(values) for key, values in out.items()}


def _regions(answer, name):
    return next((g.region_ids[:1] for g in answer.groundings if g.id == name), ())


def formulas(c: dict[str, np.ndarray], window: float) -> dict[str, np.ndarray]:
    """Every formula's scores; `window` as fitted."""
    placed = c[f"placed {window}"]
    spelled = c["name"] ** (1 / np.maximum(1, c["letters"]))
    return {
        "mean log-probability of all tokens": c["tokens"],
        "of the locations (avg_loc_scores)": c["located"],
        "before: root of name x 40 bins, estimated": np.sqrt(spelled * np.minimum(1, 40 * c["located"])),
        "name x mass within 20 bins": c["name"] * c["fixed"] ** 4,
        "name x mass within a share of the side": c["name"] * placed**4,
        "root of name x mass within a share (answers' own)": np.sqrt(c["name"]) * c[f"placed {WINDOW}"] ** 2,
        "name x expected IoU": c["name"] * c["overlap"] ** 4,
        "begun": c["begun"],
        "begun x name x mass within a share": c["begun"] * c["name"] * placed**4,
        "least token": c["smallest"],
    }


def scored_elsewhere(c: dict[str, np.ndarray]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Formula -> (scores, calibrated scores), each half by what was fitted to the other."""
    half = c["picture"] % 2 == 1
    out: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for own in (half, ~half):
        other = ~own
        a = {key: values[other] for key, values in c.items()}
        b = {key: values[own] for key, values in c.items()}
        window = max(WINDOWS, key=lambda w: ranking(a["name"] * a[f"placed {w}"] ** 4, a["right"]))
        weights = fit_logistic(a["features"], a["right"]).numbers
        raw_a, raw_b = formulas(a, window), formulas(b, window)
        for raw, part in ((raw_a, a), (raw_b, b)):
            raw["logistic model"] = 1 / (1 + np.exp(-np.clip(part["features"] @ weights, -30, 30)))
        for name in raw_b:
            fit = min(
                (fit_platt, fit_beta),
                key=lambda f: log_loss(_mapped(f(raw_a[name], a["right"]), raw_a[name]), a["right"]),
            )
            made = fit(raw_a[name], a["right"])
            score, mapped = out.setdefault(name, (np.zeros(len(half)), np.zeros(len(half))))
            score[own], mapped[own] = raw_b[name], _mapped(made, raw_b[name])
    return out


def _mapped(made, scores: np.ndarray) -> np.ndarray:
    return np.array([made.of_score(score) for score in scores.tolist()])


def interval(values) -> list[float]:
    """The middle 95 %."""
    return [round(float(v), 4) for v in np.percentile(values, [2.5, 97.5])]


def resampled(c: dict[str, np.ndarray], count: int):
    """Places of the items of each resample of the pictures."""
    rng = np.random.default_rng(0)
    pictures = np.unique(c["picture"])
    places = {picture: np.flatnonzero(c["picture"] == picture) for picture in pictures.tolist()}
    for _ in range(count):
        yield np.concatenate([places[p] for p in rng.choice(pictures, len(pictures)).tolist()])


def ap_of(rows, scores: dict[tuple[int, str], float]) -> CocoDetection:
    """The metric fed with the answers under these scores."""
    metric = CocoDetection()
    for number, (_, item, answer) in enumerate(rows):
        regions = [replace(region, score=scores.get((number, region.id), 0.0)) for region in answer.regions]
        metric.update(item.truths[0].regions, regions)
    return metric


def against_constant(rows, c, tried: dict[str, np.ndarray], count: int) -> dict[str, dict]:
    """Formula -> AP, and how much it is above the mean of SHUFFLES orders of constant scores, with its interval."""
    rng = np.random.default_rng(0)
    draws = [rng.integers(0, len(rows), len(rows)).tolist() for _ in range(count)]
    keys = list(zip(c["row"].tolist(), c["id"].tolist()))
    everything = list(range(len(rows)))
    flat = [ap_of(rows, dict(zip(keys, rng.random(len(keys)).tolist()))) for _ in range(SHUFFLES)]
    constant = np.mean([m.compute(everything)["AP"] for m in flat])
    drawn = np.mean([[m.compute(draw)["AP"] for draw in draws] for m in flat], 0)
    out = {}
    for name, scores in tried.items():
        metric = ap_of(rows, dict(zip(keys, scores.tolist())))
        gains = np.array([metric.compute(draw)["AP"] for draw in draws]) - drawn
        own = metric.compute(everything)["AP"]
        bias = gains.mean() - (own - constant)
        out[name] = {"AP": round(own, 4), "constant": round(float(constant), 4), "gain": round(own - constant, 4),
                     "interval": [round(v - bias, 4) for v in interval(gains)]}  # fmt: skip
    return out


def measure(rows, c, count: int, with_ap: bool) -> dict[str, dict]:
    """Formula -> its figures."""
    tried = scored_elsewhere(c)
    right = c["right"]
    draws = list(resampled(c, count))
    aps = against_constant(rows, c, {name: pair[0] for name, pair in tried.items()}, count) if with_ap else {}
    out = {}
    for name, (raw, mapped) in tried.items():
        figures = {
            "ece_raw": calibration_error(np.clip(raw, 0, 1), right),
            "ece": calibration_error(mapped, right),
            "auroc": ranking(mapped, right),
            "brier": brier(mapped, right),
        }
        spans = {
            "ece": [calibration_error(mapped[d], right[d]) for d in draws],
            "auroc": [ranking(mapped[d], right[d]) for d in draws],
            "brier": [brier(mapped[d], right[d]) for d in draws],
        }
        out[name] = {key: round(float(value), 4) for key, value in figures.items()}
        out[name] |= {f"{key}_interval": interval(np.array(v) - np.mean(v) + figures[key]) for key, v in spans.items()}
        out[name] |= {"ap": aps[name]} if aps else {}
    return out


def run(args) -> dict:
    """Tables for every set and task; the figures."""
    figures: dict[str, dict] = {}
    for name in sets(args):
        for task in SCENE_TASKS if name == "scenes" else ("OD",):
            rows = answers_of(args, name, task, FEWER.get(task) if name == "scenes" else None)
            c = columns_of(task, rows)
            if not c or c["right"].all() or not c["right"].any():
                print(f"\n{name}, {task}: nothing to compare")
                continue
            if c["is_phrase"].any():
                c = {key: values[c["is_phrase"]] for key, values in c.items()}
            share = float(c["right"].mean())
            own = {"items": len(c["right"]), "answers": len(rows), "right": round(share, 4)}
            own |= {"base_brier": round(share * (1 - share), 4)}
            own |= {"formulas": measure(rows, c, args.resamples, task == "OD")}
            figures[f"{name} {task}"] = own
            print(table(f"{name}, {task}", own), flush=True)
    return figures


def table(title: str, own: dict) -> str:
    """The figures of a set and a task in Markdown."""
    items, right, base = own["items"], own["right"], own["base_brier"]
    lines = [
        f"\n{title}: {items} items of {own['answers']} answers, {right:.3f} right; Brier of that rate {base:.3f}\n"
    ]
    lines += [
        "| score | ECE raw | ECE calibrated | AUROC | Brier | AP | above constant |",
        "|---|---|---|---|---|---|---|",
    ]
    for formula, f in own["formulas"].items():
        cells = [formula, f"{f['ece_raw']:.3f}"]
        cells += [f"{f[key]:.3f} ({_span(f[f'{key}_interval'])})" for key in ("ece", "auroc", "brier")]
        ap = f.get("ap")
        cells += [f"{ap['AP']:.3f}", f"{ap['gain']:+.3f} ({_span(ap['interval'])})"] if ap else ["", ""]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _span(pair) -> str:
    return f"{pair[0]:.3f} to {pair[1]:.3f}"
