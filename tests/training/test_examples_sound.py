"""What is left out of a sample before it is trained on: shown as the model sees it, and nothing claimed of it."""

import dataclasses

from florence2.codec.tasks import TASKS
from florence2.codec.tokenizer import Tokenizer
from florence2.predictor import checkpoints
from florence2.records import Coverage, ImageRef, Region, Sample
from florence2.training.check import pairs
from florence2.training.examples import TaskMixture, sound

SAMPLE = Sample(
    "a",
    ImageRef("a.jpg", "a.jpg", width=100, height=100),
    regions=(
        Region("1", box=(10, 10, 50, 50), label="dog", label_space="pets"),
        Region("2", box=(20, 20, 20, 40), label="cat", label_space="pets"),
    ),
    coverage={"pets": (Coverage("exhaustive", ("cat", "dog")),)},
)


def test_a_label_that_lost_a_box_is_no_longer_listed_wholly():
    only = TaskMixture({"<OD>": 1.0}, {"<OD>": TASKS["<OD>"]})
    kept, lost = sound(SAMPLE, only)
    assert [region.id for region in kept.regions] == ["1"] and [each.reason for each in lost] == ["flat"]
    assert kept.coverage == {"pets": (Coverage("exhaustive", ("dog",)), Coverage("partial", ("cat",)))}


def test_a_pair_is_shown_without_what_training_leaves_out():
    tokenizer: Tokenizer = checkpoints.find("nano").tokenizer()
    (pair,) = pairs(iter([SAMPLE]), TASKS["<OD>"], tokenizer)
    assert pair.target == "dog<loc_100><loc_100><loc_500><loc_500>"


def test_nothing_is_claimed_of_a_picture_whose_only_box_is_left_out():
    only = TaskMixture({"<OD>": 1.0}, {"<OD>": TASKS["<OD>"]})
    alone = dataclasses.replace(SAMPLE, regions=SAMPLE.regions[1:])
    assert only.truths(sound(alone, only)[0]) == []
    assert len(only.truths(dataclasses.replace(SAMPLE, regions=()))) == 1  # looked for and not there
