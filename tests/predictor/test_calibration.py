"""Maps of scores: what they give, how they are fitted and kept, and which are refused."""

import json
import shutil

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from florence2.evaluation.score_maps import FITS, MANY, SOME, cross_fitted, fit
from florence2.metrics.reliability import calibration_error, ranking
from florence2.predictor import checkpoints, load
from florence2.predictor.calibration import Calibration, ScoreMap, read_calibration
from florence2.predictor.confidence import Signals
from florence2.predictor.convert import convert

QUIET = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
HALVED = ScoreMap("isotonic", ((0.0, 1.0), (0.0, 0.5)))


def drawn(count, seed=0, sharp=2.0):
    """Scores that are too sure, and what is right: the true chance is their `sharp`-th power."""
    rng = np.random.default_rng(seed)
    scores = rng.beta(2, 1, count)
    return scores, rng.random(count) < scores**sharp, np.arange(count) // 4


@pytest.mark.parametrize("method", FITS)
def test_a_fitted_map_says_how_often_items_are_right(method):
    scores, right, _ = drawn(4000)
    made = FITS[method](scores, right)
    new, truth, _ = drawn(4000, seed=1)
    mapped = [made.of_score(score) for score in new.tolist()]
    assert calibration_error(new, truth) > 0.1
    assert calibration_error(mapped, truth) < 0.05
    assert all(made.of_score(s) == pytest.approx(s**2, abs=0.08) for s in (0.3, 0.5, 0.7, 0.9))


@QUIET
@given(
    st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=40),
    st.sampled_from(sorted(FITS)),
    st.lists(st.floats(0, 1), min_size=2, max_size=8),
)
def test_a_map_stays_in_the_unit_interval_and_never_falls(rows, method, asked):
    scores, right = np.array([r[0] for r in rows]), np.array([r[1] for r in rows])
    made = FITS[method](scores, right)
    values = [made.of_score(score) for score in sorted(asked)]
    assert all(0 <= value <= 1 for value in values)
    assert all(low <= high + 1e-12 for low, high in zip(values, values[1:]))


def as_signals(scores):
    return [Signals(name=score**2) for score in scores.tolist()]


def test_few_items_get_a_map_of_few_numbers():
    few, some = {"platt", "beta"}, {"platt", "beta", "logistic"}
    for count, methods in ((SOME - 1, few), (MANY - 1, some), (2 * MANY, {*some, "isotonic"})):
        scores, right, groups = drawn(count)
        made, elsewhere = fit(as_signals(scores), right, groups)
        assert made.method in methods and len(elsewhere) == count
        assert calibration_error(elsewhere, right) < 0.12


def test_a_logistic_model_takes_what_the_score_does_not():
    rng = np.random.default_rng(0)
    ranks = rng.integers(0, 20, 3000)
    right = rng.random(3000) < 1 / (1 + np.exp(ranks - 6.0))
    signals = [Signals(placed=0.7, rank=int(rank)) for rank in ranks]
    made, elsewhere = fit(signals, right, np.arange(3000))
    assert made.method == "logistic" and made(signals[0]) == made(Signals(placed=0.7, rank=int(ranks[0])))
    assert ranking(elsewhere, right) > 0.9 and made(Signals(placed=0.7, rank=1)) > 0.8 > 0.2 > made(Signals(rank=18))


def test_an_item_is_judged_by_a_map_of_other_pictures():
    scores = np.array([0.5] * 20)
    right = np.array([True] * 10 + [False] * 10)
    groups = np.array([0] * 10 + [1] * 10)  # a picture that is all right, and one that is all wrong
    found = cross_fitted(as_signals(scores), right, groups, "isotonic")
    assert (found[:10] < 0.1).all() and (found[10:] > 0.9).all()


def test_a_calibration_lies_beside_the_weights(folder, pictures, tmp_path):
    own = tmp_path / "own"
    shutil.copytree(folder, own)
    bare = load(own)
    sha = checkpoints.weights_sha256(checkpoints.find(own))
    Calibration(sha, {"OD": HALVED}).save(own / "calibration.json")
    how = dict(max_new_tokens=30, grammar=True)
    raw, mapped = bare.predict(pictures[0], "<OD>", **how), load(own).predict(pictures[0], "<OD>", **how)
    assert len(raw) and mapped.scores == pytest.approx(raw.scores / 2)
    assert load(own).predict(pictures[0], "<CAPTION>", **how) == bare.predict(pictures[0], "<CAPTION>", **how)
    for off in (None, False):
        assert load(own, calibration=off).predict(pictures[0], "<OD>", **how) == raw
    shutil.move(own / "calibration.json", tmp_path / "elsewhere.json")
    assert load(own).predict(pictures[0], "<OD>", **how) == raw
    assert load(own, calibration=tmp_path / "elsewhere.json").predict(pictures[0], "<OD>", **how) == mapped
    assert load(own, calibration=tmp_path / "elsewhere.json").identity != bare.identity


def test_the_shipped_model_is_calibrated():
    calibration = load("nano").calibration  # refused where it were of other weights
    assert {"OD", "OPEN_VOCABULARY_DETECTION", "REGION_TO_CATEGORY"} <= set(calibration.maps)
    assert (
        calibration.of("<OD>").facts["ece_after"] < 0.05 and 0 < calibration.of("OPEN_VOCABULARY_DETECTION").least_there
    )
    assert load("nano", calibration=None).calibration is None


@pytest.mark.parametrize("layout", ["florence2", "microsoft", "transformers"])
def test_save_and_convert_carry_it(folder, tmp_path, layout):
    own = tmp_path / "own"
    shutil.copytree(folder, own)
    sha = checkpoints.weights_sha256(checkpoints.find(own))
    Calibration(sha, {"OD": HALVED}).save(own / "calibration.json")
    load(own).save(tmp_path / "saved", layout=layout)
    convert(own, tmp_path / "converted", layout)
    for target in ("saved", "converted"):
        assert load(tmp_path / target).calibration.maps == {"OD": HALVED}
    load(own, calibration=None).save(tmp_path / "saved", layout=layout)
    assert load(tmp_path / "saved").calibration is None


REFUSED = [  # what the file says, what the refusal names
    ("[]", "expected a calibration of version 1, got list"),
    ("{", "expected the JSON"),
    ({"version": 2, "weights_sha256": "", "tasks": {}}, "version 1, got 2"),
    ({"version": True, "weights_sha256": "", "tasks": {}}, "version 1, got True"),
    ({"version": 1, "weights_sha256": "", "tasks": []}, "tasks: expected a map for each task, got"),
    ({"version": 1, "weights_sha256": 3, "tasks": {}}, "weights_sha256: expected a string"),
    ({"tasks": {"OD": {"method": "spline"}}}, "'OD': method: expected one of platt"),
    ({"tasks": {"OD": {"method": ["platt"]}}}, "'OD': method: expected one of platt"),
    ({"tasks": {"OD": {"method": "platt", "slope": float("nan"), "offset": 0}}}, "slope, offset: expected numbers"),
    ({"tasks": {"OD": {"method": "platt", "slope": -1, "offset": 0}}}, "not negative"),
    ({"tasks": {"OD": {"method": "beta", "a": 1, "b": 1}}}, "a, b, c: expected numbers"),
    (
        {"tasks": {"OD": {"method": "platt", "slope": 1, "offset": 0, "least_there": 2}}},
        "least_there: expected a number",
    ),
    (
        {"tasks": {"OD": {"method": "platt", "slope": 1, "offset": 0, "there": [1, 2]}}},
        "there: expected a number for each",
    ),
    ({"tasks": {"OD": {"method": "platt", "slope": 1, "offset": 0, "there": {"name": 1}}}}, "there: expected a number"),
    ({"tasks": {"OD": {"method": "isotonic", "scores": [0, 2], "right": [0, 1]}}}, "scores: expected numbers in 0..1"),
    ({"tasks": {"OD": {"method": "isotonic", "scores": [0, 1], "right": [1, 0]}}}, "never fall"),
    ({"tasks": {"OD": {"method": "isotonic", "scores": [], "right": []}}}, "scores: expected numbers"),
    ({"tasks": {"FLY": {"method": "platt", "slope": 1, "offset": 0}}}, "FLY: is no task of this model"),
    ({"weights_sha256": "0" * 64, "tasks": {}}, "is of other weights"),
]


@pytest.mark.parametrize("said, named", REFUSED)
def test_a_file_that_does_not_fit_is_refused_in_one_line(folder, tmp_path, said, named):
    file = tmp_path / "calibration.json"
    if isinstance(said, dict):
        sha = checkpoints.weights_sha256(checkpoints.find(folder))
        said = json.dumps({"version": 1, "weights_sha256": sha, **said})
    file.write_text(said)
    with pytest.raises(ValueError, match=named) as error:
        load(folder, calibration=file)
    assert str(file) in str(error.value) and "\n" not in str(error.value) and len(str(error.value)) < 1000


def test_a_calibration_that_is_not_there(folder, tmp_path):
    with pytest.raises(OSError, match="missing.json"):
        load(folder, calibration=tmp_path / "missing.json")
    with pytest.raises(ValueError, match="calibration.json: does not exist; run florence2 calibrate"):
        load(folder, calibration=True)
    for wanted in (3, "", [], {}, b"x"):
        with pytest.raises(ValueError, match="calibration: expected a file, None or False, got "):
            load(folder, calibration=wanted)


def test_how_surely_a_thing_is_there_may_be_weighed(tmp_path):
    weights = (0.0, 0.0, 2.0, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0)  # twice the logit of begun, less one
    one = ScoreMap("platt", (1.0, 0.0), 0.4, weights)
    assert one.there(Signals(begun=0.5)) == pytest.approx(1 / (1 + np.exp(1.0)))
    assert ScoreMap("platt", (1.0, 0.0), 0.4).there(Signals(there=0.3)) == 0.3
    Calibration("x", {"OD": one}).save(tmp_path / "c.json")
    assert read_calibration(tmp_path / "c.json").of("OD") == one


def test_what_is_not_surely_there_is_left_out(folder, pictures):
    sha = checkpoints.weights_sha256(checkpoints.find(folder))
    ask, how = "<DENSE_REGION_CAPTION>", dict(max_new_tokens=60, grammar=True)
    every = load(folder).predict(pictures[0], ask, **how)
    there = [every.signals()[region.id].there for region in every.regions]
    for least in (0.0, *sorted(set(there)), 1.0):
        asked = Calibration(sha, {"DENSE_REGION_CAPTION": ScoreMap("platt", (1.0, 0.0), least)})
        some = load(folder, calibration=asked).predict(pictures[0], ask, **how)
        assert [r.id for r in some.regions] == [r.id for r, sure in zip(every.regions, there) if sure >= least]
    assert len(every) and not len(some)


@QUIET
@given(st.sampled_from(sorted(FITS)), st.integers(0, 5))
def test_the_file_keeps_the_map(method, seed):
    import tempfile
    from pathlib import Path

    scores, right, _ = drawn(60, seed)
    made = Calibration("0" * 64, {"OD": FITS[method](scores, right)})
    with tempfile.TemporaryDirectory() as place:
        made.save(Path(place) / "c.json")
        assert read_calibration(Path(place) / "c.json") == made
