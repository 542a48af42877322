"""Opening data: formats told by files, splits, pixels wherever they lie."""

import dataclasses
import hashlib
import io
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from florence2 import pixels, scenes, sources
from florence2.pixels import BadImage
from florence2.records import ImageRef, Sample
from florence2.sources import tables
from florence2.store import Store
from tests.drawn_sets import SETS
from tests.shared import shared


def test_the_split_rule_is_the_same_everywhere():
    assert [sources.split_of(f"{n}.jpg") for n in range(10)] == [
        sources.split_of(f"/some/where\\{n}.jpg") for n in range(10)
    ]
    shares = [sources.split_of(f"{n:012d}.jpg") for n in range(2000)].count("train") / 2000
    assert 0.67 < shares < 0.73
    number = int.from_bytes(hashlib.blake2b(b"img_1.jpg", digest_size=8).digest(), "big")
    assert sources.split_of("gt/img_1.jpg") == ("train" if number / 2**64 < 0.7 else "test")


def test_a_sets_own_lists_come_first():
    sample = Sample("a", ImageRef("a.jpg"))
    assert sources.in_split(dataclasses.replace(sample, split="test"), "test")
    assert not sources.in_split(dataclasses.replace(sample, split="val"), "test")
    assert sources.in_split(sample, sources.split_of("a.jpg"))


def parts_of(folder, root):
    """The names in the train and the test part of a set; BCCD has lists of its own."""
    parts = [{s.image.id for s in sources.open(root, split=part)} for part in ("train", "test")]
    assert parts[0] and parts[1] and not parts[0] & parts[1], folder
    if folder == "bccd/BCCD":
        lists = [set((root / f"ImageSets/Main/{name}.txt").read_text().split()) for name in ("train", "val")]
        assert [{Path(name).stem for name in part} for part in parts] == lists


@pytest.mark.parametrize("folder", SETS)
def test_parts_never_share_a_picture(tmp_path, folder):
    SETS[folder][1](tmp_path / "set")
    parts_of(folder, tmp_path / "set")


def test_parts_of_the_real_sets_never_share_a_picture():
    for folder in SETS:
        parts_of(folder, shared(f"data/{folder}"))


def test_scenes_are_a_source():
    first, second = sources.open("scenes:2")
    assert first.id != second.id and int(first.id.rpartition("-")[2]) >= scenes.TRAINING_SEEDS
    array, drawn = scenes.draw(scenes.TRAINING_SEEDS)
    assert np.array_equal(sources.pixels(first.image), array) and first.regions == drawn.regions
    (train,) = sources.open("scenes:1", split="train")
    assert train.id == "scene-0" and sources.in_split(train, "train") and sources.in_split(first, "test")
    (own,) = sources.open("scenes:count=1,seed=5,objects=2-2,size=96x64")
    assert own.image.size_wh == (96, 64) and sources.pixels(own.image).shape == (64, 96, 3)
    with pytest.raises(ValueError, match="'colour': expected"):
        list(sources.open("scenes:1,colour=2"))


def test_limit_and_a_wrong_path(tmp_path):
    assert len(list(sources.open("scenes:50", limit=3))) == 3
    with pytest.raises(FileNotFoundError, match="does not exist"):
        sources.open(tmp_path / "none")
    with pytest.raises(ValueError, match="no known data set; expected"):
        sources.open(tmp_path)
    with pytest.raises(ValueError, match="format 'xml': expected one of"):
        sources.open(tmp_path, format="xml")


def test_a_store_is_a_source(tmp_path):
    Store(tmp_path / "store", create=True)
    assert sources.format_of(tmp_path / "store") == "store"


def test_pixels_of_files_archives_and_stretches(tmp_path):
    array = np.random.default_rng(0).integers(0, 255, (8, 6, 3), dtype=np.uint8)
    png = pixels.encode(array)
    (tmp_path / "a.png").write_bytes(png)
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        info = tarfile.TarInfo("in/a.png")
        info.size = len(png)
        tar.addfile(info, io.BytesIO(png))
    (tmp_path / "blob").write_bytes(b"xxx" + png + b"yyy")
    for ref in (
        ImageRef("a", str(tmp_path / "a.png")),
        ImageRef("a", str(tmp_path / "a.tar"), member="in/a.png"),
        ImageRef("a", str(tmp_path / "blob"), offset=3, length=len(png)),
    ):
        assert np.array_equal(sources.pixels(ref), array)
    for ref, reason in (
        (ImageRef("a"), "missing"),
        (ImageRef("a", str(tmp_path / "none.png")), "missing"),
        (ImageRef("a", str(tmp_path / "a.tar"), member="none"), "missing"),
        (ImageRef("a", str(tmp_path / "blob"), member="none"), "unreadable"),
        (ImageRef("a", str(tmp_path / "blob"), offset=0, length=9), "not_an_image"),
    ):
        with pytest.raises(BadImage) as caught:
            sources.pixels(ref)
        assert caught.value.reason == reason


def test_cells_of_a_table_are_read_in_threads(tmp_path):
    cells = [bytes([n]) * (1000 + n) for n in range(40)]
    table = pa.table({"image": pa.array([{"bytes": cell, "path": f"{n}.png"} for n, cell in enumerate(cells)])})
    pq.write_table(table, tmp_path / "t.parquet", row_group_size=7)
    wanted = list(range(40)) * 10
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda n: tables.read_cell(tmp_path / "t.parquet", f"image/{n}/{n}.png"), wanted))
    assert found == [cells[n] for n in wanted]


@pytest.mark.parametrize(
    "uri",
    ["grey:", "grey:axb", "grey:0x0", "grey:-5x-5", "grey:100000x100000", "scenes:", "scenes:seed=x",
     "scenes:seed=1,size=60000", "scenes:seed=1,size=-60000", "scenes:seed=1,clutter=1e300",
     "scenes:seed=1,letters=1e9", "scenes:seed=1,repeats=nan",
     "scenes:seed=1,objects=100000000-100000000", "scenes:seed=1,pages=1,letters=0.5"],
)  # fmt: skip
def test_a_made_picture_that_a_stranger_describes_is_small_or_refused(uri):
    with pytest.raises(BadImage) as error:
        sources.pixels(ImageRef("x", uri))
    assert str(error.value).startswith(uri) and len(str(error.value).splitlines()) == 1
