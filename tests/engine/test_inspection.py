"""Pictures in: folders, tars, odd names; what repeats itself, and what a store holds in numbers."""

import os
import tarfile

import numpy as np
import pytest
from PIL import Image

import florence2
from florence2 import sources
from florence2.engine.curation.statistics import statistics
from florence2.engine.ingest.discovery import discover
from florence2.engine.ingest.duplicates import NearIndex, duplicates, of_store
from florence2.engine.ingest.inspection import ImageRules, perceptual_hash
from florence2.formats import jsonl
from florence2.pixels import load
from florence2.records import ImageRef, Sample
from florence2.sources.file_types import format_of
from tests.engine.doubles import Boxes, folder_of, picture


def test_a_tar_is_read_where_it_is(tmp_path):
    folder = folder_of(tmp_path, 3)
    with tarfile.open(tmp_path / "shards.tar", "w") as tar:
        for path in sorted(folder.iterdir()):
            tar.add(path, f"sub/{path.name}")
        (tmp_path / "0.json").write_text("{}")
        tar.add(tmp_path / "0.json", "0.json")
    store = florence2.annotate(tmp_path / "shards.tar", tmp_path / "s", [Boxes()], workers=0)
    assert store.counts()["annotations"]["kept"] == 9
    for sample, path in zip(store.samples(), sorted(folder.iterdir())):
        assert sample.image.member == f"sub/{path.name}" and sample.image.uri.endswith("shards.tar")
        assert np.array_equal(sources.pixels(sample.image), load(path))


def test_odd_names_are_found(tmp_path):
    folder = tmp_path / "pictures"
    for n, name in enumerate(
        ("with space.png", "ünïcode 猫.png", "UPPER.PNG", "a=b.png", "deep/er/x.png", "wrong.jpg")
    ):
        picture(tmp_path, "x.png", n)
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        os.rename(tmp_path / "x.png", folder / name)
    raw = os.fsencode(folder) + b"/not-utf8-\xff.png"
    picture(tmp_path, "x.png", 99)
    os.rename(os.fsencode(tmp_path / "x.png"), raw)
    store = florence2.annotate(folder, tmp_path / "s", [Boxes()], workers=1, unit=3)
    assert store.counts()["images"]["ok"] == 7 and store.counts()["annotations"]["kept"] == 21
    assert "not-utf8-%FF.png" in {sample.image.uri.rsplit("/", 1)[-1] for sample in store.samples()}


def test_every_mode_loads_and_is_annotated(tmp_path):
    folder = folder_of(tmp_path, 1)
    base = Image.open(folder / "p0000.png")
    base.convert("L").save(folder / "grey.png")
    base.convert("CMYK").save(folder / "cmyk.jpg")
    base.convert("P").save(folder / "palette.gif")
    Image.fromarray((np.arange(1200).reshape(30, 40) * 50).astype(np.uint16)).save(folder / "deep.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    base.save(folder / "turned.jpg", exif=exif)
    store = florence2.annotate(folder, tmp_path / "s", [Boxes()], workers=0)
    assert store.counts()["images"]["ok"] == 6 and store.counts()["failures"] == 0
    (turned,) = [s for s in store.samples() if s.image.uri.endswith("turned.jpg")]
    assert turned.image.size_wh == (30, 40)


def test_near_duplicates_are_reported_and_rejected_only_where_asked(tmp_path):
    folder = tmp_path / "pictures"
    ramp = np.linspace(0, 255, 80)[None, :, None] * np.ones((60, 1, 3))
    folder.mkdir()
    Image.fromarray(ramp.astype(np.uint8)).save(folder / "a.png")
    Image.fromarray(ramp.astype(np.uint8)).resize((70, 50)).save(folder / "b.jpg")
    picture(folder, "c.png", 3, (80, 60))
    (folder / "d.png").write_bytes((folder / "c.png").read_bytes())
    store = florence2.annotate(folder, tmp_path / "s", [], workers=0)
    assert store.counts()["images"] == {"total": 4, "ok": 3, "rejected": 1, "failed": 0}
    assert [(d.kind, d.first.uri[-5:], d.second.uri[-5:]) for d in duplicates(of_store(store))] == [
        ("exact", "c.png", "d.png"),
        ("near", "a.png", "b.jpg"),
    ]
    strict = florence2.annotate(folder, tmp_path / "s2", [], workers=0, rules=ImageRules(near_duplicates=True))
    assert strict.reasons()["images"] == {"duplicate": 1, "near_duplicate": 1}


def test_near_hashes_are_those_of_brute_force():
    rng = np.random.default_rng(0)
    base = rng.integers(0, 2**63, 40)
    numbers = [int(n) ^ int(1 << int(rng.integers(0, 63))) for n in base for _ in range(3)]
    hashes = [f"{n:016x}" for n in numbers]
    expected = {(i, j) for j in range(len(numbers)) for i in range(j) if (numbers[i] ^ numbers[j]).bit_count() <= 4}
    index, found = NearIndex(), set()
    for j, phash in enumerate(hashes):
        found |= {(i, j) for i, _ in index.within(phash, 4)}
        index.add(phash)
    assert found == expected and expected
    with pytest.raises(ValueError, match="0..7"):
        list(index.within(hashes[0], 9))


def test_a_users_own_rule_rejects_with_its_word(tmp_path):
    rule = tmp_path / "own.py"
    rule.write_text("def safe(image):\n    return 'dark' if image[0, 0, 0] < 128 else ''\n")
    folder = folder_of(tmp_path, 8)
    store = florence2.annotate(folder, tmp_path / "s", [], workers=0, rules=ImageRules(accept=f"{rule}:safe"))
    dark = sum(int(load(path)[0, 0, 0]) < 128 for path in folder.iterdir())
    assert 0 < dark < 8 and store.reasons()["images"] == {"dark": dark}


def test_samples_bring_their_split_and_licence(tmp_path):
    folder = folder_of(tmp_path, 4)
    samples = [
        Sample(str(i), ImageRef(str(i), str(p), licence="CC0" if i else ""), split="train" if i < 2 else "test")
        for i, p in enumerate(sorted(folder.iterdir()))
    ]
    (folder / "p0003.png").write_bytes((folder / "p0000.png").read_bytes())
    store = florence2.annotate(samples, tmp_path / "s", [Boxes()], workers=0, rules=ImageRules(licence=True))
    assert [(row.status, row.reason or None) for row in store.images()] == [
        ("rejected", "no_licence"),
        ("ok", None),
        ("ok", None),
        ("ok", None),  # the same bytes as the first, but with a licence
    ]
    (pair,) = duplicates(of_store(store))
    assert pair.across and not pair.leaks and (pair.first.part, pair.second.part) == ("train", "test")
    told = statistics(store).to_json()
    assert told["duplicates_across_splits"] == 1 and told["leaks"] == 0 and told["labels"] == {"thing": 3}
    assert [row["family"] for row in told["families"]] == ["region_text", "text", "text_phrase_region"]
    assert told["families"][1]["mean_words"] == 5.0


def test_formats_are_told_by_first_bytes(tmp_path):
    for suffix, name in (
        (".png", "png"),
        (".jpg", "jpeg"),
        (".webp", "webp"),
        (".bmp", "bmp"),
        (".gif", "gif"),
        (".tif", "tiff"),
    ):
        path = picture(tmp_path, f"x{suffix}", 1)
        assert format_of(path.read_bytes()[:16]) == name
    assert format_of(b"hello") == "" and len(perceptual_hash(load(path))) == 16
    found, skipped = discover(tmp_path)
    assert len(found) == 6 and skipped == []
    jsonl.write([], tmp_path / "empty.jsonl")
    assert discover(tmp_path)[1] == ["empty.jsonl"]


@pytest.mark.parametrize(
    ("rule", "value"),
    [("max_pixels", -1), ("max_pixels", 0), ("min_side", -1), ("max_aspect", float("nan")), ("max_aspect", -2.0),
     ("max_aspect", float("inf")), ("blank_range", 256), ("blank_range", -2), ("near_bits", 65)],
)  # fmt: skip
def test_a_picture_rule_that_means_nothing_is_refused_and_rejects_no_picture(rule, value):
    with pytest.raises(ValueError, match=f"^{rule}: expected a .*number.*, got"):
        ImageRules(**{rule: value})
