"""Merging: who outranks whom, what agreement and disagreement do, and what the absence of a label means."""

import dataclasses

import numpy as np
import pytest
import yaml

import florence2
from florence2.cli import main
from florence2.engine.commands import import_labels
from florence2.engine.curation.merging import MergeConfig, merge_sample, settings
from florence2.formats import jsonl
from florence2.records import Coverage, ImageRef, Region, Sample, Source
from florence2.store.snapshots import Operator
from tests.engine.doubles import Boxes, Floor, folder_of

MAKER = Operator("run", "merge", "2", "f" * 32, 1, "merge")
SOURCES = {
    "human": Source("human", "ann", run_id="h"),
    "coco": Source("import", "coco", run_id="c1"),
    "coco2": Source("import", "coco", run_id="c2"),
    "a": Source("specialist", "a", run_id="a"),
    "b": Source("specialist", "b", run_id="b"),
    "c": Source("specialist", "c", run_id="c"),
    "student": Source("model", "student", round=1, run_id="s"),
}
HERE, NEAR, AWAY = (10.0, 10.0, 50.0, 50.0), (12.0, 10.0, 52.0, 50.0), (60.0, 60.0, 90.0, 90.0)


def region(name, source, label="cat", box=HERE, score=0.6, **more):
    return Region(name, box=box, label=label, score=score, source=SOURCES[source], **more)


def merged(*regions, coverage=None, models=(), **changes):
    """(verdicts as item -> (status, reason, winner), fused rows)"""
    sample = Sample("s", ImageRef("i", width=100, height=100), regions=regions, coverage=coverage or {})
    found = merge_sample(sample, MergeConfig(**changes), MAKER, models)
    return {d.item_id: (d.status, d.reason, d.by_id) for d in found.decisions}, found.regions


def test_agreement_is_one_box_weighted_by_scores_and_a_higher_score():
    verdicts, (fused,) = merged(region("x", "a", score=0.9), region("y", "b", box=NEAR, score=0.3))
    assert verdicts == {"x": ("superseded", "fused", fused.id), "y": ("superseded", "fused", fused.id)}
    assert fused.box == pytest.approx(np.average([HERE, NEAR], axis=0, weights=[0.9, 0.3]))
    assert fused.score == pytest.approx(1 - 0.1 * 0.7) and fused.derived_from == ("x", "y")
    assert (fused.source.kind, fused.source.name) == ("specialist", "merge")
    _, (three,) = merged(region("x", "a"), region("y", "b", box=NEAR), region("z", "c"))
    assert three.score == pytest.approx(1 - 0.4**3)  # each further source raises it
    assert merged(region("x", "a"), region("y", "a", box=NEAR)) == ({}, [])  # a source does not agree with itself


def test_synonyms_agree_and_other_labels_do_not():
    pair = region("x", "a", "Car"), region("y", "b", "auto mobile", NEAR)
    verdicts, rows = merged(*pair)
    assert not rows and {v[:2] for v in verdicts.values()} == {("kept", "disputed")}
    verdicts, (fused,) = merged(*pair, synonyms=(("car", "auto mobile"),))
    assert fused.label == "Car" and len(verdicts) == 2


@pytest.mark.parametrize(
    "one, two, loser, reason",
    [
        ("human", "coco", "y", "outranked"),
        ("human", "a", "y", "outranked"),
        ("coco", "a", "y", "outranked"),
        ("coco", "student", "y", "outranked"),
        ("a", "human", "x", "outranked"),
        ("coco", "coco2", "y", "agrees"),  # two sets of one name and rank: the first in order stands
    ],
)
def test_people_outrank_sets_and_sets_the_rest(one, two, loser, reason):
    verdicts, rows = merged(region("x", one), region("y", two, score=0.99 if two != "coco2" else 0.1, box=NEAR))
    assert not rows and verdicts == {loser: ("superseded", reason, "x" if loser == "y" else "y")}


def test_disagreement_is_recorded():
    verdicts, _ = merged(region("x", "coco", "cat"), region("y", "coco2", "dog", NEAR))
    assert verdicts == {"x": ("kept", "disputed", "y"), "y": ("kept", "disputed", "x")}
    verdicts, _ = merged(region("x", "human", "cat"), region("y", "a", "dog", NEAR))
    assert verdicts == {"y": ("superseded", "outranked", "x")}
    verdicts, _ = merged(region("x", "a", "cat"), region("y", "student", "dog", NEAR, score=0.9), models={"s"})
    assert verdicts["x"] == ("superseded", "outscored", "y")


NEGATIVE = {"lvis": (Coverage("negatives", ("cow",)),)}
PARTIAL = {"coco": (Coverage("partial"),)}
WHOLE = {"coco": (Coverage("exhaustive", ("cat", "dog")),)}


@pytest.mark.parametrize(
    "regions, coverage, changes, fallen",
    [
        ([region("x", "a", "COW")], NEGATIVE, {}, {"x": "verified_absent"}),
        ([region("x", "a", "ox")], NEGATIVE, {}, {}),  # nothing is known of it
        ([region("x", "a", "ox")], NEGATIVE, {"synonyms": (("cow", "ox"),)}, {"x": "verified_absent"}),
        ([region("x", "human", "cow")], NEGATIVE, {}, {}),  # a person saw it
        ([region("x", "human", "cow"), region("y", "a", "cow", AWAY)], NEGATIVE, {}, {}),  # so the set was wrong
        ([region("x", "a", "cow")], NEGATIVE, {"contradicted": False}, {}),
        ([region("x", "coco", label_space="coco"), region("y", "a", box=AWAY)], WHOLE, {}, {"y": "not_listed"}),
        ([region("x", "coco", label_space="coco"), region("y", "a", "dog", AWAY)], WHOLE, {}, {"y": "not_listed"}),
        ([region("x", "coco", label_space="coco"), region("y", "a", "sofa", AWAY)], WHOLE, {}, {}),
        ([region("x", "coco", label_space="other"), region("y", "a", box=AWAY)], WHOLE, {}, {}),
        (  # a crowd stands for any number
            [region("x", "coco", label_space="coco", box=(0, 0, 100, 100), ignore=True), region("y", "a", box=AWAY)],
            WHOLE, {}, {},
        ),
        ([region("x", "coco", label_space="coco"), region("y", "a", box=AWAY)], PARTIAL, {}, {}),
    ],
)  # fmt: skip
def test_the_absence_of_a_label_means_what_coverage_says(regions, coverage, changes, fallen):
    verdicts, _ = merged(*regions, coverage=coverage, **changes)
    assert {name: said[1] for name, said in verdicts.items() if said[0] == "rejected"} == fallen


def test_settings_come_from_a_file(tmp_path, capsys):
    file = tmp_path / "merge.yaml"
    file.write_text(yaml.safe_dump({"iou": 0.4, "synonyms": [["Thing ", "Object"]], "unconfirmed_below": None}))
    assert settings(file) == MergeConfig(iou=0.4, synonyms=(("thing", "object"),), unconfirmed_below=None)
    folder = folder_of(tmp_path, 2)
    pictures = sorted(folder.glob("*.png"))
    said = (Region("r", box=(3, 2, 23, 25), label="OBJECT"),)
    jsonl.write([Sample(p.name, ImageRef(p.name, str(p)), regions=said) for p in pictures], folder / "labels.jsonl")
    store = import_labels(folder / "labels.jsonl", tmp_path / "s", workers=0)
    florence2.annotate(store.root, with_=[Boxes()], workers=0)
    assert main(["filter", str(store.root), "--merge", str(file), "--quiet"]) == 0
    assert [[r.source.kind for r in s.regions] for s in store.samples()] == [["import"]] * 2
    for text, message in (
        ("iuo: 1", "'iuo': expected some of iou"),
        ("iou: high", "iou: expected a number, got 'high'"),
        ("contradicted: 1", "contradicted: expected true or false"),
        ("synonyms: [cat]", "synonyms: expected lists of labels"),
        ("iou: [", "not YAML"),
    ):
        file.write_text(text)
        assert main(["filter", str(store.root), "--merge", str(file)]) == 1
        assert message in (line := capsys.readouterr().err) and line.count("\n") == 1


def test_a_negative_of_a_set_rejects_what_a_specialist_sees_there(tmp_path):
    """Through the store: import with negatives, annotate, merge."""
    folder = folder_of(tmp_path, 2)
    coverage = [{"lvis": (Coverage("negatives", ("thing",)),)}, {}]
    samples = [
        Sample(p.name, ImageRef(p.name, str(p)), coverage=c) for p, c in zip(sorted(folder.glob("*.png")), coverage)
    ]
    jsonl.write(samples, folder / "labels.jsonl")
    store = florence2.annotate(folder, tmp_path / "s", [Boxes()], workers=0)
    import_labels(folder / "labels.jsonl", store.root, workers=0)
    florence2.filter(store, [Floor(0.0)], merging=MergeConfig())
    assert [len(s.regions) for s in store.samples()] == [0, 1]
    assert store.reasons()["annotations"]["verified_absent"] == 1
    before = store.counts()
    florence2.filter(store, [Floor(0.0)], merging=dataclasses.replace(MergeConfig(), contradicted=False))
    assert [len(s.regions) for s in store.samples()] == [1, 1] and before["annotations"]["total"] == 6
