"""Replay: a share of the pairs comes from another source, whatever the two hold."""

import json
from collections import Counter

import pytest
import yaml

from florence2 import scenes
from florence2.scenes.scene_files import write
from florence2.training import train
from florence2.training.config_files import from_mapping, read_config, to_mapping
from florence2.training.order import Cursor
from florence2.training.setup import prepare
from tests.training.tiny import tiny_run


def run_of(tmp_path, replay, **changes):
    for name, seeds in (("own", range(8)), ("other", range(20, 45))):
        if not (tmp_path / name).exists():
            write(tmp_path / name, (scenes.draw(seed, signs=0) for seed in seeds))
    data = [{"path": str(tmp_path / "own" / "truth.jsonl"), "tasks": ["OD"]}]
    path = str(tmp_path / "other" / "truth.jsonl") if replay == "samples" else "scenes:count=50,objects=1,seed=900"
    replay = {"path": path, "tasks": ["CAPTION"], "pairs": 1}
    return tiny_run(tmp_path, data=data, dense=0, replay=replay, **changes)


@pytest.mark.parametrize("kind", ["samples", "scenes"])
@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_the_share_of_pairs_is_the_one_asked_for(tmp_path, kind, share):
    job = prepare(from_mapping(run_of(tmp_path, kind, replay_share=share)))
    tasks = Counter()
    for epoch in range(20):  # on average: a fraction of a pair comes in a share of the epochs
        tasks += Counter(pairs.source for pairs, _ in job.order.stream(Cursor(epoch), epoch + 1) for _ in pairs.asks)
    assert tasks[0] == 8 * 20
    assert tasks[1] / sum(tasks.values()) == pytest.approx(share, abs=0.04)
    assert sum(job.found.pairs_by_source) == pytest.approx(8 / (1 - share))
    assert f"{100 * share:.0f} % of all" in job.notes[0]


def test_a_run_with_replay_is_resumed_and_its_config_kept(tmp_path):
    config = {**run_of(tmp_path, "samples"), "evaluate_every": "2", "steps": 2, "schedule": "constant"}
    said = []
    train(config, on_message=said.append)
    assert any("replay: 2 pairs an epoch" in line for line in said)
    kept = read_config(tmp_path / "out" / "config.yaml")
    assert (
        kept.replay.weight == 1 and kept.replay_share == 0.2 and to_mapping(kept)["replay"]["tasks"] == {"CAPTION": 1}
    )
    assert train({**config, "steps": 4}).steps == 4
    held_out = json.loads((tmp_path / "out" / "held_out.json").read_text())
    assert len(held_out) == 1  # of the run's own data alone; replay is never evaluated


@pytest.mark.parametrize("change, said", [
    ({"replay_share": 1}, "replay_share: expected above 0 and below 1"),
    ({"replay": {"tasks": ["OD"]}}, "replay.path: missing"),
    ({"replay": {"path": "x", "share": 1}}, "share"),
])  # fmt: skip
def test_what_is_wrong_is_named(tmp_path, change, said):
    with pytest.raises(ValueError, match=said):
        from_mapping({**run_of(tmp_path, "samples"), **change})


def test_yaml_reads_it(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text(yaml.safe_dump(run_of(tmp_path, "scenes")))
    assert read_config(file, ["--replay_share=0.3"]).replay_share == 0.3
