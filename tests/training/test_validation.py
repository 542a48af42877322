"""Evaluation while a run trains: what is held out, real metrics, the best checkpoint, patience."""

import json
import shutil
from pathlib import Path

import pytest

import florence2
from florence2 import scenes
from florence2.records import Sample
from florence2.scenes.scene_files import write
from florence2.training import train
from florence2.training.config_files import from_mapping
from florence2.training.order import Cursor
from florence2.training.run_folder import RunFolder, read_lines
from florence2.training.setup import prepare
from tests.training.tiny import tiny_run


def toy(tmp_path, count=30, split=None):
    path = write(tmp_path / "toy", (scenes.draw(seed, signs=0, size=48) for seed in range(count)))
    if split:
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        rows = [{**row, "split": split(number)} for number, row in enumerate(rows)]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def run_of(tmp_path, path, tasks=("OD",), **more):
    source = {"path": path, "tasks": list(tasks)}
    return tiny_run(tmp_path, data=[source], dense=0, steps=4, **{"evaluate_every": 2, "validation_limit": 3, **more})


def trained(job):
    return {p.picture.name for batch in job.order.batches(4, Cursor(), 1) for p in batch.pairs}


def test_a_share_is_held_out_by_hash(tmp_path):
    job = prepare(from_mapping(run_of(tmp_path, toy(tmp_path, 60), validation_limit=60)))
    held = {sample.id for sample in job.validation.samples}
    assert len(held) == 3 and not held & trained(job) and len(trained(job)) == 57
    again = prepare(from_mapping(run_of(tmp_path, toy(tmp_path, 60), validation_limit=60)))
    assert {sample.id for sample in again.validation.samples} == held


def named(tmp_path, names):
    """A set of pictures in folders of their own, so called."""
    path = Path(toy(tmp_path, len(names)))
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for number, (row, name) in enumerate(zip(rows, names)):
        to = path.parent / str(number) / name
        to.parent.mkdir()
        (path.parent / row["image"]["uri"]).rename(to)
        row["image"]["uri"] = f"{number}/{name}"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_pictures_of_one_name_are_held_out_together_or_that_is_refused(tmp_path):
    names = ["a.png", "a.png", "b.png", "b.png"] + [f"{n}.png" for n in range(16)]
    job = prepare(from_mapping(run_of(tmp_path, named(tmp_path, names), validation_limit=60)))

    def called(ids):
        return {names[int(name.split("-")[1])] for name in ids}

    held = {sample.id for sample in job.validation.samples}
    assert held and not called(held) & called(trained(job)) and len(held) + len(trained(job)) == len(names)
    alike = named(tmp_path / "b", ["front.png", "back.png"] * 6)
    with pytest.raises(ValueError, match="12 samples have 2 names of pictures, by which .* name `validation`"):
        prepare(from_mapping(run_of(tmp_path, alike)))


def test_the_loss_is_that_of_the_averaged_weights_which_are_saved(tmp_path):
    path = toy(tmp_path)
    own = {"validation": [{"path": path, "tasks": ["OD"]}], "best": {"metric": "loss"}}
    config = run_of(tmp_path, path, evaluate_every=4, ema=0.9, lr=0.05, schedule="constant", **own)
    result = train(config)
    (row,) = read_lines(Path(config["out"]) / "evaluations.jsonl")
    again = {**config, "model": config["out"], "out": str(tmp_path / "again"), "lr": 1e-12, "steps": 1}
    after = train({**again, "evaluate_every": 1})
    (other,) = read_lines(Path(again["out"]) / "evaluations.jsonl")
    assert row["metrics"]["loss"] == pytest.approx(other["metrics"]["loss"], rel=1e-5)
    assert after.loss_before == pytest.approx(result.loss_after, rel=1e-5)


def test_without_evaluation_nothing_is_held_out(tmp_path):
    assert len(trained(prepare(from_mapping(run_of(tmp_path, toy(tmp_path), evaluate_every=0))))) == 30


def test_a_sets_own_val_part_is_evaluated_and_its_test_part_never(tmp_path):
    path = toy(tmp_path, 30, lambda n: "val" if n < 4 else "test" if n < 10 else "train")
    job = prepare(from_mapping(run_of(tmp_path, path, validation_limit=30)))
    assert {int(s.id.split("-")[1]) for s in job.validation.samples} == {0, 1, 2, 3}
    assert not trained(job) & {s.id for s in job.validation.samples}
    (tmp_path / "b").mkdir()
    path = toy(tmp_path / "b", 30, lambda n: "test" if n < 10 else "train")
    job = prepare(from_mapping(run_of(tmp_path, path, validation_limit=30)))
    (held,) = job.validation.samples
    assert isinstance(held, Sample) and held.split == "train"


def test_metrics_are_written_and_the_best_is_kept(tmp_path):
    config = run_of(tmp_path, toy(tmp_path))
    train(config)
    rows = read_lines(Path(config["out"]) / "evaluations.jsonl")
    assert [row["step"] for row in rows] == [2, 4]
    assert {"AP", "AP50", "loss"} <= set(rows[0]["metrics"]) and 0 < rows[0]["epoch"] < rows[1]["epoch"]
    best = RunFolder(config["out"]).best_facts()
    assert best["metric"] == "AP" and best["value"] == max(row["metrics"]["AP"] for row in rows)
    florence2.load(Path(config["out"]) / "best")
    predictions = Path(config["out"]) / "evaluations" / "step-00000002" / "OD" / "predictions.jsonl"
    assert len(predictions.read_text().splitlines()) == 2  # 5 % of 30


def test_evaluating_changes_nothing_in_training(tmp_path):
    path = toy(tmp_path)
    named = {"validation": [{"path": path, "tasks": ["OD"]}]}
    one = train(run_of(tmp_path, path, evaluate_every=1, dropout=0.1, **named))
    other = train({**run_of(tmp_path, path, evaluate_every=4, dropout=0.1, **named), "out": str(tmp_path / "other")})
    assert one.weights_sha256 == other.weights_sha256


def test_several_tasks_are_told_apart_and_best_by_a_named_metric(tmp_path):
    best = {"metric": "OD.AP50", "mode": "min"}
    config = run_of(tmp_path, toy(tmp_path), ["OD", "CAPTION"], best=best, evaluate_every="1e", ema=0.5)
    train(config)
    (row,) = read_lines(Path(config["out"]) / "evaluations.jsonl")
    assert row["step"] == 4 and {"OD.AP50", "CAPTION.CIDEr", "loss"} <= set(row["metrics"])
    assert RunFolder(config["out"]).best_facts()["metric"] == "OD.AP50"
    with pytest.raises(ValueError, match="best.metric: WER: expected one of"):  # before the first step
        train({**config, "best": {"metric": "WER"}, "out": str(tmp_path / "x")})
    assert not (tmp_path / "x").exists()


def test_patience_stops_a_run_that_gets_no_better(tmp_path):
    best = {"metric": "loss", "mode": "max"}  # the loss falls, so the first evaluation stays the best
    config = run_of(tmp_path, toy(tmp_path), evaluate_every=1, patience=2, best=best)
    result = train({**config, "steps": 30})
    assert result.stopped == "patience" and result.steps == 3 and not result.interrupted
    again = train({**config, "steps": 30})
    assert again.steps == 3


def test_an_evaluation_in_epochs_comes_when_one_is_complete(tmp_path):
    config = run_of(tmp_path, toy(tmp_path, 21), evaluate_every="1e", epochs=2, batch_size=8)  # 20 pairs an epoch
    train(config)
    rows = read_lines(Path(config["out"]) / "evaluations.jsonl")
    assert [row["step"] for row in rows] == [3, 5] and rows[-1]["epoch"] == 2.0


def test_epochs_in_place_of_steps(tmp_path):
    config = run_of(tmp_path, toy(tmp_path, 20), evaluate_every=0, epochs=2)
    result = train(config)
    rows = read_lines(Path(config["out"]) / "metrics.jsonl")
    assert result.steps == 5 and sum(row["pairs"] for row in rows) == 40
    assert rows[-1]["epoch"] == pytest.approx(2) and {"wall", "data_seconds", "compute_seconds"} <= set(rows[0])
    assert train({**config, "epochs": 3}).steps == 8
    with pytest.raises(ValueError, match="epochs is 3.0 there, 1.0 here"):
        train({**config, "epochs": 1})


def test_the_report_reads_a_run_under_way(tmp_path):
    from florence2.reporting import report

    config = run_of(tmp_path, toy(tmp_path), tensorboard=True)
    pages = []

    def look(line):
        if line["step"] == 3:
            now = shutil.copytree(config["out"], tmp_path / "now")
            with open(now / "metrics.jsonl", "a") as file:
                file.write('{"step": 4, "lo')  # being written
            pages.append(report(now, tmp_path / "page.html").read_text())

    train(config, progress=look)
    (page,) = pages
    assert "While it trained" in page and "OD after step 2" in page and "waited for data" in page
    assert list((Path(config["out"]) / "tensorboard").rglob("events.*"))


@pytest.mark.parametrize("more", [False, True])
def test_what_is_held_out_stays_so_when_evaluations_are_switched_off(tmp_path, more):
    """Also where the data have grown by then: the share of names is kept, not counted anew."""
    path = toy(tmp_path, 60)
    config = run_of(tmp_path, path, validation_limit=60, save_every=2)
    train(config)
    held = {sample.id for sample in prepare(from_mapping(config)).validation.samples}
    if more:
        toy(tmp_path, 90)
    later = from_mapping({**config, "evaluate_every": 0, "steps": 6})
    job = prepare(later, resumed=RunFolder(config["out"]).newest())
    assert held and job.validation is None and not held & trained(job)
    job = prepare(from_mapping(config), resumed=RunFolder(config["out"]).newest())
    assert held <= {sample.id for sample in job.validation.samples}
    assert not trained(job) & {sample.id for sample in job.validation.samples}


def test_a_run_begun_without_evaluations_holds_nothing_out_later(tmp_path):
    config = run_of(tmp_path, toy(tmp_path), evaluate_every=0)
    train(config)
    with pytest.raises(ValueError, match="evaluate_every: .*begun without evaluations.*validation"):
        train({**config, "evaluate_every": 2, "steps": 6})
    (tmp_path / "b").mkdir()
    named = {"validation": [{"path": toy(tmp_path / "b"), "tasks": ["OD"]}]}
    assert train({**config, "evaluate_every": 2, "steps": 6, **named}).steps == 6
    with pytest.raises(ValueError, match="validation"):
        train({**config, "evaluate_every": 2, "steps": 6})
    assert len(trained(prepare(from_mapping(config), resumed=RunFolder(config["out"]).newest()))) == 30


def test_pictures_that_are_trained_and_evaluated_are_told(tmp_path):
    path = toy(tmp_path, 30, lambda n: "val" if n < 4 else "train")
    named = {"validation": [{"path": path, "tasks": ["OD"], "split": "val"}], "validation_limit": 30}
    (note,) = prepare(from_mapping(run_of(tmp_path, path, **named))).notes
    assert note.startswith("validation: 4 of the pictures that are evaluated are trained on as well")
    config = run_of(tmp_path, path, **named)
    config["data"][0]["split"] = "train"
    assert not prepare(from_mapping(config)).notes
    (note,) = prepare(from_mapping({**config, "evaluate_every": 0, "best": {"metric": "AP"}})).notes
    assert note.startswith("validation and best.metric: nothing is evaluated")
    with pytest.raises(ValueError, match="validation: expected at least one source"):
        from_mapping({**config, "validation": []})


def test_validation_pictures_that_cannot_be_read_are_told(tmp_path):
    """One without a stated size is left out, one whose file has gone counts as an empty answer."""
    path = Path(toy(tmp_path, 12, lambda n: "val" if n < 4 else "train"))
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    del rows[1]["image"]["width"], rows[1]["image"]["height"]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for number in (1, 2):
        (path.parent / rows[number]["image"]["uri"]).unlink()
    said = []
    config = run_of(tmp_path, str(path), validation_limit=10)
    train(config, on_message=said.append)
    assert any("validation: 1 samples cannot be read, such as" in line for line in said)
    assert any("step 2: 1 of 3 validation asks cannot be answered" in line for line in said)


def test_pictures_of_one_name_are_told_apart(tmp_path):
    """Two sets that number their pictures alike, and a picture with two records."""
    (tmp_path / "b").mkdir()
    paths = [toy(folder, 12, lambda n: "val" if n < 3 else "train") for folder in (tmp_path, tmp_path / "b")]
    lines = Path(paths[0]).read_text().splitlines()
    double = json.loads(lines[0])
    Path(paths[0]).write_text("\n".join([*lines, json.dumps({**double, "id": "again"})]) + "\n")
    sources = [{"path": path, "tasks": ["OD"]} for path in paths]
    config = tiny_run(tmp_path, data=sources, dense=0, steps=2, evaluate_every=2)
    train(config)
    predictions = Path(config["out"]) / "evaluations" / "step-00000002" / "OD" / "predictions.jsonl"
    assert len(predictions.read_text().splitlines()) == 7


def test_what_is_undefined_is_not_the_best(tmp_path):
    """AP of held-out pictures without an object is -1, in every evaluation."""
    path = write(tmp_path / "empty", (scenes.draw(n, objects=(0, 0), signs=0, size=48) for n in range(30)))
    said = []
    train(run_of(tmp_path, str(path), best={"metric": "AP"}), on_message=said.append)
    assert sum("AP -1.0000 (undefined: no object is held out)" in line for line in said) == 2
    assert not (tmp_path / "out" / "best").exists()
