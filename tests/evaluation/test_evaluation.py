"""Evaluation: every task scorable, files resumed and refused, the grey control, specialists and models alike."""

import dataclasses
import json
import random

import numpy as np
import pytest

import florence2
from florence2 import pixels, scenes, sources
from florence2.codec.tasks import QUESTIONS, TASKS, task_of
from florence2.evaluation import compare, evaluate
from florence2.evaluation import predictions as files
from florence2.evaluation.eval_items import eval_items_of
from florence2.evaluation.metric_specs import ERRORS, metric_spec_of
from florence2.evaluation.score import Scored, bootstrap, score, table
from florence2.records import Ask, Failure, ImageRef, Parsed, Region, Sample, Text

OFFICIAL = [row.name for row in TASKS.values()]


@pytest.fixture(scope="module")
def drawn():
    """Scenes and pages whose truth serves every task."""
    return [scenes.draw(seed, signs=1.0)[1] for seed in range(6)] + [scenes.draw_page(seed)[1] for seed in range(2)]


def truth_teller(samples, task, lie=lambda ask, parsed: parsed):
    """A callable that knows the truth, or a lie about it; of a grey picture it knows nothing."""
    known = {q.key: q.truths[0] for q in eval_items_of(samples, task_of(task))}

    def answer(pairs):
        from florence2.evaluation.eval_items import EvalItem

        out = []
        for sample, ask in pairs:
            seen = not sample.image.uri.startswith("grey:")
            out.append(lie(ask, known[EvalItem(sample, ask, ()).key]) if seen else Parsed())
        return out

    return answer


@pytest.mark.parametrize("name", OFFICIAL)
def test_every_task_is_perfect_with_the_truth_and_worst_with_nothing(name, drawn, tmp_path):
    best = evaluate(truth_teller(drawn, name), drawn, name, tmp_path, resamples=20)
    main = best["main"]
    if main == "CIDEr":  # 10 only where every caption has four words
        assert best["metrics"]["CIDEr"] > 2.4 and best["metrics"]["ROUGE_L"] == pytest.approx(1)
    else:
        assert best["metrics"][main] == pytest.approx(0.0 if main in ERRORS else 1.0)
    assert best["missing"] == best["failures"] == 0 and best["asks"] > 0
    assert best["gain"][main]["works"]
    low, high = best["intervals"][main]
    assert low <= best["metrics"][main] + 1e-9 and best["metrics"][main] <= high + 1e-9
    row = task_of(name)
    nothing_found = Scored(metric_spec_of(row), eval_items_of(drawn, row), {})
    worst = score(nothing_found, {}, bootstrap(nothing_found, 5))
    nothing = 1.0 if main in ERRORS else 0.0
    assert worst["metrics"][main] == pytest.approx(nothing, abs=1e-6) and worst["missing"] == worst["asks"]


def test_scores_fall_when_answers_get_worse(drawn, tmp_path):
    rng = random.Random(0)

    def lie(ask, parsed):
        kept = [r for r in parsed.regions if rng.random() < 0.6]
        return dataclasses.replace(parsed, regions=tuple(dataclasses.replace(r, score=rng.random()) for r in kept))

    honest = evaluate(truth_teller(drawn, "OD"), drawn, "OD", tmp_path / "a", resamples=5)["metrics"]
    lying = evaluate(truth_teller(drawn, "OD", lie), drawn, "OD", tmp_path / "b", resamples=5)["metrics"]
    assert 0 < lying["recall"] < honest["recall"] == 1 and lying["AP"] < honest["AP"] and lying["precision"] == 1


def test_a_model_that_does_not_look_does_not_work(drawn, tmp_path):
    answer = Parsed(texts=(Text(text="a picture of a thing"),))
    scores = evaluate(lambda pairs: [answer] * len(pairs), drawn, "CAPTION", tmp_path, resamples=50)
    assert scores["gain"]["CIDEr"]["value"] == 0 and not scores["gain"]["CIDEr"]["works"]
    (line,) = (line for line in table(scores).splitlines() if line.startswith("CIDEr"))
    assert line.endswith("no")


def test_labels_that_are_no_category_are_named(drawn, tmp_path, caplog):
    def lie(ask, parsed):
        return dataclasses.replace(parsed, regions=tuple(dataclasses.replace(r, label="sofa") for r in parsed.regions))

    scores = evaluate(truth_teller(drawn, "OD", lie), drawn, "OD", tmp_path, resamples=5, grey=False)
    count = sum(len(q.truths[0].regions) for q in eval_items_of(drawn, task_of("OD")))
    assert scores["unknown_labels"] == {"sofa": count} and scores["metrics"]["AP"] == 0
    assert f"{count} regions bear a label that is no category of the data: 'sofa' ({count})" in caplog.text
    assert f"{count} regions bear one of 1 labels that are no category" in table(scores)
    honest = evaluate(truth_teller(drawn, "OD"), drawn, "OD", tmp_path / "b", resamples=5, grey=False)
    assert honest["unknown_labels"] == {}


def test_a_killed_run_goes_on_and_keeps_its_lines(drawn, tmp_path):
    calls = []

    def dying(pairs):
        calls.append(len(pairs))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return truth_teller(drawn, "OD")(pairs)

    with pytest.raises(KeyboardInterrupt):
        evaluate(dying, drawn, "OD", tmp_path, batch_size=3, grey=False)
    file = tmp_path / "predictions.jsonl"
    whole = file.read_bytes()
    assert whole.count(b"\n") == 3
    file.write_bytes(whole + b'{"id": "3:x", "image": "scene-3", "as')  # torn
    scores = evaluate(truth_teller(drawn, "OD"), drawn, "OD", tmp_path, batch_size=3, grey=False, resamples=20)
    assert file.read_bytes().startswith(whole) and len(file.read_text().splitlines()) == len(drawn)
    assert scores["metrics"]["F1"] == 1 and scores == json.loads((tmp_path / "scores.json").read_text())
    again = evaluate(lambda pairs: pytest.fail("asked again"), drawn, "OD", tmp_path, grey=False, resamples=20)
    assert again == scores


def test_the_same_file_gives_the_same_scores_without_a_model(drawn, tmp_path):
    own = evaluate(truth_teller(drawn, "OCR"), drawn, "OCR", tmp_path / "a", grey=False)
    again = evaluate(None, drawn, "OCR", tmp_path / "b", predictions=tmp_path / "a" / "predictions.jsonl")
    assert own["metrics"] == again["metrics"] and own["intervals"] == again["intervals"]


def test_failures_and_missing_answers_count_as_empty_and_are_named(drawn, tmp_path, caplog):
    def answer(pairs):
        results = truth_teller(drawn, "OD")(pairs)
        return [
            Failure(reason="truncated", detail="broken.jpg") if s.id == drawn[0].id else r
            for (s, _), r in zip(pairs, results)
        ]

    scores = evaluate(answer, drawn, "OD", tmp_path, grey=False, resamples=20)
    assert scores["failures"] == 1 and scores["metrics"]["recall"] < 1
    assert "truncated broken.jpg" in caplog.text
    lines = (tmp_path / "predictions.jsonl").read_text().splitlines()
    (tmp_path / "less.jsonl").write_text("\n".join(lines[1:]) + "\n")
    scores = evaluate(None, drawn, "OD", tmp_path / "x", predictions=tmp_path / "less.jsonl", resamples=5)
    assert (scores["failures"], scores["missing"]) == (0, 1) and drawn[0].image.id in caplog.text


# ---- a file that others wrote

TRUTH = [
    Sample(
        number,
        ImageRef(f"pictures/{name}.jpg", f"/data/pictures/{name}.jpg", width=100, height=100),
        regions=(Region("r", box=(0, 0, 9, 9), label=label),),
    )
    for number, name, label in (("1", "a", "cat"), ("2", "b", "dog"))
]
GOOD = {
    "id": "x",
    "image": "pictures/a.jpg",
    "ask": {"task": "OD"},
    "answer": {"regions": [{"box": [0, 0, 9, 9], "label": "Cat"}]},
}


def scored(tmp_path, *lines):
    file = tmp_path / "theirs.jsonl"
    file.write_text("\n".join(json.dumps(line) if isinstance(line, dict) else line for line in lines) + "\n")
    return evaluate(None, TRUTH, "OD", tmp_path / "out", predictions=file, resamples=5)


@pytest.mark.parametrize("task", ["OD", "<OD>"])
@pytest.mark.parametrize("image", ["pictures/a.jpg", "a.jpg", "/data/pictures/a.jpg", "data/pictures/a.jpg", "1"])
def test_a_picture_may_be_named_in_any_way_that_is_clear(tmp_path, image, task):
    scores = scored(tmp_path, {**GOOD, "image": image, "ask": {"task": task}})
    assert scores["metrics"]["recall"] == 0.5 and scores["missing"] == 1


@pytest.mark.parametrize(
    "change, message",
    [
        ({"id": "x", "image": "pictures/b.jpg"}, ":2: id 'x' is already at 1"),
        ({}, ":2: the ask OD '' about 'pictures/a.jpg' is already at 1"),
        ({"image": "c.jpg"}, ":2: image 'c.jpg' is not in the data"),
        ({"image": 3}, ":2: image: expected a text"),
        ({"ask": {"task": "OD", "what": 1}}, ":2: ask: Ask: what: unknown key"),
        ({"size_wh": [200, 200]}, ":2: size_wh: 200 x 200, but 'pictures/b.jpg' is 100 x 100"),
        ({"answer": None}, ":2: expected an 'answer' or a 'failure'"),
        ({"answer": {"regions": [{"box": [0, 0, float("nan"), 9]}]}}, ":2: answer: region '': box: expected a finite"),
        ({"answer": {"regions": [{"box": [0, 0, "x", 9]}]}}, r":2: Parsed: regions\[0\].box\[2\]: expected a number"),
        ({"answer": {"regions": [{"score": float("inf")}]}}, ":2: answer: score"),
        ({"answer": {"regions": [{"score": True}]}}, r":2: Parsed: regions\[0\].score: expected a number"),
        ({"answer": {"text": "no such field"}}, ":2: Parsed: text: unknown key"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_its_line(tmp_path, change, message):
    second = {**GOOD, "id": "y", "image": "pictures/b.jpg", **change}
    if not change:
        second = {**GOOD, "id": "y"}
    with pytest.raises(ValueError, match=message) as caught:
        scored(tmp_path, GOOD, second)
    assert "theirs.jsonl" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_file_with_a_byte_order_mark_is_read(tmp_path, encoding):
    file = tmp_path / "theirs.jsonl"
    file.write_bytes((json.dumps({**GOOD, "size_wh": [100, 100]}) + "\r\n").encode(encoding))
    assert evaluate(None, TRUTH, "OD", tmp_path / "out", predictions=file, resamples=5)["metrics"]["recall"] == 0.5


def test_lines_of_another_task_are_left_alone(tmp_path):
    assert scored(tmp_path, GOOD, {**GOOD, "id": "y", "ask": {"task": "CAPTION"}})["metrics"]["recall"] == 0.5


def test_crowds_are_asked_for_and_cost_nothing(tmp_path):
    crowd = Region("c", box=(50, 50, 90, 90), label="cat", ignore=True)
    truth = [dataclasses.replace(TRUTH[0], regions=(*TRUTH[0].regions, crowd))]
    found = Parsed(regions=(*TRUTH[0].regions, Region(box=(52, 52, 60, 60), label="cat")))
    scores = evaluate(lambda pairs: [found] * len(pairs), truth, "OD", tmp_path, grey=False)
    assert scores["metrics"]["AP"] == pytest.approx(1) and scores["metrics"]["precision"] == 1


def test_people_are_counted_in_vqa(tmp_path):
    answers = ["red"] * 2 + ["blue"] * 8
    texts = tuple(Text(f"t{n}", a, "answer", "What colour?") for n, a in enumerate(answers))
    truth = [Sample("1", ImageRef("a.jpg", width=9, height=9), texts)]
    scores = evaluate(lambda pairs: [Parsed(texts=(Text(text="red"),))], truth, "VQA", tmp_path, grey=False)
    assert scores["main"] == "VQA_accuracy" and scores["metrics"]["VQA_accuracy"] == pytest.approx(0.6)


def test_every_metric_spec_has_a_main_metric_and_every_task_a_spec():
    for row in (*TASKS.values(), *QUESTIONS.values()):
        assert metric_spec_of(row).main
    with pytest.raises(ValueError, match="unknown; expected one of"):
        task_of("XX")


def test_no_truth_is_refused(tmp_path, drawn):
    with pytest.raises(ValueError, match="8 samples hold no truth for DocVQA"):
        evaluate(lambda pairs: [], drawn, "DocVQA", tmp_path)
    with pytest.raises(ValueError, match="expected 1 results for 1 asks, got 0"):
        evaluate(lambda pairs: [], drawn, "OD", tmp_path, batch_size=1)
    with pytest.raises(ValueError, match="expected a Parsed or a Failure for each ask, got dict"):
        evaluate(lambda pairs: [{}], drawn, "OD", tmp_path, batch_size=1)
    with pytest.raises(ValueError, match="expected what florence2.load returns"):
        evaluate(3, drawn, "OD", tmp_path)


class Looker:
    """Stands for a model: says how bright the middle of the picture is."""

    def __init__(self):
        self.batches = []

    def predict(self, image, asks):
        raise AssertionError("asked picture by picture")

    def predict_many(self, items, batch_size):
        items = list(items)
        self.batches.append([len(asks) for _, asks in items])
        for image, asks in items:
            try:
                text = Text(text="white" if sources.pixels(image).mean() > 200 else "dark")
            except pixels.BadImage as error:
                yield Failure(reason=error.reason)
                continue
            yield [Failure(reason="bad_ask") if ask.text == "bad" else Parsed(texts=(text,)) for ask in asks]


def test_a_model_is_asked_about_pixels_and_a_bad_picture_fails_alone(tmp_path):
    truth = []
    for n, level in enumerate((255, 0, 255)):
        file = tmp_path / f"{n}.png"
        file.write_bytes(pixels.encode(np.full((8, 8, 3), level, np.uint8)))
        texts = (Text("t", "white" if level else "dark", "answer", "What?"),)
        truth.append(Sample(str(n), ImageRef(file.name, str(file), width=8, height=8), texts))
    (tmp_path / "2.png").write_bytes(b"broken")
    model = Looker()
    scores = evaluate(model, truth, "VQA", tmp_path / "out", resamples=20)
    assert model.batches == [[1, 1, 1], [1]] and scores["failures"] == 1  # the photographs, then grey
    assert scores["metrics"]["accuracy"] == pytest.approx(2 / 3)
    assert scores["grey"]["metrics"]["accuracy"] == pytest.approx(1 / 3)
    assert sources.pixels(ImageRef("g", "grey:4x3")).shape == (3, 4, 3)


def test_a_picture_is_looked_at_once_and_an_ask_that_cannot_be_taken_fails_alone(tmp_path):
    file = tmp_path / "0.png"
    file.write_bytes(pixels.encode(np.full((8, 8, 3), 255, np.uint8)))
    texts = tuple(Text(f"t{n}", "white", "answer", question) for n, question in enumerate(("a", "bad", "b")))
    truth = [Sample("1", ImageRef(file.name, str(file), width=8, height=8), texts)]
    model = Looker()
    scores = evaluate(model, truth, "VQA", tmp_path / "out", grey=False, resamples=5)
    assert model.batches == [[3]]
    assert scores["failures"] == 1 and scores["metrics"]["accuracy"] == pytest.approx(2 / 3)


def test_what_was_written_reads_back_the_same(drawn, tmp_path):
    questions = eval_items_of(drawn, task_of("CAPTION_TO_PHRASE_GROUNDING"))
    with files.Predictions(tmp_path / "p.jsonl") as out:
        for question in questions:
            out.write(question, question.truths[0])
    found = files.read(tmp_path / "p.jsonl", questions)
    assert found == {q.key: q.truths[0] for q in questions}
    assert Ask("OD") != Ask("<OD>") and questions[0].key == dataclasses.replace(questions[0], truths=()).key


def test_details_show_the_worst_and_what_was_taken_for_what(tmp_path):
    truth = [
        Sample("1", ImageRef("a", width=99, height=99), regions=(Region("r", box=(0, 0, 9, 9), label="cat"),)),
        Sample("2", ImageRef("b", width=99, height=99), regions=(Region("r", box=(0, 0, 9, 9), label="cat"),)),
        Sample("3", ImageRef("c", width=99, height=99), regions=(Region("r", box=(0, 0, 9, 9), label="dog"),)),
    ]
    said = {
        "a": (Region(box=(0, 0, 9, 9), label="Cat", score=0.9),),
        "b": (Region(box=(0, 0, 9, 9), label="dog", score=0.6), Region(box=(50, 50, 60, 60), label="cow", score=0.2)),
    }
    evaluate(lambda ps: [Parsed(regions=said.get(s.image.id, ())) for s, _ in ps], truth, "OD", tmp_path, grey=False)
    behind = json.loads((tmp_path / "details.json").read_text())
    assert [row["image"]["id"] for row in behind["worst"]] == ["b", "c"]  # a is right
    assert behind["worst"][0]["truth"]["regions"][0]["label"] == "cat"
    table = {(row["truth"], row["found"]): row["count"] for row in behind["confusion"]}
    expected = {("cat", "cat"): 1, ("cat", "dog"): 1, ("dog", "(missed)"): 1, ("(invented)", "cow"): 1}
    assert table == expected
    assert [(p["precision"], p["recall"]) for p in behind["curve"]] == [
        pytest.approx(p) for p in ((1, 1 / 3), (1 / 2, 1 / 3), (1 / 3, 1 / 3))
    ]
    assert behind["calibration"]["error"] == pytest.approx((0.1 + 0.6 + 0.2) / 3)


def test_details_of_answers_that_fail_say_why(tmp_path):
    truth = [Sample("1", ImageRef("a", width=9, height=9), (Text("t", "red", "answer", "What?"),))]
    evaluate(lambda pairs: [Failure(reason="truncated")], truth, "VQA", tmp_path, grey=False)
    (row,) = json.loads((tmp_path / "details.json").read_text())["worst"]
    assert row["failure"]["reason"] == "truncated" and row["score"] == 0


def test_a_folder_of_another_run_is_refused(drawn, tmp_path):
    evaluate(truth_teller(drawn, "OD"), drawn, "OD", tmp_path, grey=False, resamples=5, model_name="a")
    with pytest.raises(ValueError, match="holds the predictions of another run .model 'a', not 'b'"):
        evaluate(truth_teller(drawn, "OD"), drawn, "OD", tmp_path, grey=False, resamples=5, model_name="b")
    with pytest.raises(ValueError, match="task 'OD', not 'OCR'"):
        evaluate(truth_teller(drawn, "OCR"), drawn, "OCR", tmp_path, grey=False, resamples=5, model_name="a")


def test_a_model_that_has_changed_since_is_refused(drawn, tmp_path):
    class Judged:
        def __init__(self, identity):
            self.identity = identity

        def __call__(self, pairs):
            return [Parsed()] * len(pairs)

    evaluate(Judged("a"), drawn, "OD", tmp_path, grey=False, resamples=5, model_name="runs/mine")
    evaluate(Judged("a"), drawn, "OD", tmp_path, grey=False, resamples=5, model_name="runs/mine")
    with pytest.raises(ValueError, match="the model has changed since its predictions; name another folder"):
        evaluate(Judged("b"), drawn, "OD", tmp_path, grey=False, resamples=5, model_name="runs/mine")


def test_a_model_and_a_specialist_may_be_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(
        "from florence2 import Parsed, Region\n"
        "class Mine:\n"
        "    name, version, produces = 'mine', '1', ('regions',)\n"
        "    def annotate(self, samples, images):\n"
        "        return [Parsed(regions=(Region(box=(1, 1, 9, 9), label='cat', score=0.5),)) for _ in samples]\n"
    )
    scores = florence2.evaluate("nano", "scenes:3", "OD", tmp_path / "nano", resamples=5)
    assert scores["model_name"] == "nano" and scores["metrics"]["F1"] > 0.5 and scores["gain"]["F1"]["works"]
    own = florence2.evaluate("mine.py:Mine", "scenes:3", "OD", tmp_path / "mine", resamples=5, grey=False)
    assert own["metrics"]["F1"] < 0.5 and own["failures"] == 0
    again = florence2.evaluate(None, "scenes:3", "OD", tmp_path / "file", resamples=5,
                               predictions=tmp_path / "nano" / "predictions.jsonl")  # fmt: skip
    assert again["metrics"] == scores["metrics"] and again["model_name"].endswith("predictions.jsonl")
    with pytest.raises(ValueError, match="task: expected a task's name, such as OD, or protocol=; got neither"):
        florence2.evaluate("nano", "scenes:3", out=tmp_path)
    with pytest.raises(ValueError, match="out: expected the folder"):
        florence2.evaluate("nano", "scenes:3", "OD")
    with pytest.raises(ValueError, match="no_such: no such folder; expected 'nano'"):
        florence2.evaluate("no_such", "scenes:3", "OD", tmp_path / "x")


def test_a_last_line_that_only_lacks_its_break_is_kept(drawn, tmp_path):
    evaluate(truth_teller(drawn, "OD"), drawn, "OD", tmp_path, grey=False, resamples=5)
    file = tmp_path / "predictions.jsonl"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1])
    evaluate(lambda pairs: pytest.fail("asked again"), drawn, "OD", tmp_path, grey=False, resamples=5)
    assert file.read_bytes() == whole


def test_masks_need_the_size_of_their_picture(tmp_path):
    thing = Region("r", box=(0, 0, 9, 9), polygons=((0, 0, 9, 0, 9, 9),))
    truth = [Sample("1", ImageRef("a.jpg", "/nowhere/a.jpg"), regions=(thing,))]
    with pytest.raises(ValueError, match="a.jpg: its size is not known"):
        evaluate(lambda pairs: [Parsed()], truth, "REGION_TO_SEGMENTATION", tmp_path, grey=False)


# ---- intervals, and two runs side by side


def noisy(samples, keep, seed):
    """A callable that finds each true region with probability `keep`."""
    rng = random.Random(seed)

    def lie(ask, parsed):
        kept = [dataclasses.replace(r, score=rng.random()) for r in parsed.regions if rng.random() < keep]
        return dataclasses.replace(parsed, regions=tuple(kept))

    return truth_teller(samples, "OD", lie)


@pytest.fixture(scope="module")
def many():
    return [scenes.draw(seed)[1] for seed in range(40)]


def test_every_number_of_coco_has_its_interval_and_a_size_without_truth_has_none(many, tmp_path):
    boxes = [(0, 0, side, side) for side in (50, 120)]
    large = [dataclasses.replace(s, regions=(Region("r", box=boxes[n % 2], label="cat"),)) for n, s in enumerate(many)]
    scores = evaluate(noisy(large, 0.7, 0), large, "OD", tmp_path, resamples=40)
    there = {key for key, value in scores["metrics"].items() if value != -1}
    assert {"AP", "APl", "AR1", "AR10", "AR100", "ARl"} <= there and set(scores["intervals"]) == there
    for key in there:
        low, high = scores["intervals"][key]
        assert 0 <= low <= scores["metrics"][key] + 0.05 and scores["metrics"][key] - 0.05 <= high <= 1
    assert set(scores["gain"]) == there and scores["metrics"]["APs"] == -1
    assert "no truth" in table(scores) and "-1.0" not in table(scores)


def test_the_interval_of_ap_holds_its_score_and_few_hits_do_not_work(many, tmp_path):
    scores = evaluate(noisy(many, 0.6, 5), many, "OD", tmp_path / "a", resamples=80)
    low, high = scores["intervals"]["AP"]
    assert low < scores["metrics"]["AP"] < high
    one = {many[0].image.id}  # right once: a third of the resamples do not hold it

    def lie(pairs):
        answers = truth_teller(many, "OD")(pairs)
        return [a if s.image.id in one else Parsed() for (s, _), a in zip(pairs, answers)]

    gain = evaluate(lie, many, "OD", tmp_path / "b", resamples=80)["gain"]
    assert not any(gain[key]["works"] for key in ("AP", "label_accuracy", "recall"))


def test_two_runs_are_compared_on_the_same_resamples(many, tmp_path):
    for name, keep, seed in (("good", 0.9, 1), ("bad", 0.3, 2), ("same", 0.9, 3)):
        evaluate(noisy(many, keep, seed), many, "OD", tmp_path / name, resamples=60, grey=False)
    worse = compare(tmp_path / "bad", tmp_path / "good")
    metrics = [json.loads((tmp_path / name / "scores.json").read_text())["metrics"] for name in ("bad", "good")]
    assert worse["recall"]["value"] == pytest.approx(metrics[0]["recall"] - metrics[1]["recall"])
    assert worse["recall"]["verdict"] == "worse" and worse["recall"]["interval"][1] < 0
    assert compare(tmp_path / "good", tmp_path / "bad")["recall"]["verdict"] == "better"
    assert compare(tmp_path / "good", tmp_path / "same")["AP"]["verdict"] == "no difference seen"
    itself = compare(tmp_path / "good", tmp_path / "good")
    assert all(row["interval"] == [0, 0] and row["value"] == 0 for row in itself.values())


def test_a_lower_error_rate_is_better(drawn, tmp_path):
    for name, cut in (("all", 99), ("half", 2)):

        def shorter(ask, parsed, cut=cut):
            return dataclasses.replace(parsed, texts=tuple(Text(text=t.text[:cut]) for t in parsed.texts))

        evaluate(truth_teller(drawn, "OCR", shorter), drawn, "OCR", tmp_path / name, resamples=40, grey=False)
    assert compare(tmp_path / "all", tmp_path / "half")["CER"]["verdict"] == "better"


def test_runs_on_other_pictures_have_no_paired_difference(many, tmp_path):
    evaluate(noisy(many, 1, 0), many, "OD", tmp_path / "a", resamples=5, grey=False)
    evaluate(noisy(many, 1, 0), many[1:], "OD", tmp_path / "b", resamples=5, grey=False)
    with pytest.raises(ValueError, match="its pictures, task or seed are not those of"):
        compare(tmp_path / "a", tmp_path / "b")
    (tmp_path / "b" / "resamples.json").write_text("{}")
    with pytest.raises(ValueError, match="b/resamples.json: not what florence2 evaluate writes"):
        compare(tmp_path / "a", tmp_path / "b")
    (tmp_path / "b" / "resamples.json").unlink()
    with pytest.raises(ValueError, match="b/resamples.json: does not exist; evaluate again"):
        compare(tmp_path / "a", tmp_path / "b")


def test_one_caption_alone_says_that_cider_needs_several(tmp_path):
    text = Text("t", "A cat on a mat.", "brief")
    for count in (1, 2):
        truth = [Sample(str(n), ImageRef(f"{n}.jpg", width=9, height=9), (text,)) for n in range(count)]
        out = tmp_path / str(count)
        scores = evaluate(lambda pairs: [Parsed((text,))] * len(pairs), truth, "CAPTION", out, grey=False)
        lines = [line for line in table(scores).splitlines() if "CIDEr" in line and "needs several pictures" in line]
        assert len(lines) == len(scores["notes"]) == (count == 1)
    assert scores["metrics"]["BLEU4"] == pytest.approx(1, abs=1e-3)


def test_two_pictures_of_one_name_are_refused_before_any_is_asked(tmp_path):
    region = Region("r", box=(0, 0, 9, 9), label="cat")
    twins = [Sample(n, ImageRef("a.jpg", width=99, height=99), regions=(region,)) for n in ("1", "2")]
    asked = []
    with pytest.raises(ValueError, match="'a.jpg' has two records.*'1' and '2'"):
        evaluate(lambda pairs: asked.extend(pairs), twins, "OD", tmp_path, grey=False)
    assert asked == [] and not (tmp_path / "predictions.jsonl").exists()
    other = dataclasses.replace(twins[1], regions=(), texts=(Text("t", "red", "answer", "What?"),))
    two = dataclasses.replace(other, id="3", texts=(Text("t", "blue", "answer", "Which?"),))
    scores = evaluate(lambda pairs: [Parsed()] * len(pairs), [other, two], "VQA", tmp_path / "b", grey=False)
    assert scores["asks"] == 2  # two records of one picture with asks of their own are no twins
