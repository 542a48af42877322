"""How often the pairs of each task and source come in an epoch, beside the weights that the config gives them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from florence2.training.config import TrainConfig
from florence2.training.datasets import SampleSource, TrainingSource
from florence2.training.examine import Examination


def weigh(config: TrainConfig, sources: Sequence[TrainingSource], found: Examination) -> list[str]:
    """Bring the sources' tasks to the config's temperature, then replay (the last source) to its share; what is to be
    stated of it. `found` says from then on what an epoch holds."""
    notes = []
    if config.temperature != 1:
        notes.append(_temper(sources[: len(config.data)], config.temperature, found))
    if config.replay is not None:
        notes.append(_replay(sources[-1], config.replay_share, found))
    return notes


def _temper(sources: Sequence[TrainingSource], temperature: float, found: Examination) -> str:
    """Let a task with n pairs an epoch give a number in proportion to n ** (1 / temperature), all of them as many as
    before. Scenes are drawn by their tasks' weights alone."""
    counted = {number: source for number, source in enumerate(sources) if isinstance(source, SampleSource)}
    totals: dict[str, float] = defaultdict(float)
    for number in counted:
        for token, count in found.pairs_by_task[number].items():
            totals[token] += count
    wanted = {token: count ** (1 / temperature) for token, count in totals.items() if count}
    scale = sum(totals.values()) / max(1e-9, sum(wanted.values()))
    times = {token: scale * share / totals[token] for token, share in wanted.items()}
    for number, source in counted.items():
        source.reweigh(times)
        found.pairs_by_source[number] = sum(times[token] * n for token, n in found.pairs_by_task[number].items() if n)
    shown = ", ".join(f"{token.strip('<>')} {scale * share:.0f}" for token, share in wanted.items())
    return f"temperature {temperature:g}: pairs an epoch: {shown or 'of scenes, which are drawn by their weights'}"


def _replay(replay: TrainingSource, share: float, found: Examination) -> str:
    """Let a source give that share of an epoch's pairs."""
    *others, own = found.pairs_by_source
    wanted = share / (1 - share) * sum(others)
    replay.repeat(wanted / own)
    found.pairs_by_source[-1] = wanted
    return f"replay: {wanted:.0f} pairs an epoch from {replay.source.path}, {100 * share:.0f} % of all"
