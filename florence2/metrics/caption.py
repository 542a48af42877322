"""CIDEr, BLEU and ROUGE-L of captions: the maths of pycocoevalcap, without Java.

CIDEr is the CIDEr-D that pycocoevalcap computes: document frequencies over the truth of the whole set, so a set of one
picture scores 0.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

from florence2.metrics.caption_tokens import words
from florence2.metrics.rows import table

N = 4
SIGMA = 6.0  # of CIDEr-D's penalty on length
BETA = 1.2  # weight of recall in ROUGE-L

Gram = tuple[str, ...]
Grams = list[Counter[Gram]]  # for n = 1..4, how often each n-gram occurs in a caption


class Captions:
    """CIDEr (0 to 10), BLEU1 to BLEU4 and ROUGE_L over a set."""

    def __init__(self) -> None:
        self.truth: list[list[Grams]] = []
        self.found: list[Grams] = []
        self.rouge: list[float] = []
        self.bleu: list[list[int]] = []  # length, length of the closest truth, then correct and guessed for each n
        self._cider: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.found)

    def update(self, truth: Sequence[str], found: str) -> None:
        """Add one picture: all its true captions, and the one found."""
        if isinstance(truth, str) or not truth:
            raise ValueError(f"true captions: expected a list of at least one string, got {truth!r:.60}")
        references, candidate = [words(text) for text in truth], words(found)
        grams, counted = _grams(candidate), [_grams(reference) for reference in references]
        self.truth.append(counted)
        self.found.append(grams)
        self.rouge.append(_rouge(references, candidate))
        self.bleu.append(_bleu_counts(counted, [len(r) for r in references], grams, len(candidate)))
        self._cider = None

    def compute(self, rows: Sequence[int] | None = None) -> dict[str, float]:
        """The scores over all updates, or over those named by `rows` (document frequencies stay those of all)."""
        if self._cider is None:
            self._cider = _cider(self.truth, self.found)
        picked = np.arange(len(self.found)) if rows is None else np.asarray(rows, dtype=np.int64)
        if not len(picked):
            return dict.fromkeys(("CIDEr", "BLEU1", "BLEU2", "BLEU3", "BLEU4", "ROUGE_L"), 0.0)
        counts = table(self.bleu, rows, 2 + 2 * N, np.float64).sum(axis=0)
        bleu = dict(zip(("BLEU1", "BLEU2", "BLEU3", "BLEU4"), _bleu(counts)))
        rouge = float(table(self.rouge, rows, 1, np.float64).mean())
        return {"CIDEr": float(self._cider[picked].mean()), **bleu, "ROUGE_L": rouge}


def _grams(tokens: list[str]) -> Grams:
    return [Counter(tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)) for n in range(1, N + 1)]


def _cider(truth: list[list[Grams]], found: list[Grams]) -> np.ndarray:
    frequency: Counter[Gram] = Counter()
    for references in truth:
        frequency.update({gram for reference in references for counts in reference for gram in counts})
    log_pictures = math.log(max(len(truth), 1))

    def weigh(grams: Grams) -> list[tuple[dict[Gram, float], float]]:
        out = []
        for counts in grams:
            vector = {g: c * (log_pictures - math.log(max(1.0, frequency[g]))) for g, c in counts.items()}
            out.append((vector, math.sqrt(sum(v * v for v in vector.values()))))
        return out

    scores = []
    for references, candidate in zip(truth, found):
        vectors, length = weigh(candidate), sum(candidate[1].values())
        total = 0.0
        for reference in references:
            penalty = math.exp(-((length - sum(reference[1].values())) ** 2) / (2 * SIGMA**2))
            for (mine, my_norm), (theirs, their_norm) in zip(vectors, weigh(reference)):
                if my_norm and their_norm:
                    shared = sum(min(v, theirs[g]) * theirs[g] for g, v in mine.items() if g in theirs)
                    total += penalty * shared / (my_norm * their_norm)
        scores.append(10 * total / N / len(references))
    return np.array(scores)


def _bleu_counts(references: list[Grams], lengths: list[int], grams: Grams, length: int) -> list[int]:
    closest = min((abs(n - length), n) for n in lengths)[1]
    correct, guessed = [], []
    for n in range(N):
        most: Counter[Gram] = Counter()
        for reference in references:
            most |= reference[n]
        correct.append(sum((grams[n] & most).values()))
        guessed.append(max(0, length - n))
    return [length, closest, *correct, *guessed]


def _bleu(counts: np.ndarray) -> list[float]:
    small, tiny = 1e-9, 1e-15  # pycocoevalcap's guards against empty candidates
    length, closest = counts[:2]
    ratio = (length + tiny) / (closest + small)
    brevity = math.exp(1 - 1 / ratio) if ratio < 1 else 1.0
    product, out = 1.0, []
    for n in range(N):
        product *= (counts[2 + n] + tiny) / (counts[2 + N + n] + small)
        out.append(float(product ** (1 / (n + 1)) * brevity))
    return out


def _rouge(references: list[list[str]], candidate: list[str]) -> float:
    mine = candidate or [""]  # as "".split(" ")
    shared = [(_longest_common(reference or [""], mine), max(len(reference), 1)) for reference in references]
    precision = max(common / len(mine) for common, _ in shared)
    recall = max(common / length for common, length in shared)
    if not precision or not recall:
        return 0.0
    return (1 + BETA**2) * precision * recall / (recall + BETA**2 * precision)


def _longest_common(a: list[str], b: list[str]) -> int:
    """The length of the longest common subsequence."""
    row = [0] * (len(b) + 1)
    for x in a:
        last = 0
        for j, y in enumerate(b):
            last, row[j + 1] = row[j + 1], last + 1 if x == y else max(row[j + 1], row[j])
    return row[-1]
