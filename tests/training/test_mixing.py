"""How often tasks come: their weights, and the temperature of their mixture."""

from collections import Counter

import pytest

from florence2.training import train
from florence2.training.config_files import from_mapping
from florence2.training.order import Cursor
from florence2.training.setup import prepare
from tests.training.test_validation import toy
from tests.training.tiny import tiny_run


def run_of(tmp_path, temperature, **more):
    """Forty pictures of which one task has a pair each, the other about four times as many."""
    source = {"path": toy(tmp_path, 40), "tasks": ["OD", "REGION_TO_CATEGORY"], **more}
    return tiny_run(tmp_path, data=[source], dense=0, temperature=temperature, steps=2)


def pairs_by_task(job, epochs=20):
    found = Counter()
    for source in job.order.sources:
        for epoch in range(epochs):
            for number in range(source.count(epoch)):
                planned = source.plan(number, epoch, 0)
                truths = source.tasks.truths(planned.sample)
                found.update(truths[ask][0].name for ask in planned.asks)
    return {name: count / epochs for name, count in found.items()}


def test_a_temperature_of_one_leaves_pairs_as_they_are(tmp_path):
    found = pairs_by_task(prepare(from_mapping(run_of(tmp_path, 1))), 2)
    assert found["OD"] == 40 and found["REGION_TO_CATEGORY"] > 50


@pytest.mark.parametrize("temperature", [2, 1000])
def test_rare_tasks_come_more_often_and_all_as_many_as_before(tmp_path, temperature):
    plain = pairs_by_task(prepare(from_mapping(run_of(tmp_path, 1))), 1)
    job = prepare(from_mapping(run_of(tmp_path, temperature)))
    found = pairs_by_task(job)
    share = {name: count ** (1 / temperature) for name, count in plain.items()}
    total = sum(plain.values())
    for name, count in found.items():
        assert count == pytest.approx(total * share[name] / sum(share.values()), rel=0.05)
    assert job.found.pairs_by_source == [pytest.approx(total)]
    assert sum(found.values()) == pytest.approx(total, rel=0.03)
    (note,) = job.notes
    assert note.startswith(f"temperature {temperature}: pairs an epoch: OD {found['OD']:.0f}"[:-1])


def test_weights_and_replay_go_with_it(tmp_path):
    (tmp_path / "old").mkdir()
    config = run_of(tmp_path, 2) | {"replay": {"path": toy(tmp_path / "old", 10), "tasks": ["OD"]}, "replay_share": 0.5}
    job = prepare(from_mapping(config))
    own, replayed = job.found.pairs_by_source
    assert own == pytest.approx(replayed) and len(job.notes) == 2
    first = [batch.pairs for _, batch in zip(range(4), job.order.batches(8, Cursor()))]
    again = [batch.pairs for _, batch in zip(range(4), prepare(from_mapping(config)).order.batches(8, Cursor()))]
    assert first == again
    train(config)


def test_scenes_alone_are_drawn_by_their_weights(tmp_path):
    (note,) = prepare(from_mapping(tiny_run(tmp_path, temperature=3))).notes
    assert "drawn by their weights" in note


@pytest.mark.parametrize("value", [0, -1])
def test_a_temperature_that_is_none_is_refused(tmp_path, value):
    with pytest.raises(ValueError, match="temperature: expected above 0"):
        from_mapping(tiny_run(tmp_path, temperature=value))
