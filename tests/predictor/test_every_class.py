"""Several classes in one open-vocabulary question: what its answer leaves open is asked alone; all is one answer."""

import numpy as np
import pytest

from florence2.codec import answers
from florence2.decoding.search import Generated
from florence2.predictor import load
from florence2.predictor.batch import OpenBatch, Request
from florence2.predictor.every_class import AT_ONCE, ClassQuestions
from florence2.records import Ask
from florence2.scenes import KINDS, TRAINING_SEEDS, draw

OPEN = "<OPEN_VOCABULARY_DETECTION>"
CLASSES = tuple(KINDS[:12])


@pytest.fixture(scope="module")
def nano():
    return load("nano", calibration=None)


@pytest.fixture(scope="module")
def scenes():
    """Pictures with some of the classes."""
    return [draw(TRAINING_SEEDS + n, objects=(3, 5), signs=0)[0] for n in (3, 4, 5)]


def items(answer):
    return [(region.label, region.box, region.polygons) for region in answer.regions]


@pytest.mark.parametrize("beams", [1, 2])
def test_every_class_is_asked_about(nano, scenes, beams):
    encoded = nano.encode_image(scenes[0])
    joined = nano.predict(encoded, Ask(OPEN, labels=CLASSES), each_class=False, num_beams=beams)
    whole = nano.predict(encoded, Ask(OPEN, labels=CLASSES), num_beams=beams)
    open_classes = [label for label, found in joined.by_label().items() if not found]
    assert open_classes, "nothing is left open"
    alone = [nano.predict(encoded, Ask(OPEN, labels=(c,)), num_beams=beams) for c in open_classes]
    assert items(whole) == items(joined) + [item for one in alone for item in items(one)]
    assert not whole.truncated


def test_the_joined_answer_is_one_answer(nano, scenes):
    for picture in scenes:
        answer = nano.predict(picture, Ask(OPEN, labels=CLASSES))
        assert list(answer.by_label()) == list(CLASSES) and answer.ask.labels == CLASSES
        assert len(answer.token_ids) == len(answer.token_logprobs) == len(answer.token_measures)
        again = answers.parse_ids(answer.token_ids, nano.tokenizer, answer.row, answer.size_wh, answer.ask)[0]
        assert items(again) == items(answer)
        assert all(region.score is not None for region in answer.regions)


def test_a_cut_answer_is_not_asked_further(nano, scenes):
    cut = nano.predict(scenes[0], Ask(OPEN, labels=CLASSES), max_new_tokens=8)
    assert cut.truncated and cut == nano.predict(
        scenes[0], Ask(OPEN, labels=CLASSES), max_new_tokens=8, each_class=False
    )
    on = nano.predict(scenes[0], continue_from=cut)
    assert not on.truncated and items(on) == items(nano.predict(scenes[0], Ask(OPEN, labels=CLASSES)))


def test_in_a_batch_with_others_each_gets_its_own(nano, scenes):
    asks = [Ask(OPEN, labels=CLASSES), Ask("<OD>"), Ask(OPEN, labels=CLASSES[:3]), Ask(OPEN, labels=CLASSES[:1])]
    together = nano.answer([nano.request(picture, asks, grammar=True) for picture in scenes])
    for picture, own in zip(scenes, together):
        for ask, answer in zip(asks, own):
            assert items(answer) == items(nano.predict(picture, ask, grammar=True))


def test_dropped_with_its_classes(nano, scenes):
    batch = OpenBatch(nano)
    request = nano.request(scenes[0], [Ask(OPEN, labels=CLASSES)])
    ((number,),) = batch.admit([request])
    assert batch.rows == 1
    while batch.rows == 1:
        assert not batch.step()
    assert batch.rows == AT_ONCE and batch.so_far(number) is None
    batch.drop([number])
    assert batch.rows == 0
    ((again,),) = batch.admit([Request(request.image, request.asks, request.decoding)])
    found = []
    while batch.rows:
        found += batch.step()
    assert [n for n, _ in found] == [again]


def generated(*ids, truncated=False):
    return Generated(ids, tuple(-float(i) for i in ids), truncated, np.array([[float(i)] for i in ids], np.float32))


def test_classes_are_asked_a_few_at_a_time_and_joined_in_their_order():
    questions = ClassQuestions(generated(2, 0, 50, 60, 2), [f"c{n}" for n in range(AT_ONCE + 2)])
    first = questions.next()
    assert first == [f"c{n}" for n in range(AT_ONCE)] and not questions.next()
    for ended, n in enumerate(reversed(range(AT_ONCE)), 1):  # in whatever order they end
        questions.add(f"c{n}", generated(2, 0, 70 + n, 2) if n in (3, 5) else generated(2, 0, 2))
        assert len(questions.next()) == (2 if ended == AT_ONCE else 0)
    questions.add(f"c{AT_ONCE}", generated(2, 0, 90, 91, 2, truncated=True))
    questions.add(f"c{AT_ONCE + 1}", generated(2, 0, 2))
    assert not questions.next() and not questions.open
    whole = questions.joined()
    assert whole.ids == (2, 0, 50, 60, 73, 75, 90, 91, 2) and whole.truncated
    assert whole.measures[:, 0].tolist() == [float(i) for i in whole.ids] and whole.logprobs[4] == -73


def test_one_class_or_another_task_is_asked_once(nano, scenes):
    for ask in (Ask(OPEN, labels=CLASSES[:1]), Ask(OPEN, text="car"), Ask("<OD>", labels=CLASSES)):
        assert nano.predict(scenes[0], ask, grammar=True) == nano.predict(
            scenes[0], ask, grammar=True, each_class=False
        )


def test_more_classes_than_a_prompt_holds_are_refused(nano, scenes):
    many = tuple(f"thing {n}" for n in range(400))
    with pytest.raises(ValueError, match="prompt: expected at most .* ask about fewer labels at a time"):
        nano.predict(scenes[0], Ask(OPEN, labels=many))


def test_each_class_is_true_or_false(nano, scenes):
    with pytest.raises(ValueError, match="each_class: expected True or False, got 'no'"):
        nano.predict(scenes[0], Ask(OPEN, labels=CLASSES), each_class="no")
