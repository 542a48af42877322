"""One call from image features and prompts to token ids: which rules, which search, how long. Knows integers only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from florence2.decoding.constraints import BOS, EOS, Constraint, Grammar, Official, TokenAutomaton
from florence2.decoding.search import BeamSearch, Generated, GreedySearch, Ranking, Search


class Generator(Protocol):
    """What is needed of a model: `prefill` once, then `states` a token at a time, and `logits` of those."""

    def prefill(self, image_features: Tensor, prompt_ids: Tensor, prompt_mask: Tensor) -> Any: ...
    def states(self, ids: Tensor, cache: Any) -> Tensor: ...
    def logits(self, states: Tensor, span: tuple[int, int] | None = None) -> Tensor: ...


@dataclass(frozen=True)
class Rules:
    """The numbers that decide between answers. The defaults are the official ones (transformers' `generate`).

    `margin`, in nats, and `more_above`, a probability, are the grammar's own: `</s>` is taken only where it is so much
    likelier than what could follow; exactly where anything else is at most that probable.
    """

    num_beams: int = 3
    no_repeat_ngram_size: int = 3
    length_penalty: float = 1.0
    early_stopping: bool | str = True
    forced_bos: int | None = BOS
    forced_eos: int | None = EOS
    start: int = EOS
    eos: int = EOS
    margin: float = 0.0
    more_above: float | None = None


def generate(
    model: Generator,
    image_features: Tensor,
    prompt_ids: Tensor,
    prompt_mask: Tensor,
    budgets: Sequence[int],
    automata: Sequence[TokenAutomaton] | None = None,
    rules: Rules = Rules(),
    ordered: tuple[int, int] | None = None,
) -> list[Generated]:
    """Answer each prompt (B, L) about its image (B, N, d), with at most its budget of tokens (start token not counted).

    With `automata` (one a prompt) the grammars decide which tokens are allowed, and of `rules` only the search is
    taken; without, the official rules do. `ordered`: ids first <= id < last of which neighbours mean nearly the same;
    with them each token is measured (`decoding.measures`).
    """
    with torch.inference_mode():
        cache = model.prefill(image_features, prompt_ids, prompt_mask)
    search = search_of(model, rules, prompt_ids.device, ordered)
    search.admit(cache, constraint_of(budgets, automata, rules))
    answers: dict[int, Generated] = {}
    while not search.finished:
        answers.update(search.step())
    return [answers[sample] for sample in range(len(budgets))]


def search_of(model: Generator, rules: Rules, device: Any = None, ordered: tuple[int, int] | None = None) -> Search:
    """An empty search, which requests can join at any step."""
    if rules.num_beams == 1:
        return GreedySearch(model, device, ordered)
    return BeamSearch(model, Ranking(rules.num_beams, rules.length_penalty, rules.early_stopping), device, ordered)


def constraint_of(budgets: Sequence[int], automata: Sequence[TokenAutomaton] | None, rules: Rules) -> Constraint:
    """What a batch of requests may generate: by their automata where given, or by the official rules."""
    if automata is not None:
        return Grammar(automata, budgets, rules.margin, rules.more_above)
    size = rules.no_repeat_ngram_size
    return Official(budgets, size, rules.forced_bos, rules.forced_eos, rules.start, rules.eos)
