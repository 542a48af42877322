"""Thresholds fitted to labels."""

import dataclasses

import pytest
import yaml

from florence2.engine.curation.filters.rules import open_chain
from florence2.engine.curation.tuning import good_of, suggestions, to_text, tune
from florence2.records import Coverage, Decision, Grounding, ImageRef, Region, Sample, Source, Text

MACHINE = Source("specialist", "detector")


def region(id, box, label="cat", score=None, **fields):
    return Region(id, box=box, label=label, score=score, source=MACHINE, **fields)


def picture(i, regions=(), texts=(), groundings=(), decisions=()):
    ref = ImageRef(f"i{i}", f"/somewhere/{i}.png", width=100, height=100)
    return Sample(f"s{i}", ref, tuple(texts), tuple(regions), tuple(groundings), tuple(decisions))


BOX, FAR = (10, 10, 50, 50), (60, 60, 90, 90)


def test_a_region_is_good_when_its_label_is_there_and_only_once():
    truth = picture(0, [region("t", BOX), region("u", FAR, "dog"), region("line", (0, 0, 50, 9), "SALE", kind="text")])
    found = picture(0, [region("second", BOX, score=0.5), region("first", (11, 10, 50, 50), score=0.9),
                        region("named", FAR, "cow"), region("read", (0, 0, 50, 9), "SAIE", kind="text")])  # fmt: skip
    assert good_of(found, truth) == {"first": True, "second": False, "named": False, "read": True}


def test_texts_are_as_the_labelled_verdicts_say_and_phrases_where_the_labels_are():
    truth = picture(
        0,
        [region("t", BOX)],
        [Text("a", "A cat."), Text("b", "cat cat")],
        [Grounding("g", "a", "A cat", ((0, 5),), ("t",))],
        [Decision("b", "rejected", "human")],
    )
    texts = [Text(i, t, source=MACHINE) for i, t in (("x", "A cat."), ("y", "cat cat"), ("z", "unknown"))]
    phrases = [Grounding("p", "x", "a cat", region_ids=("r",), source=MACHINE),
               Grounding("q", "x", "a cat", region_ids=("f",), source=MACHINE)]  # fmt: skip
    found = picture(0, [region("r", BOX), region("f", FAR)], texts, phrases)
    good = good_of(found, truth)
    assert {i: good[i] for i in "xypq"} == {"x": True, "y": False, "p": True, "q": False} and "z" not in good


@pytest.fixture(scope="module")
def curves():
    """Good boxes score 0.5 to 0.9, bad ones 0.1 to 0.48: the floor of 0.4 lets two of five bad ones through."""
    samples, truths = [], []
    for i in range(20):
        good = region("a", BOX, score=0.5 + 0.02 * i)
        bad = region("b", FAR, score=0.1 + 0.02 * i)
        double = region("c", (16, 10, 56, 50), score=0.45)  # IoU with the good one 0.74
        samples.append(picture(i, [good, bad, double]))
        truths.append(picture(i, [region("t", BOX)]))
    chain = open_chain()
    return {(c.rule, c.of): c for c in tune(samples, truths, chain)}, chain


def test_the_suggested_floor_parts_good_from_bad(curves):
    found, _ = curves
    curve = found["region_score", "detector"]
    assert (curve.items, curve.good, curve.setting) == (60, 20, "min")
    assert curve.now.threshold == 0.4 and curve.now.recall == 1 and curve.now.precision < 0.5
    assert curve.best.f1 == 1 and 0.48 < curve.best.threshold <= 0.5
    recalls = [p.recall for p in sorted(curve.points, key=lambda p: p.threshold)]
    assert recalls == sorted(recalls, reverse=True)


def test_suppression_is_run_again_for_each_threshold(curves):
    found, _ = curves
    curve = found["nms", ""]
    assert len(curve.points) == 13 and curve.points[-1].precision < curve.points[0].precision


def test_suggestions_open_as_rules_and_the_table_prints(curves, tmp_path):
    found, chain = curves
    changes = suggestions(list(found.values()), chain)
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(changes))
    floor = next(f for f in open_chain(tmp_path / "rules.yaml") if f.spec.name == "region_score").config["sources"]
    assert 0.48 < floor["detector"] <= 0.5
    assert "region_score" in to_text(list(found.values()))


def test_what_was_rejected_counts_and_what_was_superseded_does_not():
    regions = [region("a", BOX, score=0.9), region("b", FAR, score=0.1), region("c", FAR, score=0.2)]
    verdicts = [Decision("b", "rejected", "region_score"), Decision("c", "superseded", "recomputed")]
    curves = tune([picture(0, regions, decisions=verdicts)], [picture(0, [region("t", BOX)])], open_chain())
    assert {c.items for c in curves if c.rule == "region_score"} == {2}


def test_a_labelled_set_of_other_pictures_is_refused():
    with pytest.raises(ValueError, match="none of the pictures"):
        tune([picture(1)], [picture(2)], open_chain())


def test_what_the_labelled_set_cannot_tell_of_is_not_counted():
    found = [region("a", BOX, score=0.9), region("b", FAR, label="face", score=0.9), region("c", FAR, score=0.9)]
    sets = [picture(0, found), picture(1, found), picture(2, found)]
    searched = dataclasses.replace(picture(2), coverage={"coco": (Coverage("exhaustive"),)})
    labelled = [picture(0, [region("t", BOX)]), picture(1), searched]  # the second was never looked at
    (curve,) = (c for c in tune(sets, labelled, open_chain()) if c.rule == "region_score")
    assert (curve.items, curve.good) == (4, 1)  # no face is labelled anywhere
