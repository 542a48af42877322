"""Thresholds fitted to labels."""

import dataclasses

import numpy as np
import pytest
import yaml

from florence2.engine.curation.filters.rules import open_chain
from florence2.engine.curation.fitting import fit
from florence2.engine.curation.tuning import good_of, to_text, tune
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


def test_the_table_prints_every_rule_that_has_items(curves):
    found, _ = curves
    assert "region_score" in to_text(list(found.values()))


def made(count, seed=0):
    """Two sources with scales of their own, a label whose good boxes score low, doubles, and needles."""
    rng = np.random.default_rng(seed)
    other = Source("specialist", "timid")
    samples, truths = [], []
    for i in range(count):
        good, low = rng.uniform(0.45, 0.95), rng.uniform(0.25, 0.5)
        regions = [
            region("a", BOX, score=good),
            region("b", FAR, score=rng.uniform(0.1, 0.6)),
            region("c", (60, 10, 90, 40), "dog", score=rng.uniform(0.2, 0.45)),
            Region("d", box=(10, 60, 40, 90), label="cow", score=low, source=other),
            Region("e", box=(40, 60, 55, 90), label="cow", score=rng.uniform(0.0, 0.2), source=other),
        ]
        samples.append(picture(i, regions))
        truths.append(picture(i, [region("t", BOX), region("u", (60, 10, 90, 40), "dog"),
                                  region("v", (10, 60, 40, 90), "cow")]))  # fmt: skip
    return samples, truths


def test_rules_are_fitted_together_and_the_yaml_raises_f1_when_used(tmp_path):
    samples, truths = made(90)
    found = fit(samples, truths, open_chain())
    assert found.pictures == 60 and found.held_out == 30 and not found.refused
    assert found.after["objects"] > found.before["objects"] + 0.2
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(dict(found.changes)))
    chain = open_chain(tmp_path / "rules.yaml")
    others, other_truths = made(60, seed=1)
    assert f1(others, other_truths, chain) > f1(others, other_truths, open_chain()) + 0.2


def f1(samples, truths, chain):
    """Boxes of the right name in the right place, as the judging chain keeps them."""
    right = kept = true = 0
    for sample, truth in zip(samples, truths):
        for rule in chain:
            gone = {decision.item_id for decision in rule.judge(sample)}
            sample = dataclasses.replace(sample, regions=tuple(r for r in sample.regions if r.id not in gone))
        places = {(r.label, r.box) for r in truth.regions}
        kept, true = kept + len(sample.regions), true + len(places)
        right += sum((r.label, r.box) in places for r in sample.regions)
    return 2 * right / (kept + true)


def test_a_change_that_does_not_raise_f1_is_not_suggested():
    rng = np.random.default_rng(3)
    samples = [picture(i, [region("a", BOX, score=0.5 + rng.uniform(0, 0.4))]) for i in range(40)]
    found = fit(samples, [picture(i, [region("t", BOX)]) for i in range(40)], open_chain())
    assert found.changes == {} and found.before == found.after == {"objects": 1.0}
    few = fit(samples[:4], [picture(i, [region("t", BOX)]) for i in range(4)], open_chain())
    assert few.changes == {} and "too few" in few.refused


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
