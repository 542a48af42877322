"""Answers: cases of the official definitions, and the broken ones seen elsewhere as counter-examples."""

import pytest

from florence2.metrics.qa import KEYS, Answers, normalize_answer, similarity, vqa_accuracy


def scores(*pairs):
    metric = Answers()
    for truth, found in pairs:
        metric.update(truth, found)
    return metric.compute()


def test_a_perfect_answer_scores_one_and_an_empty_one_zero():
    assert scores((["$12.50", "12.50"], "$12.50")) == dict.fromkeys(KEYS, 1)
    assert scores((["yes"], "")) == dict.fromkeys(KEYS, 0)


def test_answers_given_as_one_string_are_refused():
    """Elsewhere a string is iterated letter by letter, and a perfect prediction scores 0."""
    with pytest.raises(ValueError, match="expected a list"):
        Answers().update("perfect", "perfect")


@pytest.mark.parametrize(
    "truth, found, expected",
    [
        (["hello"], "Hello ", 1.0),  # case and space folded
        (["hello"], "hallo", 0.8),
        (["abcd"], "abxy", 0.0),  # a distance of half the length is cut to 0
        (["abcde"], "abcxy", 0.6),
        (["no", "hello"], "hello", 1.0),  # the best of the answers
    ],
)
def test_anls_by_hand(truth, found, expected):
    assert scores((truth, found))["ANLS"] == pytest.approx(expected)


@pytest.mark.parametrize(
    "text, expected",
    [
        ("The red car.", "red car"),  # article and period
        ("two dogs", "2 dogs"),
        ("None", "0"),
        ("dont know", "don't know"),
        ("1,000", "1000"),
        ("3.5", "3.5"),
        ("yes, sir", "yes sir"),  # a mark beside a space goes
        ("black/white", "black white"),  # a mark inside becomes a space
        ("a\nb", "b"),
    ],
)
def test_the_official_normaliser(text, expected):
    assert normalize_answer(text) == expected


@pytest.mark.parametrize(
    "said, expected",
    [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)],
)
def test_vqa_accuracy_of_ten_people(said, expected):
    people = ["blue"] * said + [f"other{n}" for n in range(10 - said)]
    assert vqa_accuracy(people, "Blue.") == pytest.approx(expected)


def test_of_three_answers_or_fewer_any_one_is_right():
    assert vqa_accuracy(["blue", "red", "red"], "blue") == vqa_accuracy(["blue"], "blue") == 1
    assert vqa_accuracy(["blue", "red", "red"], "green") == 0
    assert 0 < vqa_accuracy(["blue", "red", "red", "red"], "blue") < 1


def test_similarity_of_nothing_to_nothing():
    assert similarity("", "") == 1 and similarity("a", "") == 0
