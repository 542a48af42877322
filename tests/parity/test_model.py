"""Our model equals transformers' native Florence-2 with the same weights: vectors, logits, greedy token ids."""

from typing import Any, NamedTuple

import pytest
import torch

from tests.parity.twins import LOCATIONS, base, lively, theirs_of, tiny

TOLERANCE = 1e-4

CASES = {  # config, pictures, prompts a picture, tokens, and how lively the weights are
    "tiny, 96 px": (tiny(96), 8, 8, 20, {"eos": 1.2}),
    "tiny, 224 px": (tiny(224), 6, 8, 20, {"eos": 1.2}),
    "base, 768 px": (base(), 1, 8, 12, {"eos": 2.2}),
}


@pytest.fixture(scope="module", params=[pytest.param(n, marks=pytest.mark.slow if "base" in n else ()) for n in CASES])
def pair(request):
    """Both models, pictures' features from both, and prompts of mixed length with their masks."""
    config, pictures, prompts, tokens, liveliness = CASES[request.param]
    ours = lively(config, **liveliness)
    theirs = theirs_of(ours)
    generator = torch.Generator().manual_seed(1)
    width, height = config.image_size_wh
    pixels = torch.randn(pictures, 3, height, width, generator=generator)
    rows = pictures * prompts
    lengths = torch.randint(3, 9, (rows,), generator=generator)
    ids = torch.randint(4, min(config.text.vocab_size, 50000), (rows, 8), generator=generator)
    ids[ids == config.image_id] = 5
    mask = torch.arange(8) < lengths[:, None]
    ids[~mask] = config.pad_id
    picture = torch.arange(rows) % pictures
    with torch.inference_mode():
        features = ours.encode_image(pixels), theirs.get_image_features(pixels).pooler_output
        seen = torch.cat([torch.ones(rows, config.image_tokens, dtype=torch.long), mask.long()], 1)
        encoded = theirs.model.language_model.encoder(
            inputs_embeds=torch.cat([features[1][picture], theirs.get_input_embeddings()(ids)], 1), attention_mask=seen
        )
    return Pair(config, ours, theirs, features, ids, mask, picture, encoded, seen, tokens)


class Pair(NamedTuple):
    config: Any
    ours: Any
    theirs: Any
    features: Any
    ids: Any
    mask: Any
    picture: Any
    encoded: Any
    seen: Any
    tokens: int


def greedy(model, features, ids, mask, tokens, eos):
    """Token ids by a plain loop over `prefill` and `step`, with no rules at all."""
    cache = model.prefill(features, ids, mask)
    last = torch.full((len(ids),), 2)
    out = [last]
    ended = torch.zeros(len(ids), dtype=torch.bool)
    for _ in range(tokens):
        last = model.step(last, cache).argmax(-1).masked_fill(ended, 1)
        out.append(last)
        ended |= last == eos
    return torch.stack(out, 1)


@torch.inference_mode()
def test_vectors_and_logits(pair):
    config, ours, theirs, features, ids, mask, picture, encoded, seen, tokens = pair
    close = {"rtol": 0, "atol": TOLERANCE}
    torch.testing.assert_close(features[0], features[1], **close)
    memory, _ = ours._read(features[0][picture], ids, mask)
    torch.testing.assert_close(memory[seen.bool()], encoded[0][seen.bool()], **close)
    targets = torch.randint(3, config.text.vocab_size, (len(ids), 5), generator=torch.Generator().manual_seed(2))
    logits = ours(features[0][picture], ids, mask, targets)
    expected = theirs(encoder_outputs=encoded, attention_mask=seen, decoder_input_ids=targets).logits
    torch.testing.assert_close(logits, expected, **close)


@torch.inference_mode()
def test_greedy_ids(pair):
    config, ours, theirs, features, ids, mask, picture, encoded, seen, tokens = pair
    expected = theirs.generate(
        encoder_outputs=encoded, attention_mask=seen, max_new_tokens=tokens, num_beams=1, do_sample=False,
        no_repeat_ngram_size=0, forced_bos_token_id=None, forced_eos_token_id=None,
    )  # fmt: skip
    got = greedy(ours, features[0][picture], ids, mask, tokens, config.eos_id)[:, : expected.shape[1]]
    assert_lively(got, config, tokens)
    assert torch.equal(got, expected)


def assert_lively(answers, config, tokens):
    """The comparison means something: answers differ, point, and some end while others do not."""
    rows = [tuple(row.tolist()) for row in answers]
    locations = range(50269, 51269) if config.text.vocab_size > 50000 else LOCATIONS
    ended = sum(config.eos_id in row[1:] for row in rows) / len(rows)
    pointing = sum(any(token in locations for token in row) for row in rows) / len(rows)
    print(f"distinct {len(set(rows)) / len(rows):.2f}, pointing {pointing:.2f}, ended {ended:.2f}")
    assert len(set(rows)) >= 0.9 * len(rows)
    assert pointing >= 0.5
    assert 0.3 <= ended <= 0.7
