"""docs/migrating.md: its lines run, and both sides of the first page say the same."""

import ast
import dataclasses
import json
import re
from pathlib import Path

import pytest

import florence2
from florence2.codec.tokenizer import Tokenizer
from florence2.pixels import encode
from florence2.predictor import Florence2
from florence2.scenes.scene_files import write
from tests.parity.twins import lively, tiny

PAGE = (Path(__file__).parents[2] / "docs" / "migrating.md").read_text(encoding="utf-8")
IDS = ("florence-community/Florence-2-base", "microsoft/Florence-2-large", "microsoft/Florence-2-base")


def sides(number):
    """The two columns of a block of code: theirs and ours."""
    lines = re.findall(r"```python\n(.*?)\n```", PAGE, flags=re.DOTALL)[number].splitlines()
    place = lines[0].index("# florence2")
    return ["\n".join(column) for column in zip(*((line[:place].rstrip(), line[place:]) for line in lines))]


def run(code, folder, **names):
    """Run the lines on the checkpoint in `folder`; the names that they leave, the last line's value as `_`."""
    for name in IDS:
        code = code.replace(f'"{name}"', repr(str(folder)))
    body = ast.parse(code)
    last = body.body.pop()
    exec(compile(body, "migrating.md", "exec"), names)
    names["_"] = eval(compile(ast.Expression(last.value), "migrating.md", "eval"), names)
    return names


@pytest.fixture
def folder(tmp_path, monkeypatch, pictures):
    """A tiny checkpoint in transformers' layout, and a picture where the lines expect one."""
    tokenizer = Tokenizer.train(["a red car beside a green tree", "two dogs on a blue sofa"] * 4, 320)
    config = dataclasses.replace(tiny(96, vocab_size=tokenizer.vocab_size, max_positions=1100), image_id=None)
    Florence2(lively(config, eos=1.9), tokenizer).save(tmp_path / "tiny", "transformers")
    (tmp_path / "car.jpg").write_bytes(encode(pictures[0], "PNG"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "tiny"


def test_transformers_and_ours_say_the_same(folder):
    theirs, ours = (run(code, folder) for code in sides(0))
    assert ours["answer"].text == theirs["text"] and len(theirs["text"]) > 20
    assert ours["_"] == theirs["_"] and ours["_"].keys() == {"<OD>"}


def test_our_side_of_the_remote_code_runs(folder):
    ours = run(sides(1)[1], folder)
    assert ours["_"].keys() == {"<CAPTION_TO_PHRASE_GROUNDING>"}
    assert ours["answer"].text == ours["model"].predict(
        "car.jpg", "<CAPTION_TO_PHRASE_GROUNDING>A green car", official=True, num_beams=3
    ).text  # fmt: skip


def test_our_side_of_maestro_runs(folder, tmp_path):
    for name, seed in (("train", 0), ("test", 2**31)):
        write(tmp_path / "cards" / name, (florence2.scenes.draw(seed + n, objects=(1, 1), size=96) for n in range(4)))
    code = sides(2)[1].replace("2000", "2").replace('"cards/train"', '"cards/train/truth.jsonl"')
    names = run(code.replace('"cards/test"', '"cards/test/truth.jsonl"'), folder)
    trained, scores = tmp_path / "runs" / "cards", names["_"]
    assert [json.loads(line)["step"] for line in (trained / "metrics.jsonl").read_text().splitlines()] == [1, 2]
    assert names["model"].identity == florence2.load(trained).identity != florence2.load(folder).identity
    kept = json.loads((tmp_path / "runs" / "scores" / "scores.json").read_text())
    assert kept["metrics"] == scores["metrics"] and {"AP", "AP50"} <= set(scores["metrics"])
    answers = (tmp_path / "runs" / "scores" / "predictions.jsonl").read_text().splitlines()
    assert len(answers) == 4
