"""Rows of prompts and answers, from files and from Python: the encoder is given the prompt word for word."""

import json

import numpy as np
import pytest

from florence2 import pixels, sources
from florence2.records import ImageRef, Sample, Text
from florence2.training import train
from florence2.training.config_files import from_mapping, to_mapping
from florence2.training.order import Cursor
from florence2.training.setup import prepare
from tests.training.tiny import tiny_run

PROMPTS = [  # as maestro, the blog and ms-swift give them to the processor, which sends them on as they are
    "How many stars?", "<DocVQA>What is the total?", "<VQA>Is it red?", "<TAGS>", "<TAGS> of the star",
]  # fmt: skip


def picture(level=80):
    return np.full((40, 32, 3), level, np.uint8)


def run_of(tmp_path, data, **more):
    return tiny_run(tmp_path, data=data, dense=0, steps=2, batch_size=2, **more)


def examples(job):
    batches = [job.maker[planned] for planned in job.order.batches(2, Cursor(), 1)]
    return [example for batch in batches for example in batch.examples]


@pytest.mark.parametrize("tasks", [[], ["PROMPT"]])
def test_a_prefix_is_the_prompt_word_for_word(tmp_path, tasks):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "a.png").write_bytes(pixels.encode(picture()))
    rows = [{"image": "a.png", "prefix": p, "suffix": f"answer {n}"} for n, p in enumerate(PROMPTS)]
    (tmp_path / "set" / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    job = prepare(from_mapping(run_of(tmp_path, [{"path": str(tmp_path / "set"), "tasks": tasks}])))
    found = {e.prompt: e for e in examples(job)}
    assert set(found) == set(PROMPTS) and not job.found.questions
    for number, prompt in enumerate(PROMPTS):
        assert list(found[prompt].prompt_ids) == job.tokenizer.prompt_ids(prompt)
        assert job.tokenizer.decode(found[prompt].target_ids[1:-1]) == f"answer {number}"


def test_a_task_that_is_named_takes_its_own_prompts_only(tmp_path):
    job = prepare(from_mapping(run_of(tmp_path, [{"samples": rows(), "tasks": ["DocVQA"]}])))
    assert {e.prompt for e in examples(job)} == {"<DocVQA>How many stars?", "<DocVQA>What is the total?"}


def rows():
    return [(picture(20 * n), prompt, f"answer {n}") for n, prompt in enumerate(PROMPTS)]


def test_rows_from_python(tmp_path):
    job = prepare(from_mapping(run_of(tmp_path, rows())))
    assert {e.prompt for e in examples(job)} == set(PROMPTS)
    config = run_of(tmp_path, rows())
    assert train(config).steps == 2 and train(run_of(tmp_path, rows())).steps == 2  # the same content: the same run
    with pytest.raises(ValueError, match="path is 'python:[0-9a-f]*' there"):
        train(run_of(tmp_path, rows()[1:]))
    assert "samples" not in to_mapping(from_mapping(config))["data"][0]
    with pytest.raises(ValueError, match=r"samples\[1\]: expected a Sample, or \(picture, prompt, answer\), got 3"):
        from_mapping(run_of(tmp_path, [*rows()[:1], 3]))


@pytest.mark.parametrize("row, said", [
    ((picture(), "how many?"), r"samples\[0\]: expected a Sample, or \(picture, prompt, answer\), got \(array"),
    ((picture().astype(float), "how many?", "3"), r"samples\[0\]: .*uint8"),
    ((None, "how many?", "3"), r"samples\[0\]: expected a path, bytes, PIL image or uint8 array"),
    ((picture(), "how many?", "\ud800"), r"samples\[0\]: .*surrogate"),
    (("/nowhere.png", "how many?", "3"), r"samples\[0\]: /nowhere.png: no such file"),
])  # fmt: skip
def test_a_wrong_row_is_named_in_one_line(tmp_path, row, said):
    with pytest.raises(ValueError, match=said) as found:
        from_mapping(run_of(tmp_path, [row]))
    assert "\n" not in str(found.value)


def test_samples_from_python_and_the_first_of_several_answers(tmp_path):
    (tmp_path / "a.png").write_bytes(pixels.encode(picture()))
    texts = tuple(Text(f"t{n}", f"{n} things", "answer", "how many?") for n in range(3))
    sample = Sample("a", ImageRef("a", str(tmp_path / "a.png"), width=32, height=40), texts)
    targets = {}
    for answers in ("all", "first"):
        source = {"samples": [sample], "tasks": ["DocVQA"], "answers": answers}
        job = prepare(from_mapping(run_of(tmp_path, [source])))
        targets[answers] = sorted(job.tokenizer.decode(e.target_ids[1:-1]) for e in examples(job))
    assert targets == {"all": ["0 things", "1 things", "2 things"], "first": ["0 things"]}
    with pytest.raises(ValueError, match="answers: expected all or first"):
        from_mapping(run_of(tmp_path, [{"samples": [sample], "answers": "last"}]))


def test_prompts_are_evaluated_while_they_are_trained(tmp_path):
    named = {"validation": [{"samples": rows(), "tasks": ["PROMPT"]}], "evaluate_every": 2}
    train(run_of(tmp_path, rows(), **named))
    line = json.loads((tmp_path / "out" / "evaluations.jsonl").read_text().splitlines()[0])
    assert "ANLS" in line["metrics"]


def parquet(path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    image = [{"bytes": pixels.encode(picture(50 * n)), "path": None} for n in range(3)]
    table = {"image": image, "question": ["What?"] * 3, "answers": [["9", "nine"]] * 3}
    pq.write_table(pa.table(table), path)


class Loaded:
    """What `datasets` gives, as far as it is used: a set that writes itself as Parquet."""

    def to_parquet(self, path):
        parquet(path)


@pytest.mark.parametrize("given", [Loaded(), {"train": Loaded()}])
def test_a_data_set_that_datasets_loaded(tmp_path, given):
    source = {"samples": given, "tasks": ["DocVQA"], "answers": "first"}
    job = prepare(from_mapping(run_of(tmp_path, [source])))
    assert len(examples(job)) == 3 and {e.prompt for e in examples(job)} == {"<DocVQA>What?"}


def test_a_data_set_of_the_hub(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    (folder / "data").mkdir(parents=True)
    parquet(folder / "data" / "train-00000-of-00001.parquet")
    asked = []

    def download(repo, **options):
        asked.append((repo, options["revision"]))
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    source = {"path": "hf:someone/pages@abc123", "tasks": ["DocVQA"], "split": "train"}
    job = prepare(from_mapping(run_of(tmp_path, [source])))
    assert len(examples(job)) == 6 and set(asked) == {("someone/pages", "abc123")}
    assert len(list(sources.open("hf:someone/pages@abc123"))) == 3
