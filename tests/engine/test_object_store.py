"""A store and its pictures in an object store: every command, and the same as on the local disk."""

import tarfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import florence2
from florence2.cli import main
from florence2.engine.ingest.discovery import discover
from florence2.engine.planning.repair import repair
from florence2.object_store import Objects, root_of
from florence2.pixels import BadImage
from florence2.sources.files import read_bytes
from florence2.store import Store
from tests.engine.doubles import Boxes, Floor, folder_of, fragments, picture

FACTS = ("member", "offset", "length", "sha256", "licence")


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
    objects.put("two//parts.png", (folder / "p0005.png").read_bytes() + b"\0")
    objects.put("a.arrow", b"x")
    objects.put("a.zip", b"x")
    lines = []
    out = f"{bucket}/pictures/store"  # a store among the pictures is none of them
    annotate = lambda: florence2.annotate(objects.url, out, [Boxes()], workers=0, unit=4, on_message=lines.append)  # noqa: E731
    store = annotate()
    assert [name for name, _, _ in view(store)] == ["no-suffix", *(f"p000{n}.png" for n in range(6)), "parts.png"]
    for words in "notes.txt", "a.arrow (an Arrow file", "a.zip (packed":
        assert words in lines[0]
    assert ".trash/" in lines[1]
    assert annotate().snapshots() == [1]
    objects.put("p0001.png", (folder / "p0002.png").read_bytes())
    objects.delete(["p0004.png"])
    statuses = annotate().image_statuses()
    assert statuses["missing"] == 2 and statuses["ok"] == 6 and statuses["rejected"] == 1  # now a copy of p0002
    with pytest.raises(ValueError, match="no pictures found"):
        florence2.annotate(f"{bucket}/nothing", f"{bucket}/other", [Boxes()], workers=0)
    with pytest.raises(ValueError, match="is one object; name a .tar"):
        florence2.annotate(f"{objects.url}/p0000.png", f"{bucket}/other", [Boxes()], workers=0)


def test_pictures_in_tars_and_tables_are_read_in_ranges_where_they_lie(bucket, pictures, tmp_path, monkeypatch):
    folder, objects = pictures
    packed, names = tmp_path / "packed", sorted(path.name for path in folder.iterdir())
    packed.mkdir()
    with tarfile.open(packed / "train-000.tar", "w") as tar:
        for name in names[:3]:
            tar.add(folder / name, name)
            (packed / "side.json").write_text('{"licence": "CC0"}')
            tar.add(packed / "side.json", name.replace("png", "json"))
    (packed / "side.json").unlink()
    (packed / "torn.tar").write_bytes((packed / "train-000.tar").read_bytes()[:4000])
    (packed / "bad.parquet").write_bytes(b"PAR1 and no more")
    celled = [folder / name for name in names[3:]] + [picture(tmp_path / "more", f"q{n}.png", 50 + n) for n in range(9)]
    cells = [{"bytes": path.read_bytes(), "path": path.name} for path in celled]  # the tenth row is not the second
    pq.write_table(pa.table({"image": cells}), packed / "test.parquet", row_group_size=5)
    (packed / "._train-000.tar").write_bytes(b"\0\5\26\7 of a Mac")
    place = Objects(f"{bucket}/packed")
    for path in packed.iterdir():
        place.put(path.name, path.read_bytes())
    whole = []
    monkeypatch.setattr(Objects, "get", lambda self, path="", start=0, length=-1, most=-1, get=Objects.get: (
        whole.append(self.location(path)) if length < 0 else None) or get(self, path, start, length, most))  # fmt: skip
    local = florence2.annotate(packed, tmp_path / "s", [Boxes()], workers=0, unit=2)
    remote = florence2.annotate(place.url, tmp_path / "s3", [Boxes()], workers=0, unit=2)

    def rows(store, root):
        return [
            (
                row.image.uri.removeprefix(root),
                *(getattr(row.image, name) for name in FACTS),
                row.split,
                row.status,
                row.reason,
            )
            for row in store.images()
        ]

    assert rows(remote, place.url) == rows(local, str(packed)) and view(remote) == view(local) and not whole
    assert remote.counts()["images"]["ok"] == 15 and remote.reasons()["images"]["torn_archive"] == 2
    assert florence2.annotate(place.url, tmp_path / "s3", [Boxes()], workers=0).snapshots() == [1]
    for name, count in ("train-000.tar", 3), ("test.parquet", 12):
        alone = florence2.annotate(f"{place.url}/{name}", tmp_path / name, [Boxes()], workers=0)
        assert alone.counts()["images"]["ok"] == count
    with pytest.raises(ValueError, match="bad.parquet: not a whole table .* move it away"):
        discover(root_of(f"{place.url}/bad.parquet"))
    place.put("test.parquet", (packed / "bad.parquet").read_bytes())
    place.delete(["train-000.tar"])
    held = {row.image.uri.rpartition("/")[2]: row.image for row in remote.images()}
    with pytest.raises(BadImage, match="not a whole table"):
        read_bytes(held["test.parquet"])
    with pytest.raises(BadImage, match="does not exist"):
        read_bytes(held["train-000.tar"])


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
