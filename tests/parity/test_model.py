"""Our model equals transformers' native Florence-2 with the same weights: vectors, logits, greedy token ids."""

from typing import Any, NamedTuple

import pytest
import torch

from tests.parity.twins import LOCATIONS, base, lively, theirs_of, tiny

TOLERANCE = {"rtol": 0, "atol": 1e-4}
CASES = {  # config, pictures, prompts a picture, tokens, and how lively the weights are
    "tiny, 96 px": (tiny(96), 8, 8, 20, {"eos": 1.22}),
    "tiny, 224 px": (tiny(224), 6, 8, 20, {"eos": 1.3}),
    "base, 768 px": (base(), 1, 10, 12, {"eos": 2.6, "location": 1.2, "branch": 0.36}),
}


class Pair(NamedTuple):
    """Both models after reading the same pictures and prompts. The prompts differ in length and are padded."""

    ours: Any
    theirs: Any
    features: tuple[Any, Any]  # of the pictures, ours and theirs
    memory: Any  # our encoder's output, and its mask
    mask: Any
    encoded: Any  # theirs
    seen: Any
    tokens: int


@pytest.fixture(scope="module", params=[pytest.param(n, marks=pytest.mark.slow if "base" in n else ()) for n in CASES])
def pair(request):
    config, pictures, prompts, tokens, liveliness = CASES[request.param]
    ours = lively(config, **liveliness)
    theirs = theirs_of(ours)
    generator = torch.Generator().manual_seed(1)
    width, height = config.image_size_wh
    pixels = torch.randn(pictures, 3, height, width, generator=generator)
    rows = pictures * prompts
    mask = torch.arange(8) < torch.randint(3, 9, (rows, 1), generator=generator)
    ids = torch.randint(4, config.image_id, (rows, 8), generator=generator)
    ids[~mask] = config.pad_id
    signs = torch.randn(rows, config.image_tokens, config.text.d_model, generator=generator).sign()
    with torch.inference_mode():
        features = ours.encode_image(pixels), theirs.get_image_features(pixels).pooler_output
        looks = [one.repeat_interleave(prompts, 0) * signs for one in features]
        seen = torch.cat([torch.ones(rows, config.image_tokens, dtype=torch.long), mask.long()], 1)
        encoded = theirs.model.language_model.encoder(
            inputs_embeds=torch.cat([looks[1], theirs.get_input_embeddings()(ids)], 1), attention_mask=seen
        )
        memory, within = ours.read(looks[0], ids, mask)
    return Pair(ours, theirs, features, memory, within, encoded, seen, tokens)


@torch.inference_mode()
def test_vectors_and_logits(pair):
    ours, seen = pair.ours, pair.seen
    torch.testing.assert_close(*pair.features, **TOLERANCE)
    torch.testing.assert_close(pair.memory[seen.bool()], pair.encoded[0][seen.bool()], **TOLERANCE)
    targets = torch.randint(3, ours.config.text.vocab_size, (len(seen), 5), generator=torch.Generator().manual_seed(2))
    logits = ours.language(pair.memory, pair.mask, targets)
    expected = pair.theirs(encoder_outputs=pair.encoded, attention_mask=seen, decoder_input_ids=targets).logits
    torch.testing.assert_close(logits, expected, **TOLERANCE)


@torch.inference_mode()
def test_greedy_ids(pair):
    config = pair.ours.config
    expected = pair.theirs.generate(
        encoder_outputs=pair.encoded, attention_mask=pair.seen, max_new_tokens=pair.tokens, num_beams=1,
        do_sample=False, no_repeat_ngram_size=0, forced_bos_token_id=None, forced_eos_token_id=None,
    )  # fmt: skip
    got = greedy(pair)[:, : expected.shape[1]]
    assert_lively(got, config, pair.tokens)
    assert torch.equal(got, expected)


def greedy(pair):
    """Token ids by a plain loop over `step`, with no rules at all."""
    cache = pair.ours.language.start(pair.memory, pair.mask)
    last = torch.full((len(pair.memory),), 2)
    out = [last]
    ended = torch.zeros(len(last), dtype=torch.bool)
    for _ in range(pair.tokens):
        last = pair.ours.step(last, cache).argmax(-1).masked_fill(ended, 1)
        out.append(last)
        ended |= last == 2
    return torch.stack(out, 1)


def assert_lively(answers, config, tokens):
    """The comparison means something: answers differ, point, and some end while others do not."""
    rows = [tuple(row.tolist()) for row in answers]
    locations = range(50269, 51269) if config.text.vocab_size > 50000 else LOCATIONS
    ended = sum(config.eos_id in row[1:tokens] for row in rows) / len(rows)
    pointing = sum(any(token in locations for token in row) for row in rows) / len(rows)
    print(f"distinct {len(set(rows)) / len(rows):.2f}, pointing {pointing:.2f}, ended {ended:.2f}")
    assert len(set(rows)) >= 0.9 * len(rows)
    assert pointing >= 0.5
    assert 0.3 <= ended <= 0.7
