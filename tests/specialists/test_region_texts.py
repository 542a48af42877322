"""Which text describes a region: the most probable one, by probabilities that are those of generation."""

import dataclasses

import numpy as np
import pytest
import torch

import florence2
from florence2 import scenes
from florence2.codec.tasks import TASKS
from florence2.decoding.measures import ORDERED
from florence2.engine.specialists import open as open_specialist
from florence2.predictor.likelihood import log_probabilities
from florence2.records import Ask, Region

DESCRIBE = "<REGION_TO_DESCRIPTION>"


@pytest.fixture(scope="module")
def nano():
    return florence2.load("nano")


@pytest.fixture(scope="module")
def scene():
    return scenes.draw(2**31 + 21, objects=(3, 3), signs=0)


def ask_of(region):
    return Ask(DESCRIBE, region=region.box)


def test_it_is_the_probability_that_generation_states(nano, scene):
    """Greedy answers state the log-probability of each of their tokens; the same words asked about have the same."""
    image, truth = scene
    picture = nano.encode_image(image)
    for region in truth.regions:
        answer = nano.predict(picture, ask_of(region))
        text = answer.regions[0].description
        words = len(nano.tokenizer.encode(text, specials=False))
        first = answer.token_spans[answer.regions[0].id].text_tokens[0]
        stated = answer.token_logprobs[first : first + words]
        (got,) = log_probabilities(nano, picture, ask_of(region), [text])
        ended = float(answer.token_measures[first + words, ORDERED])  # that a location follows the words
        assert got * (words + 1) == pytest.approx(sum(stated) + np.log(ended), abs=1e-3)


def test_candidates_do_not_touch_each_other(nano, scene):
    image, truth = scene
    picture, texts = nano.encode_image(image), [r.description for r in truth.regions] + ["a star"]
    ask = ask_of(truth.regions[0])
    together = log_probabilities(nano, picture, ask, texts)
    alone = np.concatenate([log_probabilities(nano, picture, ask, [text]) for text in texts])
    parts = log_probabilities(nano, picture, ask, texts, rows=2)
    assert together == pytest.approx(alone, abs=1e-4) and together == pytest.approx(parts, abs=1e-4)
    assert (together < 0).all() and torch.is_inference_mode_enabled() is False


@pytest.mark.parametrize(
    "task, texts, match",
    [("<OD>", ["a"], "OD: its answers are no words alone"), (DESCRIBE, [""], "expected 1 to 509 tokens, got 0")],
)
def test_what_cannot_be_asked_is_refused(nano, scene, task, texts, match):
    region = scene[1].regions[0] if TASKS[task].input_kind else None
    with pytest.raises(ValueError, match=match):
        log_probabilities(nano, nano.encode_image(scene[0]), Ask(task, region=region and region.box), texts)


def test_the_right_text_is_chosen_among_wrong_ones():
    """Wrong candidates are true descriptions of other scenes' objects."""
    specialist = open_specialist("region-texts:nano")
    specialist.setup("cpu")
    drawn = [scenes.draw(2**31 + 100 + n, signs=0) for n in range(12)]
    right = count = 0
    for number, (image, truth) in enumerate(drawn):
        others = [r for _, other in drawn[:number] + drawn[number + 1 :] for r in other.regions]
        regions = [dataclasses.replace(r, label="", description=r.description) for r in truth.regions]
        wrong = []
        for region in truth.regions:
            strangers = [r for r in others if r.label != region.label][:3]
            wrong += [
                Region(f"{region.id}-{n}", box=region.box, description=r.description, refines=region.id)
                for n, r in enumerate(strangers)
            ]
        sample = dataclasses.replace(truth, regions=(*regions, *wrong), texts=(), groundings=())
        (found,) = specialist.annotate([sample], [image])
        by_id = {r.id: r.description for r in truth.regions}
        for choice in found.regions:
            count += 1
            said = by_id[choice.refines]
            right += choice.description == said or choice.description in said
            assert 0 < choice.score <= 1 and choice.box is not None
    specialist.close()
    assert count == sum(len(t.regions) for _, t in drawn) and right / count > 0.9  # by chance: a quarter


def test_a_region_with_one_candidate_is_left_alone(scene):
    image, truth = scene
    specialist = open_specialist("region-texts:nano")
    specialist.setup("cpu")
    bare = dataclasses.replace(truth, regions=tuple(dataclasses.replace(r, description="") for r in truth.regions))
    (found,) = specialist.annotate([bare], [image])
    assert found.regions == ()
