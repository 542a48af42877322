"""Reading: error rates against a slow edit distance, quads against cases of the official protocol."""

import numpy as np
import pytest
from shapely.geometry import Polygon

from florence2.metrics.ocr import QuadWords, TextErrors, edit_distance, same_words
from florence2.records import Region


def slow_distance(a, b):
    rows = [[i + j if 0 in (i, j) else 0 for j in range(len(b) + 1)] for i in range(len(a) + 1)]
    for i in range(1, len(a) + 1):
        for j in range(1, len(b) + 1):
            rows[i][j] = min(rows[i - 1][j] + 1, rows[i][j - 1] + 1, rows[i - 1][j - 1] + (a[i - 1] != b[j - 1]))
    return rows[-1][-1]


def test_edit_distance_equals_the_slow_one():
    rng = np.random.default_rng(0)
    for _ in range(400):
        a, b = ("".join(rng.choice(list("abc d"), rng.integers(0, 15))) for _ in range(2))
        assert edit_distance(a, b) == slow_distance(a, b)
        assert edit_distance(a.split(), b.split()) == slow_distance(a.split(), b.split())


def test_errors_are_summed_over_the_set():
    metric = TextErrors()
    metric.update("abcd\n efgh", "abcd efgh")  # white space folded
    metric.update("Ab", "ab")  # case kept
    assert metric.compute() == {"CER": pytest.approx(1 / 11), "WER": pytest.approx(1 / 3)}
    metric.update("", "")
    assert metric.compute()["CER"] == pytest.approx(1 / 11)


@pytest.mark.parametrize("truth, found, expected", [("ab c", "ab c", 0), ("ab c", "", 1), ("", "x", 1), ("", "", 0)])
def test_perfect_empty_and_without_truth(truth, found, expected):
    metric = TextErrors()
    metric.update(truth, found)
    assert metric.compute() == {"CER": expected, "WER": expected}


def word(x, text, **fields):
    return Region(quad=(x, 0, x + 10, 0, x + 10, 5, x, 5), label=text, **fields)


@pytest.mark.parametrize(
    "truth, found, precision, recall, placed",
    [
        ([word(0, "SALE"), word(20, "now")], [word(0, "sale"), word(20, "NOW")], 1, 1, 1),  # case is forgiven
        ([word(0, "SALE")], [word(0, "SALT")], 0, 0, 1),  # placed, not read
        ([word(0, "(SALE)")], [word(0, "sale")], 1, 1, 1),  # marks at the truth's ends
        ([word(0, "SALE")], [word(0, "sale!")], 0, 0, 1),  # but none may be invented
        ([word(0, "SALE"), word(20, "###", ignore=True)], [word(0, "sale"), word(21, "x")], 1, 1, 1),  # not cared for
        ([word(0, "SALE")], [word(0, "sale"), word(40, "x")], 0.5, 1, 2 / 3),
        ([word(0, "SALE")], [], 0, 0, 0),
        ([], [], 1, 1, 1),
    ],
)
def test_quads_by_hand(truth, found, precision, recall, placed):
    metric = QuadWords()
    metric.update(truth, found)
    result = metric.compute()
    assert (result["precision"], result["recall"]) == pytest.approx((precision, recall))
    assert result["detection_F1"] == pytest.approx(placed)


def test_same_words_never_fails_on_empty_text():
    assert same_words("", "") and not same_words("", "a") and same_words("!", "")


def read_as_written(truth, said):
    """The challenge's rule, from its description: punctuation may be missing where the true word begins or ends."""
    marks, truth, said = "!?.:,*\"()\u00b7[]/'", truth.upper(), said.upper()
    allowed = {truth}
    if truth and truth[0] in marks:
        allowed.add(truth[1:])
    if truth and truth[-1] in marks:
        allowed.add(truth[:-1])
    if truth and truth[0] in marks and truth[-1] in marks:
        allowed.add(truth[1:-1])
    return said in allowed


def icdar(pictures):
    """(precision, recall, placed precision, placed recall) by the protocol's own steps, one at a time, with shapely."""
    asked = found = placed = right = 0
    for truth, said in pictures:
        true_shapes = [Polygon(np.reshape(r.quad, (4, 2))) for r in truth]
        shapes = [Polygon(np.reshape(r.quad, (4, 2))) for r in said]
        off = [
            any(t.ignore and p.intersection(q).area / q.area > 0.5 for t, p in zip(truth, true_shapes)) for q in shapes
        ]
        taken = set()
        for word, shape in zip(truth, true_shapes):
            if word.ignore:
                continue
            asked += 1
            for n, other in enumerate(shapes):
                if n not in taken and not off[n] and shape.intersection(other).area / shape.union(other).area > 0.5:
                    taken.add(n)
                    placed += 1
                    right += read_as_written(word.label, said[n].label)
                    break
        found += off.count(False)
    return right / max(found, 1), right / max(asked, 1), placed / max(found, 1), placed / max(asked, 1)


def random_words(rng):
    """A picture of words and a reading of it: shifted, misread, doubled, invented, some words unreadable."""
    truth, said = [], []
    for _ in range(int(rng.integers(0, 9))):
        x, y = rng.uniform(0, 90, 2)
        w, h = rng.uniform(8, 40), rng.uniform(5, 12)
        tilt = rng.uniform(-1, 1, 4)
        quad = np.array([x, y + tilt[0], x + w, y + tilt[1], x + w, y + h + tilt[2], x, y + h + tilt[3]])
        text = str(rng.choice(["SALE", "(sale)", "now!", "'ok", "Caf\u00e9", "12.5", "a", "!"]))
        truth.append(Region(quad=tuple(quad), label=text, ignore=bool(rng.random() < 0.2)))
        for _ in range(int(rng.choice([0, 1, 1, 1, 2]))):
            moved = quad + np.tile(rng.normal(0, rng.choice([0.5, 3]), 2), 4)
            wrong = rng.random() < 0.2
            heard = str(rng.choice([text, text.upper(), text.strip("()!'"), text[1:], text + "!"]))
            said.append(Region(quad=tuple(moved), label="x" if wrong else heard))
    order = rng.permutation(len(said))
    return truth, [said[n] for n in order]


def test_quads_equal_the_protocols_own_steps():
    rng = np.random.default_rng(0)
    pictures = [random_words(rng) for _ in range(1500)]
    both = QuadWords()
    for start in range(0, len(pictures), 5):
        metric = QuadWords()
        for truth, said in pictures[start : start + 5]:
            metric.update(truth, said)
            both.update(truth, said)
        keys = ("precision", "recall", "detection_precision", "detection_recall")
        assert [metric.compute()[key] for key in keys] == pytest.approx(icdar(pictures[start : start + 5]))
    assert 0.3 < both.compute()["F1"] < both.compute()["detection_F1"] < 0.9
