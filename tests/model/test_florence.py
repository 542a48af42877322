"""The model against itself: the cache equals no cache, a batch its single rows, and training changes what it should."""

import dataclasses

import pytest
import torch

from florence2.model.config import SIZES
from florence2.model.florence import Florence
from tests.parity.twins import IMAGE_ID, lively, tiny

CLOSE = {"rtol": 0, "atol": 2e-5}


@pytest.fixture(scope="module")
def model():
    return lively(tiny())


@pytest.fixture(scope="module")
def asked(model):
    """Three pictures' features, three prompts of different length with their mask, and targets."""
    generator = torch.Generator().manual_seed(0)
    with torch.inference_mode():
        features = model.encode_image(torch.randn(3, 3, 96, 96, generator=generator))
    ids = torch.randint(4, IMAGE_ID, (3, 7), generator=generator)
    mask = torch.arange(7) < torch.tensor([[7], [4], [2]])
    targets = torch.randint(3, IMAGE_ID, (3, 20), generator=generator)
    return features, ids.masked_fill(~mask, 1), mask, targets


@torch.inference_mode()
def test_steps_equal_the_whole_at_once(model, asked):
    features, ids, mask, targets = asked
    whole = model(features, ids, mask, targets)
    cache = model.prefill(features, ids, mask)
    for t in range(targets.shape[1]):  # past the sixteen tokens that a cache starts with
        torch.testing.assert_close(model.step(targets[:, t], cache), whole[:, t], **CLOSE)


@torch.inference_mode()
def test_a_batch_equals_its_rows_whatever_the_padding(model, asked):
    features, ids, mask, targets = asked
    together = model(features, ids, mask, targets)
    for row in range(3):
        length = int(mask[row].sum())
        alone = model(features[row : row + 1], ids[row : row + 1, :length], None, targets[row : row + 1])
        torch.testing.assert_close(alone[0], together[row], **CLOSE)
    other = model(features, ids.masked_fill(~mask, 77), mask, targets)
    assert torch.equal(other, together)


SELECTIONS = {  # rows of a cache of three samples, as a search picks them
    "beams of each": [0, 0, 1, 1, 2, 2],
    "uneven": [2, 0, 0, 0, 1],
    "one sample ended": [0, 2, 2],
    "reordered": [2, 0, 1],
    "the last alone": [2],
    "as they were": [0, 1, 2],
}


@pytest.mark.parametrize("case", SELECTIONS)
@torch.inference_mode()
def test_rows_of_a_cache_share_their_sample(model, asked, case):
    features, ids, mask, targets = asked
    cache = model.prefill(features, ids, mask)
    history = targets[:, :2]
    for t in range(2):
        model.step(history[:, t], cache)
    sample = torch.arange(3)
    for rows in (SELECTIONS[case], None):
        rows = torch.tensor(rows if rows is not None else list(reversed(range(len(sample)))))
        cache.select(rows)
        sample, history = sample[rows], history[rows]
        assert len(cache.cross[0][0]) == len(sample.unique())  # kept once a sample
        last = torch.randint(3, IMAGE_ID, (len(rows),), generator=torch.Generator().manual_seed(len(rows)))
        history = torch.cat([history, last[:, None]], 1)
        expected = model(features[sample], ids[sample], mask[sample], history)[:, -1]
        torch.testing.assert_close(model.step(last, cache), expected, **CLOSE)


def test_what_does_not_fit_is_refused(model, asked):
    features, ids, *_ = asked
    with pytest.raises(ValueError, match="at most 160 positions"):
        model.prefill(features, torch.ones(3, 200, dtype=torch.long))
    with pytest.raises(ValueError, match="at most 12x12 cells"):
        model.encode_image(torch.zeros(1, 3, 96, 500))
    with pytest.raises(ValueError, match="160 positions"):
        cache = model.prefill(features, ids)
        cache.length = 160
        model.step(ids[:, 0], cache)


@pytest.mark.parametrize("size, millions", [("base", 231.414016), ("large", 770.17395)])
def test_published_sizes(size, millions):
    with torch.device("meta"):
        model = Florence(SIZES[size])
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=1e-5)
    assert SIZES[size].image_tokens == 577


@torch.inference_mode()
def test_maps_of_any_size(model):
    maps = model.vision_tower.maps(torch.randn(1, 3, 70, 131))
    assert [tuple(map.shape) for map in maps] == [(1, 16, 18, 33), (1, 32, 9, 17), (1, 48, 5, 9), (1, 64, 3, 5)]
    assert model.encode_image(torch.randn(1, 3, 70, 131)).shape == (1, 16, 48)


def test_frozen_stages_stay_as_they_are():
    tower = lively(tiny()).vision_tower
    for block in tower.modules():
        if hasattr(block, "drop_path"):
            block.drop_path = 0.5
    tower.freeze(2)
    tower.train()
    pixels = torch.randn(4, 3, 96, 96)
    first, second = tower.maps(pixels), tower.maps(pixels)
    assert torch.equal(first[1], second[1]) and not torch.equal(first[3], second[3])  # drop path only behind
    first[3].square().mean().backward()
    given = {name: parameter.grad is not None for name, parameter in tower.named_parameters()}
    assert all(has != name.startswith(("stages.0.", "stages.1.")) for name, has in given.items())


def test_training_drops_and_evaluation_does_not(asked):
    model = lively(tiny())
    features, ids, mask, targets = asked
    model.train()
    torch.manual_seed(0)
    assert not torch.equal(model(features, ids, mask, targets), model(features, ids, mask, targets))
    quiet = dataclasses.replace(tiny().text, dropout=0.0, attention_dropout=0.0, activation_dropout=0.0)
    still = lively(dataclasses.replace(tiny(), text=quiet)).train()
    torch.testing.assert_close(still(features, ids, mask, targets), model.eval()(features, ids, mask, targets), **CLOSE)


def test_drop_path_keeps_the_mean():
    block = lively(tiny()).vision_tower.stages[0].blocks[0]["spatial"].train()
    block.drop_path = 0.25
    torch.manual_seed(0)
    kept = block.dropped(torch.ones(4000, 2, 2, 1))
    assert kept.unique().tolist() == pytest.approx([0, 1 / 0.75])
    assert float(kept.mean()) == pytest.approx(1, abs=0.05)
    assert all(len(row.unique()) == 1 for row in kept[:50])  # a sample at a time


def test_half_precision_stays_finite(model, asked):
    half = lively(tiny()).half()
    features, ids, mask, targets = asked
    with torch.inference_mode():
        logits = half(features.half(), ids, mask, targets)
    assert logits.isfinite().all()
    torch.testing.assert_close(logits.float(), model(features, ids, mask, targets).detach(), rtol=0, atol=0.1)
