"""Reading: error rates against a slow edit distance, quads against cases of the official protocol."""

import numpy as np
import pytest

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
