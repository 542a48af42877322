"""The store on disk: what is written comes back, to any reader; earlier states stay as they were."""

import dataclasses
import hashlib
import json
from pathlib import Path

import duckdb
import numpy as np
import pandas
import polars
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import florence2
from florence2.geometry import encode_rle
from florence2.records import Coverage, Decision, Grounding, ImageRef, Region, Sample, Source, Text
from florence2.store import Store, compaction, is_store, random_access, schema
from florence2.store.image_rows import ImageRow, columns_of, row_of, sample_of
from florence2.store.parquet import Fragment
from florence2.store.snapshots import Operator, Snapshot
from florence2.store.storage import local, open_storage
from tests.engine.doubles import Boxes, Floor, Misbehaving, NoTexts, folder_of, fragments

number = st.floats(0, 5000, width=32)
score = st.none() | st.floats(0, 1)
words = st.text(st.characters(exclude_categories=("Cs",)), max_size=12)
polygon = st.integers(3, 5).flatmap(lambda n: st.tuples(*[number] * (2 * n)))
source = st.builds(Source, st.sampled_from(("human", "import", "specialist")), words, words, st.integers(0, 9), words)
mask = st.integers(0, 2**12 - 1).map(
    lambda bits: encode_rle(np.array([bits >> i & 1 for i in range(12)]).reshape(3, 4))
)
regions = st.builds(
    Region,
    kind=st.sampled_from(("object", "text")),
    box=st.tuples(*[number] * 4),
    label=words,
    label_space=words,
    description=words,
    polygons=st.lists(polygon, max_size=2).map(tuple),
    quad=st.just(()) | st.tuples(*[number] * 8),
    mask=st.none() | mask,
    score=score,
    ignore=st.booleans(),
    source=source,
    refines=words,
    derived_from=st.lists(words, max_size=2).map(tuple),
)
texts = st.builds(
    Text, text=words, detail=st.sampled_from(("brief", "ocr", "answer")), question=words, score=score, source=source
)
groundings = st.builds(
    Grounding,
    text_id=words,
    phrase=words,
    region_ids=st.lists(words, max_size=2).map(tuple),
    score=score,
    source=source,
)


def test_a_snapshot_is_written_without_what_is_by_default():
    """So that a field added later leaves the bytes, and the hash, of every snapshot before it as they are."""
    operator = Operator("run", "x", "1", "f" * 32, 0, "specialist", ("region_text/object",))
    fragment = Fragment("annotations/a.parquet", 3, "ab" * 32, ("u",), "run")
    assert json.loads(Snapshot(2, 1, (fragment,), (operator,)).to_bytes()) == {
        "parent": 1,
        "operators": [
            {"run_id": "run", "name": "x", "version": "1", "fingerprint": "f" * 32, "round": 0,
             "produces": ["region_text/object"]},
        ],
        "fragments": [
            {"path": "annotations/a.parquet", "rows": 3, "sha256": "ab" * 32, "units": ["u"], "run_id": "run"}
        ],
        "sha256": "6ce5400b028db7e00655abcabaf59378d92adcc301b26ebf4fcb20455c956810",
    }  # fmt: skip


def short(value):
    """A float as the store gives it back: the shortest decimal of its float32."""
    return float(schema.shortest(np.array([value], dtype=np.float32))[0])


def stored(region):
    changes = {
        "box": tuple(map(short, region.box)),
        "polygons": tuple(tuple(map(short, p)) for p in region.polygons),
        "quad": region.quad if region.polygons else tuple(map(short, region.quad)),
    }
    return type(region)(**{**region.__dict__, **changes})


@settings(max_examples=60, deadline=None)
@given(st.lists(regions, max_size=3), st.lists(texts, max_size=2), st.lists(groundings, max_size=2), st.data())
def test_records_survive_the_columns(regions, texts, groundings, data):
    def numbered(items):
        return tuple(type(item)(**{**item.__dict__, "id": f"{type(item).__name__}{n}"}) for n, item in enumerate(items))

    coverage = {"a": (Coverage("exhaustive"), Coverage("negatives", ("x", "y"))), "b": (Coverage("partial", ("z",)),)}
    given_ = Sample(
        "i",
        ImageRef("i", "/a/b c.png", "m", 2, 5, 7, 40, 30, "ff", "CC0"),
        numbered(texts),
        tuple(stored(r) for r in numbered(regions)),
        numbered(groundings),
        (Decision("Region0", "rejected", "nms", "overlap", 0.5, 0.25, "Region1", 1, 2),),
        "train",
        coverage,
    )
    tables = (
        schema.table("annotations", schema.annotation_rows(given_)),
        schema.table("decisions", [schema.decision_row(d, "i", "1", "run") for d in given_.decisions]),
    )
    row = ImageRow.of(given_, unit="u", reason="", bytes=7, phash="0f", exif_orientation=6, origin="https://x/y")
    (columns,) = schema.rows(schema.table("images", [columns_of(row)]))
    assert row_of(columns) == row and sample_of(columns) == row.sample()
    (back,) = schema.samples([row_of(columns).sample()], *tables)
    assert back == given_


def test_equal_rows_give_equal_bytes_and_hold_no_time_or_path(tmp_path):
    folder = folder_of(tmp_path, 5)
    one = florence2.annotate(folder, tmp_path / "one", [Boxes()], workers=0)
    two = florence2.annotate(folder, tmp_path / "elsewhere" / "two", [Boxes()], workers=0)
    assert fragments(one) == fragments(two)
    for path in fragments(one):
        text = str(pq.read_metadata(one.root / path).metadata)
        assert str(tmp_path / "one") not in text


def test_ordinary_tools_read_it_as_it_is(tmp_path):
    store = florence2.annotate(folder_of(tmp_path, 3), tmp_path / "s", [Boxes()], workers=0)
    florence2.filter(store, [Floor(0.9)])
    for name in ("images", "annotations", "decisions"):
        rows = store.table(name).num_rows
        everything = f"{store.root}/{name}/**/*.parquet"
        assert duckdb.sql(f"select count(*) from '{everything}'").fetchall() == [(rows,)]
        assert polars.read_parquet(everything).height == rows
        assert len(pandas.concat(pandas.read_parquet(path) for path in store.paths(name))) == rows
    assert not any("=" in part.name for part in store.root.rglob("*"))
    box = duckdb.sql(f"select box[3] - box[1] from '{store.root}/annotations/**/*.parquet' where box is not null")
    assert {width for (width,) in box.fetchall()} == {20.0}


def test_a_store_whose_boxes_have_the_earlier_form_is_read_added_to_and_compacted(tmp_path, monkeypatch):
    """Lists of a fixed size: with nulls among them they need pyarrow 26."""
    folder, other = folder_of(tmp_path / "a", 5), folder_of(tmp_path / "b", 3, start=5)
    new = florence2.annotate(folder, tmp_path / "new", [Boxes()], workers=0)
    now = schema.SCHEMAS["annotations"]
    place = now.get_field_index("box")
    fixed = now.set(place, now.field(place).with_type(pa.list_(pa.float32(), 4)))
    monkeypatch.setitem(schema.SCHEMAS, "annotations", fixed)
    if int(pa.__version__.split(".")[0]) < 26:
        with pytest.raises((ValueError, NotImplementedError), match="needs pyarrow 26|null components"):
            list(florence2.annotate(folder, tmp_path / "old", [Boxes()], workers=0).samples())
        return
    old = florence2.annotate(folder, tmp_path / "old", [Boxes()], workers=0)
    monkeypatch.setitem(schema.SCHEMAS, "annotations", now)
    assert fragments(old) != fragments(new)
    assert list(old.samples()) == list(new.samples())
    for store in (old, new):
        florence2.annotate(other, store.root, [Boxes()], workers=0)
    assert list(old.samples()) == list(new.samples()) and old.verify() == []
    assert old.table("annotations").schema == new.table("annotations").schema
    old.compact()
    assert list(old.samples()) == list(new.samples())
    monkeypatch.setattr(pa, "__version__", "25.0.1")
    with pytest.raises(ValueError, match="boxes have an earlier form, which needs pyarrow 26, and this is 25.0.1"):
        old.table("annotations", 1)


def test_a_snapshot_names_what_it_holds(tmp_path):
    store = florence2.annotate(folder_of(tmp_path, 3), tmp_path / "s", [Boxes()], workers=0)
    data = json.loads((store.root / "snapshots" / "000001.json").read_text())
    assert data["parent"] is None
    for fragment in data["fragments"]:
        bytes_ = (store.root / fragment["path"]).read_bytes()
        assert hashlib.sha256(bytes_).hexdigest() == fragment["sha256"]
        assert pq.read_metadata(store.root / fragment["path"]).num_rows == fragment["rows"]


def test_time_travel_undo_and_compaction_change_no_earlier_state(tmp_path):
    folder = folder_of(tmp_path, 5)
    store = florence2.annotate(folder, tmp_path / "s", [Boxes()], workers=0, unit=2)
    florence2.filter(store, [Floor(0.6)])
    views = {n: list(store.samples(n)) for n in (1, 2)}
    assert views[1] != views[2]
    assert store.compact(rows=12).number == 3 and list(store.samples()) == views[2]
    assert len(store.snapshot().of("annotations")) < len(store.snapshot(2).of("annotations"))
    assert store.undo().number == 4 and list(store.samples()) == views[2]  # of the compaction
    store.undo()
    assert list(store.samples()) == views[1]
    with pytest.raises(ValueError, match="no snapshot 0; it has 1.."):
        store.undo(0)
    with pytest.raises(ValueError, match="nothing to undo"):
        store.undo()
    assert store.undo(to=3).number == 6 and list(store.samples()) == views[2]
    for n, view in views.items():
        assert list(store.samples(n)) == view
    assert store.verify() == []
    before = fragments(store)
    florence2.annotate(folder, store.root, [Boxes()], workers=0, unit=2)  # finds its work in the compacted files
    florence2.filter(store, [Floor(0.6)])
    assert fragments(store) == before and store.snapshots()[-1] == 6
    florence2.annotate(store.root, with_=[Boxes("late", requires={"box"})], workers=0)
    for sample in store.samples():  # it reads what stands in the compacted files
        seen = sum(region.source.name == "boxes" for region in sample.regions)
        assert [t.text for t in sample.texts if t.source.name == "late"] == [f"a thing seen {seen} times"]


def test_samples_by_position_and_limit(tmp_path):
    store = florence2.annotate(folder_of(tmp_path, 7), tmp_path / "s", [Boxes()], workers=0, unit=2)
    samples = list(store.samples())
    random = store.random()
    random.keep = 1
    assert len(random) == 7 and [random[i] for i in (6, 0, 3)] == [samples[i] for i in (6, 0, 3)]
    assert random[2:4] == samples[2:4] and random.group_sizes == [2, 2, 2, 1]
    assert random[-1] == samples[-1]
    with pytest.raises(IndexError, match="no sample 7; it has 7"):
        random[7]
    assert list(store.samples(limit=3)) == samples[:3]


def test_another_compaction_of_a_snapshot_leaves_the_files_of_the_first(tmp_path):
    store = florence2.annotate(folder_of(tmp_path, 6), tmp_path / "s", [Boxes()], workers=0, unit=2)
    first = store.compact(rows=6)
    florence2.filter(store, [Floor(0.5)])
    before = {path: path.read_bytes() for path in (store.root / "compact").rglob("*.parquet")}
    second = store.compact(1, rows=100)
    assert len(second.of("annotations")) < len(first.of("annotations"))
    assert {path: path.read_bytes() for path in before} == before and store.verify() == []
    assert list(store.samples(first.number)) == list(store.samples(second.number))
    assert store.compact(1, rows=6).fragments == first.fragments  # the same once more is what is there


def test_compaction_made_again_writes_what_is_lost_and_nothing_else(tmp_path):
    store = florence2.annotate(folder_of(tmp_path, 6), tmp_path / "s", [Boxes()], workers=0, unit=2)
    made = store.compact(rows=6)
    lost, other = (store.root / fragment.path for fragment in made.of("annotations")[:2])
    good, times = lost.read_bytes(), other.stat().st_ino
    lost.write_bytes(good[:-5])
    store.compact_again(made, made.of("annotations")[:1])
    assert lost.read_bytes() == good and other.stat().st_ino == times
    odd = dataclasses.replace(made.of("annotations")[0], sha256="0" * 64)
    with pytest.raises(ValueError, match="otherwise by this version; compact the store again"):
        store.compact_again(made, [odd])
    assert lost.read_bytes() == good


@pytest.mark.parametrize("compacted", [False, True])
@pytest.mark.parametrize("view", ["current", "all"])
def test_a_store_gives_by_position_what_it_gives_in_order(tmp_path, monkeypatch, view, compacted):
    folder = folder_of(tmp_path, 9)
    (folder / "p0004.png").write_bytes(b"")
    (folder / "copy.png").write_bytes((folder / "p0001.png").read_bytes())
    boxes = [Boxes(), Boxes("more", label="other"), Misbehaving("fails", ["p0002.png"])]
    store = florence2.annotate(folder, tmp_path / "s", boxes, workers=0, unit=2)
    florence2.filter(store, [Floor(0.6)])
    florence2.filter(store, [Floor(0.5), NoTexts()])
    samples = list(store.samples(view=view))
    monkeypatch.setattr(compaction, "ROW_GROUP", 5)  # so that a picture's rows lie across row groups
    if compacted:
        store.compact(rows=25)
    assert list(store.samples(view=view)) == samples
    for keep, held in ((1, 1 << 20), (16, 1 << 20), (16, 1)):
        monkeypatch.setattr(random_access, "HELD_BYTES", held)
        random = random_access.RandomSamples(store.storage, store.snapshot(), view, keep)
        assert len(random) == len(samples) == 8 and len(random.groups) > 1
        for i in (3, 0, 7, 1, 7, 2, 4, 5, 6):
            assert random[i] == samples[i] and len(random._open) <= (keep if held > 1 else 1)
        assert all((index is not None) == compacted for index in random._row_indices.values())


def test_files_in_tmp_are_swept_by_age(tmp_path):
    store = Store(tmp_path / "s", create=True)
    local.make_folder(store.root, store.root / "tmp")
    (store.root / "tmp" / "half").write_bytes(b"x")
    assert store.delete_temporary() == 0 and store.delete_temporary(age_s=-1) == 1


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda store: store.snapshot(9), "no snapshot 9"),
        (lambda store: store.table("nothing"), "expected one of images"),
        (lambda store: list(store.samples(view="half")), "expected one of current, all"),
        (
            lambda store: (
                store.snapshots() and (store.root / "snapshots/000001.json").write_text("{") and store.snapshot()
            ),
            "000001.json: damaged",
        ),
    ],
)
def test_refusals_name_what_is_wrong(tmp_path, call, words):
    store = florence2.annotate(folder_of(tmp_path, 1), tmp_path / "s", [], workers=0)
    with pytest.raises(ValueError, match=words):
        call(store)


@pytest.mark.parametrize("place", ["gs://bucket", "https://host.test/store", Path("gs://b/s")])
def test_a_store_at_a_url_is_refused_by_name_and_makes_no_folder(tmp_path, monkeypatch, place):
    monkeypatch.chdir(tmp_path)
    scheme = str(place).partition(":")[0]
    wanted = "expected a folder of this machine or s3://BUCKET/PREFIX"
    with pytest.raises(ValueError, match=rf"^{scheme}:.*{wanted}, got a URL \({scheme}\)"):
        open_storage(place)
    with pytest.raises(ValueError, match="got a URL"):
        Store(place, create=True)
    assert not is_store(place) and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("place", ["C:/stores/s", "a:b", "plain"])
def test_a_path_with_a_colon_is_no_url(place):
    assert open_storage(place).location().endswith(place.rpartition("/")[2])
