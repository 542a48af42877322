"""One call from image features and prompts to token ids: which rules, which search, how long. Knows integers only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

from florence2.arrays import Arrays
from florence2.decoding.beams import Ranking
from florence2.decoding.constraints import BOS, EOS, Constraint, Grammar, Official, TokenAutomaton
from florence2.decoding.generated import Generated
from florence2.decoding.run_search import RunningModel, RunSearch
from florence2.decoding.search import BeamSearch, GreedySearch, Search


class Generator(Protocol):
    """What is needed of a model: `prefill` once, then `states` a token at a time, and `logits` of those."""

    in_runs: bool
    """Whether it takes greedy steps in runs (`RunningModel`)."""

    @property
    def arrays(self) -> Arrays: ...
    def prefill(self, image_features: Any, prompt_ids: Any, prompt_mask: Any) -> Any: ...
    def states(self, ids: Any, cache: Any) -> Any: ...
    def logits(self, states: Any, span: tuple[int, int] | None = None) -> Any: ...


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
    image_features: Any,
    prompt_ids: Any,
    prompt_mask: Any,
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
    with model.arrays.inference():
        cache = model.prefill(image_features, prompt_ids, prompt_mask)
    search = search_of(model, rules, ordered)
    search.admit(cache, constraint_of(budgets, automata, rules))
    answers: dict[int, Generated] = {}
    while not search.finished:
        answers.update(search.step())
    return [answers[sample] for sample in range(len(budgets))]


def search_of(model: Generator, rules: Rules, ordered: tuple[int, int] | None = None) -> Search:
    """An empty search, which requests can join at any step."""
    if rules.num_beams == 1:
        return RunSearch(cast(RunningModel, model), ordered) if model.in_runs else GreedySearch(model, ordered)
    return BeamSearch(model, Ranking(rules.num_beams, rules.length_penalty, rules.early_stopping), ordered)


def constraint_of(budgets: Sequence[int], automata: Sequence[TokenAutomaton] | None, rules: Rules) -> Constraint:
    """What a batch of requests may generate: by their automata where given, or by the official rules."""
    if automata is not None:
        return Grammar(automata, budgets, rules.margin, rules.more_above)
    size = rules.no_repeat_ngram_size
    return Official(budgets, size, rules.forced_bos, rules.forced_eos, rules.start, rules.eos)
