"""The loop with a trainer and a student made by hand: what is trained on what, who annotates what, what a round did."""

import contextlib
import dataclasses
import json
import shutil
from pathlib import Path

import pytest

import florence2
from florence2 import scenes
from florence2.cli import main
from florence2.codec.tasks import TASKS
from florence2.engine.commands import import_labels
from florence2.engine.curation.correcting import AnnotationChange, Correction, correct
from florence2.engine.curation.filters.rules import open_chain
from florence2.engine.execution.context import resolve_specialist
from florence2.engine.operator import Spec
from florence2.engine.run_records import run_states
from florence2.engine.selectors import FoldSelector
from florence2.formats import jsonl
from florence2.monitoring.run_journal import RunJournal
from florence2.monitoring.run_log import RunLog
from florence2.records import ImageRef, Parsed, Region, Sample, Text
from florence2.refinement import refine, students
from florence2.refinement.changes import Changes, of_sample
from florence2.refinement.rounds import Round
from florence2.refinement.student_asks import asks_of
from florence2.refinement.students import _alone
from florence2.store import Store
from tests.engine.doubles import Boxes, Floor, folder_of, fragments
from tests.monitoring.test_run_journal import check_lines


@dataclasses.dataclass
class Result:
    folder: str
    steps: int
    loss_before: float
    loss_after: float
    weights_sha256: str


class FakeTraining:
    """Learns the labels it is shown, and remembers each call."""

    def __init__(self):
        self.calls = []

    def __call__(self, config):
        self.calls.append(config)
        out = Path(config["out"])
        out.mkdir(parents=True)
        (source,) = config["data"]
        assert source["format"] == "store"
        fold = FoldSelector(*source["fold"]) if "fold" in source else lambda sample: False
        samples = [s for s in Store(source["path"]).samples(source["snapshot"]) if not fold(s)]
        learned = {"labels": sorted({r.label for s in samples for r in s.regions}), "start": config["model"]}
        (out / "model.safetensors").write_text(json.dumps(learned))
        (out / "checkpoints").mkdir()
        (out / "checkpoints" / "state").write_text("much")
        return Result(str(out), config["steps"], 2.0, 0.5, "0" * 64)


class Learned(Boxes):
    """A student that knows what its folder says: the same box as Boxes, a bit to the right, and surer."""

    def __init__(self, folder):
        weights = (Path(folder) / "model.safetensors").read_text()
        super().__init__("student", str(abs(hash(weights)))[:12], kind="model", shift=2.0)
        self.spec = dataclasses.replace(self.spec, version=weights and folder[-12:])
        self.weights_sha256 = weights

    def one(self, sample, image):
        parsed = super().one(sample, image)
        regions = tuple(dataclasses.replace(r, score=0.9) for r in parsed.regions)
        return Parsed(
            regions=regions, texts=tuple(dataclasses.replace(t, text="a better text", score=0.95) for t in parsed.texts)
        )


@pytest.fixture
def loop(tmp_path, monkeypatch):
    monkeypatch.setattr("florence2.refinement.rounds.weights_of", lambda start: f"weights of {Path(start).name}")
    store = florence2.annotate(folder_of(tmp_path, 12), tmp_path / "s", [Boxes()], workers=0, unit=4)
    trainer = FakeTraining()

    def run(**more):
        given = {"rules": [Floor(0.35)], "workers": 0, "train": trainer, "open_student": Learned, **more}
        return refine(store, **given)

    return store, trainer, run


def test_a_round_on_a_store_in_an_object_store_is_that_on_a_disk(loop, bucket, tmp_path):
    store, _, run = loop
    remote = florence2.annotate(tmp_path / "pictures", f"{bucket}/s", [Boxes()], workers=0, unit=4)
    run(rounds=1)
    given = {"rules": [Floor(0.35)], "workers": 0, "train": FakeTraining(), "open_student": Learned}
    assert len(refine(remote, rounds=1, **given)) == 1
    assert fragments(remote) == fragments(store) and remote.snapshot().to_bytes() == store.snapshot().to_bytes()
    remote = Store(f"{bucket}/s")
    assert refine(remote, rounds=1, **given) == []
    assert len(refine(remote, rounds=2, **given)) == 1 and remote.verify() == []  # from the students of the first


def test_a_round_trains_on_one_half_and_annotates_the_other(loop):
    store, trainer, run = loop
    (done,) = run(recipe={"steps": 7})
    assert done.number == 1 and [s.steps for s in done.students] == [7, 7]
    one, two = (FoldSelector(n, 2) for n in range(2))
    samples = list(store.samples(view="all"))
    assert {one(s) for s in samples} == {True, False}
    for sample in samples:
        versions = {r.source.version for r in sample.regions if r.source.name == "student"}
        assert versions == {done.students[0 if one(sample) else 1].folder[-12:]}
        assert {r.source.round for r in sample.regions if r.source.name == "student"} == {1}
    trained = [student.samples for student in done.students]
    kept = [s for s in store.samples(snapshot=2)]
    assert trained == [sum(two(s) for s in kept), sum(one(s) for s in kept)]
    assert len(store.snapshots()) == 3  # annotated, filtered, refined


def test_a_round_is_taken_down_as_one_run(loop, tmp_path):
    store, _, run = loop
    run(journal=RunJournal([RunLog(tmp_path / "log")]))
    state = run_states(store)[-1]
    names = [phase.name for phase in state.phases]
    assert names == ["judging", "student", "student", "judging", "merging"] and state.outcome == "ended"
    lines = check_lines(tmp_path / "log")
    assert [line["snapshot"] for line in lines if line["event"] == "snapshot_committed"] == [2, 3]
    assert {line["run"] for line in lines} == {state.run} and lines[-1]["event"] == "run_ended"


def test_the_view_is_merged_and_the_round_says_what_changed(loop):
    store, _, run = loop
    (done,) = run()
    for sample in store.samples():
        (region,) = sample.regions
        assert region.source.name == "merge" and len(region.derived_from) == 2
        assert [t.source.name for t in sample.texts] == ["boxes", "student"]  # captions stand side by side
        assert sample.texts[1].text == "a better text"
    changed = done.changes
    assert (changed.boxes, changed.moved) == (12, 12 - changed.added) and not changed.nothing
    assert (changed.texts, changed.texts_added, changed.texts_removed, changed.texts_changed) == (24, 12, 0, 0)
    assert done.lines()[-1].endswith("0 labels and 0 texts changed; texts 12 added, 0 removed")
    assert "loss 2.000 -> 0.500" in done.lines()[0] and "(no effect)" not in done.lines()[-1]


def test_rounds_are_counted_in_all_and_go_on_from_the_student_before(loop):
    store, trainer, run = loop
    run(rounds=1)
    assert run(rounds=1) == []
    (second,) = run(rounds=2)
    assert second.number == 2 and len(trainer.calls) == 4
    assert [c["model"] for c in trainer.calls[:2]] == ["nano", "nano"]
    assert all(str(store.root / "students") in c["model"] for c in trainer.calls[2:])


def interrupted(run, monkeypatch):
    """A round that is interrupted once its students are trained."""

    def stopped(*args, **more):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("florence2.refinement.rounds.judge", stopped)
        with pytest.raises(KeyboardInterrupt):
            run()


def test_an_interrupted_round_goes_on_without_training_again(loop, monkeypatch):
    store, trainer, run = loop
    interrupted(run, monkeypatch)
    assert len(trainer.calls) == 2 and len(store.snapshots()) == 2
    (done,) = run()
    assert len(trainer.calls) == 2 and all(student.found for student in done.students)
    assert not list((store.root / "tmp").glob("student-*"))
    assert all(not (Path(s.folder) / "checkpoints").exists() for s in done.students)
    assert store.verify() == [] and fragments(store)


def test_a_student_whose_facts_are_damaged_is_refused_by_its_file(loop, monkeypatch):
    store, _, run = loop
    interrupted(run, monkeypatch)
    for file in (store.root / "students").glob("*/student.json"):
        file.write_text('{"steps": "two"}')
    with pytest.raises(ValueError, match=r"student\.json: "):
        run()


def test_one_fold_without_filter_or_merging_is_a_control(loop):
    store, trainer, run = loop
    (done,) = run(folds=1, rules=[], merging=None)
    assert done.students[0].samples == 12 and len(trainer.calls) == 1
    assert all(len(s.regions) == 2 for s in store.samples())
    assert not any(o.kind == "filter" for o in store.snapshot().operators)


def test_a_round_that_does_nothing_says_so():
    assert Round(1, 1, (), Changes(boxes=5)).lines() == [
        "round 1: boxes 0 added, 0 removed, 0 moved; 0 labels and 0 texts changed (no effect)"
    ]


def test_changes_pair_labels_before_places():
    def sample(*regions, text="x"):
        boxes = tuple(Region(str(n), box=box, label=label) for n, (label, box) in enumerate(regions))
        return Sample("i", ImageRef("i"), regions=boxes, texts=(Text("t", text),))

    before = sample(("cat", (0, 0, 10, 10)), ("dog", (0, 0, 10, 11)), ("old", (50, 50, 60, 60)))
    after = sample(("dog", (0, 0, 10, 11)), ("cow", (0, 0, 10, 10)), ("new", (80, 80, 90, 90)), text="y")
    assert of_sample(before, after) == Changes(4 - 1, added=1, removed=1, relabelled=1, texts=1, texts_changed=1)


@pytest.mark.parametrize(
    "before, after, expected",
    [
        ("a", "ab", Changes(texts=2, texts_added=1)),  # beside what was there: that did not change
        ("ab", "b", Changes(texts=1, texts_removed=1)),
        ("ab", "bcd", Changes(texts=3, texts_changed=1, texts_added=1)),  # one in place of another, and one more
        ("aA", "bB", Changes(texts=2, texts_changed=2)),
        ("a", "aB", Changes(texts=2, texts_added=1)),
        ("a", "B", Changes(texts=1, texts_added=1, texts_removed=1)),  # of another length: it replaces nothing
    ],
)
def test_texts_that_came_beside_others_changed_none(before, after, expected):
    """Of letters: a small one is a brief text, a capital a detailed one."""
    texts = [
        [Text(name, name, "detailed" if name.isupper() else "brief") for name in names] for names in (before, after)
    ]
    found = of_sample(*(kept(*each) for each in texts))
    assert found == expected and not found.nothing


def test_what_refines_a_box_is_no_box_that_came():
    described = dataclasses.replace(CAT, id="c", refines=CAT.id, description="a small cat")
    assert of_sample(kept(CAT), kept(CAT, described)) == Changes(boxes=1)


def test_nothing_kept_cannot_be_learned_from(loop):
    _, _, run = loop
    with pytest.raises(ValueError, match="keeps nothing to train"):
        run(rules=[Floor(2.0), NoTexts()])


class NoTexts:
    spec = Spec("no_texts", "1")
    config: dict = {}
    weights_sha256 = ""

    def judge(self, sample):
        return [florence2.Decision(i.id, "rejected", "", "none") for i in (*sample.texts, *sample.groundings)]


def kept(*items):
    """A sample of regions and texts that stand."""
    regions = tuple(item for item in items if isinstance(item, Region))
    texts = tuple(item for item in items if isinstance(item, Text))
    return Sample("i", ImageRef("i", width=100, height=100), regions=regions, texts=texts)


CAT = Region("1", box=(0, 0, 10, 10), label="cat")
DOG = Region("2", box=(5, 5, 20, 20), label="dog")
UPPER = dataclasses.replace(CAT, label="CAT")
LINE = Region("3", kind="text", box=(0, 0, 9, 9), quad=(0, 0, 9, 0, 9, 9, 0, 9), label="EXIT")
BRIEF = Text("4", "a cat", detail="brief")


@pytest.mark.parametrize(
    "samples, tasks, labels, expected",
    [
        ([kept(CAT), kept(DOG)], (), (), (("<OD>",), ("cat", "dog"))),  # boxes alone: no captions, no other label
        ([kept(CAT, BRIEF)], (), (), (("<OD>", "<CAPTION>"), ("cat",))),
        ([kept(LINE)], (), (), (("<OCR_WITH_REGION>",), ())),  # what is written is no set of labels
        ([kept(CAT, BRIEF)], ("CAPTION",), (), (("<CAPTION>",), ())),
        ([kept(CAT)], (), ("cat", "lynx"), (("<OD>",), ("cat", "lynx"))),  # a user's own set
        ([kept(CAT), kept(DOG)], (), ("DOG", "Lynx"), (("<OD>",), ("dog", "Lynx"))),  # as what is learnt has it
        ([kept(CAT), kept(UPPER)], (), ("cat",), (("<OD>",), ("cat",))),  # had as it is named: no other spelling
        ([kept(CAT), kept(UPPER)], (), ("Cat", "CAT "), (("<OD>",), ("CAT", "cat"))),  # had in two others: both
        ([kept(CAT)], ("OD", "REGION_TO_CATEGORY"), (), (("<OD>",), ("cat",))),  # learnt, and not asked of a picture
    ],
)
def test_a_student_is_asked_what_the_kept_annotations_can_train(samples, tasks, labels, expected):
    found = asks_of(samples, TASKS, tasks, labels)
    assert (found.tasks, found.labels) == expected


@pytest.mark.parametrize(
    "tasks, match",
    [
        (("OD", "CAPTION"), "keeps nothing to train a student on for CAPTION; its annotations can train: OD"),
        (("REGION_TO_CATEGORY",), "needs an input"),
    ],
)
def test_tasks_that_no_student_can_learn_or_be_asked_are_refused(tasks, match):
    with pytest.raises(ValueError, match=match):
        asks_of([kept(CAT)], TASKS, tasks)


def test_named_tasks_are_what_students_learn(loop):
    _, trainer, run = loop
    run(tasks=["CAPTION"])
    assert [call["data"][0]["tasks"] for call in trainer.calls] == [{"<CAPTION>": 1.0}] * 2
    with pytest.raises(ValueError, match="name them once"):
        run(rounds=2, tasks=["CAPTION"], recipe={"source": {"tasks": {"OD": 1}}})


def as_nano(config):
    """Training that learns nothing: the student is nano."""
    shutil.copytree(Path(florence2.__file__).parent / "weights" / "nano", config["out"])
    return Result(config["out"], 1, 1.0, 1.0, "")


def test_nano_adds_no_caption_and_no_label_to_a_store_of_boxes(tmp_path):
    """The whole way, with a model that would say star and write captions unless held."""
    truth = scenes.write(tmp_path / "drawn", (scenes.draw(2**31 + i) for i in range(4)))
    samples = [dataclasses.replace(s, texts=(), groundings=()) for s in jsonl.read(truth)]
    relabelled = [
        dataclasses.replace(
            s, regions=tuple(dataclasses.replace(r, label="Ding") for r in s.regions if r.kind == "object")
        )
        for s in samples
    ]
    jsonl.write(relabelled, tmp_path / "drawn" / "boxes.jsonl")
    store = import_labels(tmp_path / "drawn" / "boxes.jsonl", tmp_path / "s", workers=0)
    refine(store, folds=1, rules=[], merging=None, train=as_nano, workers=0)
    said = [s for s in store.samples(view="all")]
    regions = [r for s in said for r in s.regions if r.source.kind == "model"]
    assert regions and {r.label for r in regions} == {"Ding"}
    assert not [text for s in said for text in s.texts]
    (operator,) = (o for o in store.snapshot().operators if o.kind == "model")
    card = store.run(operator.run_id)["starts"][-1]["with"]
    assert resolve_specialist(card).config == {"tasks": ["<OD>"], "labels": ["Ding"]}
    refine(store, 2, folds=1, rules=[], merging=None, train=as_nano, views=True, workers=0)
    (second,) = (o for o in store.snapshot().operators if o.kind == "model" and o.round == 2)
    card = store.run(second.run_id)["starts"][-1]["with"]
    assert resolve_specialist(card).config == {"tasks": ["<OD>"], "labels": ["Ding"], "views": True}


def test_nano_is_shown_its_own_scenes_beside_the_labels(loop):
    _, trainer, run = loop
    run(tasks=["OD"])
    for call in trainer.calls:
        assert call["replay"]["path"].startswith("scenes:") and call["replay"]["tasks"] == {"<OD>": 1.0}
        assert (call["steps"], call["replay_share"]) == (1000, 0.5)


@pytest.mark.parametrize(
    "more, replay, steps",
    [
        ({"replay": "none"}, None, 200),
        ({"start": "elsewhere"}, None, 200),  # whose own data are not known
        (
            {"replay": "scenes:50", "recipe": {"steps": 7}},
            {"path": "scenes:50", "tasks": {"<OD>": 1.0, "<CAPTION>": 1.0}},
            7,
        ),
        ({"recipe": {"replay": {"path": "x"}}}, {"path": "x"}, 200),
    ],
)  # fmt: skip
def test_what_is_replayed(loop, more, replay, steps):
    _, trainer, run = loop
    run(**more)
    assert (trainer.calls[0].get("replay"), trainer.calls[0]["steps"]) == (replay, steps)


@pytest.mark.parametrize(
    "more, pulled, open_end",
    [
        ({"start": "elsewhere"}, 1.0, True),
        ({"start": "elsewhere", "recipe": {"source": {"open_end": False}, "pull_unscored": 0.5}}, 0.5, False),
        ({"start": "elsewhere", "recipe": {"cache_features": "memory"}}, None, None),
        ({"start": "elsewhere", "replay": "none"}, None, None),
        ({"start": "elsewhere", "replay": "scenes:50"}, None, None),
        ({}, None, None),
    ],
)
def test_ends_of_lists_are_the_starts_where_its_data_are_not_known(loop, more, pulled, open_end):
    _, trainer, run = loop
    run(**more)
    call = trainer.calls[0]
    assert (call.get("pull_unscored"), call["data"][0].get("open_end")) == (pulled, open_end)


def test_replay_that_is_not_there_or_named_twice_is_refused(loop):
    _, _, run = loop
    with pytest.raises(ValueError, match="replay: .*gone: does not exist; expected own, none, or the path"):
        run(replay="gone")
    with pytest.raises(ValueError, match="name it once"):
        run(replay="scenes:50", recipe={"replay": {"path": "x"}})


@pytest.mark.parametrize(
    "rules, match",
    [
        ("gone.yaml", "gone.yaml"),
        ({"unheard": {}}, "filters: unknown rule 'unheard'"),
        ([Floor(0.1), Floor(0.2)], "the rule 'floor' is named twice"),
    ],
)
def test_rules_that_cannot_be_opened_are_refused_before_anything_is_trained(loop, rules, match):
    store, trainer, run = loop
    florence2.filter(store, [Floor(0.35)])
    with pytest.raises((ValueError, OSError), match=match):
        run(rules=rules)
    assert not trainer.calls and len(store.snapshots()) == 2


def test_labels_that_came_since_the_judging_are_told(loop, tmp_path):
    store, trainer, run = loop
    chain, said = open_chain({"crowd": False, "language": False}), []
    florence2.filter(store, chain, workers=0)
    run(rounds=1, rules=None, on_message=said.append)
    assert said == [] and phases(store) == ["annotate", "filter", "refine"]
    florence2.annotate(folder_of(tmp_path / "more", 12, start=12), store.root, [Boxes()], workers=0)
    run(rounds=2, rules=None, on_message=said.append)
    told = "labels that the store's own rules did not judge yet are taught as they are; florence2 filter judges them"
    assert said == [told] and phases(store)[3:] == ["annotate", "refine"]
    florence2.annotate(store.root, None, [Boxes("more")], workers=0)  # and another specialist's
    florence2.filter(store, chain, workers=0)
    run(rounds=3, rules=None, on_message=said.append)
    assert said == [told] and phases(store)[5:] == ["annotate", "filter", "refine"]


def test_own_rules_that_cannot_be_opened_are_told_before_anything_is_trained(loop):
    _, trainer, run = loop
    run(rounds=1)
    with pytest.raises(ValueError, match="the rule 'floor' of round 1 is none of the shipped; name rules"):
        run(rounds=2, rules=None)
    assert len(trainer.calls) == 2


def test_what_a_person_did_since_is_no_reason_to_judge_again(loop):
    store, _, run = loop
    run(rounds=1)
    image = next(iter(store.images())).id
    correct(store, [Correction("Ada", image, (AnnotationChange("added", label="hen", box=(1.0, 1.0, 5.0, 6.0)),))])
    run(rounds=2)
    assert phases(store)[2:] == ["refine", "correct", "refine"]


def phases(store):
    return [store.snapshot(number).phase["phase"] for number in store.snapshots()]


SHIPPED = Path(florence2.__file__).parent / "weights"


def recipe_of(call):
    return call.get("replay"), call["steps"], call.get("pull_unscored"), call["data"][0].get("open_end")


@pytest.mark.parametrize("start", ["elsewhere", "nano", "nano_256"])
def test_a_later_command_teaches_as_the_first_whether_it_names_the_start_or_not(loop, start):
    _, trainer, run = loop
    run(start=start)
    run(rounds=2)
    run(rounds=3, start=start)
    assert len(trainer.calls) == 6 and all("students" in call["model"] for call in trainer.calls[2:])
    assert all(recipe_of(call) == recipe_of(trainer.calls[0]) for call in trainer.calls)


def test_another_start_than_that_of_the_students_is_refused_unless_all_begin_anew(loop):
    _, trainer, run = loop
    run(start="elsewhere")
    with pytest.raises(
        ValueError, match="round 1 came from elsewhere, not from nano; leave out --start .*--from-scratch"
    ):
        run(rounds=2, start="nano")
    assert len(trainer.calls) == 2
    run(rounds=2, start="nano", from_previous=False)
    run(rounds=3)
    assert [call["model"] for call in trainer.calls[2:4]] == ["nano"] * 2 and trainer.calls[4]["replay"]
    with pytest.raises(ValueError, match="round 3 came from nano, not from elsewhere"):
        run(rounds=4, start="elsewhere")


def test_what_begins_anew_without_a_start_begins_with_that_of_the_rounds_before(loop):
    _, trainer, run = loop
    run(start="elsewhere")
    run(rounds=2, from_previous=False)
    assert {call["model"] for call in trainer.calls} == {"elsewhere"}


def test_the_folder_of_a_shipped_start_is_that_start(loop, tmp_path):
    _, trainer, run = loop
    (tmp_path / "link").symlink_to(SHIPPED / "nano")
    run(start=str(tmp_path / "link"))
    run(rounds=2, start="nano")
    run(rounds=3, start=str(SHIPPED / "nano"))
    assert all(call["replay"]["path"].startswith("scenes:") and call["steps"] == 1000 for call in trainer.calls)


def test_a_copy_of_the_students_start_is_that_start(loop, tmp_path):
    _, trainer, run = loop
    run()
    shutil.copytree(SHIPPED / "nano", tmp_path / "nano")
    run(rounds=2, start=str(tmp_path / "nano"))
    assert all(recipe_of(call) == recipe_of(trainer.calls[0]) for call in trainer.calls)


def test_a_label_that_the_store_has_nowhere_is_refused_and_one_that_was_rejected_is_not(loop):
    store, trainer, run = loop
    with pytest.raises(
        ValueError, match="labels: 'unicorn': no object of the store has this label; its labels are thing$"
    ):
        run(labels=["thing", "unicorn"])
    assert not trainer.calls and len(store.snapshots()) == 1
    florence2.annotate(store.root, None, [Boxes("more", label="dog")], workers=0)
    florence2.filter(store, [Without("dog")])
    assert len(run(labels=["Thing", "dog"], rules=[Without("dog")])) == 1


class Without(Floor):
    """Rejects the regions of a label."""

    def __init__(self, label):
        super().__init__(0.0)
        self.label = label

    def judge(self, sample):
        return [florence2.Decision(r.id, "rejected", "", "label") for r in sample.regions if r.label == self.label]


def test_tasks_of_no_name_are_refused(loop, capsys):
    store, _, _ = loop
    for given in ("", "OD,,CAPTION"):
        assert main(["refine", str(store.root), "--tasks", given, "--quiet"]) == 1
        assert f"--tasks {given!r}: expected names of tasks" in capsys.readouterr().err


def test_a_command_that_another_was_faster_than_says_so(loop, monkeypatch, capsys):
    store, _, run = loop

    def other(*args, **more):
        run(rounds=1)
        return []

    with monkeypatch.context() as patch:
        patch.setattr("florence2.refinement.refine", other, raising=False)
        assert main(["refine", str(store.root), "--quiet"]) == 0
    said = capsys.readouterr().out
    assert "has had 1 round, the last by another command meanwhile; ask for more with --rounds 2" in said
    assert main(["refine", str(store.root), "--quiet"]) == 0
    assert "has had 1 round already; ask for more with --rounds 2" in capsys.readouterr().out


def test_folders_of_trainings_in_which_nothing_was_made_do_not_stay(loop):
    """Those of a killed run, and one where another process kept the student meanwhile; not one that is made in."""
    store, trainer, run = loop
    for name, content in (("killed", ()), ("locked", (".lock",)), ("begun", (".lock", "run"))):
        (store.root / "tmp" / f"student-{name}").mkdir(parents=True)
        for file in content:
            (store.root / "tmp" / f"student-{name}" / file).touch()
    held = store.root / "tmp" / "student-held"
    with _alone(held):
        run()
        assert sorted(p.name for p in (store.root / "tmp").glob("student-*")) == ["student-begun", "student-held"]
    with _alone(held, wait=False) as free:
        assert free


def test_a_student_that_another_process_kept_meanwhile_leaves_no_folder(loop, monkeypatch):
    store, trainer, run = loop
    alone = students._alone

    @contextlib.contextmanager
    def slow(folder, wait=True):
        if not trainer.calls and wait:
            with monkeypatch.context() as patch:  # the other process, all of whose students are kept first
                patch.setattr(students, "_alone", alone)
                run(rounds=1)
        with alone(folder, wait) as free:
            yield free

    monkeypatch.setattr(students, "_alone", slow)
    run(rounds=1)
    assert len(trainer.calls) == 2 and not list((store.root / "tmp").glob("student-*"))
