"""The simulated specialist's noise is what its file says it is."""

import json

import numpy as np
import pytest

from florence2.engine.specialists.simulated import Noise, Simulated
from florence2.geometry import iou
from florence2.records import Failure, ImageRef, Sample

COUNT, SIDE = 400, 200
LABELS = ("cat", "dog", "cow", "car")


@pytest.fixture(scope="module")
def truth(tmp_path_factory):
    """Two objects a picture, on the left and on the right."""
    path = tmp_path_factory.mktemp("truth") / "truth.jsonl"
    with path.open("w") as file:
        for i in range(COUNT):
            regions = [
                {"id": "a", "box": [10, 20, 90, 120], "label": LABELS[i % 4]},
                {"id": "b", "box": [110, 40, 190, 180], "label": LABELS[(i + 1) % 4]},
                {"id": "c", "kind": "text", "box": [0, 0, 50, 9], "label": "SALE"},
            ]
            image = {"id": f"i{i}", "uri": f"pictures/{i}.png", "width": SIDE, "height": SIDE}
            file.write(json.dumps({"id": f"s{i}", "image": image, "regions": regions}) + "\n")
    return path


def report(truth, names=None, **settings):
    found = Simulated(str(truth), **settings)
    found.setup("cpu")
    names = names or [f"{i}.png" for i in range(COUNT)]
    samples = [Sample(f"x{n}", ImageRef(f"stored-{n}", f"/store/elsewhere/{n}")) for n in names]
    return found.annotate(samples, [np.zeros((SIDE, SIDE, 3), np.uint8)] * len(samples))


def right(region, i):
    """Whether a region is one of the picture's objects, by place, and whether its label is right."""
    boxes = np.array([[10, 20, 90, 120], [110, 40, 190, 180]], float)
    overlap = iou(np.array([region.box]), boxes)[0]
    k = int(overlap.argmax())
    return overlap[k] > 0.5, region.label == LABELS[(i + k) % 4]


def test_without_noise_it_tells_the_objects(truth):
    results = report(truth, noise=Noise(0, 0, 0, 0))
    assert all([r.box for r in p.regions] == [(10, 20, 90, 120), (110, 40, 190, 180)] for p in results)
    assert {r.kind for p in results for r in p.regions} == {"object"}


def test_the_noise_is_as_stated(truth):
    results = report(truth)
    found = [(r, *right(r, i)) for i, p in enumerate(results) for r in p.regions]
    placed = [f for f in found if f[1]]
    assert len(placed) / (2 * COUNT) == pytest.approx(0.7, abs=0.06)  # 30 % missed
    assert 1 - np.mean([ok for _, _, ok in placed]) == pytest.approx(0.1, abs=0.04)  # 10 % wrong labels
    assert (len(found) - len(placed)) / COUNT == pytest.approx(0.3, abs=0.1)  # 0.3 invented
    seen = [r for p in report(truth, noise=Noise(invented=0)) for r in p.regions]
    moved = [abs(r.box[0] - min((10, 110), key=lambda x: abs(r.box[0] - x))) for r in seen]
    assert max(moved) <= 8 + 1e-9 and np.mean(moved) == pytest.approx(4, abs=0.6)  # up to 10 % of 80 pixels


def test_scores_mean_something(truth):
    found = [(r.score, all(right(r, i))) for i, p in enumerate(report(truth)) for r in p.regions]
    rates = [np.mean([ok for score, ok in found if low <= score < low + 0.25]) for low in (0, 0.25, 0.5, 0.75)]
    assert rates == sorted(rates) and rates[0] < 0.3 and rates[-1] > 0.9
    before = np.mean([ok for _, ok in found])
    after = [ok for score, ok in found if score >= 0.4]
    assert np.mean(after) > before + 0.08  # a threshold helps ...
    assert sum(after) > 0.95 * sum(ok for _, ok in found)  # ... and costs little


def test_noise_depends_on_the_picture_and_the_seed_alone(truth):
    all_at_once = report(truth)
    assert report(truth, names=["7.png"]) == [all_at_once[7]]
    assert report(truth, seed=1) != all_at_once


def test_an_unknown_picture_is_a_failure(truth):
    (result,) = report(truth, names=["nobody.png"])
    assert isinstance(result, Failure) and result.reason == "unknown_image" and "truth.jsonl" in result.detail


def test_source_says_simulated(truth):
    assert Simulated(str(truth)).spec.source_kind == "simulated"
