"""The runner and the phases: all ends as annotations or as a failure with a reason; run again, nothing changes."""

import dataclasses
from pathlib import Path

import duckdb
import pytest
from PIL import Image

import florence2
from florence2.engine.execution.annotation import SECONDS
from florence2.engine.ingest.ingestion import unit_for
from florence2.engine.ingest.inspection import ImageRules
from florence2.engine.operator import annotation_id, annotation_ids
from florence2.store import Store
from florence2.store.parquet import PendingFragment
from tests.engine.doubles import Boxes, Floor, Misbehaving, NoTexts, folder_of, fragments, picture


def annotate(folder, out, *with_, **more):
    return florence2.annotate(folder, out, with_, **{"workers": 0, "unit": 4, **more})


def test_a_folder_becomes_a_store(tmp_path):
    folder = folder_of(tmp_path, 10)
    store = annotate(folder, tmp_path / "s", Boxes())
    assert store.counts()["images"] == {"total": 10, "ok": 10, "rejected": 0, "failed": 0}
    assert store.counts()["annotations"]["kept"] == 30
    samples = list(store.samples())
    assert [Path(s.image.uri).name for s in samples] == [f"p{i:04}.png" for i in range(10)]
    first = samples[0]
    assert first.regions[0].source.name == "boxes" and first.groundings[0].region_ids == (first.regions[0].id,)
    assert first.groundings[0].phrase == "thing" and first.groundings[0].text_id == first.texts[0].id
    assert len(store.snapshots()) == 1


def test_the_same_command_again_adds_nothing_and_more_pictures_are_new_units(tmp_path):
    folder = folder_of(tmp_path, 6)
    store = annotate(folder, tmp_path / "s", Boxes())
    before = fragments(store)
    annotate(folder, tmp_path / "s", Boxes())
    assert fragments(store) == before and len(store.snapshots()) == 1
    folder_of(tmp_path, 3, start=6)
    annotate(folder, tmp_path / "s", Boxes())
    assert before.items() <= fragments(store).items()
    assert store.counts()["images"]["ok"] == 9 and store.counts()["annotations"]["kept"] == 27


def test_processes_and_units_do_not_change_what_is_said(tmp_path):
    folder = folder_of(tmp_path, 9)
    here = annotate(folder, tmp_path / "a", Boxes())
    there = annotate(folder, tmp_path / "b", Boxes(), workers=2)
    assert fragments(here) == fragments(there)
    assert here.snapshot().to_bytes() == there.snapshot().to_bytes()
    other = annotate(folder, tmp_path / "c", Boxes(), unit=5)
    assert {r.id for s in here.samples() for r in s.regions} == {r.id for s in other.samples() for r in s.regions}


def test_bad_pictures_are_rows_with_reasons_among_the_good(tmp_path):
    folder = folder_of(tmp_path, 3)
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "text.jpg").write_text("not a picture at all")
    (folder / "cut.png").write_bytes((folder / "p0000.png").read_bytes()[:900])
    (folder / "copy.png").write_bytes((folder / "p0001.png").read_bytes())
    (folder / "notes.txt").write_text("skipped")
    (folder / "sub").mkdir()
    (folder / "sub" / "nosuffix").write_bytes(picture(tmp_path, "x.png", 77).read_bytes())
    Image.new("RGB", (60, 40), (9, 9, 9)).save(folder / "blank.png")
    picture(folder, "tiny.png", 5, (4, 30))
    picture(folder, "needle.png", 6, (900, 20))
    picture(folder, "huge.png", 7, (200, 200))
    told = []
    store = annotate(folder, tmp_path / "s", Boxes(), rules=ImageRules(max_pixels=30_000), on_message=told.append)
    said = {Path(row.image.uri).name: (row.status, row.reason or None) for row in store.images()}
    assert said == {
        "p0000.png": ("ok", None),
        "p0001.png": ("rejected", "duplicate"),  # copy.png comes first by name
        "copy.png": ("ok", None),
        "p0002.png": ("ok", None),
        "nosuffix": ("ok", None),
        "empty.jpg": ("failed", "empty"),
        "text.jpg": ("failed", "not_an_image"),
        "cut.png": ("failed", "truncated"),
        "blank.png": ("rejected", "blank"),
        "tiny.png": ("rejected", "too_small"),
        "needle.png": ("rejected", "odd_aspect"),
        "huge.png": ("failed", "too_large"),
    }
    assert told == ["skipped 1 files that hold no pictures: notes.txt"]
    failures = store.table("failures").to_pylist()
    assert {row["source"] for row in failures} == {"images"} and len(failures) == 4
    assert store.counts()["annotations"]["kept"] == 3 * 4


@pytest.mark.parametrize(
    "deed, reason",
    [
        ("raises", "error"),  # only the picture that raises fails
        ("nan", "invalid"),
        ("garbage", "invalid"),
        ("fails", "refused"),
    ],
)
def test_one_picture_at_fault_fails_alone(tmp_path, deed, reason):
    folder = folder_of(tmp_path, 6)
    store = annotate(folder, tmp_path / "s", Misbehaving(deed, ["p0002.png"]))
    (failure,) = store.table("failures").to_pylist()
    assert failure["reason"] == reason and failure["source"] == f"bad-{deed}" and failure["round"] == 0
    assert store.counts()["annotations"]["kept"] == 5 * 3


def test_boxes_are_clipped_and_a_plain_list_will_do(tmp_path):
    store = annotate(folder_of(tmp_path, 2), tmp_path / "s", Misbehaving("wild", ["p0001.png"]))
    (region,) = list(store.samples())[1].regions
    assert region.box == (0.0, 0.0, 40.0, 12.0) and region.score == 0.5


def test_a_poison_picture_is_given_up_and_the_rest_is_done(tmp_path):
    folder = folder_of(tmp_path, 6)
    clean = annotate(folder, tmp_path / "clean", Boxes(name="bad-exits"))
    store = annotate(folder, tmp_path / "s", Misbehaving("exits", ["p0002.png"]), workers=1)
    (failure,) = store.table("failures").to_pylist()
    assert failure["reason"] == "worker_died"
    lost = {s.image.uri for s in clean.samples() if s.regions} - {s.image.uri for s in store.samples() if s.regions}
    assert {Path(uri).name for uri in lost} == {"p0002.png"}


def test_a_hanging_picture_is_given_up_by_its_lease(tmp_path):
    folder = folder_of(tmp_path, 5)
    store = annotate(folder, tmp_path / "s", Misbehaving("hangs", ["p0004.png"]), workers=2, lease_s=1.0)
    (failure,) = store.table("failures").to_pylist()
    assert failure["reason"] == "timeout" and store.counts()["annotations"]["kept"] == 4 * 3


def test_each_reads_what_its_requires_names_of_those_before(tmp_path):
    folder = folder_of(tmp_path, 3)
    first, second = Boxes("first"), Boxes("second", requires={"region_text/object"})
    store = annotate(folder, tmp_path / "s", first, second, Boxes("third"))
    texts = {t.source.name: t.text for t in next(iter(store.samples())).texts}
    assert texts == {
        "first": "a thing seen 0 times",
        "second": "a thing seen 1 times",
        "third": "a thing seen 0 times",
    }


def test_a_change_recomputes_what_depends_on_it_and_nothing_else(tmp_path):
    folder = folder_of(tmp_path, 3)
    first, second, third = Boxes("first"), Boxes("second", requires={"box"}), Boxes("third")
    store = annotate(folder, tmp_path / "s", first, second, third)
    before = fragments(store)
    annotate(folder, tmp_path / "s", Boxes("first", version="2"), second, third)
    new = {path for path in fragments(store) if path not in before}
    assert {path.split("/")[2].split("@")[0] for path in new} == {"first", "second", "recomputed"}
    assert store.counts()["annotations"] == {"total": 45, "kept": 27, "rejected": 0, "superseded": 18}
    assert {t.source.version for s in store.samples() for t in s.texts if t.source.name == "first"} == {"2"}
    annotate(folder, tmp_path / "s", first, second, third)  # and back
    assert {t.source.version for s in store.samples() for t in s.texts if t.source.name == "first"} == {"1"}
    assert store.counts()["annotations"]["kept"] == 27


def test_a_folder_is_annotated_without_the_rest_of_its_store(tmp_path):
    one, two = folder_of(tmp_path / "a", 3), folder_of(tmp_path / "b", 5, start=10)
    store = annotate(one, tmp_path / "s", Boxes("first"))
    annotate(two, tmp_path / "s", Boxes("second"), Boxes("reader", requires={"box"}))
    assert [len(s.regions) for s in store.samples()] == [1] * 3 + [2] * 5
    assert {t.text for s in store.samples() for t in s.texts if t.source.name == "reader"} == {"a thing seen 1 times"}
    before = fragments(store)
    annotate(one, tmp_path / "s", Boxes("first"))
    annotate(two, tmp_path / "s", Boxes("second"), Boxes("reader", requires={"box"}))
    assert fragments(store) == before and len(store.snapshots()) == 2
    annotate(two, tmp_path / "s", Boxes("second", version="2"))
    annotate(two, tmp_path / "s", Boxes("second", version="2"))
    assert store.counts()["annotations"]["superseded"] == 15 and len(store.snapshots()) == 3
    annotate(store.root, None, Boxes("over all"))
    assert store.counts()["annotations"]["kept"] == 9 + 2 * 15 + 8 * 3


def test_a_folder_is_the_same_however_it_is_named(tmp_path, monkeypatch):
    folder = folder_of(tmp_path, 3)
    (tmp_path / "elsewhere").mkdir()
    store = annotate(folder, tmp_path / "s", Boxes())
    before = fragments(store)
    for place, name in ((tmp_path / "elsewhere", "../pictures"), (tmp_path, "pictures"), (folder, ".")):
        monkeypatch.chdir(place)
        annotate(name, tmp_path / "s", Boxes())
        new = annotate(name, tmp_path / f"new-{place.name}", Boxes())
        assert fragments(store) == before == fragments(new) and new.counts()["annotations"]["kept"] == 9


def test_filters_judge_once_and_again_in_the_next_round(tmp_path):
    store = annotate(folder_of(tmp_path, 8), tmp_path / "s", Boxes())
    florence2.filter(store, [Floor(0.6), NoTexts()])
    counts = store.counts()["annotations"]
    scores = [r.score for s in store.samples(view="all") for r in s.regions]
    low = sum(score < 0.6 for score in scores)
    assert 0 < low < 8
    # every text falls, and every phrase with its region or its text
    assert counts["rejected"] == low + 8 + 8 and counts["kept"] == 8 - low
    before = fragments(store)
    florence2.filter(store, [Floor(0.6), NoTexts()])
    assert fragments(store) == before and len(store.snapshots()) == 2
    florence2.filter(store, [Floor(0.0)])  # more lenient: what was rejected stands again
    assert store.counts()["annotations"]["kept"] == 24
    decisions = store.table("decisions").to_pylist()
    keys = [(d["ann_id"], d["round"], d["seq"]) for d in decisions]
    assert len(set(keys)) == len(keys) and {d["round"] for d in decisions} == {0, 1}


def test_a_filter_judges_annotations_that_came_later(tmp_path):
    folder = folder_of(tmp_path, 4)
    store = annotate(folder, tmp_path / "s", Boxes())
    florence2.filter(store, [Floor(2.0)])
    annotate(folder, tmp_path / "s", Boxes(), Boxes("late"))
    assert store.counts()["annotations"]["kept"] == 4 * 1 + 4 * 3  # of the first, only texts stand
    florence2.filter(store, [Floor(2.0)])
    assert store.counts()["annotations"]["kept"] == 4 * 1 + 4 * 1


def test_a_damaged_fragment_is_found_and_made_again(tmp_path):
    folder = folder_of(tmp_path, 10)
    store = annotate(folder, tmp_path / "s", Boxes())
    before = fragments(store)
    victims = sorted(before)[0], sorted(before)[-1]
    assert victims[0].startswith("annotations") and victims[1].startswith("images")
    (store.root / victims[0]).write_bytes((store.root / victims[0]).read_bytes()[:-40] + bytes(40))
    (store.root / victims[1]).unlink()
    assert {(d.path, d.cause) for d in store.verify()} == {(victims[0], "changed"), (victims[1], "missing")}
    annotate(folder, tmp_path / "s", Boxes())
    assert fragments(store) == before and store.verify() == []


def test_the_tables_read_as_they_are(tmp_path):
    store = annotate(folder_of(tmp_path, 4), tmp_path / "s", Boxes())
    florence2.filter(store, [Floor(0.5)])
    query = f"""
        with last as (select ann_id, arg_max(status, round * 100000 + seq) as status
                      from '{store.root}/decisions/**/*.parquet' group by ann_id)
        select coalesce(last.status, 'kept') as status, count(*) from '{store.root}/annotations/**/*.parquet' a
        left join last using (ann_id) group by 1"""
    found = dict(duckdb.sql(query).fetchall())
    counts = store.counts()["annotations"]
    assert found == {name: counts[name] for name in ("kept", "rejected") if counts[name]}


def test_wrong_use_is_refused_in_one_line(tmp_path):
    (tmp_path / "empty").mkdir()
    cases = [
        (lambda: annotate(tmp_path / "empty", tmp_path / "s"), "no pictures found"),
        (lambda: annotate(tmp_path / "nowhere", tmp_path / "s"), "no such folder"),
        (lambda: annotate(folder_of(tmp_path, 1), tmp_path), "holds other files"),
        (lambda: annotate(folder_of(tmp_path, 1), tmp_path / "s", "nonsense"), "unknown name"),
        (lambda: annotate(folder_of(tmp_path, 1), tmp_path / "s", unit=0), "unit"),
        (lambda: Store(tmp_path / "empty"), "not a store"),
    ]
    for call, words in cases:
        with pytest.raises((ValueError, OSError)) as caught:
            call()
        assert words in str(caught.value) and "\n" not in str(caught.value)


def test_a_setup_that_fails_stops_the_command_with_its_reason(tmp_path):
    with pytest.raises(ValueError, match="no weights here"):
        annotate(folder_of(tmp_path, 2), tmp_path / "s", Unready(), workers=1)


class Unready(Boxes):
    def setup(self, device):
        raise ValueError("no weights here")


def test_operators_are_plain_data(tmp_path):
    store = annotate(folder_of(tmp_path, 2), tmp_path / "s", Boxes())
    operator = next(o for o in store.snapshot().operators if o.name == "boxes")
    run = store.run(operator.run_id)
    assert run["operator"]["fingerprint"] == dataclasses.asdict(operator)["fingerprint"]
    assert {"time", "host", "pid"} <= set(run["starts"][0])


def test_ids_hashed_together_are_those_hashed_alone():
    given = ("0123abcd", "f" * 32, 3)
    assert annotation_ids(*given, 12) == [annotation_id(*given, n) for n in range(12)]


def test_fragments_put_together_are_those_put_alone(tmp_path):
    rows = [{"ann_id": "a", "image_id": "i", "round": 0, "seq": 1, "rule": "r", "status": "kept", "run_id": "x"}]
    drafts = [
        PendingFragment(f"decisions/round-0/r{n}@1/unit-u.parquet", rows * n, ["u"], "x", {"round": 0})
        for n in range(5)
    ]
    together, alone = (Store(tmp_path / name, create=True) for name in ("a", "b"))
    fragments_ = together.put_all(drafts)
    assert fragments_ == [alone.put(d.path, d.rows, d.units, d.run_id, d.about) for d in drafts]
    assert fragments(together) == fragments(alone) == {f.path: f.sha256 for f in fragments_}
    assert fragments_ == [together.fragment(f.path, f.units, f.run_id) for f in fragments_]  # as read back
    assert together.put_all(drafts) == fragments_  # there already


def test_units_grow_with_the_pictures():
    sizes = [unit_for(n) for n in (1, 16_384, 16_385, 40_000, 10**5, 10**6, 10**8)]
    assert sizes == [64, 64, 128, 256, 512, 512, 512]


def test_batches_decoded_ahead_say_what_single_pictures_say_and_time_is_accounted_for(tmp_path):
    folder = folder_of(tmp_path, 9)
    stores = {size: annotate(folder, tmp_path / f"s{size}", unit=9) for size in (1, 4)}
    (folder / "p0005.png").unlink()  # after it was looked at: it fails in the middle of a batch
    for size, store in stores.items():
        reports: dict = {}
        florence2.annotate(store.root, with_=[Boxes(batch_size=size)], workers=0, reports=reports)
        assert set(reports["boxes"].seconds) == set(SECONDS) and reports["boxes"].seconds["write"] > 0
    assert fragments(stores[1]) == fragments(stores[4]) and stores[1].counts()["annotations"]["kept"] == 8 * 3
    assert [row["reason"] for row in stores[4].table("failures").to_pylist()] == ["missing"]
