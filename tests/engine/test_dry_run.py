"""`annotate --dry-run`: a few pictures tried, all foretold, nothing written."""

import hashlib
import json
import tarfile
import time
from dataclasses import replace

import pytest

import florence2
from florence2.cli import main
from florence2.engine.estimating import estimate_annotate
from florence2.engine.operator import Spec
from florence2.engine.planning.rates import read_rates
from florence2.engine.planning.simulation import Prices
from florence2.engine.run_records import run_states
from florence2.engine.sample_run import sample_of
from florence2.object_store import Objects
from tests.engine.doubles import Boxes, folder_of


class Steady(Boxes):
    """Takes 20 ms a picture."""

    def __init__(self, name="steady"):
        super().__init__(name, batch_size=4)

    def one(self, sample, image):
        time.sleep(0.02)
        return super().one(sample, image)


def tree(root):
    """Every file below a folder with its hash."""
    files = (path for path in sorted(root.rglob("*")) if path.is_file())
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.parametrize("workers", [0, 1])
def test_the_estimate_is_near_what_the_run_takes(tmp_path, workers):
    folder_of(tmp_path, 80)
    before = tree(tmp_path)
    plan = estimate_annotate(tmp_path / "pictures", tmp_path / "s", [Steady()], unit=20, workers=workers, sample=16)
    assert tree(tmp_path) == before and not (tmp_path / "s").exists()
    assert plan.pictures == 80 and plan.sample == 16 and plan.due == {"inspect": 80, "steady": 80}
    begun = time.perf_counter()
    store = florence2.annotate(tmp_path / "pictures", tmp_path / "s", [Steady()], unit=20, workers=workers)
    took = time.perf_counter() - begun
    assert took / 2.5 < plan.seconds < took * 2.5
    fragments = store.snapshot().fragments
    assert plan.fragments == len(fragments) == 8
    held = sum((store.root / fragment.path).stat().st_size for fragment in fragments)
    assert 0.75 < plan.bytes / held < 1.35
    steady = plan.rates.once[1]
    assert steady.rows == len(store.table("annotations")) / 80 and 0.02 <= steady.seconds < 0.06


def test_a_dry_run_over_a_store_counts_what_is_left_and_writes_nothing(place, tmp_path):
    folder_of(tmp_path, 8)
    store = florence2.annotate(tmp_path / "pictures", place, [Steady()], workers=0)
    folder_of(tmp_path, 4, start=8)
    names = {path: store.storage.read(path) for path in store.storage.list("")}
    plan = estimate_annotate(tmp_path / "pictures", place, [Steady(), Boxes()], workers=0, sample=4)
    assert plan.due == {"inspect": 4, "steady": 4, "boxes": 12}
    over = estimate_annotate(place, None, [Steady(), Boxes()], workers=0, sample=4)
    assert over.due == {"inspect": 0, "steady": 0, "boxes": 8}
    assert {path: store.storage.read(path) for path in store.storage.list("")} == names


def test_requests_that_write_are_near_what_a_run_makes(bucket, tmp_path, monkeypatch):
    folder_of(tmp_path, 24)
    place = f"{bucket}/s"
    plan = estimate_annotate(tmp_path / "pictures", place, [Steady()], unit=8, workers=1, sample=8)
    florence2.annotate(tmp_path / "pictures", place, [Steady()], unit=8, workers=1)
    left = [facts.path for facts in Objects(place).list() if not facts.path.startswith("tmp/")]
    assert len(left) <= plan.requests < 2 * len(left)


def test_pictures_of_another_folder_and_of_another_version_are_due(tmp_path):
    store = florence2.annotate(folder_of(tmp_path, 6), tmp_path / "s", [Steady()], workers=0)
    other = folder_of(tmp_path / "other", 3, start=50)
    plan = estimate_annotate(other, store.root, [Steady()], workers=0, sample=2)
    assert plan.pictures == 3 and plan.due == {"inspect": 3, "steady": 3}
    florence2.annotate(other, store.root, [Steady()], workers=0)
    newer = Steady()
    newer.spec = replace(newer.spec, version="2")
    for source, count in ((other, 3), (tmp_path / "pictures", 6), (store.root, 9)):
        plan = estimate_annotate(source, store.root if source != store.root else None, [newer], workers=0, sample=2)
        assert plan.due == {"inspect": 0, "steady": count}
        plan = estimate_annotate(source, store.root if source != store.root else None, [Steady()], workers=0, sample=2)
        assert plan.due == {"inspect": 0, "steady": 0} and plan.seconds == pytest.approx(0.0, abs=5)
    (other / "p0051.png").unlink()
    folder_of(tmp_path / "other", 1, start=60)
    plan = estimate_annotate(other, store.root, [Steady()], workers=0, sample=2)
    assert plan.due == {"inspect": 1, "steady": 1}


def test_the_pace_of_another_version_is_not_taken(tmp_path):
    store = florence2.annotate(folder_of(tmp_path, 6), tmp_path / "s", [Steady()], workers=0)
    state = run_states(store)[-1]
    state.phases[-1].measured_items, state.phases[-1].measured_s = 500, 250.0
    store.keep_run_state(state.run, state.to_json())
    newer = Steady()
    newer.spec = replace(newer.spec, version="2")
    (steady,) = estimate_annotate(tmp_path / "pictures", store.root, [newer], workers=0, sample=4).rates.once[1:]
    assert steady.seconds < 0.2 and "earlier runs" not in steady.basis


def test_prices_that_mean_nothing_are_refused(tmp_path, capsys):
    folder_of(tmp_path, 2)
    words = ["annotate", str(tmp_path / "pictures"), "--with", "opencv", "--dry-run"]
    for price in ("--price-per-hour", "--price-per-gb-month", "--price-per-1000-puts"):
        for value in ("-1", "nan", "inf"):
            assert main([*words, f"{price}={value}"]) == 1
            assert "expected a number of at least zero" in capsys.readouterr().err


def test_what_earlier_runs_measured_for_long_is_taken_in_place_of_the_sample(tmp_path):
    store = florence2.annotate(folder_of(tmp_path, 6), tmp_path / "s", [Steady()], workers=0)
    state = run_states(store)[-1]
    state.phases[-1].measured_items, state.phases[-1].measured_s = 500, 250.0
    store.keep_run_state(state.run, state.to_json())
    folder_of(tmp_path, 4, start=6)
    steady = estimate_annotate(tmp_path / "pictures", store.root, [Steady()], workers=0, sample=4).rates.once[1]
    assert steady.seconds == 0.5 and "earlier runs" in steady.basis


def test_cost_grows_with_price_and_nothing_else_does(tmp_path):
    folder_of(tmp_path, 8)

    def priced(price):
        by = {"price_per_hour": price, "prices": Prices(gb_month=price)}
        return estimate_annotate(tmp_path / "pictures", None, [Boxes()], workers=0, sample=4, **by)

    free, dear = priced(0.0), priced(3600.0)
    assert free.cost == free.cost_month == 0 and dear.cost == pytest.approx(dear.seconds)
    assert dear.cost_month == pytest.approx(dear.bytes / 1e9 * 3600) and dear.bytes == free.bytes


def test_what_would_cost_is_refused(tmp_path):
    folder_of(tmp_path, 2)
    billed = Boxes("dear")
    billed.spec = replace(billed.spec, billed=True)
    (tmp_path / "urls.txt").write_text("https://nowhere.invalid/a.jpg\n")
    for source, with_, message in (
        (tmp_path / "pictures", [billed], "is billed"),
        (tmp_path / "urls.txt", [Boxes()], "fetches nothing"),
        ("hf:owner/name", [Boxes()], "downloads nothing"),
        (tmp_path / "none", [Boxes()], "none"),
    ):
        with pytest.raises(ValueError, match=message):
            estimate_annotate(source, None, with_, workers=0)
    assert isinstance(billed.spec, Spec)


def test_pictures_in_archives_and_object_stores_are_tried_too(bucket, tmp_path):
    folder_of(tmp_path, 5)
    with tarfile.open(tmp_path / "p.tar", "w") as tar:
        tar.add(tmp_path / "pictures", "pictures")
    plan = estimate_annotate(tmp_path / "p.tar", None, [Boxes()], workers=0, sample=4)
    assert plan.pictures == 5 and plan.rates.once[1].rows > 0
    for path in (tmp_path / "pictures").iterdir():
        Objects(f"{bucket}/p").put(path.name, path.read_bytes())
    plan = estimate_annotate(f"{bucket}/p", f"{bucket}/s", [Boxes()], workers=0, sample=4)
    assert plan.pictures == 5 and plan.rates.once[1].rows > 0


def test_pictures_that_are_none_are_named(tmp_path):
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match="boxes got none of the 1 pictures tried"):
        estimate_annotate(tmp_path / "pictures", None, [Boxes()], workers=0)


def test_the_command_prints_an_estimate_and_keeps_its_rates(tmp_path, capsys):
    folder_of(tmp_path, 6)
    own = tmp_path / "own.py"
    own.write_text("from tests.engine.doubles import Boxes\n\nclass Own(Boxes):\n    pass\n")
    words = ["annotate", str(tmp_path / "pictures"), "--out", str(tmp_path / "s"), "--with", f"{own}:Own", "--dry-run"]
    words += ["--workers", "0", "--price-per-hour", "2"]
    assert main([*words, "--write-rates", str(tmp_path / "rates.json")]) == 0
    out = capsys.readouterr().out
    assert "6 pictures, 6 of them tried; nothing was written" in out and "boxes" in out and "storage" in out
    assert not (tmp_path / "s").exists()
    assert [phase.name for phase in read_rates(tmp_path / "rates.json").once] == ["inspect", "boxes"]
    assert main(["plan", "--rates", str(tmp_path / "rates.json"), "--images", "1000", "--gpus", "0"]) == 0
    assert "1,000 pictures in units of 64" in capsys.readouterr().out
    assert main([*words, "--json"]) == 0
    plain = json.loads(capsys.readouterr().out)
    assert plain["pictures"] == 6 and plain["phases"][1]["name"] == "boxes" and plain["cost"] > 0


def test_a_sample_is_spread_over_all():
    assert sample_of(list(range(100)), 4) == [12, 37, 62, 87] and sample_of([1, 2], 4) == [1, 2]
    assert len(set(sample_of(list(range(7)), 5))) == 5
