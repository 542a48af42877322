"""Labels that may lack objects: what of a target teaches nothing, and items in another order each time."""

import random

import pytest
import torch

from florence2.codec.answers import parse_ids
from florence2.codec.tasks import TASKS
from florence2.codec.tokenizer import Tokenizer
from florence2.records import Coverage, ImageRef, Region, Sample
from florence2.training.batches import UNSCORED, parts_of
from florence2.training.config import DataSource, TrainConfig
from florence2.training.examples import Limits, TaskMixture, fitted
from florence2.training.unscored import ListRules
from tests.training.tiny import WORDS

LIMITS = Limits(100, 200)
BOXES = {"a": (10, 10, 30, 30), "b": (40, 40, 60, 60), "c": (70, 70, 90, 90)}
NAMES = ListRules(unsure_names_below=0.5)
NAMES_MORE, NAMES_LESS = ListRules(0.3, unsure_names_below=0.5), ListRules(0.5, unsure_names_below=0.3)
WHOLE, SOME = ({"x": (Coverage("exhaustive", labels),)} for labels in ((), ("cat",)))


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train([*WORDS, "cat dog cow"] * 10, 340)


def sample(*items, coverage=None):
    regions = tuple(Region(name, box=BOXES[name], label=label, score=score) for name, label, score in items)
    return Sample("i", ImageRef("i", width=100, height=100), regions=regions, coverage=coverage or {})


def pair(tokenizer, given, rules, task="<OD>", rng=None):
    tasks = TaskMixture({task: 1.0}, TASKS, lists=rules)
    (truth, *_) = tasks.truths(given)
    return fitted(given, truth, tokenizer, LIMITS, tasks, rng)


def scored_items(tokenizer, given, made):
    """(label, whether its name is scored, whether its place is) of each item of the target, and whether the end is."""
    parsed, spans = parse_ids(list(made.target_ids[1:-1]), tokenizer, "<OD>", (100, 100))
    out = []
    for region in parsed.regions:
        name, place = ({1 + n in made.unscored for n in part} for part in spans[region.id])
        assert len(name) == len(place) == 1  # wholly or not at all
        out.append((region.label, name != {True}, place != {True}))
    return out, len(made.target_ids) - 1 not in made.unscored


@pytest.mark.parametrize(
    "items, rules, coverage, expected, end",
    [
        # nothing is left out unless asked for
        ([("a", "cat", 0.2), ("b", "dog", 0.9)], ListRules(), None, [("cat", 1, 1), ("dog", 1, 1)], True),
        ([("a", "cat", 0.2), ("b", "dog", 0.9)], ListRules(0.5), None, [("cat", 0, 0), ("dog", 1, 1)], True),
        ([("a", "cat", None)], ListRules(0.5), None, [("cat", 1, 1)], True),  # a person's has no score
        # a name that a sure item shares is taught, wherever it stands
        ([("a", "cat", 0.2), ("b", "cat", 0.9)], ListRules(0.5), None, [("cat", 1, 0), ("cat", 1, 1)], True),
        ([("a", "cat", 0.9), ("b", "cat", 0.2)], ListRules(0.5), None, [("cat", 1, 1), ("cat", 1, 0)], True),
        ([("a", "cat", 0.4), ("b", "dog", 0.9)], NAMES, None, [("cat", 0, 1), ("dog", 1, 1)], True),
        ([("a", "cat", 0.2), ("b", "dog", 0.4)], NAMES_MORE, None, [("cat", 0, 0), ("dog", 0, 1)], True),
        ([("a", "cat", 0.2), ("b", "dog", 0.4)], NAMES_LESS, None, [("cat", 0, 0), ("dog", 0, 0)], True),
        ([("a", "cat", 0.9)], ListRules(open_end=True), None, [("cat", 1, 1)], False),
        ([("a", "cat", 0.9)], ListRules(open_end=True), WHOLE, [("cat", 1, 1)], True),
        ([("a", "cat", 0.9)], ListRules(open_end=True), SOME, [("cat", 1, 1)], False),
        ([("a", "cat", 0.9)], ListRules(open_end=True), {"text": (Coverage("exhaustive"),)}, [("cat", 1, 1)], False),
    ],
)  # fmt: skip
def test_what_is_scored(tokenizer, items, rules, coverage, expected, end):
    given = sample(*items, coverage=coverage)
    found, ended = scored_items(tokenizer, given, pair(tokenizer, given, rules))
    assert (found, ended) == ([(label, bool(name), bool(place)) for label, name, place in expected], end)


def test_only_lists_of_objects_have_such_rules(tokenizer):
    given = sample(("a", "cat", 0.2))
    assert pair(tokenizer, given, ListRules(0.5, open_end=True), "<REGION_TO_CATEGORY>").unscored == ()


def test_the_decoder_reads_what_is_not_scored(tokenizer):
    given = sample(("a", "cat", 0.2), ("b", "dog", 0.9))
    plain, masked = (pair(tokenizer, given, rules) for rules in (ListRules(), ListRules(0.5, open_end=True)))
    (one,), (other,) = (list(parts_of([(0, made)], tokenizer)) for made in (plain, masked))
    assert torch.equal(one.decoder_ids, other.decoder_ids)
    assert (other.labels == UNSCORED).sum() == len(masked.unscored) > 5
    assert torch.equal(other.labels[other.labels >= 0], one.labels[other.labels >= 0])


def test_random_order_shows_every_order_of_the_same_items(tokenizer):
    given = sample(("a", "cat", 1.0), ("b", "dog", 1.0), ("c", "cow", 1.0))
    seen = {}
    for seed in range(40):
        made = pair(tokenizer, given, ListRules(shuffled=True), rng=random.Random(seed))
        parsed, _ = parse_ids(list(made.target_ids[1:-1]), tokenizer, "<OD>", (100, 100))
        seen[tuple(r.label for r in parsed.regions)] = {(r.label, r.box) for r in parsed.regions}
    assert len(seen) == 6 and len({frozenset(items) for items in seen.values()}) == 1
    fixed = {pair(tokenizer, given, ListRules(), rng=random.Random(n)).target_ids for n in range(5)}
    assert len(fixed) == 1


@pytest.mark.parametrize("key, value", [("unsure_below", 1.5), ("unsure_names_below", -0.1), ("item_order", "any")])
def test_wrong_values_are_refused(tmp_path, key, value):
    with pytest.raises(ValueError, match=f"{key}: expected"):
        TrainConfig(str(tmp_path), [DataSource("x", **{key: value})])
