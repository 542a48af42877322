"""Does an answer that goes on past its own end find more than beams of the same cost?

Objects by the grammar, greedy under each margin and beams of each width. A box is right by name and IoU 0.5. Cost:
tokens that the decoder computed (of every beam), as a multiple of plain greedy's. "at its precision": the most recall
that a threshold on the score leaves at plain greedy's precision; the difference from plain greedy with intervals of
paired resamples of the pictures, of margins and of beams alike. OUT/margin.svg: precision over recall.
"""

from __future__ import annotations

import numpy as np

from answers_parts.asked import answers_of, judged, sets
from answers_parts.margin_plot import precision_recall_svg

MARGINS = (0.0, 1.0, 2.0, 4.0, 8.0)
BEAMS = (2, 4)
LIMIT = {"scenes": 120, "bccd": 40, "cards": None}
MOST = {"scenes": 160, "bccd": 400, "cards": 160}  # tokens of an answer: a margin may never be reached


def run(args) -> dict:
    """A table for each set, and the curves; the figures."""
    figures, curves = {}, {}
    heads = ("answers", "cost", "precision", "recall", "recall at plain greedy's precision", "more than plain")
    for name in sets(args):
        ways = {f"margin {m:g}": dict(margin=m) for m in MARGINS} | {f"{b} beams": dict(num_beams=b) for b in BEAMS}
        tables = {
            way: of_answers(
                answers_of(args, name, "OD", LIMIT[name], grammar=True, max_new_tokens=MOST[name], **how), how
            )
            for way, how in ways.items()
        }
        figures[name] = compared(tables, args.resamples)
        curves[name] = {way: own.points() for way, own in tables.items()}
        print(f"\n{name}: {len(tables['margin 0'].truth)} pictures, {int(tables['margin 0'].truth.sum())} objects\n")
        print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
        for way, f in figures[name].items():
            low, high = f["interval"]
            cells = f"{f['cost']:.2f} | {f['precision']:.3f} | {f['recall']:.3f} | {f['at_precision']:.3f}"
            print(f"| {way} | {cells} | {f['gain']:+.3f} ({low:+.3f} to {high:+.3f}) |")
    (args.out / "margin.svg").write_text(precision_recall_svg(curves), encoding="utf-8")
    return figures


class of_answers:  # noqa: N801
    """Items of all answers as arrays: picture, score, right; of each picture the objects and the tokens."""

    def __init__(self, rows, how):
        signals = [answer.signals() for _, _, answer in rows]
        items = [(picture, signals[n][name].score, right) for picture, n, name, right in judged("OD", rows)]
        self.picture = np.array([item[0] for item in items], int)
        self.score = np.array([item[1] for item in items], float)
        self.right = np.array([item[2] for item in items], bool)
        self.truth = np.array([sum(not r.ignore for r in item.truths[0].regions) for _, item, _ in rows])
        self.tokens = sum(len(answer.token_ids) for _, _, answer in rows) * how.get("num_beams", 1)

    def points(self):
        """(recall, precision) with the surest item, the surest two, and so on."""
        hits = np.cumsum(self.right[np.argsort(-self.score, kind="stable")])
        shares = hits / max(1, self.truth.sum()), hits / np.arange(1, len(hits) + 1)
        return list(zip(*(share.tolist() for share in shares)))

    def curve(self, weights=None, least=None):
        """(precision, recall, most recall at a precision of at least `least`), each picture counted `weights` times."""
        weights = np.ones(len(self.truth)) if weights is None else weights
        order = np.argsort(-self.score, kind="stable")
        w = weights[self.picture[order]]
        hits, all_found = np.cumsum(w * self.right[order]), np.cumsum(w)
        total = max(1.0, float((weights * self.truth).sum()))
        if not len(order) or not all_found[-1]:
            return 0.0, 0.0, 0.0
        precision, recall = hits / np.maximum(all_found, 1e-9), hits / total
        fits = recall[precision >= (precision[-1] if least is None else least) - 1e-9]
        return float(precision[-1]), float(recall[-1]), float(fits.max()) if len(fits) else 0.0


def compared(tables, resamples: int) -> dict[str, dict]:
    """Way -> its figures."""
    plain = tables["margin 0"]
    least = plain.curve()[0]
    rng = np.random.default_rng(0)
    pictures = len(plain.truth)
    draws = [np.bincount(rng.integers(0, pictures, pictures), minlength=pictures) for _ in range(resamples)]
    base = [plain.curve(draw)[1] for draw in draws]
    out = {}
    for way, own in tables.items():
        precision, recall, at = own.curve(None, least)
        gains = [own.curve(draw, plain.curve(draw)[0])[2] - other for draw, other in zip(draws, base)]
        low, high = np.percentile(gains, [2.5, 97.5])
        out[way] = {
            "cost": round(own.tokens / plain.tokens, 3),
            "precision": round(precision, 4),
            "recall": round(recall, 4),
            "at_precision": round(at, 4),
            "gain": round(at - plain.curve()[1], 4),
            "interval": [round(float(low), 4), round(float(high), 4)],
        }
    return out
