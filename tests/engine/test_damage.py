"""Damage to a store is noticed by whoever reads it, and named. Any damage to any file: tests/fuzz/stores.py."""

import json
import random
import shutil

import pytest

import florence2
from florence2.engine.planning.repair import repair
from florence2.store import parquet, sealed
from tests.engine.doubles import folder_of
from tests.engine.test_repair import WITHOUT_PARSER, own_names


def flip(path, bit):
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)


@pytest.fixture
def store(tmp_path):
    """Three snapshots, the first compacted in the third."""
    made = florence2.annotate(folder_of(tmp_path, 5), tmp_path / "s", own_names(tmp_path), unit=2, workers=0)
    florence2.filter(made, WITHOUT_PARSER)
    made.compact(rows=6)
    return made


def test_no_flipped_bit_of_a_snapshot_or_record_is_accepted(store):
    draw = random.Random(0)
    run = store.snapshot().operators[0].run_id
    for path, read in (
        ("snapshots/000003.json", store.snapshot),
        ("snapshots/000001.json", lambda: store.snapshot(1)),
        (f"runs/{run}.json", lambda: store.run(run)),
        (f"runs/{run}/000001.json", lambda: store.run(run)),
    ):
        good = (store.root / path).read_bytes()
        for _ in range(120):
            flip(store.root / path, draw.randrange(8 * len(good)))
            with pytest.raises(ValueError, match="damaged"):
                read()
            (store.root / path).write_bytes(good)
        assert read()


def test_a_record_that_was_sealed_again_is_named_by_the_chain(store):
    run = store.snapshot().operators[0].run_id
    for path in (f"runs/{run}.json", f"runs/{run}/000001.json"):
        good = (store.root / path).read_bytes()
        (store.root / path).write_bytes(sealed.seal({**json.loads(good), "note": "another"}))
        assert [(damage.path, damage.cause) for damage in store.verify()] == [(path, "changed")]
        (store.root / path).write_bytes(good)
    assert store.verify() == []


def test_a_sealed_file_under_the_name_of_another_is_refused(store):
    one, other = (o.run_id for o in store.snapshot().operators[:2])
    for path, by, read in (
        ("snapshots/000003.json", "snapshots/000001.json", store.snapshot),
        ("snapshots/000002.json", "snapshots/000003.json", lambda: store.snapshot(2)),
        (f"runs/{one}.json", f"runs/{other}.json", lambda: store.run(one)),
        (f"runs/{one}/000001.json", f"runs/{other}/000001.json", lambda: store.run(one)),
    ):
        good = (store.root / path).read_bytes()
        shutil.copy(store.root / by, store.root / path)
        with pytest.raises(ValueError, match="damaged"):
            read()
        assert path in [damage.path for damage in store.verify()]
        (store.root / path).write_bytes(good)
    assert store.verify() == []


@pytest.mark.parametrize("number, by", [(1, 2), (2, 3), (3, 1), (2, 1)])
def test_a_link_in_the_place_of_another_is_named_refused_and_made_again(store, number, by):
    path = store.root / "chain" / f"{number:06d}.json"
    good = path.read_bytes()
    others = {p: p.read_bytes() for p in path.parent.iterdir()}
    path.write_bytes((store.root / "chain" / f"{by:06d}.json").read_bytes())
    assert [(d.path, d.cause) for d in store.verify()] == [(f"chain/{number:06d}.json", "changed")]
    with pytest.raises(ValueError, match=f"chain/{number:06d}.json: changed; florence2 verify .* --repair"):
        store.compact(rows=9)
    assert repair(store, store.verify(), workers=0) == [] and path.read_bytes() == good
    assert {p: p.read_bytes() for p in path.parent.iterdir()} == others


def test_no_flipped_bit_of_a_fragment_is_accepted_nor_another_s_bytes(store):
    draw = random.Random(0)
    of = {fragment.table: fragment for n in (1, 2, 3) for fragment in store.snapshot(n).fragments}
    of |= {f"compacted {fragment.table}": fragment for fragment in store.snapshot().fragments}
    assert sum(fragment.is_compacted for fragment in of.values()) >= 3 < len(of)
    for fragment in of.values():
        path = store.root / fragment.path
        good, whole = path.read_bytes(), parquet.read(store.storage, fragment)
        for _ in range(25):
            flip(path, draw.randrange(8 * len(good)))
            with pytest.raises(ValueError, match=f"{fragment.path}: damaged"):
                parquet.read(store.storage, fragment)
            with pytest.raises(ValueError, match=f"{fragment.path}: damaged"):
                store.fragment_facts(fragment)
            path.write_bytes(good)
        assert parquet.read(store.storage, fragment) == whole
    one, other = (store.root / fragment.path for fragment in store.snapshot(1).of("images")[:2])
    first = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(first)
    with pytest.raises(ValueError, match="is not what its snapshot says"):
        list(store.images(1))


@pytest.mark.parametrize("where", ["../", "annotations/../../", "compact/000001/annotations/../../../../", "{0}/"])
def test_a_stranger_s_snapshot_names_no_file_outside_its_store(store, where):
    """Its seal is right and it has no chain; repair would write the large file again, from the small ones."""
    shutil.rmtree(store.root / "chain")
    victim = store.root.parent / "victim.parquet"
    victim.write_bytes(b"precious")
    path = store.root / "snapshots" / "000003.json"
    said = sealed.unseal(path.read_bytes())
    fragment = next(f for f in said["fragments"] if "/annotations/" in f["path"])
    fragment["path"] = where.format(victim.parent) + "victim.parquet"
    path.write_bytes(sealed.seal(said))
    with pytest.raises(ValueError, match="000003.json: not a snapshot .*victim.parquet.* is no fragment"):
        store.counts()
    repair(store, store.verify(), workers=0)
    assert victim.read_bytes() == b"precious"
    for call in (store.storage.read, store.storage.discard, store.storage.sha256, store.storage.source):
        with pytest.raises(ValueError, match="expected a path inside the store"):
            call("annotations/../../victim.parquet")


@pytest.mark.parametrize(
    ("where", "key", "value"),
    [
        ("runs/{run}.json", "starts", 7),
        ("runs/{run}.json", "starts", [7]),
        ("runs/{run}.json", "reads", "all"),
        ("runs/{run}.json", "reads", [[]]),
        ("runs/{run}/000001.json", "start", [1]),
        ("snapshots/000003.json", "phase", [1]),
        ("snapshots/000003.json", "compacts", "2"),
        ("snapshots/000003.json", "compacts", 3),
        ("snapshots/000003.json", "compacts", -1),
    ],
)
def test_a_stranger_s_sealed_record_of_another_shape_is_named_and_refused(store, where, key, value):
    """Its seal is right and it has no chain, so that only the shape of what it holds can tell."""
    run = store.snapshot().operators[0].run_id
    shutil.rmtree(store.root / "chain")
    path = store.root / where.format(run=run)
    path.write_bytes(sealed.seal({**sealed.unseal(path.read_bytes()), key: value}))
    with pytest.raises(sealed.Damaged, match=f"{path.name}: (damaged|not a snapshot) .*florence2 (verify|undo)"):
        store.run(run) if "runs" in where else store.snapshot()


@pytest.mark.parametrize(
    "said",
    [
        {"parent": "x", "phase": {"undo": 1}},
        {"parent": "a\n" * 10_000},
        {"parent": 1, "phase": 7},
        {"parent": 0, "phase": {"phase": "annotate"}},  # only an undo leaves others out
    ],
)
def test_a_sealed_snapshot_that_follows_no_other_is_refused_in_a_line(store, said):
    shutil.rmtree(store.root / "chain")
    (store.root / "snapshots" / "000002.json").unlink()
    path = store.root / "snapshots" / "000003.json"
    path.write_bytes(sealed.seal({**sealed.unseal(path.read_bytes()), **said}))
    with pytest.raises(sealed.Damaged, match="000003.json: damaged .it follows .*florence2 undo") as refusal:
        store.snapshot()
    assert len(str(refusal.value)) < 1000 and "\n" not in str(refusal.value)
    assert {d.path for d in store.verify()} == {"snapshots/000002.json", "snapshots/000003.json"}


def test_numbers_that_only_a_stranger_writes_are_not_counted_up_to(store):
    """One would have thousands of millions looked for; a store has some thousands of each at most."""
    run = store.snapshot().operators[0].run_id
    for folder in ("snapshots", "chain", f"runs/{run}"):
        shutil.copy(store.root / folder / "000001.json", store.root / folder / "9999999999.json")
    assert len(store.verify()) < 4000
    (store.root / "chain" / "9999999999.json").unlink()
    link = store.root / "chain" / "000003.json"
    good = sealed.unseal(link.read_bytes())
    for key, value in (("snapshot", 10**10), ("files", [1]), ("previous", {}), ("snapshot", "7")):
        link.write_bytes(sealed.seal({**good, key: value}))
        assert "chain/000003.json" in {d.path for d in store.verify()}
        for command in (store.counts, store.undo):
            with pytest.raises(ValueError, match="000003.json.* florence2 verify"):
                command()
    for folder in ("snapshots", f"runs/{run}"):
        (store.root / folder / "9999999999.json").unlink()
    link.write_bytes(sealed.seal({**good, "snapshot": 10**6 - 2}))
    assert store.undo().number == 10**6 - 1 and store.counts()


@pytest.mark.parametrize("of", ["fragments", "operators"])
def test_a_sealed_snapshot_that_names_one_twice_is_refused(store, of):
    shutil.rmtree(store.root / "chain")
    path = store.root / "snapshots" / "000003.json"
    said = sealed.unseal(path.read_bytes())
    path.write_bytes(sealed.seal({**said, of: [*said[of], said[of][1]]}))
    with pytest.raises(sealed.Damaged, match="000003.json: not a snapshot .it names .* twice.*florence2 undo"):
        store.snapshot()


def test_compacted_files_whose_small_ones_nobody_knows_are_named_and_the_rest_is_mended(store):
    flip(store.root / store.paths("annotations")[0], 200)
    flip(store.root / "snapshots" / "000002.json", 200)
    said = []
    left = repair(store, store.verify(), workers=0, on_message=said.append)
    assert {d.path.split("/")[0] for d in left} == {"snapshots", "compact"}
    assert any("undo" in line for line in said)
