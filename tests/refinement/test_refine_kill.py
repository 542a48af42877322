"""Killed at any step that reaches the disk, a refine run again leaves what one left in peace leaves, to the byte."""

import json
import os
import shutil
import time
from pathlib import Path

import pytest

import florence2
from florence2.engine.session import Session
from florence2.refinement import refine
from florence2.store import Store
from tests.engine.doubles import Boxes, Floor, folder_of
from tests.engine.test_kill import Counted, content, killed, spread
from tests.refinement.test_refine import FakeTraining, Learned, Result

POINTS = 12


class Named(FakeTraining):
    """Weights that say what they were trained from by name, so that they are the same in any folder."""

    def __call__(self, config):
        made = super().__call__(config)
        learned = json.dumps([Path(config["model"]).name, config["data"][0].get("fold")])
        (Path(config["out"]) / "model.safetensors").write_text(learned)
        return Result(made.folder, made.steps, 1.0, 0.5, "")


@pytest.fixture(scope="module", autouse=True)
def start_by_name():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("florence2.refinement.rounds.weights_of", lambda start: f"weights of {Path(start).name}")
        yield


def rounds(store, count=2, train=None, **more):
    given = {"rules": [Floor(0.35)], "workers": 0, "train": train or Named(), "open_student": Learned, **more}
    return refine(store, count, **given)


def students(store):
    return {p.relative_to(store).as_posix(): p.read_bytes() for p in (store / "students").rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def annotated(tmp_path_factory):
    root = tmp_path_factory.mktemp("annotated")
    return florence2.annotate(folder_of(root, 6), root / "s", [Boxes()], workers=0, unit=4).root


@pytest.fixture(scope="module")
def clean(annotated, tmp_path_factory):
    """A store that was refined in peace, and how many steps that took."""
    root = shutil.copytree(annotated, tmp_path_factory.mktemp("clean") / "s")
    counted = Counted()
    with pytest.MonkeyPatch.context() as patch:
        counted.install(patch)
        rounds(root)
    return root, counted.count


@pytest.mark.parametrize("point", range(POINTS))
def test_a_killed_refine_run_again_leaves_the_same_store(annotated, clean, tmp_path, point):
    expected, steps = clean
    root = shutil.copytree(annotated, tmp_path / "s")
    assert killed(lambda: rounds(root), spread(steps, POINTS)[point])
    rounds(root)
    assert content(root) == content(expected) and students(root) == students(expected)
    assert Store(root).verify() == []


@pytest.mark.parametrize("point", range(5))
def test_a_killed_refine_measures_the_same_agreement_and_stops_at_the_same_round(
    annotated, tmp_path, monkeypatch, point
):
    monkeypatch.setattr("florence2.refinement.agreement.LEAST", 1)
    clean, root = (shutil.copytree(annotated, tmp_path / name / "s") for name in ("clean", "killed"))
    counted = Counted()
    with monkeypatch.context() as patch:
        counted.install(patch)
        done = rounds(clean, 5, holdout=0.5)
    assert len(done) == 2 and done[-1].stopped  # the student by hand gets no better
    assert killed(lambda: rounds(root, 5, holdout=0.5), spread(counted.count, 5)[point])
    rounds(root, 5, holdout=0.5)
    assert content(root) == content(clean) and students(root) == students(clean)
    assert Store(root).snapshot().phase == Store(clean).snapshot().phase


def test_stopped_right_after_its_snapshot_the_next_round_starts_from_its_students(annotated, tmp_path, monkeypatch):
    root = shutil.copytree(annotated, tmp_path / "s")
    finish = Session.finish

    def and_stop(self, phase=None):
        made = finish(self, phase)
        if (phase or {}).get("phase") == "refine":
            raise KeyboardInterrupt
        return made

    with monkeypatch.context() as patch:
        patch.setattr(Session, "finish", and_stop)
        with pytest.raises(KeyboardInterrupt):
            rounds(root, 1)
    training = Named()
    (second,) = rounds(root, 2, training)
    assert second.number == 2
    assert [Path(call["model"]).parent for call in training.calls] == [root / "students"] * 2


def test_after_an_undo_the_next_round_starts_from_the_students_whose_work_stands(annotated, tmp_path):
    root = shutil.copytree(annotated, tmp_path / "s")
    (first,) = rounds(root, 1)
    Store(root).undo()
    refine(root, 1, seed=7, rules=[Floor(0.35)], workers=0, train=Named(), open_student=Learned)
    Store(root).undo(to=first.snapshot)
    training = Named()
    rounds(root, 2, training)
    assert [call["model"] for call in training.calls] == [student.folder for student in first.students]


def test_a_student_that_is_gone_is_no_reason_to_start_elsewhere_in_silence(annotated, tmp_path):
    root = shutil.copytree(annotated, tmp_path / "s")
    (first,) = rounds(root, 1)
    shutil.rmtree(first.students[1].folder)
    with pytest.raises(ValueError, match="student of round 1 cannot be found: its folder .* is gone; --from-scratch"):
        rounds(root, 2)


class Counting(Named):
    """Takes its time, and notes each training in a file."""

    def __init__(self, notes):
        super().__init__()
        self.notes = notes

    def __call__(self, config):
        with open(self.notes, "a") as file:
            file.write(f"{config['data'][0].get('fold')}\n")
        time.sleep(0.5)
        return super().__call__(config)


def test_of_two_refines_at_once_the_second_waits_for_the_students_of_the_first(annotated, clean, tmp_path):
    root, notes = shutil.copytree(annotated, tmp_path / "s"), tmp_path / "notes"
    children = []
    for _ in range(2):
        children.append(os.fork())
        if not children[-1]:
            try:
                rounds(root, 1, Counting(notes))
                os._exit(0)
            finally:
                os._exit(1)
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
    trained = notes.read_text().splitlines()
    assert len(trained) == len(set(trained)) == 2
    rounds(root)
    assert content(root) == content(clean[0])
