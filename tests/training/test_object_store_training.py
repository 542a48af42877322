"""Training from a store in an object store: as from a disk, on 1, 2 and 4 ranks, going on within an epoch."""

from pathlib import Path

import pytest

import florence2
from florence2 import scenes
from florence2.object_store import Objects
from florence2.pixels import encode
from florence2.training import train
from florence2.training.run_folder import read_lines
from tests.engine.doubles import Boxes
from tests.training.test_ranks import forked
from tests.training.tiny import tiny_run

PICTURES = 20  # of 4 a step: an epoch is 5 steps


@pytest.fixture
def stores(bucket, tmp_path):
    """The same pictures and labels on a disk and in an object store, there in a store of several units."""
    (tmp_path / "pictures").mkdir()
    objects = Objects(f"{bucket}/pictures")
    for seed in range(PICTURES):
        pixels, _ = scenes.draw(seed, signs=0, size=32)
        data = encode(pixels)
        (tmp_path / "pictures" / f"{seed:02}.png").write_bytes(data)
        objects.put(f"{seed:02}.png", data)
    florence2.annotate(tmp_path / "pictures", tmp_path / "s", [Boxes()], workers=0, unit=8)
    florence2.annotate(objects.url, f"{bucket}/s", [Boxes()], workers=0, unit=8)
    return str(tmp_path / "s"), f"{bucket}/s"


def test_losses_agree_with_the_disk_s_on_any_number_of_ranks_resumed_within_an_epoch(stores, tmp_path):
    def config(name, store, **more):
        base = tiny_run(tmp_path, dense=0, lr=1e-3, schedule="constant", batch_size=4, precision="fp64")
        data = [{"path": store, "tasks": ["OD"], "pairs": 1}]
        return {**base, "steps": 12, "save_every": 3, "out": str(tmp_path / name), "data": data, **more}

    def losses(name):
        return [row["loss"] for row in read_lines(Path(tmp_path / name) / "metrics.jsonl")]

    local, remote = stores
    train(config("local", local))
    for steps, ranks in ((3, 1), (8, 2), (12, 4)):  # ended after 3 and 8 steps: within the first and the second epoch
        if ranks == 1:
            train(config("remote", remote, steps=steps))
        else:
            forked(config("remote", remote, steps=steps), ranks)
    assert len(losses("local")) == 12 and losses("remote") == pytest.approx(losses("local"), rel=1e-9)


def test_what_lies_in_an_object_store_and_is_no_store_is_refused(bucket, tmp_path):
    Objects(bucket).put("set/annotations.json", b"{}")
    with pytest.raises(ValueError, match="no store lies there; of an object store only stores are opened"):
        train({**tiny_run(tmp_path), "data": [{"path": f"{bucket}/set", "tasks": ["OD"]}]})
