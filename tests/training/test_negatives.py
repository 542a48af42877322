"""Questions about what is not there: only what the coverage says is absent, the hard ones first, always the same."""

import dataclasses
import random

import numpy as np
import pytest

from florence2.codec.grammar import automaton
from florence2.codec.tasks import TASKS
from florence2.codec.tokenizer import Tokenizer
from florence2.geometry import intersection
from florence2.pixels import encode
from florence2.records import Ask, Coverage, Grounding, ImageRef, Parsed, Region, Sample, Text
from florence2.scenes import draw
from florence2.sources.negatives import Negatives, renamed
from florence2.training.config import DataSource
from florence2.training.config_files import from_mapping
from florence2.training.datasets import open_source
from florence2.training.examples import Limits, TaskMixture, fitted
from florence2.training.setup import mixture

OPEN, PHRASES = TASKS["<OPEN_VOCABULARY_DETECTION>"], TASKS["<CAPTION_TO_PHRASE_GROUNDING>"]
CATEGORY, READING = TASKS["<REGION_TO_CATEGORY>"], TASKS["<REGION_TO_OCR>"]
ALL = (Coverage("exhaustive"),)


def sample(name, labels, coverage=ALL, space="pets", **more):
    regions = tuple(
        Region(f"{name}.{n}", box=(1.0, 1.0, 9.0 + n, 9.0), label=label, label_space=space)
        for n, label in enumerate(labels)
    )
    return Sample(name, ImageRef(name, width=20, height=20), regions=regions, coverage={space: coverage}, **more)


OTHERS = [sample("a", ["cat", "dog"]), sample("b", ["cat", "dog"]), sample("c", ["fish"]), sample("d", ["fish", "fox"])]


@pytest.mark.parametrize(
    "coverage, absent",
    [
        (ALL, ["dog", "fish", "fox"]),
        ((Coverage("exhaustive", ("cat", "dog")),), ["dog"]),  # only these were searched for
        ((Coverage("negatives", ("cow", "fox")),), ["cow", "fox"]),  # named as absent, in the source or not
        ((Coverage("partial"),), []),  # nobody knows
        ((Coverage("exhaustive"), Coverage("partial", ("fox",))), ["dog", "fish"]),
        ((Coverage("exhaustive"), Coverage("partial")), []),
        ((), []),
    ],
)
def test_what_is_verifiably_absent(coverage, absent):
    assert Negatives.of(OTHERS, 1.0).absent(sample("x", ["cat"], coverage)) == absent


def test_an_ignored_object_is_there():
    crowd = dataclasses.replace(sample("x", ["cat", "dog"]).regions[1], ignore=True)
    one = dataclasses.replace(sample("x", ["cat"]), regions=(sample("x", ["cat"]).regions[0], crowd))
    assert "dog" not in Negatives.of(OTHERS, 1.0).absent(one)


def test_hard_negatives_come_with_what_is_there():
    found = Negatives.of([*OTHERS, *(sample(f"n{i}", [f"rare{i}"]) for i in range(20))], 1.0)
    drawn = [
        found.drawn(s, found.absent(s), 1, random.Random(n))[0] for n in range(400) for s in [sample("x", ["cat"])]
    ]
    assert 0.5 < drawn.count("dog") / 400 < 0.65  # half of them, and some of those drawn among all


def test_so_many_a_positive_and_always_the_same():
    one = sample("x", ["cat"])
    positives = OPEN.truths(one)
    for rate, count in ((0.0, 0), (1.0, 1), (2.0, 2), (9.0, 3)):
        pairs = Negatives.of(OTHERS, rate).pairs(OPEN, one, positives)
        assert len(pairs) == count and pairs == Negatives.of(OTHERS, rate).pairs(OPEN, one, positives)
        assert all(parsed == Parsed() and ask.text != "cat" for ask, parsed in pairs)
    assert not Negatives.of(OTHERS, 1.0).pairs(TASKS["<OD>"], one, TASKS["<OD>"].truths(one))


def test_a_caption_names_what_is_not_there_in_place_of_a_phrase():
    text = Text("t", "A cat beside the door.")
    grounding = Grounding("g", "t", "A cat", ((0, 5),), ("x.0",))
    one = sample("x", ["cat"], texts=(text,), groundings=(grounding,))
    ((ask, parsed),) = Negatives.of(OTHERS, 1.0).pairs(PHRASES, one, PHRASES.truths(one))
    assert ask.text in {f"A {label} beside the door." for label in ("dog", "fish", "fox")} and parsed == Parsed()


def test_the_other_phrases_are_still_answered_for():
    text = Text("t", "A cat beside the door.")
    groundings = (
        Grounding("g", "t", "A cat", ((0, 5),), ("x.0",)),
        Grounding("h", "t", "the door", ((13, 21),), ("x.1",)),
    )
    one = sample("x", ["cat", "door"], texts=(text,), groundings=groundings)
    seen = set()
    for n in range(12):
        own = dataclasses.replace(one, id=f"x{n}")
        ((ask, parsed),) = Negatives.of(OTHERS, 0.5 + 0.5).pairs(PHRASES, own, PHRASES.truths(own))
        (left,) = parsed.groundings
        assert left.phrase in ask.text and [region.id for region in parsed.regions] == list(left.region_ids)
        seen.add(left.phrase)
    assert seen == {"A cat", "the door"}


@pytest.mark.parametrize(
    "phrase, changed",
    [
        ("A small brown cat", "A small brown {}"),  # its colour is no hint that it is false
        ("two cats", "two {many}"),
        ("an orange cat's toy", "{article} {}"),  # the cat is not what it names
        ("Cats", "{Many}"),
        ("a cat", "{article} {}"),
        ("a concatenation", "{article} {}"),  # the label inside a word is none
        ("the animal", "{article} {}"),
    ],
)
def test_a_phrase_about_what_is_not_there_keeps_the_rest(phrase, changed):
    text = Text("t", f"See {phrase} here.")
    one = sample(
        "x", ["cat"], texts=(text,), groundings=(Grounding("g", "t", phrase, ((4, 4 + len(phrase)),), ("x.0",)),)
    )
    for n in range(6):
        own = dataclasses.replace(one, id=f"x{n}")
        ((ask, _),) = Negatives.of(OTHERS, 1.0).pairs(PHRASES, own, PHRASES.truths(own))
        said = ask.text[4:-6]
        capital = phrase[0].isupper()
        assert said in {
            changed.format(name, many=many, Many=many.capitalize(), article="A" if capital else "a")
            for name, many in (("dog", "dogs"), ("fish", "fish"), ("fox", "foxes"))
        }


@pytest.mark.parametrize(
    "phrase, own, label, said",
    [
        ("Two crosses", "cross", "heart", "Two hearts"),  # a plural that is none tells without the picture
        ("three leaves", "leaf", "cactus", "three cacti"),
        ("two red fish", "fish", "heart", "two red hearts"),
        ("a red fish", "fish", "heart", "a red heart"),
        ("Leaves", "leaf", "butterfly", "Butterflies"),
        ("A leaf", "leaf", "owl", "An owl"),
        ("two brown dogs", "dog", "sheep", "two brown sheep"),
    ],
)
def test_a_plural_stays_one(phrase, own, label, said):
    assert renamed(phrase, own, label) == said


def test_a_line_of_text_is_not_read_as_a_label():
    line = Region("x.9", kind="text", box=(2.0, 2.0, 8.0, 6.0), label="cat")
    text = Text("t", 'A sign that says "cat".')
    grounding = Grounding("g", "t", 'A sign that says "cat"', ((0, 22),), ("x.9",))
    one = dataclasses.replace(sample("x", ["cow"], texts=(text,), groundings=(grounding,)), regions=(line,))
    ((ask, _),) = Negatives.of(OTHERS, 1.0).pairs(PHRASES, one, PHRASES.truths(one))
    assert ask.text in {f"A {name}." for name in ("cat", "dog", "fish", "fox")}


def test_an_empty_region_holds_nothing_and_has_an_objects_size():
    one = dataclasses.replace(sample("x", ["cat", "dog"]), image=ImageRef("x", width=60, height=60))
    sizes = {(r.box[2] - r.box[0], r.box[3] - r.box[1]) for r in one.regions}
    pairs = Negatives.of(OTHERS, 3.0).pairs(CATEGORY, one, CATEGORY.truths(one))
    assert len(pairs) == 6 and pairs == Negatives.of(OTHERS, 3.0).pairs(CATEGORY, one, CATEGORY.truths(one))
    for ask, parsed in pairs:
        x1, y1, x2, y2 = ask.region
        assert parsed == Parsed() and 0 <= x1 and 0 <= y1 and x2 <= 60 and y2 <= 60
        assert any(np.allclose((x2 - x1, y2 - y1), size) for size in sizes)
        assert not intersection([ask.region], [r.box for r in one.regions]).any()


@pytest.mark.parametrize(
    "coverage, asked",
    [
        ({"pets": ALL}, True),
        ({"pets": (Coverage("exhaustive", ("cat",)),)}, False),  # a dog may be there
        ({"pets": (Coverage("partial"),)}, False),
        ({"pets": (Coverage("exhaustive"), Coverage("partial", ("dog",)))}, False),
        ({"text": ALL}, False),  # of lines only
        ({}, False),
    ],
)
def test_a_region_is_empty_only_where_all_was_searched_for(coverage, asked):
    one = dataclasses.replace(sample("x", ["cat"]), image=ImageRef("x", width=60, height=60), coverage=coverage)
    assert bool(Negatives.of(OTHERS, 1.0).pairs(CATEGORY, one, CATEGORY.truths(one))) == asked
    assert not Negatives.of(OTHERS, 1.0).pairs(READING, one, READING.truths(one))  # no line has a size to take


def test_no_room_no_empty_region():
    one = dataclasses.replace(sample("x", ["cat"]), image=ImageRef("x", width=10, height=10))
    assert not Negatives.of(OTHERS, 1.0).pairs(CATEGORY, one, CATEGORY.truths(one))


def test_an_empty_region_is_trained_on_and_an_answer_without_letters_is_not():
    tokenizer = Tokenizer.train(["cat dog fish on a ground"] * 4, 320)
    one = dataclasses.replace(sample("x", ["cat"]), image=ImageRef("x", width=60, height=60))
    ((ask, nothing),) = Negatives.of(OTHERS, 1.0).pairs(CATEGORY, one, CATEGORY.truths(one))
    limits, mixed = Limits(100, 100), TaskMixture({CATEGORY.token: 1.0}, TASKS)
    made = fitted(one, (CATEGORY, ask, nothing), tokenizer, limits, mixed)
    assert made.target_ids == (tokenizer.bos, tokenizer.eos)
    grammar = automaton(CATEGORY, tokenizer, ask)
    assert tokenizer.eos in grammar.allowed(grammar.start(), 10)
    assert fitted(one, (TASKS["<CAPTION>"], Ask("<CAPTION>"), Parsed()), tokenizer, limits, mixed).reason == "empty"


def test_a_source_with_negatives_asks_them(tmp_path):
    tokenizer = Tokenizer.train(["cat dog fish on a ground"] * 4, 320)
    source = DataSource(path="scenes:count=20,objects=1-2", tasks={"OPEN_VOCABULARY_DETECTION": 1.0}, negatives=3.0)
    opened = open_source(source, mixture(source, TASKS), (64, 64))
    opened.tokenizer = tokenizer
    pairs = [pair for n in range(20) for pair in opened.load(opened.plan(n, 0, 0), [0], random.Random(n))[2]]
    empty = sum(len(pair.target_ids) == 2 for pair in pairs)
    assert 10 < empty < 20  # three in four and more


def test_samples_with_negatives_are_the_same_when_planned_and_when_loaded(tmp_path):
    picture = encode(np.full((20, 20, 3), 90, np.uint8))
    (tmp_path / "p.png").write_bytes(picture)
    rows = [dataclasses.replace(s, image=ImageRef(s.id, str(tmp_path / "p.png"), width=20, height=20)) for s in OTHERS]
    source = DataSource(path="x", tasks={"OPEN_VOCABULARY_DETECTION": 1.0}, negatives=1.0)
    mixed = TaskMixture({OPEN.token: 1.0}, TASKS, negatives=Negatives.of(rows, 1.0))
    for row in rows:
        assert mixed.truths(row) == mixed.truths(row) and any(not p.regions for _, _, p in mixed.truths(row))
    assert source.negatives == 1.0


@pytest.mark.parametrize("value", [-1, 101, float("nan")])
def test_a_rate_out_of_range_is_refused(value):
    with pytest.raises(ValueError, match=r"data\[0\].*negatives: expected a number"):
        from_mapping({"out": "x", "data": [{"path": "scenes:3", "negatives": value}]})


def test_scenes_name_what_is_absent():
    _, one = draw(3)
    found = Negatives.of([draw(n)[1] for n in range(12)], 1.0)
    there = {region.label for region in one.regions if region.kind == "object"}
    assert found.absent(one) and not there & set(found.absent(one))
    assert Ask(OPEN.token, text=found.absent(one)[0])
