"""One round with nothing made by hand: the real trainer, real students of a few thousand weights, real filters."""

import contextlib
import io
import json
from pathlib import Path

import pytest

import florence2
from florence2 import scenes
from florence2.cli import main
from florence2.engine.selectors import FoldSelector
from florence2.store import Store
from tests.training.tiny import tiny_model

RECIPE = {
    "steps": 4, "batch_size": 4, "lr": 3e-3, "warmup_steps": 1, "threads": 1, "source": {"tasks": {"OD": 1.0}},
}  # fmt: skip


@pytest.fixture(scope="module")
def refined(tmp_path_factory):
    """A store of twelve scenes after `florence2 refine`, the start's weights, and what the command printed."""
    folder = tmp_path_factory.mktemp("refined")
    start = Path(tiny_model(folder / "start"))
    truth = scenes.write(folder / "scenes", (scenes.draw(scenes.TRAINING_SEEDS + i, signs=0.0) for i in range(12)))
    store = florence2.annotate(folder / "scenes" / "images", folder / "s", [f"simulated:{truth}"], workers=0)
    (folder / "recipe.json").write_text(json.dumps(RECIPE))
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        command = ["refine", str(store.root), "--rounds", "1", "--start", str(start), "--workers", "0", "--json"]
        assert main([*command, "--recipe", str(folder / "recipe.json")]) == 0
    return Store(store.root), start, json.loads(printed.getvalue())


def test_a_real_round_trains_annotates_judges_and_merges(refined):
    store, start, done = refined
    assert (done["round"], done["snapshot"]) == (1, store.snapshot().number) and store.verify() == []
    kinds = [operator.kind for operator in store.snapshot().operators]
    assert kinds[:2] == ["images", "simulated"] and kinds.count("model") == 2 and kinds[-1] == "merge"
    assert "filter" in kinds  # a store that was never judged is judged first, by the shipped rules


def test_its_students_are_new_weights_that_open_as_models(refined):
    store, start, done = refined
    before = (start / "model.safetensors").read_bytes()
    weights = [(Path(student["folder"]) / "model.safetensors").read_bytes() for student in done["students"]]
    assert len({before, *weights}) == 3 and {len(w) for w in weights} == {len(before)}
    for student in done["students"]:
        assert student["steps"] == 4 and student["loss_after"] < student["loss_before"] and not student["found"]
        assert Path(student["folder"]).parent == store.root / "students"
        assert florence2.load(student["folder"]).predict(scenes.draw(1)[0], "<OD>").size_wh == (128, 128)
    # each learned from the other half of the pictures that keep an object
    half = FoldSelector(0, 2)
    kept = [half(sample) for sample in store.samples(snapshot=2) if sample.regions]
    assert [student["samples"] for student in done["students"]] == [kept.count(False), kept.count(True)]


def test_each_half_was_annotated_by_the_student_that_never_saw_it(refined):
    store, _, done = refined
    versions = [student["weights_sha256"][:12] for student in done["students"]]
    half, seen, makers = FoldSelector(0, 2), [], {}
    for sample in store.samples(view="all"):
        seen.append(half(sample))
        for item in (*sample.regions, *sample.texts):
            makers.setdefault(item.source.name, set()).add(item.source.kind)
            if item.source.name == "student":
                assert (item.source.version, item.source.round) == (versions[0 if half(sample) else 1], 1)
    assert len(seen) == 12 and set(seen) == {True, False}
    assert makers["student"] == {"model"} and makers["simulated"] == {"simulated"}


def test_the_round_is_not_done_again(refined, capsys):
    store, start, done = refined
    assert main(["refine", str(store.root), "--rounds", "1", "--start", str(start), "--quiet"]) == 0
    assert "has had 1 round already" in capsys.readouterr().out
    assert store.snapshot().number == done["snapshot"]
