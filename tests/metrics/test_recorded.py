"""Our metrics against what the field's reference tools said of thousands of random cases (recorded by record.py)."""

import gzip
import json
from pathlib import Path

import pytest

from florence2.metrics.caption_tokens import words
from florence2.metrics.grounding import Referring
from florence2.metrics.ocr import TextErrors
from florence2.metrics.qa import Answers, textvqa_accuracy, vqa_accuracy
from florence2.records import Region


def recorded(name, at_least):
    with gzip.open(Path(__file__).parent / "recorded" / f"{name}.jsonl.gz", "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    assert len(rows) >= at_least
    return rows


@pytest.mark.parametrize("name, ours", [("vqa", vqa_accuracy), ("textvqa", textvqa_accuracy)])
def test_accuracy_of_ten_people_equals_the_official_evaluation(name, ours):
    rows = recorded(name, 2000)
    assert [row for row in rows if ours(row[0], row[1]) != pytest.approx(row[2], abs=1e-9)] == []
    assert len({row[2] for row in rows}) >= 5  # 0, 0.3, 0.6, 0.9 and 1 are all there


def test_anls_equals_the_anls_package():
    rows = recorded("anls", 4000)
    for truth, found, expected in rows:
        metric = Answers()
        metric.update(truth, found)
        assert metric.compute()["ANLS"] == pytest.approx(expected, abs=1e-12), (truth, found)
    assert sum(0 < row[2] < 1 for row in rows) > 700


def test_error_rates_of_sets_equal_jiwer():
    for truth, found, characters, errors in recorded("errors", 400):
        metric = TextErrors()
        for pair in zip(truth, found):
            metric.update(*pair)
        assert metric.compute() == {"CER": pytest.approx(characters), "WER": pytest.approx(errors)}


def test_referring_accuracy_equals_lmms_eval():
    rows = recorded("referring", 2900)
    for truth, found, right in rows:
        metric = Referring()
        metric.update([Region(box=tuple(truth))], [Region(box=tuple(found))])
        assert metric.compute()["accuracy"] == right, (truth, found)
    assert 0.1 < sum(row[2] for row in rows) / len(rows) < 0.9


def test_words_equal_the_treebank_tokenizer():
    rows = recorded("treebank", 3000)
    assert [(text, said) for text, said in rows if " ".join(words(text)) != said] == []
