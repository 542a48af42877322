"""Merging: who outranks whom, what agreement and disagreement do, and what the absence of a label means."""

import dataclasses

import numpy as np
import pytest
import yaml

import florence2
from florence2.cli import main
from florence2.engine.commands import import_labels
from florence2.engine.curation.merging import MergeConfig, merge_sample, settings
from florence2.engine.curation.synonyms import likely_synonyms
from florence2.formats import jsonl
from florence2.records import Coverage, ImageRef, Region, Sample, Source, Text
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
        ("iuo: 1", "iuo: unknown key; expected one of iou"),
        ("iou: high", "iou: expected a number, got 'high'"),
        ("contradicted: 1", "contradicted: expected true or false"),
        ("synonyms: [cat]", "synonyms[0]: expected a list, got 'cat'"),
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
    made = store.snapshot().operators
    florence2.filter(store, [Floor(0.0)], merging=dataclasses.replace(MergeConfig(), contradicted=False))
    assert store.snapshot().operators == made  # a merge reads no merge of its round: the same again is the same


def test_a_sets_label_is_kept_against_models_that_agree_with_each_other():
    pair = region("x", "a", "aeroplane", score=0.9), region("y", "b", "aeroplane", NEAR, score=0.9)
    verdicts, (fused,) = merged(region("t", "coco", "airplane"), *pair)
    assert verdicts[fused.id] == ("superseded", "outranked", "t") and verdicts["x"][2] == fused.id
    assert verdicts["t"] == ("kept", "disputed", fused.id)
    verdicts, (fused,) = merged(region("t", "coco", "airplane", AWAY), *pair)
    assert fused.id not in verdicts


def test_a_second_box_of_one_source_on_a_listed_object_is_settled():
    coverage = {"coco": (Coverage("exhaustive", ("cat",)),)}
    given = region("t", "coco", label_space="coco"), region("x", "a"), region("y", "a", box=NEAR, score=0.5)
    verdicts, _ = merged(*given, coverage=coverage)
    assert verdicts == {"x": ("superseded", "outranked", "t"), "y": ("superseded", "repeated", "t")}
    assert "y" not in merged(*given)[0]  # not all cats are listed: the second may be another one


def line(name, source, box, score, text):
    return region(name, source, text, box, score, kind="text")


def test_lines_of_two_readers_are_settled_by_sets():
    one = [line("a1", "a", (10, 10, 90, 20), 0.9, "EXIT 24 Open"), line("a2", "a", (10, 40, 90, 50), 0.9, "Bar")]
    two = [line("b1", "b", (10, 10, 40, 20), 0.95, "EXIT"), line("b2", "b", (42, 10, 90, 20), 0.5, "24 0pen"),
           line("b3", "b", (10, 70, 90, 80), 0.6, "Closed")]  # fmt: skip
    verdicts, rows = merged(*one, *two)
    assert not rows and verdicts == {b: ("superseded", "other_reader", "a1") for b in ("b1", "b2")}
    people = [dataclasses.replace(two[0], source=SOURCES["human"])]
    assert merged(*one, *people)[0] == {"a1": ("superseded", "outranked", "b1")}


def test_captions_of_unlike_sources_are_kept_side_by_side():
    texts = [Text("c", "A cat.", "brief", score=0.9, source=SOURCES["a"]),
             Text("s", "A black cat sits.", "brief", score=0.4, source=SOURCES["student"]),
             Text("o", "cat cat", "brief", score=0.3, source=Source("model", "student", run_id="s0"))]  # fmt: skip
    sample = Sample("s", ImageRef("i", width=100, height=100), texts=tuple(texts))
    found = merge_sample(sample, MergeConfig(), MAKER)
    assert [(d.item_id, d.status, d.by_id) for d in found.decisions] == [("o", "superseded", "s")]
    human = dataclasses.replace(texts[0], id="h", source=SOURCES["human"])
    found = merge_sample(dataclasses.replace(sample, texts=(*texts, human)), MergeConfig(), MAKER)
    assert {d.item_id: d.reason for d in found.decisions} == dict.fromkeys("cso", "outranked")


def test_likely_synonyms_are_found_by_overlap():
    def picture(i, other="aeroplane", place=HERE):
        pair = region(f"x{i}", "coco", "airplane"), region(f"y{i}", "a", other, place)
        return Sample(f"s{i}", ImageRef("i", width=100, height=100), regions=pair)

    samples = [picture(i) for i in range(4)] + [picture(9, "bird")] + [picture(8, "tree", AWAY)]
    assert [str(each) for each in likely_synonyms(samples)] == ["aeroplane / airplane: 4 pairs over 0.9"]
    assert not likely_synonyms(samples, (("airplane", "aeroplane"),))
    assert not likely_synonyms([picture(i, f"kind {i}") for i in range(9)])
