"""The model against itself: the cache equals no cache, a batch its single rows, and training changes what it should."""

import dataclasses

import pytest
import torch

from florence2.model.florence import Florence
from florence2.model.model_config import SIZES
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


CACHES = {"growing": None, "fixed": (6, 40)}  # the most rows and tokens


@pytest.mark.parametrize("room", CACHES.values(), ids=CACHES)
@pytest.mark.parametrize("case", SELECTIONS)
@torch.inference_mode()
def test_rows_of_a_cache_share_their_sample(model, asked, case, room):
    features, ids, mask, targets = asked
    cache = model.prefill(features, ids, mask, room)
    history = targets[:, :2]
    for t in range(2):
        model.step(history[:, t], cache)
    sample = torch.arange(3)
    for rows in (SELECTIONS[case], None):
        rows = torch.tensor(rows if rows is not None else list(reversed(range(len(sample)))))
        cache.select(rows.tolist())
        sample, history = sample[rows], history[rows]
        assert len(cache.cross[0][0]) == len(sample.unique())  # kept once a sample
        last = torch.randint(3, IMAGE_ID, (len(rows),), generator=torch.Generator().manual_seed(len(rows)))
        history = torch.cat([history, last[:, None]], 1)
        expected = model(features[sample], ids[sample], mask[sample], history)[:, -1]
        torch.testing.assert_close(model.step(last, cache), expected, **CLOSE)


@pytest.mark.parametrize("room", CACHES.values(), ids=CACHES)
@torch.inference_mode()
def test_samples_join_a_cache_while_others_are_decoded(model, asked, room):
    features, ids, mask, targets = asked
    cache = model.prefill(features[:1], ids[:1], mask[:1], room)
    for t in range(20):  # past what a growing cache begins with
        model.step(targets[:1, t], cache)
    later = model.prefill(features[1:], ids[1:, :4], mask[1:, :4])  # shorter prompts: fewer encoder positions
    model.step(targets[1:, 0], later)
    cache.select([0, 0])
    cache.admit(later)
    sample, histories = [0, 0, 1, 2], [targets[0], targets[0], targets[1, :1], targets[2, :1]]
    for rows in (None, [3, 1, 2], [2, 0, 0, 1], [1]):
        if rows is not None:
            cache.select(rows)
            sample, histories = [sample[r] for r in rows], [histories[r] for r in rows]
        last = torch.arange(len(sample)) + 5
        got = model.step(last, cache)
        histories = [torch.cat([history, last[n : n + 1]]) for n, history in enumerate(histories)]
        for n, history in enumerate(histories):
            s = slice(sample[n], sample[n] + 1)
            torch.testing.assert_close(got[n], model(features[s], ids[s], mask[s], history[None])[0, -1], **CLOSE)


@torch.inference_mode()
def test_a_fixed_cache_stays_where_it_is_and_says_when_it_is_full(model, asked):
    features, ids, mask, targets = asked
    cache = model.prefill(features, ids, mask, (4, 3))
    place = cache.own.store.data_ptr()
    for t in range(3):
        model.step(targets[:, t], cache)
        cache.select([2, 0, 1])
    assert cache.own.store.data_ptr() == place
    with pytest.raises(ValueError, match="cache: holds 4 rows of 3 tokens, got 3 rows of 4"):
        model.step(targets[:, 3], cache)
    with pytest.raises(ValueError, match="got 5 rows"):
        cache.select([0, 0, 1, 1, 2])


def test_what_does_not_fit_is_refused(model, asked):
    features, ids, *_ = asked
    with pytest.raises(ValueError, match="at most 160 positions"):
        model.prefill(features, torch.ones(3, 200, dtype=torch.long))
    with pytest.raises(ValueError, match="at most 12x12 cells"):
        model.encode_image(torch.zeros(1, 3, 96, 500))
    with pytest.raises(ValueError, match="160 positions"):
        cache = model.prefill(features, ids)
        cache.own.lengths = [160] * 3
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


def test_channel_attention_without_queries_and_values_is_the_same():
    attention = lively(tiny()).vision_tower.stages[1].blocks[0]["channel"].attention
    x = torch.randn(2, 9, 13, 32, generator=torch.Generator().manual_seed(0)) + 0.5
    expected = attention(x).detach()  # with gradients: as it is written
    with torch.inference_mode():
        folded = attention(x)
        assert not torch.equal(folded, expected)
        torch.testing.assert_close(folded, expected, rtol=1e-5, atol=2e-5)


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


def test_channel_attention_in_half_precision_bears_sums_beyond_its_range():
    attention = lively(tiny()).vision_tower.stages[0].blocks[0]["channel"].attention.half()
    x = torch.full((1, 96, 96, 16), 100.0, dtype=torch.float16) * torch.linspace(0.9, 1.1, 16).half()
    with torch.inference_mode():
        q, k, _ = attention.qkv(x).view(1, 96 * 96, 3, 1, 16).permute(2, 0, 3, 1, 4)
        assert not ((q * 96**-1).transpose(-2, -1) @ k).isfinite().all()
        assert attention(x).isfinite().all()


def test_half_precision_stays_finite(model, asked):
    half = lively(tiny()).half()
    features, ids, mask, targets = asked
    with torch.inference_mode():
        logits = half(features.half(), ids, mask, targets)
    assert logits.isfinite().all()
    torch.testing.assert_close(logits.float(), model(features, ids, mask, targets).detach(), rtol=0, atol=0.1)
