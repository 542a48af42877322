"""Official decoding equals transformers' `generate` with the same weights, id for id; and each of its rules matters."""

import sys
from dataclasses import replace
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from florence2.arrays import MASKED
from florence2.decoding.beams import Ranking
from florence2.decoding.constraints import Official
from florence2.decoding.generate import Rules, generate
from florence2.decoding.ngrams import History
from florence2.decoding.search import BeamSearch
from tests.parity.twins import LOCATIONS, base, lively, theirs_of, tiny

WIDE = dict(d_model=96, decoder_heads=8, encoder_layers=1)
CASES = {  # config, pictures, prompts a picture, tokens, and how lively the weights are
    "tiny, 96 px": (tiny(96), 4, 8, 24, {"eos": 1.4}),
    "tiny, 64 px, one decoder layer": (tiny(64, decoder_layers=1), 4, 8, 24, {"eos": 0.55, "seed": 1}),
    "tiny, 128 px, wide": (tiny(128, **WIDE), 4, 8, 24, {"eos": 0.75, "seed": 2}),
    "base": (replace(base(), image_size_wh=(192, 192)), 2, 3, 12, {"eos": 2.5, "location": 1.35}),
}
SIZES = [pytest.param(name, marks=pytest.mark.slow if name == "base" else ()) for name in CASES]
OFFICIAL = dict(
    no_repeat_ngram_size=3, forced_bos_token_id=0, forced_eos_token_id=2, length_penalty=1.0, early_stopping=True
)


class Twins(NamedTuple):
    """Both models, what ours needs for each row, and what theirs does."""

    config: Any
    ours: Any
    features: torch.Tensor
    ids: torch.Tensor
    mask: torch.Tensor
    theirs: Any
    encoded: Any
    seen: torch.Tensor


@cache
@torch.inference_mode()
def twins(name) -> Twins:
    config, pictures, prompts, _, liveliness = CASES[name]
    ours = lively(config, **liveliness)
    theirs = theirs_of(ours)
    generator = torch.Generator().manual_seed(1)
    width, height = config.image_size_wh
    pixels = torch.randn(pictures, 3, height, width, generator=generator)
    rows = pictures * prompts
    lengths = torch.randint(3, 12, (rows,), generator=generator)
    ids = torch.randint(4, min(config.text.vocab_size, 50000), (rows, 11), generator=generator)
    ids[ids == config.image_id] = 5
    mask = torch.arange(11) < lengths[:, None]
    ids[~mask] = config.pad_id
    features = ours.encode_image(pixels)[torch.arange(rows) % pictures]
    seen = torch.cat([torch.ones(rows, config.image_tokens, dtype=torch.long), mask.long()], 1)
    encoded = theirs.model.language_model.encoder(
        inputs_embeds=torch.cat([features, theirs.get_input_embeddings()(ids)], 1), attention_mask=seen
    )
    return Twins(config, ours, features, ids, mask, theirs, encoded, seen)


@cache
def expected(name, tokens=0, **rules):
    """What theirs says: a tuple of ids a row, the start token first, the padding gone."""
    t = twins(name)
    rules = {**OFFICIAL, **rules}
    if rules["num_beams"] == 1:
        rules = {key: value for key, value in rules.items() if key not in ("early_stopping", "length_penalty")}
    encoded = type(t.encoded)(last_hidden_state=t.encoded.last_hidden_state.clone())
    out = t.theirs.generate(
        encoder_outputs=encoded, attention_mask=t.seen, max_new_tokens=tokens or CASES[name][3], do_sample=False,
        bos_token_id=0, pad_token_id=1, eos_token_id=2, decoder_start_token_id=2, **rules,
    )  # fmt: skip
    return [tuple(_unpadded(row)) for row in out.tolist()]


def _unpadded(row):
    """Up to the first `</s>` after the start token."""
    return row[: row.index(2, 1) + 1] if 2 in row[1:] else row


def said(name, tokens=0, rows=slice(None), **rules):
    """What ours says."""
    t = twins(name)
    rules = {**OFFICIAL, **rules}
    own = Rules(
        num_beams=rules["num_beams"],
        no_repeat_ngram_size=rules["no_repeat_ngram_size"],
        length_penalty=rules["length_penalty"],
        early_stopping=rules["early_stopping"],
        forced_bos=rules["forced_bos_token_id"],
        forced_eos=rules["forced_eos_token_id"],
    )
    ids = t.ids[rows]
    found = generate(t.ours, t.features[rows], ids, t.mask[rows], [tokens or CASES[name][3]] * len(ids), None, own)
    return [answer.ids for answer in found]


@pytest.mark.parametrize("beams", [1, 3, 5])
@pytest.mark.parametrize("name", SIZES)
def test_ids_are_equal(name, beams):
    assert said(name, num_beams=beams) == expected(name, num_beams=beams)


# beside the official numbers: what a checkpoint may set
VARIANTS = {
    "not early": dict(early_stopping=False),
    "not early, long answers preferred": dict(early_stopping=False, length_penalty=2.0),
    "never early": dict(early_stopping="never"),
    "long answers preferred": dict(length_penalty=2.0),
    "short answers preferred": dict(early_stopping=False, length_penalty=-0.5),
    "nothing forced": dict(forced_bos_token_id=None, forced_eos_token_id=None),
    "nothing forced, not early": dict(forced_bos_token_id=None, forced_eos_token_id=None, early_stopping=False),
    "no ban": dict(no_repeat_ngram_size=0),
    "ban of pairs": dict(no_repeat_ngram_size=2),
}
TINY = [name for name in CASES if name != "base"]


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("variant", VARIANTS)
def test_ids_are_equal_under_other_numbers(name, variant):
    rules = dict(num_beams=3, **VARIANTS[variant])
    assert said(name, **rules) == expected(name, **rules)


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("tokens", [1, 2, 3, 4])
def test_ids_are_equal_at_small_budgets(beams, tokens):
    assert said(TINY[0], tokens, num_beams=beams) == expected(TINY[0], tokens, num_beams=beams)
    if tokens == 1:
        assert set(said(TINY[0], 1, num_beams=beams)) == {(2, 2)}


@pytest.mark.parametrize("beams", [1, 3])
def test_batched_is_single(beams):
    together = said(TINY[0], num_beams=beams)
    alone = [said(TINY[0], rows=slice(n, n + 1), num_beams=beams)[0] for n in range(len(together))]
    assert together == alone


@pytest.mark.parametrize("name", SIZES)
def test_the_comparison_means_something(name):
    rows = [row for beams in (1, 3, 5) for row in expected(name, num_beams=beams)]
    greedy = expected(name, num_beams=1)
    locations = range(50269, 51269) if name == "base" else LOCATIONS
    ended = sum(len(row) <= CASES[name][3] for row in rows) / len(rows)
    pointing = sum(any(token in locations for token in row) for row in rows) / len(rows)
    different = len(set(greedy)) / len(greedy)
    print(f"{len(rows)} sequences, different {different:.2f}, pointing {pointing:.2f}, ended {ended:.2f}")
    assert different >= 0.9
    assert pointing >= 0.5
    assert 0.3 <= ended <= 0.7


# ---- mutations: a rule switched off in ours alone must be seen ----------------------------------------------------


class Counts(Ranking):
    """Finished rows scored by a length that is off by `off`."""

    off = 0

    def score(self, total, length):
        return float(np.float32(total) / np.float32(max(length + self.off, 1) ** self.length_penalty))


class EndNotCounted(Counts):
    off = -1


class StartCounted(Counts):
    off = 1


class AnyRankEnds(Ranking):
    def may_finish(self, rank):
        return True


class KeepsAllFinished(Ranking):
    def keep(self, finished):
        return sorted(finished, key=lambda ended: -ended.score)


class StopsWhenFull(Ranking):
    def done(self, finished, best_total, length, budget):
        return len(finished) >= self.width


class AsManyAsBeams(Ranking):
    def candidates(self):
        return self.width


def forced_keeps_its_score(row, token):
    score = row[token].clone()
    row.fill_(MASKED)
    row[token] = score


class Renormalised(Official):
    def apply(self, scores, rows, arrays):
        cut = super().apply(scores, rows, arrays)
        scores.sub_(scores.logsumexp(-1, keepdim=True))
        return cut


class AllLive(Ranking):
    def first_rows(self, start):
        return [start] * self.width


class AllBeamsLive(BeamSearch):
    """Begun with `width` equal rows a request."""

    def __init__(self, model, ranking, *others):
        super().__init__(model, AllLive(ranking.width, ranking.length_penalty, ranking.early_stopping), *others)

    def _join(self, cache, constraint, empty):
        numbers = super()._join(cache, constraint, empty)
        rows = [row for row in range(len(numbers)) for _ in range(self.ranking.width)]
        self.cache.select(rows)
        self.constraint.select(rows)
        return numbers


GENERATE = sys.modules[generate.__module__]

LONG = dict(early_stopping=False, length_penalty=2.0)

# rule -> what is put in its place, and the numbers under which the difference shows
MUTATIONS = {
    "one live beam at first": ((GENERATE, "BeamSearch", AllBeamsLive), {}),
    "</s> counts": ((GENERATE, "Ranking", EndNotCounted), {}),
    "</s> counts, not early": ((GENERATE, "Ranking", EndNotCounted), dict(early_stopping=False)),
    "the start token does not count": ((GENERATE, "Ranking", StartCounted), {}),
    "a forced token scores 0": ((Official, "_force", staticmethod(forced_keeps_its_score)), {}),
    "bans do not renormalise": ((GENERATE, "Official", Renormalised), dict(no_repeat_ngram_size=1)),
    "an end below the best beams is dropped": ((GENERATE, "Ranking", AnyRankEnds), {}),
    "the best finished are kept": ((GENERATE, "Ranking", KeepsAllFinished), LONG),
    "twice as many candidates as beams": ((GENERATE, "Ranking", AsManyAsBeams), dict(length_penalty=2.0)),
    "a full sample may go on": ((GENERATE, "Ranking", StopsWhenFull), LONG),
    "no n-gram twice": ((History, "followers", lambda self: ()), {}),
}


@pytest.mark.parametrize("rule", MUTATIONS)
def test_a_rule_switched_off_is_seen(rule, monkeypatch):
    (where, name, instead), rules = MUTATIONS[rule]
    runs = [(case, dict(num_beams=beams, **rules)) for case in TINY for beams in (3, 5)]
    wanted = [ids for case, numbers in runs for ids in expected(case, **numbers)]
    monkeypatch.setattr(where, name, instead)
    got = [ids for case, numbers in runs for ids in said(case, **numbers)]
    different = sum(a != b for a, b in zip(got, wanted))
    print(f"{rule}: {different} of {len(wanted)}")
    assert different
