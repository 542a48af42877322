"""What other programs leave beside pictures is passed over, by name; one damaged file never stops a run."""

import io
import json
import os
import random
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import florence2
from florence2 import pixels, sources
from florence2.engine.ingest import url_lists
from florence2.engine.ingest.discovery import discover
from florence2.pixels import BadImage
from florence2.records import ImageRef
from florence2.sources import file_types, files, tables
from florence2.sources.fetching import Fetching
from florence2.sources.tables import Cell
from tests.engine.doubles import Boxes, folder_of

MAC_COPY = bytes.fromhex("0005160700020000") + b"Mac OS X        " + bytes(90)
IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def png(seed=0):
    return pixels.encode(np.random.default_rng(seed).integers(0, 255, (30, 40, 3), dtype=np.uint8))


def tar_of(path, members, **more):
    with tarfile.open(path, "w", **more) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def names(found):
    return [f.relative for f in found]


LEFT = {
    "._a.png": MAC_COPY,
    "__MACOSX/._a.png": MAC_COPY,
    "__MACOSX/b.png": png(2),
    ".ipynb_checkpoints/a-checkpoint.png": png(3),
    ".thumbnails/x.png": png(4),
    "@eaDir/a.png/THUMB.png": png(5),
    "$RECYCLE.BIN/S-1-5/x.png": png(6),
    "#recycle/y.png": png(7),
    "deep/.Trash-1000/z.png": png(8),
}


def test_a_folder(tmp_path):
    for name, data in {"a.png": png(), **LEFT, "._train.parquet": MAC_COPY, "._shard.tar": MAC_COPY}.items():
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "photos" / name).write_bytes(data)
    messages = []
    store = florence2.annotate(tmp_path / "photos", tmp_path / "s", [Boxes()], workers=0, on_message=messages.append)
    assert [(os.path.basename(r.image.uri), r.status) for r in store.images()] == [("a.png", "ok")]
    assert "skipped 10 files and folders that systems leave: " in messages[0]
    found, skipped = discover(tmp_path / "photos/.thumbnails")  # named by the user, a hidden folder is read
    assert names(found) == ["x.png"] and not skipped
    skipped = discover(tmp_path / "photos")[1]
    assert {name.split(" ")[0] for name in skipped} >= {"$RECYCLE.BIN/", "__MACOSX/", "._a.png", "deep/.Trash-1000/"}


def test_a_picture_that_is_called_as_a_macs_copy_is_a_picture(tmp_path):
    (tmp_path / "._mine.png").write_bytes(png())
    tar_of(tmp_path / "x.tar", [("._mine.png", png(1))])
    assert names(discover(tmp_path)[0]) == ["._mine.png", "x.tar/._mine.png"]


def test_a_tar(tmp_path):
    tar_of(tmp_path / "x.tar", [("./a.png", png()), *((f"./{n}", data) for n, data in LEFT.items())])
    found, skipped = discover(tmp_path / "x.tar")
    assert names(found) == ["./a.png"] and len(skipped) == len(LEFT)


@pytest.mark.parametrize("suffix", ["parquet", "arrow"])
def test_a_table(tmp_path, suffix):
    rows = [{"bytes": png(), "path": "/home/me/.cache/a.png"}, {"bytes": MAC_COPY, "path": "__MACOSX/._a.png"}]
    rows += [{"bytes": MAC_COPY, "path": "/data/._b.png"}, {"bytes": png(1), "path": ".thumbnails/x.png"}]
    write(tmp_path / f"x.{suffix}", pa.table({"image": pa.array(rows, IMAGE)}))
    found, skipped = discover(tmp_path)
    assert [f.member for f in found] == ["image/0/a.png"]  # of an absolute path only the name counts
    assert len(skipped) == 3 and f"x.{suffix}/image/1/._a.png (left behind)" in skipped


def test_a_list_of_addresses(tmp_path):
    (tmp_path / "l.txt").write_text(
        "https://h.test/.well-known/a.png\nhttps://h.test/._a.png\nhttps://h.test/__MACOSX/b\n"
    )
    asked = []
    folder = url_lists.fetch_list(
        tmp_path / "l.txt", Fetching(hosts=("h.test",)), get=lambda url, rules: asked.append(url) or png()
    )
    found, skipped = discover(folder)
    assert asked == names(found) == ["https://h.test/.well-known/a.png"] and len(skipped) == 2


@pytest.mark.parametrize(
    "name, left",
    [
        ("a.jpg", False), ("./a.jpg", False), (".a.jpg", False), ("../x/a.jpg", False), ("a/b.c/d.jpg", False),
        ("._a.jpg", True), ("x/._a.jpg", True), (".x/a.jpg", True), ("a/System Volume Information/b", True),
        ("/root/.cache/a.jpg", False), ("/root/.cache/._a.jpg", True), ("RECYCLER/a", True), ("recycle/a", False),
    ],
)  # fmt: skip
def test_what_is_left_behind(name, left):
    assert file_types.is_left_behind(name) is left


# ---- damage ----


def write(path, table):
    if path.suffix == ".arrow":
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as out:
            out.write_table(table)
    else:
        pq.write_table(table, path)
    return path


def listed_beside(tmp_path, damaged):
    """What is found of a good picture and a damaged file beside it; the run goes on."""
    (tmp_path / "good.png").write_bytes(png())
    store = florence2.annotate(tmp_path, tmp_path.with_name("store"), [], workers=0)
    rows = {os.path.basename(r.image.uri) + r.image.member: (r.status, r.reason or None) for r in store.images()}
    assert rows.pop("good.png") == ("ok", None)
    return rows


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "f").mkdir()
    return tmp_path / "f"


def test_a_tar_whose_names_are_no_unicode(folder):
    tar_of(folder / "x.tar", [("caf\udce9.png", png(1))], format=tarfile.GNU_FORMAT, errors="surrogateescape")
    assert listed_beside(folder, "x.tar") == {"x.tarcaf%E9.png": ("ok", None)}


@pytest.mark.parametrize("size", [2**40, 2**70, -1])
def test_a_tar_that_says_any_size(folder, size):
    with tarfile.open(folder / "x.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        info = tarfile.TarInfo("a.png")
        info.size, info.pax_headers = 4, {"size": str(size)}
        tar.addfile(info, io.BytesIO(b"abcd"))
    rows = listed_beside(folder, "x.tar")
    assert rows and all(status == "failed" for status, _ in rows.values())


def test_a_tar_with_a_deep_sidecar_and_a_sparse_file(folder):
    with tarfile.open(folder / "x.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        for name, data, more in (
            ("a.png", png(1), {}),
            ("a.json", b'{"license":' + b"[" * 100_000, {}),
            ("b.png", b"4\n0\nabc\n" + bytes(500), {"GNU.sparse.major": "1", "GNU.sparse.minor": "0"}),
        ):
            info = tarfile.TarInfo(name)
            info.size, info.pax_headers = len(data), more
            tar.addfile(info, io.BytesIO(data))
    rows = listed_beside(folder, "x.tar")
    assert rows.pop("x.tara.png") == ("ok", None)
    assert rows and all(status == "failed" for status, _ in rows.values())


def test_a_damaged_header_in_a_tar_is_no_end(folder):
    whole = bytearray(tar_of(folder / "x.tar", [(f"{n}.png", png(n)) for n in range(1, 4)]).read_bytes())
    whole[whole.index(b"2.png")] ^= 1  # its check sum no longer fits
    (folder / "x.tar").write_bytes(whole)
    assert listed_beside(folder, "x.tar") == {"x.tar1.png": ("ok", None), "x.tar": ("failed", "torn_archive")}


def test_a_list_of_licences_with_a_cell_too_long(folder):
    (folder / "licences.csv").write_bytes(b"path,licence\nx.png,%s\ngood.png,CC0\nz.png,\xff\n" % (b"a" * 200_000))
    (folder / "good.png").write_bytes(png())
    found, skipped = discover(folder)
    assert [f.licence for f in found] == ["CC0"] and "licences.csv:2" in skipped[0]


def struct_of(path):
    """A picture with a path of any type."""
    return pa.StructArray.from_arrays([pa.array([png(1)]), pa.array([path])], ["bytes", "path"])


@pytest.mark.parametrize(
    "table",
    [
        pa.table({"image": struct_of(b"\xff/a")}),
        pa.table({"image": struct_of(7)}),
        pa.table({"image": [png(1)], "licence": [3]}),
        pa.table({"image": [png(1)]}).replace_schema_metadata({b"huggingface": b"[" * 100_000}),
        pa.table({"image": [png(1)]}).replace_schema_metadata({b"huggingface": b'{"info": {"features": 3}}'}),
    ],
)
def test_a_table_with_odd_columns(folder, table):
    pq.write_table(table, folder / "x.parquet")
    assert list(listed_beside(folder, "x.parquet").values()) == [("ok", None)]


def test_a_table_with_two_columns_of_one_name(folder):
    pq.write_table(
        pa.Table.from_arrays([pa.array([png(1)]), pa.array([png(2)])], ["image", "image"]), folder / "x.parquet"
    )
    assert listed_beside(folder, "x.parquet") == {"x.parquet": ("failed", "torn_archive")}


@pytest.mark.parametrize("suffix", ["parquet", "arrow"])
def test_flipped_bits_of_a_table_cost_a_row_and_not_the_run(tmp_path, suffix):
    rows = pa.array([{"bytes": png(n), "path": f"{n}.png"} for n in range(4)], IMAGE)
    whole = write(tmp_path / f"whole.{suffix}", pa.table({"image": rows})).read_bytes()
    draw = random.Random(0)
    folder = tmp_path / "f"
    folder.mkdir()
    (folder / "good.png").write_bytes(png(9))
    for number in range(40):
        damaged = bytearray(whole)
        # where structure lies, not only pixels
        place = (
            draw.randrange(len(whole)) if number % 2 else draw.choice([draw.randrange(900), -draw.randrange(1, 900)])
        )
        damaged[place] ^= 1 << draw.randrange(8)
        (folder / f"{number:02}.{suffix}").write_bytes(damaged)
    found, _ = discover(folder)
    assert "good.png" in names(found)
    assert {name.split("/")[0] for name in names(found)} == {*(f"{n:02}.{suffix}" for n in range(40)), "good.png"}
    for candidate in found:
        if not candidate.reason:
            try:
                files.read_bytes(candidate.ref())
            except BadImage as error:
                assert error.reason in ("unreadable", "no_bytes", "too_large")


def test_a_table_that_ends_its_reader_is_a_row(folder, monkeypatch):
    from florence2.sources import child_process

    dying = child_process._CODE.replace("serve()", "import os; os.abort()")
    monkeypatch.setattr(child_process, "_CODE", dying)
    pq.write_table(pa.table({"image": [png(1)]}), folder / "x.parquet")
    assert listed_beside(folder, "x.parquet") == {"x.parquet": ("failed", "torn_archive")}


@pytest.mark.parametrize("dictionary", [True, False])
def test_a_cell_that_unpacks_to_gigabytes_is_refused(tmp_path, dictionary):
    cells = pa.array([bytes(96 << 20)] * 2, pa.large_binary())
    pq.write_table(pa.table({"image": cells}), tmp_path / "x.parquet", compression="zstd", use_dictionary=dictionary)
    assert (tmp_path / "x.parquet").stat().st_size < 100_000
    with pytest.raises(BadImage) as caught:
        files.read_bytes(ImageRef("a", str(tmp_path / "x.parquet"), member="image/0/0"))
    assert caught.value.reason == "too_large"


def test_cells_are_read_in_any_order(tmp_path):
    rows = pa.array([{"bytes": png(n), "path": None} for n in range(150)], IMAGE)
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"image": rows}), path, row_group_size=70)
    order = [*range(150), 3, 149, 69, 70, 71, 0]
    assert [tables.read_cell(path, f"image/{n}/{n}") for n in order] == [png(n) for n in order]
    assert tables.listing(path).cells[1] == Cell("image/1/1")


def test_a_hostile_index_is_refused_and_odd_addresses_are_rows(tmp_path):
    (tmp_path / "l.jsonl").write_text(json.dumps({"url": "https://h.test/\ud800.png"}) + '\n{"url": "http://[x"}\n')

    def get(url, rules):
        raise BadImage(url, "bad_url", "is no address")

    folder = url_lists.fetch_list(tmp_path / "l.jsonl", Fetching(hosts=("h.test",)), get=get)
    assert [f.reason for f in discover(folder)[0]] == ["bad_url", "bad_url"]
    for line in ({"url": "https://h.test/a", "file": "../../secret.png", "bytes": 3}, ["url"], {"url": 3, "bytes": 1}):
        (folder / url_lists.INDEX).write_text(json.dumps(line) + "\n")
        with pytest.raises(ValueError, match="fetched.jsonl:1: damaged"):
            discover(folder)


def test_an_icns_is_passed_over_by_name(tmp_path):
    folder = folder_of(tmp_path, 1)
    (folder / "x.icns").write_bytes(b"icns" + bytes(40))
    assert discover(folder)[1] == ["x.icns"]
    with pytest.raises(BadImage) as caught:
        pixels.load(folder / "x.icns")
    assert caught.value.reason == "not_an_image"


def test_pipes_and_devices_among_the_pictures_are_named_as_skipped_and_never_opened(tmp_path):
    folder = folder_of(tmp_path, 1)
    names = ["q.tar", "q.parquet", "q.arrow", "q.png", "q.json", "q.jsonl", "._q.png", "q"]
    for name in names:
        os.mkfifo(folder / name)
        (folder / f"z{name.lstrip('.')}").symlink_to("/dev/zero")
    found, skipped = discover(folder)
    assert len(found) == 1
    assert {line.split(" (")[0] for line in skipped} >= {*names, *(f"z{name.lstrip('.')}" for name in names)}
    for name in names:
        with pytest.raises(ValueError):
            discover(folder / name)
        with pytest.raises(ValueError):
            list(sources.open(folder / name))
