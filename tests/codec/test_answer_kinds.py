"""A new answer kind touches many tables: all of them know the same kinds, and the same storage rules."""

from florence2.codec import answer_parser, answers, grammar, official, tasks, truths
from florence2.engine.specialists import student
from florence2.evaluation.metric_specs import METRIC_SPECS

KINDS = set(tasks.STORAGE_RULES)


def test_every_table_has_every_kind():
    tables = {
        "parse": answer_parser.READERS,
        "canonical": answers._CANONICAL,
        "render": answers._WRITERS,
        "truths": truths._TRUTHS,
        "add": truths._ADDED,
        "grammar": grammar.SHAPES,
        "official names": official.KINDS,
    }
    assert {name: set(table) ^ KINDS for name, table in tables.items()} == dict.fromkeys(tables, set())
    assert set(truths._JUDGED) < KINDS and set(tasks.CLOSED) < KINDS  # these hold for some kinds only
    assert {row.output_kind for row in tasks.TASKS.values()} == KINDS


def test_every_kind_and_storage_rule_is_judged_and_those_without_input_are_annotated():
    rules = {(kind, rule): needs for kind, of_kind in tasks.STORAGE_RULES.items() for rule, needs in of_kind.items()}
    assert set(METRIC_SPECS) == set(rules)
    asked_alone = {rule for (kind, rule), needs in rules.items() if not needs}
    assert set(student.PRODUCES) == asked_alone | {"answer", "caption"}  # an own question without input; own captions
