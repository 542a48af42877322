"""One model asked from several threads at once says what it says to one."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from florence2.records import Ask

ASKS = [
    dict(task="<OD>"),
    dict(task="<OD>", labels=["red car", "two dogs", "sofa"]),
    dict(task="<OCR_WITH_REGION>"),
    dict(task=["<CAPTION>", Ask("<REGION_TO_CATEGORY>", region=(1, 2, 30, 20))]),
    dict(task="<OPEN_VOCABULARY_DETECTION>", labels=["car", "dog"]),
    dict(task="<OD>", official=True, num_beams=3),
    dict(task="<OD>", num_beams=2, filters=["nms_all"]),
    dict(task="<REGION_PROPOSAL>", tiles=(2, 1)),
]


def plain(answers):
    return [(a.text, a.token_ids, a.labels.tolist(), a.class_ids.tolist()) for a in answers]


@pytest.mark.parametrize("shared", [False, True], ids=["pictures", "one encoded picture"])
def test_answers_are_those_of_one_thread(tiny, pictures, shared):
    encoded = tiny.encode_image(pictures[0])

    def ask(number):
        how = ASKS[number % len(ASKS)]
        tiled = how.get("tiles")
        picture = encoded if shared and not tiled else pictures[number % len(pictures)]
        found = tiny.predict(picture, max_new_tokens=24, **how)
        return plain(found if isinstance(found, list) else [found])

    numbers = [n for n in range(24)] * 2
    wanted = [ask(number) for number in numbers]
    barrier = threading.Barrier(4)
    with ThreadPoolExecutor(4, initializer=barrier.wait) as pool:
        assert list(pool.map(ask, numbers)) == wanted


def test_the_first_answers_of_a_fresh_model_may_come_from_several_threads(folder, pictures):
    """What is made at the first call (vocabularies, tries, masks) is made by whoever comes first."""
    from florence2.predictor import load

    def ask(model, number):
        labels = [f"label {n}" for n in range(300)] if number % 2 else ["red car", "sofa"]
        return plain([model.predict(pictures[number % 3], "<OD>", labels=labels, max_new_tokens=16)])

    wanted = [ask(load(folder), number) for number in range(6)]
    fresh = load(folder)
    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(lambda number: ask(fresh, number), range(6))) == wanted
