"""A run that is stopped between two of its acts, or overtaken by another, goes on as if nothing had happened."""

import json
import os
import signal
import time
from pathlib import Path

import pytest
import torch

import florence2
from florence2.training import train
from florence2.training.config_files import from_mapping
from florence2.training.dry_run import dry_run
from florence2.training.run_folder import RunFolder, read_lines
from tests.training.test_validation import run_of, toy
from tests.training.tiny import tiny_run


def evaluated(config):
    return [row["step"] for row in read_lines(Path(config["out"]) / "evaluations.jsonl")]


def weights(folder):
    return florence2.load(folder).model.state_dict()


def equal(one, other):
    return all(torch.equal(tensor, other[name]) for name, tensor in one.items())


class Killed(BaseException):
    """Stands for a kill: nothing of the program handles it."""


def test_killed_between_a_checkpoint_and_its_files_in_out(tmp_path, monkeypatch):
    config = tiny_run(tmp_path, steps=2)
    train(config)
    old = weights(config["out"])
    monkeypatch.setattr(RunFolder, "_publish", lambda *args: (_ for _ in ()).throw(Killed()))
    with pytest.raises(Killed):
        train({**config, "steps": 3})
    monkeypatch.undo()
    assert RunFolder(config["out"]).newest().name == "step-00000003" and equal(weights(config["out"]), old)
    assert train({**config, "steps": 3}).steps == 3  # checked by itself: OUT holds what was trained
    assert equal(weights(config["out"]), weights(RunFolder(config["out"]).newest()))
    assert not equal(weights(config["out"]), old)


@pytest.mark.parametrize("step", [2, 4])
@pytest.mark.parametrize("where", ["_evaluate", "keep_best"])
def test_an_evaluation_that_a_kill_broke_off_is_made_when_the_run_goes_on(tmp_path, monkeypatch, step, where):
    """Also the last one, after which no step is left; what was the best is in best/."""
    from florence2.training.periodic_evaluation import Evaluations

    config = run_of(tmp_path, toy(tmp_path), save_every=2)
    whole = {**config, "out": str(tmp_path / "whole")}
    train(whole)
    kind = Evaluations if where == "_evaluate" else RunFolder
    before, calls = getattr(kind, where), []

    def killed(*args, **kwargs):
        calls.append(where)
        if len(calls) == step // 2:
            raise Killed
        return before(*args, **kwargs)

    monkeypatch.setattr(kind, where, killed)
    with monkeypatch.context() as patch:
        if where == "keep_best":  # every evaluation is the best
            patch.setattr("florence2.training.validation_set.Validation.is_better", lambda *args: True)
        with pytest.raises(Killed):
            train(config)
    monkeypatch.undo()
    assert train(config).steps == 4
    assert evaluated(config) == evaluated(whole) == [2, 4]
    assert read_lines(Path(config["out"]) / "evaluations.jsonl") == read_lines(tmp_path / "whole" / "evaluations.jsonl")
    assert RunFolder(config["out"]).best_facts() == RunFolder(whole["out"]).best_facts()


def test_a_stop_in_an_evaluation_saves_and_the_evaluation_is_made_up_for(tmp_path, monkeypatch):
    from florence2.training.periodic_evaluation import Evaluations, Stopped

    config = run_of(tmp_path, toy(tmp_path))
    monkeypatch.setattr(Evaluations, "_evaluate", lambda *args: (_ for _ in ()).throw(Stopped()))
    result = train(config)
    assert result.interrupted and result.steps == 2 and evaluated(config) == []
    monkeypatch.undo()
    assert train(config).steps == 4 and evaluated(config) == [2, 4]


def test_data_that_end_before_the_last_step_are_evaluated_at_their_end(tmp_path):
    """A fraction of the pairs is drawn, so that their number is only known when they are over."""
    (tmp_path / "val").mkdir()
    source = {"path": toy(tmp_path, 40), "tasks": ["OD"], "weight": 0.3}
    named = [{"path": toy(tmp_path / "val", 4), "tasks": ["OD"]}]
    ended = []
    for seed in range(6):
        config = tiny_run(
            tmp_path, data=[source], dense=0, steps=1, epochs=2, batch_size=2, seed=seed, evaluate_every="1e",
            validation=named, validation_limit=2, out=str(tmp_path / f"out{seed}"),
        )  # fmt: skip
        result = train(config)
        assert evaluated(config)[-1] == result.steps
        ended.append(result.steps < read_lines(Path(config["out"]) / "metrics.jsonl")[-1]["steps"])
    assert any(ended)


def test_a_run_that_was_overtaken_while_it_read_its_data_is_refused(tmp_path, monkeypatch):
    from florence2.training import loop

    config = tiny_run(tmp_path, steps=3)
    before = loop.prepare

    def overtaken(*args, **kwargs):
        job = before(*args, **kwargs)
        monkeypatch.undo()
        train(config)
        return job

    monkeypatch.setattr(loop, "prepare", overtaken)
    with pytest.raises(ValueError, match="another run has trained into it meanwhile; run the same command again"):
        train(config)
    assert [row["step"] for row in read_lines(Path(config["out"]) / "metrics.jsonl")] == [1, 2, 3]
    assert train(config).steps == 3


def test_restart_leaves_what_the_new_run_reads(tmp_path):
    config = tiny_run(tmp_path, steps=2)
    train(config)
    out = config["out"]
    for change, key in (
        ({"model": out}, "model"),
        ({"model": f"{out}/checkpoints/step-00000002"}, "model"),
        ({"data": [{"path": toy(Path(out)), "tasks": ["OD"]}], "dense": 0}, "data"),
    ):
        with pytest.raises(ValueError, match=rf"{key}.*lies in out, which --restart would move aside"):
            train({**config, **change}, restart=True)
    assert not Path(out + ".1").exists() and train(config).steps == 2


def test_restart_moves_no_folder_that_holds_no_run(tmp_path, monkeypatch):
    config = tiny_run(tmp_path, steps=2, out=str(tmp_path / "mine"))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    train(config, restart=True)
    assert (tmp_path / "mine" / "notes.txt").exists() and not (tmp_path / "mine.1").exists()
    monkeypatch.chdir(tmp_path / "mine")
    with pytest.raises(ValueError, match="the folder that you are in"):
        train({**config, "out": "."}, restart=True)
    assert Path("config.yaml").exists()


@pytest.mark.parametrize("workers", [0, 2])
def test_what_breaks_the_making_of_batches_off_is_one_line(tmp_path, workers):
    """A picture that goes while a run is under way that is to open every picture."""
    path = Path(toy(tmp_path, 40))
    config = tiny_run(
        tmp_path, data=[{"path": str(path), "tasks": ["OD"]}], dense=0, steps=200, batch_size=2, on_error="raise",
        workers=workers,
    )  # fmt: skip

    def remove(line):
        for file in path.parent.rglob("*.png"):
            file.unlink(missing_ok=True)

    with pytest.raises(ValueError, match="does not exist") as refused:
        train(config, progress=remove)
    assert len(str(refused.value).splitlines()) == 1 and "Traceback" not in str(refused.value)
    done = [row["step"] for row in read_lines(Path(config["out"]) / "metrics.jsonl")]
    assert RunFolder(config["out"]).newest().name == f"step-{done[-1]:08d}", "what was trained is not lost"


def test_a_worker_that_is_killed_ends_the_run_in_one_line(tmp_path):
    config = tiny_run(tmp_path, steps=400, workers=1, save_every=1)
    own = os.getpid()

    def kill(line):
        if line["step"] == 2:
            tasks = Path(f"/proc/{own}/task").iterdir()
            children = {int(pid) for task in tasks for pid in (task / "children").read_text().split()}
            for pid in children:
                if b"resource_tracker" not in Path(f"/proc/{pid}/cmdline").read_bytes():
                    os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)

    with pytest.raises(OSError, match=r"a process that makes batches \(workers\) has gone .*run the same command"):
        train(config, progress=kill)
    newest = RunFolder(config["out"]).newest()
    assert int(newest.name[5:]) >= 1 and train({**config, "steps": int(newest.name[5:]) + 1})


def test_memory_that_does_not_suffice_is_one_line(tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise RuntimeError(
            "[enforce fail at alloc_cpu.cpp:119] DefaultCPUAllocator: can't allocate memory: you tried\nx"
        )

    monkeypatch.setattr("florence2.training.trainer.Trainer.step", full)
    with pytest.raises(OSError, match="the memory does not suffice; --dry-run") as refused:
        train(tiny_run(tmp_path))
    assert "\n" not in str(refused.value)


def test_the_live_line_counts_from_the_first_step(capsys, monkeypatch):
    from florence2.cli import train as command

    now = [1000.0]
    monkeypatch.setattr(command.time, "monotonic", lambda: now[0])
    live = command.Live(False)
    now[0] += 3600  # the data were examined
    for step in range(1, 101):
        now[0] += 2
        live({"step": step, "steps": 400, "loss": 1.0, "tokens": 10, "data_seconds": 0.5, "seconds": 2.0})
    text = capsys.readouterr().err
    assert "step 100/400" in text and "5 tokens/s" in text and "data 25 %" in text and "10.0 min left" in text


@pytest.mark.parametrize("accumulate", [1, 2])
def test_more_epochs_of_a_run_that_ended_with_a_short_batch_meet_every_pair(tmp_path, accumulate):
    source = {"path": toy(tmp_path, 7), "tasks": ["OD"]}
    config = tiny_run(tmp_path, data=[source], dense=0, batch_size=2, epochs=1, accumulate=accumulate)
    first = train(config).steps
    again = {**config, "epochs": 2}
    assert dry_run(from_mapping(again)).steps == train(again).steps == 2 * first
    rows = read_lines(Path(config["out"]) / "metrics.jsonl")
    size = 2 * accumulate
    assert [row["pairs"] for row in rows] == 2 * [*[size] * (7 // size), 7 % size]
    assert rows[first - 1]["epoch"] == 1 and rows[-1]["epoch"] == 2 and rows[-1]["lr"] > 0
    assert train(again).steps == 2 * first  # nothing is left


def test_a_state_that_does_not_say_how_many_pairs_were_met_goes_on(tmp_path):
    source = {"path": toy(tmp_path, 8), "tasks": ["OD"]}
    config = tiny_run(tmp_path, data=[source], dense=0, batch_size=2, epochs=1)
    train(config)
    file = RunFolder(config["out"]).newest() / "state" / "progress.json"
    facts = json.loads(file.read_text())
    assert facts["cursor"].pop("met") == 8
    file.write_text(json.dumps(facts))
    assert train({**config, "epochs": 2}).steps == 8


def test_an_error_outside_a_step_leaves_the_last_step_saved(tmp_path, monkeypatch):
    def broken(*args, **kwargs):
        raise ValueError("no such metric")

    monkeypatch.setattr("florence2.training.periodic_evaluation.Evaluations._evaluate", broken)
    config = run_of(tmp_path, toy(tmp_path), save_every=100)
    with pytest.raises(ValueError, match="no such metric"):
        train(config)
    assert RunFolder(config["out"]).newest().name == "step-00000002"
    monkeypatch.undo()
    assert train(config).steps == 4 and evaluated(config) == [2, 4]


def test_an_error_within_a_step_saves_no_half_of_it(tmp_path, monkeypatch):
    from florence2.training.optim import Weights

    def broken(self, step):
        raise RuntimeError("in mid-step")

    monkeypatch.setattr(Weights, "publish", broken)
    config = tiny_run(tmp_path, save_every=1)
    with pytest.raises(RuntimeError, match="in mid-step"):
        train(config)
    assert RunFolder(config["out"]).newest() is None


def test_what_cannot_be_saved_after_an_error_does_not_hide_it(tmp_path, monkeypatch):
    def broken(self, stream):
        if self.done.step == 2:
            raise ValueError("the first error")
        return next(stream)

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("florence2.training.loop.Run._next", broken)
    monkeypatch.setattr(RunFolder, "save", full)
    with pytest.raises(ValueError, match="the first error"):
        train(tiny_run(tmp_path, save_every=100))


@pytest.mark.parametrize("kind", [RuntimeError, OSError])
def test_a_worker_that_is_gone_is_told_wherever_torch_says_so(tmp_path, kind):
    def fail(line):
        raise kind("DataLoader worker (pid 1) is killed by signal: Killed.")

    with pytest.raises(OSError, match=r"a process that makes batches \(workers\) has gone .*run the same command"):
        train(tiny_run(tmp_path, steps=2), progress=fail)
