"""A task that only a checkpoint knows: predicted, checked, evaluated, annotated, trained on, by Python and commands."""

import json

import numpy as np
import pytest
from tiny import tiny_model

import florence2
from florence2.cli import main
from florence2.codec.tasks import TASKS, Task, known_tasks, save_tasks
from florence2.engine.specialists.student import StudentSpecialist
from florence2.pixels import encode
from florence2.predictor import load
from florence2.records import ImageRef, Sample, Text, to_json

TAGS = Task("<TAGS>", "List the tags of the image.", "text", "answer")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A tiny checkpoint with <TAGS> beside the known tasks."""
    folder = tiny_model(tmp_path_factory.mktemp("tags"))
    save_tasks({**TASKS, TAGS.token: TAGS}, folder)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Three pictures with their tags, as JSON Lines."""
    folder = tmp_path_factory.mktemp("data")
    with open(folder / "samples.jsonl", "w") as out:
        for n in range(3):
            (folder / f"{n}.png").write_bytes(encode(np.full((32, 40, 3), 60 * n, np.uint8)))
            text = Text("t", f"grey, level {n}", "answer", "<TAGS>")
            out.write(
                json.dumps(to_json(Sample(str(n), ImageRef(f"{n}.png", f"{n}.png", width=40, height=32), (text,))))
            )
            out.write("\n")
    return folder


def test_it_is_in_no_other_table(model):
    assert TAGS.token not in known_tasks() and TAGS.token in load(model).tasks
    with pytest.raises(ValueError, match="TAGS.*unknown"):
        load("nano").predict(np.zeros((8, 8, 3), np.uint8), "TAGS")


def test_it_is_predicted(model, data, capsys):
    answer = load(model).predict(data / "1.png", "TAGS", max_new_tokens=9)
    assert answer.prompt == TAGS.prompt and answer.task == TAGS.token
    assert (
        main(
            ["predict", str(data / "1.png"), "--task", "TAGS", "--model", str(model), "--json", "--max-new-tokens", "9"]
        )
        == 0
    )
    assert json.loads(capsys.readouterr().out)["text"] == answer.text


def test_its_data_are_checked_and_shown(model, data, capsys):
    assert main(["data", "check", str(data / "samples.jsonl"), "--task", "TAGS", "--model", str(model)]) == 0
    assert main(["data", "show", str(data / "samples.jsonl"), "--task", "TAGS", "--model", str(model), "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    assert [(row["prompt"], row["target"]) for row in rows] == [(TAGS.prompt, f"grey, level {n}") for n in range(3)]


def test_it_is_evaluated(model, data, tmp_path, capsys):
    options = dict(out=tmp_path / "a", grey=False, resamples=5, decoding={"max_new_tokens": 9})
    scores = florence2.evaluate(load(model), data / "samples.jsonl", "TAGS", **options)
    assert scores["task"] == "TAGS" and scores["asks"] == 3 and scores["failures"] == 0
    command = ["evaluate", "--data", str(data / "samples.jsonl"), "--task", "TAGS", "--no-grey", "--json"]
    assert main([*command, "--model", str(model), "--out", str(tmp_path / "b")]) == 0
    predictions = str(tmp_path / "a" / "predictions.jsonl")
    scored_again = [*command, "--predictions", predictions, "--out", str(tmp_path / "c")]
    assert main([*scored_again, "--tasks", str(model)]) == 0
    one, other = (json.loads(line)["metrics"] for line in capsys.readouterr().out.splitlines())
    assert set(one) == set(other) == set(scores["metrics"]) and other == scores["metrics"]
    assert main(scored_again) == 1 and "TAGS" in capsys.readouterr().err


def test_it_is_annotated(model, data, tmp_path):
    card = tmp_path / "tags.yaml"
    card.write_text(f"specialist: student\nmodel: {model}\ntasks: [TAGS]\n")
    assert main(["annotate", str(data), "--out", str(tmp_path / "store"), "--with", str(card), "--workers", "0"]) == 0
    student = StudentSpecialist(str(model), ["TAGS"])
    student.setup("cpu")
    for sample in florence2.Store(tmp_path / "store").samples():
        array = florence2.pixels.load(sample.image.uri)
        (expected,) = student.annotate([sample], [array])
        assert [(t.text, t.detail) for t in sample.texts] == [(t.text, t.detail) for t in expected.texts]
        assert sample.texts and sample.texts[0].detail == "answer"


def test_it_is_trained(model, data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipe.yaml").write_text(
        f"model: {model}\nout: out\ndata: [{{path: {data / 'samples.jsonl'}, tasks: [TAGS]}}]\n"
        "steps: 3\nbatch_size: 2\nthreads: 1\n"
    )
    assert main(["train", "--config", "recipe.yaml"]) == 0
    assert load(tmp_path / "out").tasks[TAGS.token] == TAGS  # a run's own checkpoint knows it too


PARTS = Task("<PARTS>", "Locate the parts.", "labelled_boxes", "label")
COUNT = Task("<COUNT>", "How many {input}?", "text", "answer")
ROWS = {"PARTS": ("<PARTS>", "nut<loc_100><loc_200><loc_300><loc_400>"), "COUNT": ("<COUNT>dogs", "3")}


@pytest.mark.parametrize("form", ["prefix_suffix", "swift", "imagefolder"])
@pytest.mark.parametrize("name", ROWS)
def test_rows_of_prompts_name_it(tmp_path, capsys, name, form):
    folder = tiny_model(tmp_path / "model")
    save_tasks({**TASKS, PARTS.token: PARTS, COUNT.token: COUNT}, folder)
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "a.png").write_bytes(encode(np.full((32, 40, 3), 99, np.uint8)))
    prompt, target = ROWS[name]
    turns = [{"role": "user", "content": f"<image>{prompt}"}, {"role": "assistant", "content": target}]
    row = {
        "prefix_suffix": {"image": "a.png", "prefix": prompt, "suffix": target},
        "swift": {"images": ["a.png"], "messages": turns},
        "imagefolder": {"file_name": "a.png", "prefix": prompt, "suffix": target},
    }[form]
    file = tmp_path / "rows" / ("metadata.jsonl" if form == "imagefolder" else "rows.jsonl")
    file.write_text(json.dumps(row) + "\n")
    data = str(file.parent)
    assert main(["data", "check", data, "--task", name, "--model", str(folder), "--format", form]) == 0
    capsys.readouterr()
    assert main(["data", "show", data, "--task", name, "--model", str(folder), "--format", form, "--json"]) == 0
    shown = json.loads(capsys.readouterr().out.splitlines()[0])
    assert (shown["prompt"], shown["target"]) == ("How many dogs?" if name == "COUNT" else PARTS.prompt, target)
    decoding = {"max_new_tokens": 9}
    scores = florence2.evaluate(load(folder), data, name, out=tmp_path / "e", format=form, grey=False, resamples=2,
                                decoding=decoding)  # fmt: skip
    assert scores["asks"] == 1
    source = {"path": data, "format": form, "tasks": [name]}
    done = florence2.train({"model": str(folder), "out": str(tmp_path / "out"), "data": [source], "steps": 1,
                            "batch_size": 1, "threads": 1})  # fmt: skip
    assert done is not None and load(tmp_path / "out").tasks[f"<{name}>"] in (PARTS, COUNT)
    picture = np.full((32, 40, 3), 99, np.uint8)
    samples = [{"samples": [(picture, prompt, target)], "tasks": [name]}]
    assert florence2.train({"model": str(folder), "out": str(tmp_path / "given"), "data": samples, "steps": 1,
                            "batch_size": 1, "threads": 1})  # fmt: skip
