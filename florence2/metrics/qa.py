"""Answers to questions scored: ANLS of documents, the VQA accuracies with their official normalisers, plain accuracy.

Several true answers are always a list of strings; a bare string is refused, since iterating it would compare letters.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from florence2.labels import fold_label, fold_spaces
from florence2.metrics.ocr import edit_distance
from florence2.metrics.rows import table

# the normaliser of https://github.com/GT-Vision-Lab/VQA: words that lost an apostrophe get it back
_CONTRACTIONS = """ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't
he'd he'd've he's how'd how'll how's I'd've I'm I've isn't it'd it'd've it'll ma'am mightn't mightn't've might've
mustn't must've needn't not've o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've
somebody'll somebody's someone'd someone'd've someone'll someone's something'd something'd've something'll that's
there'd there'd've there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll
what're what's what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't
would've wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've""".split()
_NUMBERS = {
    "none": "0", "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5",
    "six": "6", "seven": "7", "eight": "8", "nine": "9", "ten": "10",
}  # fmt: skip
KEYS = ("ANLS", "VQA_accuracy", "TextVQA_accuracy", "accuracy")
_ARTICLES = ("a", "an", "the")
_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_PERIOD = re.compile(r"\.(?!\d)")
_THOUSANDS = re.compile(r"\d,\d")


def _restored() -> dict[str, str]:
    """Each contraction with one apostrophe missing -> the contraction."""
    out = {"somebody'd": "somebodyd"}  # turned round in the official table
    for word in _CONTRACTIONS:
        for place, letter in enumerate(word):
            if letter == "'":
                out[word[:place] + word[place + 1 :]] = word
    return out


_RESTORED = _restored()


def normalize_punctuation(text: str) -> str:
    """The official rule: a mark beside a space, or in a text that holds 1,000, goes; any other becomes a space."""
    out = text
    thousands = _THOUSANDS.search(text) is not None
    for mark in _PUNCTUATION:
        beside_space = mark + " " in text or " " + mark in text
        out = out.replace(mark, "" if beside_space or thousands else " ")
    return _PERIOD.sub("", out, count=32)  # the official call passes a flag in place of the count


def normalize_answer(text: str) -> str:
    """An answer as the VQA evaluation compares it."""
    text = normalize_punctuation(text.replace("\n", " ").replace("\t", " ").strip())
    words = (_NUMBERS.get(word, word) for word in text.lower().split())
    return " ".join(_RESTORED.get(word, word) for word in words if word not in _ARTICLES)


def normalize_text_answer(text: str) -> str:
    """An answer as TextVQA's challenge server compares it: commas and question marks go first, and 's becomes a word of
    its own."""
    return normalize_answer(text.lower().replace(",", "").replace("?", "").replace("'s", " 's"))


class Answers:
    """ANLS, VQA_accuracy and TextVQA_accuracy (where ten people answered; of fewer than four true answers any one is
    as good as all of them), and plain accuracy."""

    def __init__(self, anls_threshold: float = 0.5):
        self.anls_threshold = anls_threshold
        self.rows: list[tuple[float, ...]] = []  # a row an ask, a column a key

    def __len__(self) -> int:
        return len(self.rows)

    def update(self, truth: Sequence[str], found: str) -> None:
        """Add one question with its list of true answers."""
        if isinstance(truth, str) or not truth:
            raise ValueError(f"true answers: expected a list of at least one string, got {truth!r:.60}")
        equal = fold_label(found) in {fold_label(answer) for answer in truth}
        near = max(similarity(answer, found) for answer in truth)
        anls = near if near > 1 - self.anls_threshold else 0.0
        self.rows.append((anls, vqa_accuracy(truth, found), textvqa_accuracy(truth, found), float(equal)))

    def compute(self, rows: Sequence[int] | None = None) -> dict[str, float]:
        """The means over all updates, or over those named by `rows`."""
        scores = table(self.rows, rows, len(KEYS), np.float64)
        means = scores.mean(axis=0) if len(scores) else np.zeros(len(KEYS))
        return dict(zip(KEYS, means.tolist()))


def similarity(truth: str, found: str) -> float:
    """1 - edit distance over the longer length, case and white space folded (https://arxiv.org/abs/1907.00490)."""
    truth, found = fold_spaces(truth.lower()), fold_spaces(found.lower())
    longer = max(len(truth), len(found))
    return 1 - edit_distance(truth, found) / longer if longer else 1.0


def vqa_accuracy(truth: Sequence[str], found: str) -> float:
    """As VQA's official script: the found answer is normalised, of the people's the punctuation only."""
    answer = normalize_answer(found)
    people = list(truth) if len(set(truth)) == 1 else [normalize_punctuation(t) for t in truth]
    return _agreed(people, answer) if len(people) > 3 else float(answer in map(normalize_answer, truth))


def textvqa_accuracy(truth: Sequence[str], found: str) -> float:
    """As TextVQA's challenge server: both sides are normalised alike."""
    answer, people = normalize_text_answer(found), [normalize_text_answer(t) for t in truth]
    return _agreed(people, answer) if len(people) > 3 else float(answer in people)


def _agreed(people: Sequence[str], answer: str) -> float:
    """The mean, over leaving one person out, of min(1, people who gave it / 3)."""
    agreeing = sum(person == answer for person in people)
    return sum(min(1.0, (agreeing - (person == answer)) / 3) for person in people) / len(people)
