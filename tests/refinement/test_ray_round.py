"""Commands on a Ray of their own, which lives as long as each: a round with a real trainer; a store in an object store.

A quarter of a minute each on an idle machine, most of it in which Ray starts.
"""

import json
import shutil
from pathlib import Path

import pytest

import florence2
from florence2 import scenes
from florence2.cli import main
from florence2.engine.execution.ray import RayRunner
from florence2.store import Store
from tests.engine.doubles import Boxes, folder_of, fragments
from tests.refinement.test_real_round import RECIPE
from tests.training.tiny import tiny_model

ray = pytest.importorskip("ray")
pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    """No cluster to be found; one is started, and none is left."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    started, enter = [], RayRunner.__enter__
    monkeypatch.setattr(RayRunner, "__enter__", lambda runner: started.append(runner) or enter(runner))
    yield
    assert started and not ray.is_initialized()


def test_a_round_on_ray_leaves_the_same_fragments_as_in_this_process(tmp_path):
    start = tiny_model(tmp_path / "start")
    drawn = (scenes.draw(scenes.TRAINING_SEEDS + i, signs=0.0) for i in range(40))
    truth = scenes.write(tmp_path / "scenes", drawn)
    here = tmp_path / "here"
    florence2.annotate(tmp_path / "scenes" / "images", here, [f"simulated:{truth}"], workers=0, unit=8)
    there = Path(shutil.copytree(here, tmp_path / "there"))
    (tmp_path / "recipe.json").write_text(json.dumps(RECIPE))
    for store, by in (here, ["--workers", "0"]), (there, ["--runner", "ray"]):
        command = ["refine", str(store), "--rounds", "1", "--start", start, "--recipe", str(tmp_path / "recipe.json")]
        command += ["--replay", "none"]  # ends its lists: scores of some 200 items are rounded otherwise there
        assert main([*command, *by, "--quiet"]) == 0
    made = fragments(Store(here))
    assert fragments(Store(there)) == made and any("/student@" in path for path in made)
    assert Store(there).snapshot().to_bytes() == Store(here).snapshot().to_bytes() and Store(there).verify() == []


def test_filters_and_merging_on_ray_do_the_same_to_a_store_in_an_object_store(bucket, tmp_path):
    folder, merged = folder_of(tmp_path, 6), []
    for place, by in (tmp_path / "s", ["--workers", "0"]), (f"{bucket}/s", ["--runner", "ray"]):
        florence2.annotate(folder, place, [Boxes(), Boxes("other", shift=1.0)], workers=0, unit=2)
        assert main(["filter", str(place), "--merge", *by, "--quiet"]) == 0
        merged.append(Store(place))
    assert fragments(merged[0]) == fragments(merged[1])
    assert merged[0].snapshot().to_bytes() == merged[1].snapshot().to_bytes() and merged[1].verify() == []
