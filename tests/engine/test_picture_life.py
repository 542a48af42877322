"""A picture's life in a store: moved, renamed, replaced, gone, back. Then the store is what a fresh run would give."""

import os
import shutil
import tarfile

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

import florence2
from florence2.cli import main
from florence2.engine.commands import import_labels, relocate
from florence2.engine.ingest import picture_life
from florence2.engine.planning.repair import repair
from florence2.sources import files
from florence2.store import Store
from tests.engine.doubles import Boxes, folder_of, picture


def annotate(source, store, *specialists, **more):
    return florence2.annotate(source, store, [Boxes(), *specialists], workers=0, unit=3, **more)


def view(store):
    """What stands of each good picture: by its id, where it is, and every annotation's id and words."""
    return {
        sample.image.id: (
            files.path_of(sample.image.uri),
            sorted((r.id, r.label, r.box) for r in sample.regions),
            sorted((t.id, t.text) for t in sample.texts),
            sorted(g.id for g in sample.groundings),
        )
        for sample in store.samples()
    }


def check(store):
    """The ids of `images` are unique, in the snapshot and over all that was written; nothing is damaged."""
    ids = [row.id for row in store.images()]
    assert len(ids) == len(set(ids))
    import pyarrow.parquet as pq

    written = [i for path in (store.root / "images").rglob("*.parquet") for i in pq.read_table(path)["id"].to_pylist()]
    assert len(written) == len(set(written))
    assert store.verify() == []
    decided = [(d["ann_id"], d["round"], d["seq"]) for d in store.table("decisions").to_pylist()]
    assert len(decided) == len(set(decided))
    made = store.table("annotations")["ann_id"].to_pylist()
    assert len(made) == len(set(made))


def rows(store):
    return {os.path.basename(r.image.uri): (r.status, r.reason or None) for r in store.images()}


def test_a_store_that_moved_with_its_pictures(tmp_path):
    folder_of(tmp_path / "before", 3)
    annotate(tmp_path / "before/pictures", tmp_path / "before/store")
    os.rename(tmp_path / "before", tmp_path / "after")
    messages = []
    store = annotate(tmp_path / "after/pictures", tmp_path / "after/store", on_message=messages.append)
    assert "3 pictures found again, such as" in messages[0]
    assert view(store) == view(annotate(tmp_path / "after/pictures", tmp_path / "fresh"))
    assert main(["export", str(store.root), "--to", "coco", "--out", str(tmp_path / "out")]) == 0
    assert len(list((tmp_path / "out/images").iterdir())) == 3
    check(store)
    before = store.snapshot()
    assert annotate(tmp_path / "after/pictures", store.root).snapshot() == before


def test_a_store_that_moved_and_a_new_picture(tmp_path):
    folder_of(tmp_path / "before", 3)
    annotate(tmp_path / "before/pictures", tmp_path / "before/store")
    os.rename(tmp_path / "before", tmp_path / "after")
    picture(tmp_path / "after/pictures", "new.png", 9)
    store = annotate(tmp_path / "after/pictures", tmp_path / "after/store")
    assert set(rows(store).values()) == {("ok", None)} and len(rows(store)) == 4
    assert view(store) == view(annotate(tmp_path / "after/pictures", tmp_path / "fresh"))
    check(store)


def test_a_store_that_moved_after_an_import(tmp_path):
    folder = folder_of(tmp_path / "before", 2)
    lines = [
        f'{{"id": "{n}", "image": "pictures/p{n:04}.png", "regions": [{{"box": [1, 2, 9, 9], "label": "x"}}]}}'
        for n in range(2)
    ]
    (folder.parent / "set.jsonl").write_text("\n".join(lines))
    import_labels(folder.parent / "set.jsonl", tmp_path / "before/store", workers=0)
    os.rename(tmp_path / "before", tmp_path / "after")
    store = import_labels(tmp_path / "after/set.jsonl", tmp_path / "after/store", workers=0)
    found = list(store.samples())
    assert [len(s.regions) for s in found] == [1, 1] and all(os.path.exists(s.image.uri) for s in found)
    check(store)


def test_a_picture_whose_bytes_changed(tmp_path):
    folder = folder_of(tmp_path, 4)
    store = annotate(folder, tmp_path / "store")
    before = view(store)
    os.remove(folder / "p0002.png")
    shutil.copy(picture(tmp_path, "other.png", 77), folder / "p0002.png")
    for source in (folder, store.root, folder):
        store = annotate(source, None if source == store.root else store.root)
        assert view(store) == view(annotate(folder, tmp_path / "fresh"))
        check(store)
        shutil.rmtree(tmp_path / "fresh")
    gone = [r for r in store.images() if r.status == "missing"]
    assert [r.reason for r in gone] == ["picture_changed"]
    history = [
        store.history(a["ann_id"]) for a in store.table("annotations").to_pylist() if a["image_id"] == gone[0].id
    ]
    assert {d["reason"] for h in history for d in h["decisions"]} == {"picture_changed"} and history
    picture(folder, "p0002.png", 2)  # as it was
    store = annotate(folder, store.root)
    assert view(store) == before
    check(store)


def test_a_store_alone_notices_what_changed_and_what_is_gone(tmp_path):
    folder = folder_of(tmp_path, 4)
    store = annotate(folder, tmp_path / "store")
    picture(folder, "p0001.png", 55)
    os.remove(folder / "p0003.png")
    messages = []
    store = florence2.annotate(store.root, with_=[Boxes()], workers=0, on_message=messages.append)
    assert any("1 pictures changed under their names" in m for m in messages)
    assert any("1 pictures gone" in m for m in messages)
    assert view(store) == view(annotate(folder, tmp_path / "fresh"))
    check(store)


def test_a_picture_that_is_gone_is_missing_until_it_is_back(tmp_path):
    folder = folder_of(tmp_path, 4)
    store = annotate(folder, tmp_path / "store")
    before = view(store)
    os.rename(folder / "p0001.png", tmp_path / "aside.png")
    store = annotate(folder, store.root)
    assert rows(store)["p0001.png"] == ("missing", "missing") and len(view(store)) == 3
    assert store.counts()["images"]["missing"] == 1
    store = annotate(folder, store.root, Boxes("later"))  # while it is away
    os.rename(tmp_path / "aside.png", folder / "p0001.png")
    store = annotate(folder, store.root, Boxes("later"))
    assert view(store) == view(annotate(folder, tmp_path / "fresh", Boxes("later")))
    assert set(before) == set(view(store))
    check(store)


def test_relocate(tmp_path, capsys):
    folder = folder_of(tmp_path / "a", 3)
    store = annotate(folder, tmp_path / "store")
    os.rename(tmp_path / "a", tmp_path / "b")
    assert main(["relocate", str(store.root), str(tmp_path / "a"), str(tmp_path / "b")]) == 0
    assert "3" in capsys.readouterr().out
    assert all(os.path.exists(s.image.uri) for s in store.samples())
    before = store.snapshot()
    assert annotate(tmp_path / "b/pictures", store.root).snapshot() == before
    assert main(["relocate", str(store.root), str(tmp_path / "nowhere"), str(tmp_path / "b")]) == 1
    assert "none of its pictures lies below" in capsys.readouterr().err
    check(store)
    assert main(["relocate", str(store.root), str(tmp_path / "b"), str(tmp_path / "c")]) == 0
    assert "3 of these 3 pictures are not there, such as" in capsys.readouterr().err
    assert main(["export", str(store.root), "--to", "coco", "--out", str(tmp_path / "out")]) == 1
    said = capsys.readouterr().err
    assert "none of its 3 pictures is there, such as" in said and "florence2 relocate" in said
    assert not (tmp_path / "out").exists()
    assert relocate(store, tmp_path / "c", tmp_path / "b") == 3


def test_an_export_says_which_pictures_the_store_has_no_more(tmp_path, capsys):
    folder = folder_of(tmp_path / "a", 3)
    store = annotate(folder, tmp_path / "store")
    first, *others = sorted(folder.iterdir())
    first.unlink()
    annotate(store.root, None)
    assert main(["export", str(store.root), "--to", "coco", "--out", str(tmp_path / "out")]) == 0
    assert "no good picture of them: 1 missing" in capsys.readouterr().err
    for path in others:
        path.unlink()
    annotate(store.root, None)
    assert main(["export", str(store.root), "--to", "coco", "--out", str(tmp_path / "none")]) == 1
    assert "holds no picture to export: 3 missing" in capsys.readouterr().err


def test_files_of_several_pictures_are_told(tmp_path):
    pages = [Image.open(picture(tmp_path / "photos", f"{n}.png", n)) for n in range(3)]
    pages[0].save(tmp_path / "photos/scan.tiff", save_all=True, append_images=pages[1:])
    said = []
    annotate(tmp_path / "photos", tmp_path / "store", on_message=said.append)
    assert any("1 files hold several pictures" in line and "scan.tiff" in line for line in said)


def test_pictures_of_a_tar_that_was_packed_anew(tmp_path):
    folder = folder_of(tmp_path, 4)

    def pack(names):
        with tarfile.open(tmp_path / "x.tar", "w") as tar:
            for name in names:
                tar.add(folder / name, name)

    pack(["p0000.png", "p0001.png", "p0002.png"])
    store = annotate(tmp_path / "x.tar", tmp_path / "store")
    pack(["p0003.png", "p0002.png", "p0000.png"])
    store = annotate(tmp_path / "x.tar", store.root)
    fresh = annotate(tmp_path / "x.tar", tmp_path / "fresh")
    assert view(store) == view(fresh) and len(view(store)) == 3
    assert {s.image.id: s.image.offset for s in store.samples()} == {
        s.image.id: s.image.offset for s in fresh.samples()
    }
    check(store)


def test_times_spare_the_reading(tmp_path, monkeypatch):
    folder = folder_of(tmp_path, 3)
    for path in folder.iterdir():
        os.utime(path, (1e9, 1e9))
    from florence2.engine.ingest import picture_times

    monkeypatch.setattr(picture_times, "SETTLED_NS", -(10**12))
    store = annotate(folder, tmp_path / "store")
    read = []
    real = picture_life._hash
    monkeypatch.setattr(picture_life, "_hash", lambda candidate: read.append(candidate.relative) or real(candidate))
    annotate(folder, store.root)
    assert not read
    os.utime(folder / "p0001.png", (1e9 + 5, 1e9 + 5))  # touched: its hash decides
    annotate(folder, store.root)
    assert read == ["p0001.png"] and len(view(store)) == 3
    (store.root / "times.json").write_text("no JSON")
    annotate(folder, store.root)
    assert len(read) == 4


def test_a_revised_fragment_is_made_again(tmp_path):
    folder = folder_of(tmp_path, 4)
    store = annotate(folder, tmp_path / "store")
    picture(folder, "p0001.png", 55)
    os.remove(folder / "p0003.png")
    store = annotate(folder, store.root)
    for path in [*store.root.glob("compact/*/images/*.parquet"), *store.root.glob("decisions/**/*.parquet")]:
        whole = path.read_bytes()
        path.write_bytes(whole[:-9])
        assert repair(store, store.verify(), [Boxes()], workers=0) == []
        assert path.read_bytes() == whole
        if "compact" in path.parts:
            path.write_bytes(whole[:-9])
            annotate(folder, store.root)
            assert path.read_bytes() == whole


STEP = st.tuples(
    st.sampled_from(["add", "remove", "rename", "replace", "run", "swap", "move"]), st.integers(0, 5), st.integers(0, 5)
)


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(STEP, min_size=2, max_size=9))
def test_any_life_gives_what_a_fresh_run_gives(tmp_path_factory, steps):
    """Bytes of a small set, so that pictures are often the same."""
    root = tmp_path_factory.mktemp("life")
    folder = folder_of(root, 4)
    annotate(folder, root / "store")
    for step, a, b in steps:
        one, other = folder / f"p{a:04}.png", folder / f"p{b:04}.png"
        if step in ("add", "replace"):
            picture(folder, one.name, 40 + b)
        elif step == "remove" and one.exists() and len(list(folder.iterdir())) > 1:
            os.remove(one)
        elif step == "rename" and one.exists():
            os.replace(one, other)
        elif step == "swap" and one.exists() and other.exists() and a != b:
            os.rename(one, root / "aside"), os.rename(other, one), os.rename(root / "aside", other)
        elif step == "move":
            moved = root / f"elsewhere{len(list(root.iterdir()))}"
            os.rename(folder, moved)
            folder = moved
        elif step == "run":
            annotate(folder, root / "store")
    store = annotate(folder, root / "store")
    fresh = annotate(folder, root / "fresh")
    assert view(store) == view(fresh)
    check(store)
    assert annotate(folder, root / "store").snapshot() == store.snapshot()
    assert Store(root / "store").compact().number
    assert view(annotate(folder, root / "store")) == view(fresh)
    shutil.rmtree(root)
