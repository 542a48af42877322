"""A store and its pictures in an object store: every command, and the same as on the local disk."""

import pytest

import florence2
from florence2.cli import main
from florence2.engine.planning.repair import repair
from florence2.object_store import Objects
from florence2.store import Store
from tests.engine.doubles import Boxes, Floor, folder_of, fragments


@pytest.fixture
def pictures(bucket, tmp_path):
    """Six pictures in a folder and in the bucket, with what is no picture beside them."""
    folder = folder_of(tmp_path, 6)
    objects = Objects(f"{bucket}/pictures")
    for path in folder.iterdir():
        objects.put(path.name, path.read_bytes())
    return folder, objects


def view(store):
    """What a store shows, wherever its pictures lie."""
    return [
        (s.image.uri.rsplit("/", 1)[-1], s.image.sha256, [(r.box, r.label, r.score) for r in s.regions])
        for s in store.samples()
    ]


def test_the_same_pictures_give_the_same_store_on_a_disk_and_in_an_object_store(bucket, pictures, tmp_path):
    folder, _ = pictures
    local = florence2.annotate(folder, tmp_path / "s", [Boxes()], workers=0, unit=2)
    remote = florence2.annotate(folder, f"{bucket}/s", [Boxes()], workers=2, unit=2)
    assert fragments(remote) == fragments(local)
    assert remote.snapshot().to_bytes() == local.snapshot().to_bytes() and str(remote.root) == f"{bucket}/s"
    for store in (local, remote):
        florence2.filter(store, [Floor(0.5)], workers=0)
        store.compact()
    assert fragments(remote) == fragments(local) and list(remote.random()) == list(local.random())


def test_pictures_in_an_object_store_are_listed_read_and_followed(bucket, pictures):
    folder, objects = pictures
    objects.put("notes.txt", b"words")
    objects.put(".trash/p9.png", b"x")
    objects.put("deep/no-suffix", (folder / "p0003.png").read_bytes()[:-1] + b"\0")
    objects.put("a.tar", b"x")
    lines = []
    out = f"{bucket}/pictures/store"  # a store among the pictures is none of them
    annotate = lambda: florence2.annotate(objects.url, out, [Boxes()], workers=0, unit=4, on_message=lines.append)  # noqa: E731
    store = annotate()
    assert [name for name, _, _ in view(store)] == ["no-suffix", *(f"p000{n}.png" for n in range(6))]
    assert "notes.txt" in lines[0] and "a.tar (packed, in an object store" in lines[0] and ".trash/" in lines[1]
    assert annotate().snapshots() == [1]
    objects.put("p0001.png", (folder / "p0002.png").read_bytes())
    objects.delete(["p0004.png"])
    statuses = annotate().image_statuses()
    assert statuses["missing"] == 2 and statuses["ok"] == 5 and statuses["rejected"] == 1  # now a copy of p0002
    with pytest.raises(ValueError, match="no pictures found"):
        florence2.annotate(f"{bucket}/nothing", f"{bucket}/other", [Boxes()], workers=0)
    with pytest.raises(ValueError, match="is one object; name the prefix"):
        florence2.annotate(f"{objects.url}/p0000.png", f"{bucket}/other", [Boxes()], workers=0)


def test_every_command_takes_a_store_in_an_object_store(bucket, pictures, tmp_path, capsys):
    _, objects = pictures
    place = f"{bucket}/s"
    store = florence2.annotate(objects.url, place, [Boxes()], workers=0, unit=2)
    before = view(store)
    assert main(["filter", place, "--workers", "0"]) == 0
    assert main(["undo", place]) == 0 and view(store) == before
    assert main(["report", place, "--out", str(tmp_path / "r.html")]) == 0
    assert place in (tmp_path / "r.html").read_text()
    assert main(["export", place, "--to", "coco", "--out", str(tmp_path / "coco")]) == 0
    assert len(list((tmp_path / "coco").rglob("*.png"))) == 6
    assert main(["review", place, "--out", str(tmp_path / "tasks.json"), "--limit", "2"]) == 0
    assert objects.url in (tmp_path / "tasks.json").read_text()
    assert main(["import", str(tmp_path / "coco"), "--out", f"{bucket}/again"]) == 0
    assert Store(f"{bucket}/again").counts()["annotations"]["kept"] == 6 + 6
    assert main(["data", "stats", place]) == 0
    capsys.readouterr()
    good = fragments(store)
    lost, cut = (store.snapshot().of("images")[0].path, store.snapshot().of("annotations")[0].path)
    store.storage.objects.delete([lost])
    store.storage.replace(cut, store.storage.read(cut)[:-9])
    assert main(["verify", place, "--json"]) == 1
    damaged = capsys.readouterr().out
    assert lost in damaged and cut in damaged and '"whole"' not in damaged
    assert repair(store, store.verify(), [Boxes()], workers=0) == [] and fragments(store) == good
