"""The table of rules and the YAML that changes it."""

import importlib

import pytest

from florence2.engine.curation.filters.rules import RULES, open_chain, to_yaml
from florence2.engine.operator import Filter, fingerprint
from florence2.records import ImageRef, Region, Sample, Source


def test_every_row_is_a_rule_with_a_countable_reason_a_unit_and_a_sentence():
    for name, rule in RULES.items():
        module, function = rule.function.split(":")
        assert callable(getattr(importlib.import_module(module), function)), name
        assert rule.reason.replace("_", "").isalpha() and rule.unit and rule.says


def test_the_default_chain_is_the_table_in_its_order():
    chain = open_chain()
    assert [f.spec.name for f in chain] == list(RULES)
    assert all(isinstance(f, Filter) for f in chain)
    assert [f.config for f in chain] == [dict(rule.settings) for rule in RULES.values()]


def test_a_yaml_changes_settings_and_switches_rules_off(tmp_path):
    path = tmp_path / "filters.yaml"
    path.write_text("nms: {max: 0.3}\nlanguage: false\nmax_objects: {max: {brief: 5}}\ntoo_long: {max: 9}\n")
    chain = {f.spec.name: f.config for f in open_chain(path)}
    assert chain["nms"] == {**RULES["nms"].settings, "max": 0.3}
    assert "language" not in chain
    assert chain["max_objects"]["max"] == {"brief": 5, "detailed": 30, "more_detailed": 60}
    assert set(chain["too_long"]["max"].values()) == {9}


def test_the_chain_written_as_yaml_opens_the_same_chain(tmp_path):
    path = tmp_path / "all.yaml"
    chain = open_chain({"nms": {"soft": True}, "crowd": False})
    path.write_text(to_yaml(chain))
    assert [(f.spec.name, f.config) for f in open_chain(path)] == [(f.spec.name, f.config) for f in chain]
    assert all(rule.unit in path.read_text() for rule in RULES.values())


@pytest.mark.parametrize(
    "text, expected",
    [
        ("nmss: {}", "unknown rule 'nmss'"),
        ("nms: {iou: 1}", "unknown setting 'iou'"),
        ("nms: 0.5", "expected settings"),
        ("nms: {max: high}", "a number"),
        ("nms: {max: .nan}", "a number"),
        ("nms: {soft: 1}", "true or false"),
        ("max_objects: {max: {short: 1}}", "brief, detailed"),
        ("region_score: {labels: {cat: low}}", "labels.cat"),
        ("- nms", "expected keys and values"),
        ("nms: {", "not YAML"),
        ("nms: {max: 0.5}\nnms: false", "twice"),
    ],
)
def test_a_wrong_yaml_is_refused_in_one_line(tmp_path, text, expected):
    path = tmp_path / "filters.yaml"
    path.write_text(text)
    with pytest.raises(ValueError) as error:
        open_chain(path)
    assert expected in str(error.value) and "filters.yaml" in str(error.value) and "\n" not in str(error.value)


def test_a_changed_setting_changes_the_fingerprint_of_its_rule_alone():
    before = {f.spec.name: fingerprint(f) for f in open_chain()}
    after = {f.spec.name: fingerprint(f) for f in open_chain({"nms": {"max": 0.5}})}
    assert {name for name in before if before[name] != after[name]} == {"nms"}


def test_judge_names_only_what_is_rejected_and_weigh_everything():
    regions = [
        Region(id="sure", box=(0, 0, 9, 9), score=0.9, source=Source("specialist", "a")),
        Region(id="unsure", box=(0, 0, 9, 9), score=0.1, source=Source("specialist", "a")),
    ]
    sample = Sample("s", ImageRef("s", width=99, height=99), regions=tuple(regions))
    rule = open_chain()[0]
    (rejected,) = rule.judge(sample)
    assert (rejected.item_id, rejected.status, rejected.rule, rejected.reason) == (
        "unsure", "rejected", "region_score", "low_score",
    )  # fmt: skip
    assert (rejected.value, rejected.threshold) == (0.1, 0.4)
    assert [d.status for d in rule.verdicts(sample)] == ["kept", "rejected"]


def test_what_people_made_is_judged_by_no_rule():
    regions = tuple(
        Region(id=kind, box=(0, 0, 99, 99), label="cat", score=0.01, source=Source(kind, "x"))
        for kind in ("human", "import")
    )
    sample = Sample("s", ImageRef("s", width=99, height=99), regions=regions)
    assert [d for rule in open_chain() for d in rule.verdicts(sample)] == []
