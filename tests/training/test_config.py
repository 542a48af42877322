"""The config: every key checked, overrides by dotted names, shipped recipes that load."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from florence2 import scenes
from florence2.cli import main
from florence2.scenes.scene_files import write
from florence2.training import train
from florence2.training.config_files import RECIPES, from_mapping, read_config, to_mapping
from tests.monitoring.test_run_journal import check_lines, figures
from tests.training.tiny import tiny_model, tiny_run

PLAIN = {"out": "runs/x", "data": [{"path": "scenes:count=10"}]}


def test_the_config_loads_no_torch():
    code = "import sys, florence2.training.config_files; assert not {'torch', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("recipe", sorted(path.stem for path in RECIPES.glob("*.yaml")))
def test_every_shipped_recipe_loads(recipe):
    config = read_config(recipe)
    assert config.steps > 0 and config.data
    header = (RECIPES / f"{recipe}.yaml").read_text().split("\n\n")[0]
    assert all(word in header for word in ("command", "machine", "time", "score")), "the header states what was run"


def test_a_config_survives_its_own_file(tmp_path):
    config = from_mapping({**PLAIN, "steps": 7})
    file = tmp_path / "c.yaml"
    file.write_text(yaml.safe_dump(to_mapping(config)))
    assert read_config(file) == config


def test_overrides_reach_nested_keys(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text(yaml.safe_dump(PLAIN))
    config = read_config(file, ["--lr=1e-5", "--data.0.path=other", "--data.0.tasks={OD: 2}", "--precision=bf16"])
    assert (config.lr, config.data[0].path, config.data[0].tasks) == (1e-5, "other", {"OD": 2.0})
    assert config.precision == "bf16"


def test_overrides_make_what_is_not_there(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("model: nano\nout: x\nsteps: 2\n")
    config = read_config(file, ["--data.0.path=a", "--data.0.tasks=[OD]", "--data.1.path=b", "--lora.rank=8",
                                "--strategy=lora"])  # fmt: skip
    assert [source.path for source in config.data] == ["a", "b"] and config.lora.rank == 8
    for override, said in {
        "--data.1.path=x": "1: expected an index up to 0",
        "--data.x=1": "data: expected a list of sources",
    }.items():
        with pytest.raises(ValueError, match=said):
            read_config(file, [override])


def test_keys_alone_are_a_config_and_a_value_may_be_a_word_of_its_own():
    config = read_config(None, ["--data.0.path", "x", "--out=o", "--lr", "1e-5", "--data.0.tasks={OD: 2}"])
    assert (config.data[0].path, config.out, config.lr, config.data[0].tasks) == ("x", "o", 1e-5, {"OD": 2})
    with pytest.raises(ValueError, match="the command line: data: missing"):
        read_config(None, ["--out=o"])
    with pytest.raises(ValueError, match="'stray': expected --key=value"):
        read_config(None, ["--out=o", "stray"])


@pytest.mark.parametrize("change, said", [
    ({"learning_rate": 1}, "learning_rate: unknown key"),
    ({"lora": {"rank": 8}}, "lora: goes with strategy lora"),
    ({"strategy": "lora", "lora": {"rank": 0}}, "rank and alpha above 0"),
    ({"strategy": "lora", "lora": {"size": 8}}, "size: unknown key"),
    ({"strategy": "decoder", "freeze_stages": 2}, "freeze_stages: goes with strategy full"),
    ({"label_smoothing": -0.1}, "label_smoothing: expected at least 0"),
    ({"optimizer": {"betas": [0.9, 1.5]}}, "two betas"),
    ({"groups": [{"match": "x"}]}, r"groups\[0\].lr: missing"),
    ({"groups": [{"match": "(", "lr": 1}]}, r"groups\[0\].match: .* no regular expression"),
    ({"groups": [{"match": "x", "lr": -1}]}, r"groups\[0\].lr: expected at least 0"),
    ({"lr": "nan"}, "lr: expected a number"),
    ({"lr": float("inf")}, "lr: expected a finite number"),
    ({"optimizer": {"eps": "inf"}}, "eps: expected a finite number"),
    ({"seed": 2**40}, "seed: expected"),
    ({"data": {"path": "x"}}, "data: expected a list of sources"),
    ({"evaluate_every": "nane"}, "evaluate_every: expected steps"),
    ({"evaluate_every": 0.5}, "evaluate_every: expected steps"),
    ({"data": [{"path": "x", "weight": "inf"}]}, r"data\[0\]: weight: expected a finite number"),
    ({"data": [{"path": "x", "tasks": {"OD": -1}}]}, "tasks.OD: expected a weight"),
    ({"data": [{"path": "x", "tasks": {"OD": 0}}]}, "tasks: every weight is 0"),
    ({"data": [{"path": "x", "split": "validation"}]}, "split: expected one of train, val, test"),
    ({"data": [{"path": "x", "epochs": [3, 1]}]}, "epochs: expected"),
    ({"data": [{"path": "x", "fold": [2, 2]}]}, "fold: expected"),
    ({"evaluate_every": "often"}, "evaluate_every: expected steps"),
    ({"model": "new:nano", "vocab_size": -5}, "vocab_size: expected 260 to 1047552 rows, got -5"),
    ({"model": "new:nano", "vocab_size": 10**20}, "vocab_size: expected 260 to"),
    ({"patience": 2}, "give evaluate_every"),
    ({"on_error": "stop"}, "expected one of skip, raise"),
    ({"strategy": "head"}, "expected one of full"),
    ({"steps": 0}, "steps: expected at least 1"),
    ({"steps": "many"}, "steps: expected a whole number"),
    ({"lr": -1}, "lr: expected at least 0"),
    ({"ema": 1.0}, "ema: expected less than 1"),
    ({"data": []}, "data: expected at least one source"),
    ({"data": "folder"}, "data: expected a list"),
    ({"data": [{"tasks": ["OD"]}]}, "path: missing"),
    ({"data": [{"path": "x", "shuffle": True}]}, "shuffle: unknown key"),
])  # fmt: skip
def test_a_wrong_key_is_named(change, said):
    with pytest.raises(ValueError, match=said):
        from_mapping({**PLAIN, **change})


def test_a_rate_as_yaml_writes_it_is_a_number(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text(yaml.safe_dump(PLAIN) + "groups: [{match: ^vision_tower, lr: 1e-6}]\n")  # text in YAML 1.1
    config = read_config(file)
    assert config.groups[0].lr == 1e-6
    assert from_mapping(to_mapping(config)) == config


def test_a_training_run_writes_its_log_and_metrics(tmp_path, capsys):
    file, log, metrics = tmp_path / "c.yaml", tmp_path / "log", tmp_path / "m.prom"
    file.write_text(yaml.safe_dump(tiny_run(tmp_path, steps=2)))
    told = ["--log", str(log), "--metrics", str(metrics)]
    assert main(["train", "--config", str(file), *told]) == 0
    assert main(["train", "--config", str(file), "--steps=3", *told]) == 0
    lines = check_lines(log)
    steps = [line for line in lines if line["event"] == "training_step"]
    assert [line["step"] for line in steps] == [1, 2, 3] and steps[0]["values"]["loss"] > 0
    assert [line["outcome"] for line in lines if line["event"] == "run_ended"] == ["ended", "ended"]
    found = figures(metrics.read_text())
    assert found["florence2_run_items_total", ("phase", "training")] == 1  # of the second run, which found two
    assert found["florence2_run_phase_items_found", ("phase", "training")] == 2
    assert found["florence2_run_value", ("name", "loss")] == pytest.approx(steps[-1]["values"]["loss"])
    assert main(["train", "--config", str(file), "--steps=3", "--lr=5", *told]) == 1  # refused: another run's folder
    assert check_lines(log)[-1]["outcome"] == "failed" and not figures(metrics.read_text())["florence2_run_running",]


def test_the_command_trains_and_resumes(tmp_path, capsys):
    file = tmp_path / "c.yaml"
    file.write_text(yaml.safe_dump(tiny_run(tmp_path, steps=2)))
    assert main(["train", "--config", str(file), "--json"]) == 0
    *rows, result = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["step"] for row in rows] == [1, 2] and result["steps"] == 2
    assert main(["train", "--config", str(file), "--json", "--steps=3"]) == 0
    *rows, result = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["step"] for row in rows] == [3] and result["steps"] == 3


def test_a_missing_config_is_one_line(capsys):
    assert main(["train", "--config", "nothing-here"]) == 1
    assert "expected a YAML file or a shipped recipe" in capsys.readouterr().err


def test_data_show_prints_what_the_model_sees(tmp_path, capsys):
    truth = write(tmp_path / "toy", (scenes.draw(seed, signs=0) for seed in range(2)))
    model = tiny_model(tmp_path / "model")
    args = ["data", "show", str(truth), "--task", "OD", "--model", model]
    assert main([*args, "--json", "--draw", str(tmp_path / "drawn")]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(rows) == 2 and {"id", "image", "prompt", "target", "target_ids"} <= set(rows[0])
    assert rows[0]["prompt"] == "Locate the objects with category name in the image."
    assert "<loc_" in rows[0]["target"] and rows[0]["target_ids"][0] == 0 and rows[0]["target_ids"][-1] == 2
    assert len(list((tmp_path / "drawn").glob("*.png"))) == 2


def test_data_check_names_each_problem(tmp_path, capsys):
    truth = write(tmp_path / "toy", (scenes.draw(seed, signs=0, size=64) for seed in range(3)))
    model = tiny_model(tmp_path / "model")
    args = ["data", "check", str(truth), "--task", "OD", "--model", model, "--json"]
    assert main(args) == 0 and not capsys.readouterr().out
    rows = [json.loads(line) for line in truth.read_text().splitlines()]
    rows[0]["regions"][0]["box"] = [10, 10, 500, 20]
    rows[1]["regions"][0]["box"] = [10, 10, 10, 20]
    (truth.parent / rows[2]["image"]["uri"]).unlink()
    truth.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(args) == 1
    found = {row["id"]: row["reason"] for row in map(json.loads, capsys.readouterr().out.splitlines())}
    assert found == {rows[0]["id"]: "outside", rows[1]["id"]: "flat", rows[2]["id"]: "missing"}


def test_the_docs_name_every_key():
    from florence2.training import config

    text = (Path(__file__).parents[2] / "docs" / "training.md").read_text()
    kinds = (config.TrainConfig, config.DataSource, config.LoraConfig, config.OptimizerConfig, config.InitConfig)
    keys = {key for kind in (*kinds, config.ParameterGroup, config.BestConfig) for key, _, _ in config.described(kind)}
    assert not [key for key in sorted(keys) if not re.search(rf"\b{key}\b", text)]


def test_a_tilde_is_the_home_folder(tmp_path, monkeypatch):
    """A shell leaves it as it is in --out=~/runs."""
    monkeypatch.setenv("HOME", str(tmp_path))
    data = [{"path": "~/set", "images": "~/pictures"}]
    config = from_mapping(
        {"out": "~/runs/a", "model": "~/m", "init": {"tower": "~/t"}, "data": data, "replay": data[0]}
        | {"model": "new:nano"}
    )
    assert config.out == f"{tmp_path}/runs/a" and config.init.tower == f"{tmp_path}/t" and config.model == "new:nano"
    assert [(s.path, s.images) for s in config.sources] == [(f"{tmp_path}/set", f"{tmp_path}/pictures")] * 2


@pytest.mark.parametrize("model", ["nano", "new:nano"])
def test_a_revision_of_what_has_none_is_refused(tmp_path, model):
    with pytest.raises(ValueError, match="revision: main: goes with a hub id"):
        train({**tiny_run(tmp_path), "model": model, "revision": "main"})
