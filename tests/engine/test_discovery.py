"""What a newcomer's folder may hold: every file is a picture, a failed row with its reason, or named as skipped."""

import io
import json
import os
import struct
import tarfile
import zlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import florence2
from florence2 import pixels, sources
from florence2.cli import main
from florence2.engine.commands import import_labels
from florence2.engine.export import export_labels
from florence2.engine.ingest.discovery import discover
from florence2.engine.ingest.inspection import ImageRules
from florence2.records import ImageRef
from florence2.sources import files, tables
from florence2.store import Store
from tests.engine.doubles import Boxes, folder_of, fragments, picture

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
HF = {b"huggingface": json.dumps({"info": {"features": {"image": {"_type": "Image"}, "sound": {"_type": "Audio"}}}})}


def png(seed, size=(40, 30)):
    rng = np.random.default_rng(seed)
    return pixels.encode(rng.integers(0, 255, (size[1], size[0], 3), dtype=np.uint8))


def table(cells, **columns):
    """A table as `datasets` writes it."""
    made = pa.table({"image": pa.array(cells, IMAGE), "label": list(range(len(cells))), **columns})
    return made.replace_schema_metadata(HF)


def cells(*seeds):
    return [{"bytes": png(seed), "path": f"p{seed}.png"} for seed in seeds]


def tar_of(path, members):
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def told(store):
    """name -> (status, reason) of every row."""
    out = {}
    for row in store.images():
        name = os.path.basename(row.image.uri) + (f"!{row.image.member}" if row.image.member else "")
        out[name] = (row.status, row.reason or None)
    return out


def claims(width, height):
    """A PNG whose header promises a size that its few bytes do not hold."""
    ihdr = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + ihdr + struct.pack(">I", zlib.crc32(ihdr)) + b"\0\0\1\0IDAT"


def test_a_newcomers_folder(tmp_path):
    folder = folder_of(tmp_path, 2)
    (folder / "deep/er").mkdir(parents=True)
    (folder / "deep/er/nested.png").write_bytes(png(7))
    (folder / "again.png").write_bytes(png(7))
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "corrupt.png").write_bytes(png(8)[:60] + b"\0" * 4000)
    (folder / "half.png").write_bytes(png(9)[:1500])
    (folder / "bomb.png").write_bytes(claims(30_000, 30_000))
    (folder / "text.png").write_text("I am no picture")
    (folder / "nosuffix").write_bytes(png(10))
    (folder / "notes.txt").write_text("notes")
    os.mkfifo(folder / "pipe.jpg")
    os.symlink(folder, folder / "deep/loop")
    os.symlink(folder / "nowhere.png", folder / "broken.png")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/linked.png").write_bytes(png(11))
    os.symlink(tmp_path / "elsewhere", folder / "zlink")
    os.symlink(tmp_path / "elsewhere", folder / "zlink2")
    said = []
    store = florence2.annotate(folder, tmp_path / "s", [Boxes()], workers=1, unit=4, on_message=said.append)
    assert told(store) == {
        "again.png": ("ok", None),
        "bomb.png": ("failed", "too_large"),
        "broken.png": ("failed", "missing"),
        "corrupt.png": ("failed", "corrupt"),
        "empty.jpg": ("failed", "empty"),
        "half.png": ("failed", "truncated"),
        "linked.png": ("ok", None),  # through a link, and once
        "nested.png": ("rejected", "duplicate"),
        "nosuffix": ("ok", None),
        "p0000.png": ("ok", None),
        "p0001.png": ("ok", None),
        "text.png": ("failed", "not_an_image"),
    }
    assert said == ["skipped 2 files that hold no pictures: notes.txt, pipe.jpg"]
    assert store.counts()["annotations"]["kept"] == 3 * 5 and store.counts()["failures"] == 6
    assert not {f.relative for f in discover(folder)[0]} & {"deep/loop/p0000.png"}


def test_a_folder_that_cannot_be_listed_is_a_failed_row(tmp_path, monkeypatch):
    folder = folder_of(tmp_path, 2)
    (folder / "shut").mkdir()
    real = os.scandir

    def scandir(path):
        if os.fspath(path).endswith("shut"):
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    store = florence2.annotate(folder, tmp_path / "s", [], workers=0)
    assert told(store)["shut"] == ("failed", "unreadable") and store.counts()["images"]["ok"] == 2
    (detail,) = store.table("failures")["detail"].to_pylist()
    assert "cannot be listed (Permission denied)" in detail


def test_a_picture_that_may_not_be_read_is_a_failed_row(tmp_path, monkeypatch):
    folder = folder_of(tmp_path, 3)
    real = open

    def shut(path, *args, **more):
        if str(path).endswith("p0001.png"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, *args, **more)

    monkeypatch.setattr("builtins.open", shut)
    store = florence2.annotate(folder, tmp_path / "s", [Boxes()], workers=0)
    assert told(store)["p0001.png"] == ("failed", "unreadable") and store.counts()["images"]["ok"] == 2


def test_torn_archives_lose_only_what_is_torn(tmp_path):
    folder = tmp_path / "shards"
    folder.mkdir()
    whole = tar_of(folder / "a-train-0.tar", [(f"{n}.png", png(n)) for n in range(3)])
    data = tar_of(folder / "b.tar", [(f"{n}.png", png(n)) for n in range(3, 6)]).read_bytes()
    (folder / "b.tar").write_bytes(data[: data.rindex(b"5.png") + 512 + 900])  # in the middle of the last picture
    (folder / "c.tar").write_bytes(b"no tar at all" * 100)
    (folder / "d.tar.gz").write_bytes(b"x")
    tar_of(folder / "e.tar", [("same.png", png(20)), ("same.png", png(20)), ("x.json", b"{"), ("pipe", b"")])
    said = []
    store = florence2.annotate(folder, tmp_path / "s", [Boxes()], workers=0, on_message=said.append)
    rows = told(store)
    assert [rows[f"a-train-0.tar!{n}.png"] for n in range(3)] == [("ok", None)] * 3
    assert [rows[f"b.tar!{n}.png"][1] for n in (3, 4, 5)] == [None, None, "truncated"]
    assert rows["b.tar"] == rows["c.tar"] == ("failed", "torn_archive")
    assert said[0] == "skipped 1 files that hold no pictures: d.tar.gz (packed: unpack it)"
    assert len({row.id for row in store.images()}) == len(list(store.images()))
    assert [s.split for s in store.samples()][:3] == ["train"] * 3
    with pytest.raises(ValueError, match="c.tar: is not a whole tar .* move it away"):
        florence2.annotate(folder / "c.tar", tmp_path / "t", [])
    assert discover(whole)[0][0].ref().offset == 512


def test_webdataset_samples_bring_their_licence(tmp_path):
    members = [("a.b/0001.jpg", png(1)), ("a.b/0001.json", b'{"license": "CC0"}'), ("a.b/0002.cls.png", png(2))]
    tar_of(tmp_path / "x.tar", members)
    store = florence2.annotate(tmp_path / "x.tar", tmp_path / "s", [], workers=0, rules=ImageRules(licence=True))
    assert [(r.image.licence, r.reason) for r in store.images()] == [("CC0", ""), ("", "no_licence")]


@pytest.fixture
def hub_folder(tmp_path):
    """A data set as the hub lays it out, its rows' troubles included; and one that `save_to_disk` wrote."""
    root = tmp_path / "set"
    (root / "data").mkdir(parents=True)
    troubles = [
        {"bytes": None, "path": "/etc/passwd"},
        None,
        {"bytes": b"", "path": "e.png"},
        {"bytes": b"junk", "path": ""},
    ]
    terms = ["CC0"] * 4 + [None] * 4
    sound = pa.array([{"bytes": b"RIFF", "path": "x.wav"}] * 8, IMAGE)
    pq.write_table(
        table([*cells(0, 1, 2, 3), *troubles], license=terms, sound=sound),
        root / "data/train-00000-of-00001.parquet",
        row_group_size=3,
    )
    pq.write_table(table(cells(4, 5)), root / "data/validation-00000-of-00001.parquet")
    (root / "README.md").write_text("---\ndataset_info: {}\n---\n")
    (root / "dataset_info.json").write_text("{}")
    (root / "saved/test").mkdir(parents=True)
    made = table(cells(6, 7, 8))
    with pa.OSFile(str(root / "saved/test/data-00000-of-00001.arrow"), "wb") as file:
        with pa.ipc.new_stream(file, made.schema) as stream:
            stream.write_table(made, max_chunksize=2)
    return root


def test_a_hugging_face_data_set_is_read_where_it_is(tmp_path, hub_folder):
    said = []
    store = florence2.annotate(hub_folder, tmp_path / "s", [Boxes()], workers=1, unit=3, on_message=said.append)
    train = "train-00000-of-00001.parquet!image/"
    assert {name.removeprefix(train): said for name, said in told(store).items() if name.startswith(train)} == {
        **{f"{n}/p{n}.png": ("ok", None) for n in range(4)},
        "4/passwd": ("failed", "no_bytes"),  # a path in a cell is not followed
        "5/5": ("failed", "no_bytes"),
        "6/e.png": ("failed", "empty"),
        "7/7": ("failed", "not_an_image"),
    }
    assert said == ["skipped 2 files that hold no pictures: README.md, dataset_info.json"]
    samples = list(store.samples())
    assert [(s.split, s.image.licence) for s in samples] == [
        *[("train", "CC0")] * 4, *[("val", "")] * 2, *[("test", "")] * 3,
    ]  # fmt: skip
    for seed, sample in enumerate(samples):
        assert np.array_equal(sources.pixels(sample.image), pixels.load(png(seed)))
    assert store.counts()["annotations"]["kept"] == 3 * 9
    before = fragments(store)
    florence2.annotate(hub_folder, tmp_path / "s", [Boxes()], workers=0)
    assert fragments(store) == before
    one = florence2.annotate(
        hub_folder / "data/validation-00000-of-00001.parquet", tmp_path / "s2", [Boxes()], workers=0
    )
    assert one.counts()["annotations"]["kept"] == 6


def test_columns_that_hold_pictures_are_told(tmp_path):
    plain = pa.table({"jpg": [png(1), png(2)], "note": [b"abc", b"def"], "thumb": [png(3), None], "n": [1, 2]})
    pq.write_table(plain, tmp_path / "plain.parquet")
    assert tables.picture_columns(tmp_path / "plain.parquet") == (["jpg", "thumb"], [])
    lists = pa.table({"image": pa.array(cells(1), IMAGE), "mask": pa.array(cells(2), IMAGE), "all": [cells(3)]})
    pq.write_table(lists, tmp_path / "lists.parquet")
    assert tables.picture_columns(tmp_path / "lists.parquet") == (["image"], ["mask", "all"])
    pq.write_table(pa.table({"n": [1]}), tmp_path / "none.parquet")
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 and no more")
    found, skipped = discover(tmp_path)
    assert skipped == ["lists.parquet:all", "lists.parquet:mask", "none.parquet (no column of pictures)"]
    assert [f.relative for f in found if f.reason] == ["bad.parquet"] and len(found) == 1 + 1 + 4
    with pytest.raises(ValueError, match="bad.parquet: not a whole table .* move it away"):
        florence2.annotate(tmp_path / "bad.parquet", tmp_path / "s", [])


def test_rows_that_moved_are_noticed(tmp_path):
    file = tmp_path / "x.parquet"
    pq.write_table(table(cells(1, 2)), file)
    store = florence2.annotate(file, tmp_path / "s", [], workers=0)
    pq.write_table(table(cells(2, 1, 3)), file)
    for sample in store.samples():
        with pytest.raises(pixels.BadImage) as caught:
            sources.pixels(sample.image)
        assert caught.value.reason == "changed"
    for member, reason in (("image/9/x", "unreadable"), ("other/0/x", "unreadable"), ("image", "unreadable")):
        with pytest.raises(pixels.BadImage) as caught:
            files.read_bytes(ImageRef("a", str(file), member=member))
        assert caught.value.reason == reason


def test_a_name_that_is_not_unicode_is_opened_everywhere(tmp_path):
    folder = folder_of(tmp_path, 1)
    os.rename(folder / "p0000.png", os.fsencode(folder) + b"/100%-\xff.png")
    store = florence2.annotate(folder, tmp_path / "s", [Boxes()], workers=0)
    (sample,) = store.samples()
    assert sample.image.uri.startswith("file://") and sample.image.uri.endswith("/100%25-%FF.png")
    assert sources.pixels(sample.image).shape == (30, 40, 3)
    export_labels(store, "coco", tmp_path / "coco")
    assert import_labels(tmp_path / "coco", tmp_path / "s2", workers=0).counts()["images"]["ok"] == 1


@pytest.mark.parametrize("to", ["coco", "voc", "yolo", "labelstudio", "jsonl"])
def test_pictures_of_archives_are_placed_beside_exported_labels(tmp_path, hub_folder, to):
    tar_of(hub_folder / "x.tar", [("in/p0.png", png(30))])
    store = florence2.annotate(hub_folder, tmp_path / "s", [Boxes()], workers=0)
    written, lost = export_labels(store, to, tmp_path / "out")
    assert written == 10 and "picture_not_placed" not in lost
    again = import_labels(tmp_path / "out", tmp_path / "s2", workers=0)
    assert again.counts()["images"]["ok"] == 10 and sum(len(s.regions) for s in again.samples()) == 10
    hashes = sorted(s.image.sha256 for s in store.samples())
    assert sorted(s.image.sha256 for s in again.samples()) == hashes


def test_every_image_rule_by_the_command(tmp_path, capsys):
    folder = tmp_path / "pictures"
    picture(folder, "good.png", 1, (60, 40))
    picture(folder, "small.png", 2, (60, 9))
    picture(folder, "long.png", 3, (250, 12))
    (folder / "blank.png").write_bytes(pixels.encode(np.full((40, 60, 3), 200, np.uint8)))
    (folder / "zdouble.png").write_bytes((folder / "good.png").read_bytes())
    picture(folder, "unsafe.png", 4, (50, 50))
    picture(folder, "terms.png", 5, (60, 40))
    ramp = (np.linspace(0, 255, 80)[None, :, None] * np.ones((60, 1, 3))).astype(np.uint8)
    (folder / "ramp.png").write_bytes(pixels.encode(ramp))
    (folder / "ramp2.png").write_bytes(pixels.encode(pixels.resize(ramp, (70, 50))))
    names = ["good", "zdouble", "unsafe", "ramp", "ramp2"]
    (folder / "licences.csv").write_text("path,licence\n" + "".join(f"{n}.png,CC0\n" for n in names))
    rule = tmp_path / "own.py"
    rule.write_text("def safe(image):\n    return image.shape == (50, 50, 3)\n")
    command = ["annotate", str(folder), "--with", "composer", "--workers", "0", "--quiet", "--json"]
    assert main([*command, "--out", str(tmp_path / "s")]) == 0
    said = json.loads(capsys.readouterr().out)["reasons"]["images"]
    assert said == {"blank": 1, "duplicate": 1, "odd_aspect": 1, "too_small": 1}
    strict = ["--licence", "--near-duplicates", "--accept", f"{rule}:safe", "--min-side", "5", "--max-aspect", "30"]
    assert main([*command, *strict, "--out", str(tmp_path / "t")]) == 0
    said = json.loads(capsys.readouterr().out)["reasons"]["images"]
    assert said == {"blank": 1, "duplicate": 1, "near_duplicate": 1, "no_licence": 3, "unsafe": 1}
    assert main([*command, "--blank-range", "255", "--out", str(tmp_path / "u")]) == 0
    assert json.loads(capsys.readouterr().out)["reasons"]["images"] == {"blank": 7, "odd_aspect": 1, "too_small": 1}
    rows = {os.path.basename(row.image.uri): row for row in Store(tmp_path / "s").images()}
    assert rows["good.png"].image.licence == "CC0" and rows["good.png"].exif_orientation == 1


def test_a_users_rule_that_fails_lets_nothing_pass(tmp_path, capsys):
    folder = folder_of(tmp_path, 3)
    rule = tmp_path / "own.py"
    rule.write_text(
        "def safe(image):\n    raise RuntimeError('no model')\ndef two(image):\n    return 'not safe for work'\n"
    )
    store = florence2.annotate(folder, tmp_path / "s", [], workers=0, rules=ImageRules(accept=f"{rule}:safe"))
    assert store.reasons()["images"] == {"rule_failed": 3}
    store = florence2.annotate(folder, tmp_path / "t", [], workers=0, rules=ImageRules(accept=f"{rule}:two"))
    assert store.reasons()["images"] == {"not_safe_for_work": 3}
    rule.write_text("import nothing_like_this\n")
    assert main(["annotate", str(folder), "--out", str(tmp_path / "u"), "--accept", f"{rule}:safe"]) == 1
    assert "own.py: cannot be run (ModuleNotFoundError" in capsys.readouterr().err and not (tmp_path / "u").exists()


@pytest.mark.parametrize("turn", range(1, 9))
def test_the_orientation_of_a_file_is_kept(tmp_path, turn):
    from PIL import Image

    folder = folder_of(tmp_path, 1)
    exif = Image.Exif()
    exif[0x0112] = turn
    Image.open(folder / "p0000.png").save(folder / "turned.jpg", exif=exif)
    rows = {
        os.path.basename(r.image.uri): r for r in florence2.annotate(folder, tmp_path / "s", [], workers=0).images()
    }
    assert rows["turned.jpg"].exif_orientation == turn and rows["p0000.png"].exif_orientation == 1
    assert (rows["turned.jpg"].image.width == 40) == (turn < 5) and rows["turned.jpg"].format == "jpeg"
