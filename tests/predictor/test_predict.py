"""A picture and an ask in, an answer out: alone, in lists and over many pictures the same; wrong use refused."""

import gc
import io
import math
import threading
import warnings

import numpy as np
import pandas
import pytest
import torch

from florence2 import sources
from florence2.codec.answers import unused_positions
from florence2.codec.grammar import automaton
from florence2.codec.tasks import TASKS, Task
from florence2.decoding.generate import constraint_of
from florence2.pixels import BadImage, encode
from florence2.predictor import Answer, Florence2, batch, load
from florence2.predictor.images import load_ahead
from florence2.records import Ask, Failure, ImageRef

ASKS = [
    "<CAPTION>",
    Ask("<OD>"),
    Ask("OPEN_VOCABULARY_DETECTION", text="red car"),
    Ask("REGION_TO_CATEGORY", region=(1, 2, 30, 20)),
    Ask("REFERRING_EXPRESSION_SEGMENTATION", text="two dogs on a blue sofa beside a green tree"),
    Ask(prompt="<DocVQA>What is the total?"),
]


def ask_for(task):
    """An ask of a task, with what it takes."""
    given = {"text": {"text": "a red car"}, "region": {"region": (1, 2, 30, 20)}, "": {}}
    return Ask(task.token, **given[task.input_kind])


@pytest.mark.parametrize("official", [False, True])
@pytest.mark.parametrize("beams", [1, 3])
def test_a_list_of_asks_equals_separate_calls(tiny, pictures, official, beams):
    how = dict(official=official, num_beams=beams, max_new_tokens=24)
    together = tiny.predict(pictures[0], ASKS, **how)
    encoded = tiny.encode_image(pictures[0])
    assert encoded.size_wh == pictures[0].shape[1::-1]
    for ask, answer in zip(ASKS, together):
        alone = tiny.predict(encoded, ask, **how)
        assert answer.token_ids == alone.token_ids and answer.truncated == alone.truncated
        assert answer.token_logprobs == pytest.approx(alone.token_logprobs, abs=1e-5)
        assert answer.prompt == alone.prompt


@pytest.mark.parametrize("official", [False, True])
def test_asks_that_join_an_open_batch_are_answered_as_alone(tiny, pictures, official):
    """Some under other rules, some about pictures that were encoded before, some dropped, some impossible."""
    running, numbers, answers, dropped = batch.OpenBatch(tiny), {}, {}, set()
    encoded = tiny.encode_image(pictures[1])
    joins = {0: [(pictures[0], ASKS[:2])], 2: [(encoded, ASKS[2:4]), (b"no picture", ASKS[:1])], 5: [(encoded, ASKS)]}
    for step in range(60):
        for image, asks in joins.get(step, []):
            beams = 1 + 2 * (step == 2)
            request = tiny.request(image, asks, official=official, num_beams=beams, max_new_tokens=16)
            for ask, number in zip(asks, running.admit([request])[0]):
                if isinstance(number, Failure):
                    assert number.reason == "not_an_image"
                else:
                    numbers[number] = (image, ask, beams)
        if step == 7:
            dropped = {max(numbers)} - set(answers)
            running.drop(dropped)
        if running.rows:
            answers.update(running.step())
    assert running.rows == 0 and len(numbers) == 10 and set(answers) | dropped == set(numbers)
    for number, answer in answers.items():
        image, ask, beams = numbers[number]
        alone = tiny.predict(image, ask, official=official, num_beams=beams, max_new_tokens=16)
        assert answer.token_ids == alone.token_ids
        assert answer.token_logprobs == pytest.approx(alone.token_logprobs, abs=1e-5)


def test_an_answer_can_be_read_while_it_is_made(tiny, pictures):
    running, shown = batch.OpenBatch(tiny), []
    request = tiny.request(pictures[0], ["<DETAILED_CAPTION>"], num_beams=1, max_new_tokens=24)
    ((number,),) = running.admit([request])
    ended = {}
    while not (ended := dict(running.step())):
        if (answer := running.so_far(number)) is not None:  # None: ended, and its last numbers are being made
            shown.append(answer)
    texts = ["".join(text.text for text in answer.texts) for answer in shown]
    whole = "".join(text.text for text in ended[number].texts)
    assert len(texts) >= 8 and all(whole.startswith(text.rstrip("\ufffd ")) for text in texts)


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_every_answer_keeps_its_grammar_and_its_budget(tiny, pictures, task):
    ask = ask_for(task)
    for budget in (2, 3, 9, 31):
        answer = tiny.predict(pictures[1], ask, max_new_tokens=budget)
        assert answer.token_ids[:2] in ((2, 0), (2, 2)) and answer.token_ids[-1] == 2
        assert len(answer.token_ids) - 1 <= budget
        legal = automaton(task, tiny.tokenizer)
        state = legal.start()
        for token in answer.token_ids[2:]:
            state = legal.advance(state, token)
        assert legal.accepts(state)
        assert not unused_positions(answer.token_ids, tiny.tokenizer, task)
        items = (*answer.texts, *answer.regions, *answer.groundings)
        assert all(0 < item.score <= 1 for item in items)
        height, width = pictures[1].shape[:2]
        assert (answer.xyxy >= 0).all() and (answer.xyxy <= [width, height] * 2).all()
    assert items and (task.output_kind in ("text", "region_text") or len(answer.xyxy))  # at the largest budget


def test_log_probabilities_equal_the_training_forward(tiny, pictures):
    encoded = tiny.encode_image(pictures[0])
    for official in (False, True):
        answer = tiny.predict(encoded, "<OD>", official=official, num_beams=1, max_new_tokens=20)
        ids = torch.tensor([answer.token_ids])
        prompt = torch.tensor([tiny.tokenizer.prompt_ids(answer.prompt)])
        with torch.no_grad():
            logits = tiny.model(encoded.features[None], prompt, None, ids[:, :-1])
        expected = logits.log_softmax(-1)[0].gather(1, ids[0, 1:, None])[:, 0]
        assert answer.token_logprobs[1:] == pytest.approx(expected.tolist(), abs=1e-4)


def test_many_pictures_in_order_with_the_bad_ones_in_place(tiny, pictures, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"no picture")
    good = tmp_path / "good.png"
    good.write_bytes(encode(pictures[2]))
    images = [*pictures, tmp_path / "bad.png", str(good), tmp_path / "missing.png", pictures[3]]
    asks = ["<OD>", "<CAPTION>"]
    found = list(tiny.predict_many(images, asks, batch_size=3, max_new_tokens=16))
    assert [f.index for f in found if isinstance(f, Failure)] == [6, 8]
    assert found[6] == Failure(6, "", str(tmp_path / "bad.png"), "not_an_image", found[6].detail)
    for image, answers in zip(images, found):
        if not isinstance(answers, Failure):
            alone = tiny.predict(image, asks, max_new_tokens=16)
            assert [a.token_ids for a in answers] == [a.token_ids for a in alone]
            assert answers[0].size_wh == alone[0].size_wh
    assert found[7][0].image == str(good) and found[0][0].image is None  # of pixels nothing is kept
    single = list(tiny.predict_many(pictures[:2], "<OD>", max_new_tokens=16))
    assert all(isinstance(a, Answer) for a in single)


def test_each_picture_may_have_its_own_asks(tiny, pictures):
    box = Ask("REGION_TO_CATEGORY", region=(1, 1, 9, 9))
    closed = Ask("OPEN_VOCABULARY_DETECTION", labels=("cat", "dog"))  # decoded by the grammar, whatever the others are
    items = [
        (pictures[0], ["<OD>", box]),
        (pictures[1], "<CAPTION>"),
        (b"junk", "<OD>"),
        (pictures[2], closed),
        (pictures[3], ["<NO_SUCH>"]),
        pictures[0],
        (pictures[1], [box]),
    ]
    found = list(tiny.predict_many(iter(items), batch_size=4, max_new_tokens=12, official=None))
    reasons = [f.reason for f in found if isinstance(f, Failure)]
    assert reasons == ["not_an_image", "bad_ask", "bad_ask"] and "expected pairs" in found[5].detail
    for n in (0, 1, 3, 6):
        alone = tiny.predict(items[n][0], items[n][1], max_new_tokens=12)
        same = zip(found[n], alone) if isinstance(alone, list) else [(found[n], alone)]
        assert all(a.token_ids == b.token_ids for a, b in same)
    assert isinstance(found[0], list) and len(found[0]) == 2 and isinstance(found[1], Answer)


def test_on_error_raise_comes_after_the_answers_before_it(tiny, pictures):
    found = tiny.predict_many([pictures[0], b"junk", pictures[1]], "<OD>", on_error="raise", max_new_tokens=8)
    assert isinstance(next(found), Answer)
    with pytest.raises(BadImage, match="not a picture"):
        next(found)


def test_a_region_outside_one_picture_fails_that_picture_alone(tiny, pictures):
    wide = np.zeros((10, 200, 3), np.uint8)
    ask = Ask("REGION_TO_OCR", region=(150, 1, 190, 8))
    first, second = tiny.predict_many([pictures[0], wide], ask, max_new_tokens=12)
    assert isinstance(first, Failure) and first.reason == "bad_ask" and "region" in first.detail
    assert isinstance(second, Answer)


def test_places_of_one_picture_do_not_reach_another(pictures):
    """A trained model: its boxes end at different bins, so that rows are regrouped at every location."""
    nano, scenes = load("nano"), list(sources.open("scenes:6"))
    for scene, answer in zip(scenes, nano.predict_many([scene.image for scene in scenes], "<OD>"), strict=True):
        assert answer.token_ids == nano.predict(scene.image, "<OD>").token_ids


def test_each_ask_of_a_list_fails_alone(tiny, pictures):
    outside, long = Ask("REGION_TO_OCR", region=(900, 1, 990, 8)), Ask("VQA", text="many words " * 200)
    asks = ["<OD>", outside, "<CAPTION>", long]
    (found,) = tiny.predict_many([pictures[0]], asks, max_new_tokens=12)
    assert [isinstance(one, Failure) for one in found] == [False, True, False, True]
    assert "lies outside" in found[1].detail and "at most 251 tokens beside the picture" in found[3].detail
    alone = tiny.predict(pictures[0], ["<OD>", "<CAPTION>"], max_new_tokens=12)
    assert [found[0].token_ids, found[2].token_ids] == [answer.token_ids for answer in alone]
    with pytest.raises(ValueError, match="lies outside"):
        list(tiny.predict_many([pictures[0]], asks, max_new_tokens=12, on_error="raise"))
    for wrong in (outside, long):
        with pytest.raises(ValueError, match="expected"):
            tiny.predict(pictures[0], ["<OD>", wrong], max_new_tokens=12)


def test_requests_of_any_decoding_share_a_batch(tiny, pictures, monkeypatch):
    calls = []
    monkeypatch.setattr(batch, "constraint_of", lambda *args: calls.append(len(args[0])) or constraint_of(*args))
    hows = [
        dict(official=True, num_beams=1),
        dict(num_beams=2),
        dict(max_new_tokens=9),
        dict(official=True, num_beams=1),
    ]
    hows = [{"max_new_tokens": 14, **how} for how in hows]
    requests = [tiny.request(picture, ["<OD>", "<CAPTION>"], **how) for picture, how in zip(pictures, hows)]
    requests.insert(1, tiny.request(b"junk", ["<OD>", "<OCR>"]))
    found = tiny.answer(requests)
    assert calls == [4, 2, 2]  # the official ones together, though others stand between them
    assert [one.reason for one in found.pop(1)] == ["not_an_image"] * 2
    for picture, how, answers in zip(pictures, hows, found):
        alone = tiny.predict(picture, ["<OD>", "<CAPTION>"], **how)
        assert [a.token_ids for a in answers] == [a.token_ids for a in alone]


def test_a_picture_encoded_before_is_not_looked_at_again(tiny, pictures, monkeypatch):
    encoded = tiny.encode_images([pictures[0], b"junk", pictures[1]])
    assert isinstance(encoded[1], Failure)
    looked = []
    monkeypatch.setattr(tiny.model, "encode_image", lambda pixels: looked.append(len(pixels)) or None)
    answers = tiny.answer([tiny.request(picture, ["<OD>"], max_new_tokens=9) for picture in encoded])
    assert looked == [] and [isinstance(a[0], Answer) for a in answers] == [True, False, True]


def test_a_folder_is_all_pictures_below_it(tiny, pictures, tmp_path):
    names = ["b.png", "a/2.png", "a/1.png"]
    for n, name in enumerate(names):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(encode(pictures[n]))
    (tmp_path / "notes.txt").write_text("no picture")
    found = list(tiny.predict_many(tmp_path, "<OD>", max_new_tokens=9))
    assert [answer.image for answer in found] == [str(tmp_path / name) for name in sorted(names)]
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty: holds no picture"):
        tiny.predict_many(tmp_path / "empty", "<OD>")


def test_a_sample_s_own_picture_can_be_asked_about(tiny, pictures, tmp_path):
    (tmp_path / "x.png").write_bytes(encode(pictures[0]))
    ref = ImageRef("x", str(tmp_path / "x.png"))
    assert tiny.predict(ref, "<OD>", max_new_tokens=9) == tiny.predict(pictures[0], "<OD>", max_new_tokens=9)
    (failure,) = tiny.predict_many([ImageRef("gone", str(tmp_path / "y.png"))], "<OD>")
    assert (failure.image, failure.reason) == ("gone", "missing")


def test_pictures_are_loaded_ahead_and_no_further():
    lock, loaded, taken = threading.Lock(), [], []

    def prepare(image):
        with lock:
            loaded.append(image)
        return image

    for one in load_ahead(iter(range(50)), prepare, 6):
        taken.append(one)
        with lock:
            assert len(loaded) <= len(taken) + 5
    assert taken == list(range(50))


def test_every_form_of_picture_is_the_same_picture(tiny, pictures, tmp_path):
    data = encode(pictures[0])
    (tmp_path / "x.png").write_bytes(data)
    from PIL import Image

    ids = {
        tiny.predict(image, "<OD>", max_new_tokens=16).token_ids
        for image in (pictures[0], data, tmp_path / "x.png", str(tmp_path / "x.png"), Image.open(io.BytesIO(data)))
    }
    assert len(ids) == 1


def test_text_may_stand_behind_the_token_or_beside_it(tiny, pictures):
    task = "<CAPTION_TO_PHRASE_GROUNDING>"
    beside = tiny.predict(pictures[0], task, text="a red car", max_new_tokens=9)
    assert beside.prompt == "Locate the phrases in the caption: a red car"
    assert tiny.predict(pictures[0], task + " a red car", max_new_tokens=9) == beside
    assert tiny.predict(pictures[0], Ask(task, text="a red car"), max_new_tokens=9) == beside
    raw = tiny.predict(pictures[0], prompt="<DocVQA>What is the total?", max_new_tokens=9)
    assert raw.prompt == "<DocVQA>What is the total?" and raw.texts[0].question == "What is the total?"


def test_labels_hold_the_answer_to_a_closed_set(tiny, pictures):
    labels = ["red car", "two dogs", "sofa"]
    answer = tiny.predict(pictures[0], "<OD>", labels=labels, max_new_tokens=60)
    assert answer.classes == labels and set(answer.labels) <= set(labels) and len(answer) > 0
    assert [labels[i] for i in answer.class_ids] == answer.labels.tolist()


def test_labels_come_from_a_file_too(tiny, pictures, tmp_path):
    lines, coco = tmp_path / "names.txt", tmp_path / "instances.json"
    lines.write_text("red car\ntwo dogs\nsofa\n")
    coco.write_text('{"categories": [{"id": 9, "name": "red car"}, {"id": 2, "name": "two dogs"}, {"name": "sofa"}]}')
    given = tiny.predict(pictures[0], "<OD>", labels=["red car", "two dogs", "sofa"], max_new_tokens=60)
    for file in (lines, str(coco), coco):
        answer = tiny.predict(pictures[0], "<OD>", labels=file, max_new_tokens=60)
        assert answer.token_ids == given.token_ids and answer.classes == given.classes
    found = given.by_label()
    assert list(found) == ["red car", "two dogs", "sofa"] and sum(map(len, found.values())) == len(given)


def test_tiles_are_asked_beside_the_whole_picture(tiny, pictures):
    picture = np.concatenate([np.concatenate(pictures[:1] * 3, 1)] * 2)
    height, width = picture.shape[:2]
    answers = tiny.predict(picture, ["<OD>", "<OCR_WITH_REGION>"], tiles=(2, 1), max_new_tokens=60)
    for answer in answers:
        assert answer.size_wh == (width, height) and len(answer) > 0 and answer.token_ids == ()
        assert (answer.xyxy >= 0).all() and (answer.xyxy <= [width, height] * 2).all()
        assert all(0 < score <= 1 for score in answer.scores) and len({r.id for r in answer.regions}) == len(answer)
    many = list(tiny.predict_many([picture, b"junk"], ["<OD>"], tiles=(2, 1), max_new_tokens=60))
    assert many[0][0].text == answers[0].text and isinstance(many[1], Failure)
    alone = tiny.predict(picture, "<OD>", tiles=(1, 1), max_new_tokens=60)
    plain = tiny.predict(picture, "<OD>", max_new_tokens=60)
    assert {r.box for r in alone.regions} <= {r.box for r in plain.regions}
    with pytest.raises(ValueError, match="needs the picture itself"):
        tiny.predict(tiny.encode_image(picture), "<OD>", tiles=(2, 1))


ARRAYS = {
    "numpy": lambda values: np.array(values, "float32" if isinstance(values[0], int) else None),
    "torch": lambda values: torch.tensor(values) if isinstance(values[0], int) else values,
    "pandas": lambda values: pandas.Series(values),
    "generator": lambda values: (value for value in values),
}


@pytest.mark.parametrize("kind", ARRAYS)
def test_a_region_or_labels_may_be_an_array(tiny, pictures, kind):
    box, labels = (1, 2, 30, 20), ["red car", "sofa"]
    plain = tiny.predict(pictures[0], "<REGION_TO_CATEGORY>", region=box, max_new_tokens=9)
    assert tiny.predict(pictures[0], "<REGION_TO_CATEGORY>", region=ARRAYS[kind](box), max_new_tokens=9) == plain
    closed = tiny.predict(pictures[0], "<OD>", labels=labels, max_new_tokens=30)
    found = tiny.predict(pictures[0], "<OD>", labels=ARRAYS[kind](labels), max_new_tokens=30)
    assert found == closed and found.classes == labels and type(found.classes[0]) is str
    if kind != "generator":
        asks = [Ask("REGION_TO_CATEGORY", region=ARRAYS[kind](box)), Ask("OD", labels=ARRAYS[kind](labels))]
        assert [a.token_ids for a in tiny.predict(pictures[0], asks[:1], max_new_tokens=9)] == [plain.token_ids]
        assert tiny.predict(pictures[0], asks[1], max_new_tokens=30).token_ids == closed.token_ids


@pytest.mark.parametrize("layout", ["florence2", "microsoft", "transformers"])
def test_what_is_saved_answers_the_same(tiny, pictures, tmp_path, layout):
    task = Task("<COUNT>", "How many {input} are there?", "text", "answer")
    model = Florence2(tiny.model, tiny.tokenizer, {**tiny.tasks, task.token: task})
    model.save(tmp_path / "saved", layout)
    again = load(tmp_path / "saved")
    assert again.config.rules == "grammar"  # kept by every layout
    asks = ["<OD>", Ask("<COUNT>", text="dogs")]
    how = dict(max_new_tokens=12, grammar=True)
    for a, b in zip(model.predict(pictures[0], asks, **how), again.predict(pictures[0], asks, **how)):
        assert a.token_ids == b.token_ids and a.prompt == b.prompt
    assert again.predict(pictures[0], "<COUNT>", text="dogs", **how).prompt == "How many dogs are there?"


def test_maps_of_the_tower(tiny, pictures):
    maps = tiny.vision_features(pictures[0])
    assert [tuple(m.shape) for m in maps] == [(1, 8, 16, 16), (1, 16, 8, 8), (1, 24, 4, 4), (1, 32, 2, 2)]
    assert maps[-1].requires_grad


def test_a_model_in_training_is_asked_without_dropout(folder, pictures):
    made = load(folder)
    before = made.predict(pictures[0], "<CAPTION>", max_new_tokens=9)
    trained = made.model.train()
    assert trained.language.training
    again = Florence2(trained, made.tokenizer)
    assert not any(module.training for module in again.model.modules())
    assert again.predict(pictures[0], "<CAPTION>", max_new_tokens=9) == before


def test_one_picture_for_predict_many_is_refused(tiny):
    with pytest.raises(ValueError, match="images: expected several"):
        tiny.predict_many("photo.jpg", "OD")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("how", [dict(grammar=True), dict(official=True), dict(official=True, num_beams=1)])
def test_a_gpu_says_what_a_cpu_says(tiny, folder, pictures, how):
    on_gpu = load(folder, device="cuda", dtype="float32")
    for ours, theirs in zip(tiny.predict(pictures[0], ASKS, **how), on_gpu.predict(pictures[0], ASKS, **how)):
        assert ours.token_ids == theirs.token_ids


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("how", [dict(grammar=True), dict(official=True), dict(official=True, num_beams=1)])
def test_a_step_waits_for_the_gpu_once(folder, pictures, how):
    on_gpu = load(folder, device="cuda", dtype="float32")
    on_gpu.predict(pictures[0], ASKS, **how)  # masks and tables are on the device from here on
    asks = on_gpu.request(pictures[0], ASKS, **how)
    running = batch.OpenBatch(on_gpu)
    running.admit([asks])
    torch.cuda.set_sync_debug_mode("warn")
    try:
        while running.rows:
            groups = len(running._searches)
            with warnings.catch_warnings(record=True) as waits:
                warnings.simplefilter("always")
                running.step()
            assert len(waits) <= groups, [str(wait.message) for wait in waits]
    finally:
        torch.cuda.set_sync_debug_mode("default")


# what is asked -> words the one-line refusal must hold
WRONG = {
    "unknown task": (dict(task="<DETECT>"), "DETECT", "CAPTION"),
    "no task": (dict(), "task", "<OD>"),
    "empty list": (dict(task=[]), "task", "empty"),
    "not a task": (dict(task=3), "task", "3"),
    "text for a task without": (dict(task="OD", text="cat"), "OD", "takes no text"),
    "text missing": (dict(task="CAPTION_TO_PHRASE_GROUNDING"), "CAPTION_TO_PHRASE_GROUNDING", "text"),
    "region missing": (dict(task="REGION_TO_OCR"), "REGION_TO_OCR", "region"),
    "region for a task without": (dict(task="OD", region=(0, 0, 9, 9)), "OD", "region"),
    "region of three": (dict(task="REGION_TO_OCR", region=(0, 0, 9)), "region", "x1, y1, x2, y2"),
    "region not finite": (dict(task="REGION_TO_OCR", region=(0, 0, 9, math.nan)), "region", "nan"),
    "region reversed": (dict(task="REGION_TO_OCR", region=(9, 0, 1, 9)), "region", "x1 <= x2"),
    "region upside down, in an ask": (dict(task=Ask("REGION_TO_OCR", region=(0, 9, 9, 1))), "region", "y1 <= y2"),
    "region outside": (dict(task="REGION_TO_OCR", region=(900, 0, 990, 9)), "region", "outside"),
    "prompt and task": (dict(task="OD", prompt="x"), "prompt", "task"),
    "prompt and text": (dict(prompt="x", text="y"), "prompt", "text"),
    "text not text": (dict(task="CAPTION_TO_PHRASE_GROUNDING", text=5), "text", "expected a text"),
    "text beside a list": (dict(task=["OD"], text="y"), "text", "Ask("),
    "text twice": (dict(task=Ask("VQA", text="a"), text="b"), "text", "twice"),
    "both rules": (dict(task="OD", official=True, grammar=True), "official", "grammar"),
    "neither rule": (dict(task="OD", official=False, grammar=False), "official", "grammar"),
    "labels under official rules": (dict(task="OD", labels=["a"], official=True), "labels", "official"),
    "labels without grammar": (dict(task="OD", labels=["a"], grammar=False), "labels", "grammar"),
    "labels for a caption": (dict(task="CAPTION", labels=["a"]), "CAPTION", "labels"),
    "labels as a string": (dict(task="OD", labels="cat"), "labels", "list"),
    "beams": (dict(task="OD", num_beams=0), "num_beams", "at least 1"),
    "beams without end": (dict(task="OD", num_beams=10**6), "num_beams", "at most 64"),
    "text that is none": (dict(task="VQA", text=5), "text", "5"),
    "text of an ask that is none": (dict(task=Ask("VQA", text=5)), "text", "5"),
    "region of words": (dict(task="REGION_TO_OCR", region=["a", "b", "c", "d"]), "region", "x1, y1, x2, y2"),
    "labels that are one number": (dict(task="OD", labels=5), "labels", "5"),
    "no labels": (dict(task="OD", labels=[]), "labels", "list"),
    "beams of text": (dict(task="OD", num_beams="3"), "num_beams", "'3'"),
    "too many tokens": (dict(task="OD", max_new_tokens=257), "max_new_tokens", "256"),
    "too few tokens": (dict(task="OD", max_new_tokens=1), "max_new_tokens", "2"),
    "labels with a special token": (dict(task="OD", labels=["a", "<loc_5>"]), "labels", "<loc_5>"),
    "labels of a file that is not there": (dict(task="OD", labels="names.txt"), "labels", "names.txt"),
    "a label twice": (dict(task="OD", labels=["a", "b", "a "]), "labels", "twice"),
    "tiles of another kind": (dict(task="OD", tiles="many"), "tiles", "columns, rows"),
    "labels without an order": (dict(task="OD", labels={"a", "b"}), "labels", "order"),
    "labels with other ids": (dict(task="OD", labels={"a": 7}), "labels", "order"),
    "tiles as an array": (dict(task="OD", tiles=np.array([2, 2])), "tiles", "columns, rows"),
    "filters of nothing": (dict(task="OD", filters=None), "filters: expected a list of names, got None"),
    "a margin of true": (dict(task="OD", margin=np.bool_(True)), "margin", "nats"),
    "tiles of none": (dict(task="OD", tiles=(0, 2)), "tiles", "0 x 2"),
    "tiles of halves": (dict(task="OD", tiles=(1.5, 2)), "tiles", "1.5"),
    "tiles smaller than a cell": (dict(task="OD", tiles=(30, 30)), "tiles", "cell"),
    "tiles for a caption": (dict(task=["OD", "CAPTION"], tiles=(2, 2)), "tiles", "CAPTION"),
    "tiles for a region": (dict(task="REGION_TO_OCR", region=(0, 0, 9, 9), tiles="auto"), "tiles", "REGION_TO_OCR"),
    "tiles by the official rules": (dict(task="OD", official=True, tiles="auto"), "tiles", "official"),
    "a filter that is none": (dict(task="OD", filters=["sharpen"]), "filters", "sharpen"),
    "a filter for a caption": (dict(task="CAPTION", filters=["nms"]), "filters", "nms"),
    "a score above 1": (dict(task="OD", min_score=1.5), "min_score", "0 to 1", "1.5"),
    "a score below 0": (dict(task="OD", min_score=-0.1), "min_score", "-0.1"),
    "a score that is none": (dict(task="OD", min_score=math.nan), "min_score", "nan"),
    "a score as text": (dict(task="OD", min_score="0.5"), "min_score", "'0.5'"),
    "a margin that is none": (dict(task="OD", margin=math.nan), "margin", "nan"),
    "a margin below 0": (dict(task="OD", margin=-1.0), "margin", "-1"),
    "a margin without end": (dict(task="OD", margin=math.inf), "margin", "inf"),
    "a margin under official rules": (dict(task="OD", margin=1.0, official=True), "margin", "grammar"),
    "a margin without grammar": (dict(task="OD", margin=1, grammar=False), "margin", "grammar"),
    "labels and a text": (
        dict(task="OPEN_VOCABULARY_DETECTION", text="cat", labels=["dog"]),
        "text, labels",
        "drop one",
    ),
    "a region and a text": (
        dict(task=Ask("REGION_TO_OCR", text="cat", region=(0, 0, 9, 9))),
        "text, region",
        "drop one",
    ),
    "continue_from": (dict(task="OD", continue_from=1), "continue_from", "expected an answer"),
    "continue_from and no ask": (dict(continue_from="x"), "continue_from", "expected an answer"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_use_is_refused_in_one_line(tiny, pictures, case):
    arguments, *words = WRONG[case]
    with pytest.raises(ValueError) as caught:
        tiny.predict(pictures[0], **arguments)
    message = str(caught.value)
    assert "\n" not in message and len(message) <= 1000
    for word in words:
        assert word in message


def test_an_answer_of_any_margin_ends_at_its_limit(tiny, pictures):
    long = [tiny.predict(pictures[0], "<OD>", margin=margin, max_new_tokens=30) for margin in (1e9, 1e40, 1e308)]
    assert long[0].truncated and long[0].token_ids == long[1].token_ids == long[2].token_ids


def test_numbers_of_numpy_are_numbers(tiny, pictures):
    every = tiny.predict(pictures[0], "<OD>", grammar=True, max_new_tokens=60)
    floor = np.sort(every.scores)[len(every) // 2]  # a float32
    some = tiny.predict(pictures[0], "<OD>", grammar=True, max_new_tokens=60, min_score=floor, margin=np.float32(0))
    assert len(some) == (every.scores >= floor).sum() and set(some.regions) <= set(every.regions)


def test_a_picture_encoded_by_another_model_is_refused(tiny, pictures):
    other = load("nano").encode_image(pictures[0])
    with pytest.raises(ValueError, match="image: was encoded by another model"):
        tiny.predict(other, "<OD>")
    (found,) = tiny.predict_many([(pictures[0], "<OD>")], max_new_tokens=8)
    assert found.size_wh == (pictures[0].shape[1], pictures[0].shape[0])


def test_wrong_use_of_predict_many_is_refused_before_any_picture(tiny):
    for word, arguments in {
        "on_error": dict(asks="OD", on_error="skip"),
        "batch_size": dict(asks="OD", batch_size=0),
        "X": dict(asks="X"),
        "VQA": dict(asks="VQA"),
    }.items():
        with pytest.raises(ValueError, match=word):
            tiny.predict_many([], **arguments)


def test_hub_ids_open_from_the_local_cache(folder, tiny, pictures, tmp_path, monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    repo = tmp_path / "models--someone--tiny"
    for revision, commit in (("main", "a" * 40), ("v2", "b" * 40)):
        snapshot = repo / "snapshots" / commit
        snapshot.mkdir(parents=True)
        (repo / "refs").mkdir(exist_ok=True)
        (repo / "refs" / revision).write_text(commit)
        (repo / "blobs").mkdir(exist_ok=True)
        for number, path in enumerate(folder.iterdir()):  # as the hub lays them: names that point to blobs
            blob = repo / "blobs" / f"{commit[0]}{number}"
            blob.write_bytes(path.read_bytes())
            (snapshot / path.name).symlink_to(blob)
    ids = tiny.predict(pictures[0], "<OD>", max_new_tokens=16).token_ids
    for revision in (None, "v2"):
        assert load("someone/tiny", revision=revision).predict(pictures[0], "<OD>", max_new_tokens=16).token_ids == ids
    with pytest.raises(OSError, match="give the folder"):
        load("someone/tiny", revision="v3")


def test_what_cannot_be_loaded_says_how(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="no such folder"):
        load(tmp_path / "absent")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(OSError, match="give the folder") as caught:
        load("someone/florence-2-that-is-not-there")
    assert "\n" not in str(caught.value)


def test_loading_leaves_the_garbage_collector_as_it_was():
    for enabled in (True, False):
        (gc.enable if enabled else gc.disable)()
        try:
            load("nano")
            assert gc.isenabled() is enabled
        finally:
            gc.enable()
