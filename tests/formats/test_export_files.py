"""Names from data never lead out of the folder that was named, and never clash, whatever they are."""

import importlib
import json
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from florence2 import pixels, sources
from florence2.engine.commands import import_labels
from florence2.engine.export import WRITERS, export_labels
from florence2.formats import jsonl
from florence2.formats.export_files import LONGEST, Names, safe_name
from florence2.records import Coverage, ImageRef, Region, Sample, Source

HOSTILE = (
    *("../../../victim", "..", ".", "", "/etc/passwd", "C:\\windows\\x", "a/../../b", "images/../../x.jpg", "~", "-rf"),
    *("nul", "CON.jpg", "a\x00b", "a\nb", "a\x1b]0;x\x07", "x" * 300, "é" * 200 + ".jpg", "\u202egpj.exe", "a\u2028b"),
    *(" a ", "a.", "...", ".hidden", "a:b", "%2e%2e%2f", "all", "train", "images", "mapping.json", "A.jpg", "a.JPG"),
    *("data.yaml", "$HOME", "`id`", "<script>", "&amp;", '"', "'", "{}", "0", "007", "²", "9" * 30, "cafe\u0301"),
)
names = st.one_of(st.sampled_from(HOSTILE), st.text(st.characters(exclude_categories=("Cs",)), max_size=12))


@given(st.one_of(names, st.text(max_size=400)))
def test_a_safe_name_is_one_component_of_any_file_system(text):
    name = safe_name(text)
    assert name and len(name.encode()) <= LONGEST and Path(name).name == name and name not in (".", "..")
    assert not name.startswith(".") and name == name.strip() and not name.endswith(".")
    assert not set(name) & set('<>:"/\\|?*\n\r\0\x1b') and name.splitlines() == [name]
    assert safe_name(name) == name


@given(st.lists(names, max_size=12))
def test_names_differ_before_their_suffix_on_every_file_system(texts):
    taken = Names()
    found = [taken.of(text) for text in texts]
    stems = [unicodedata.normalize("NFC", name.rpartition(".")[0] or name).casefold() for name in found]
    assert len(set(stems)) == len(stems)


@given(st.lists(st.lists(names, min_size=1, max_size=3).map("/".join), max_size=12))
def test_paths_stay_below_and_no_file_is_a_folder(texts):
    taken = Names(stems=False)
    found = [taken.of_path(text) for text in texts]
    assert len(set(found)) == len(found) and all(not path.startswith("/") for path in found)
    parts = [tuple(path.casefold().split("/")) for path in found]
    assert all(part not in ("", ".", "..") for path in parts for part in path)
    assert not any(a == b[: len(a)] for a in parts for b in parts if len(a) < len(b))


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    file = tmp_path_factory.mktemp("pictures") / "a.png"
    file.write_bytes(pixels.encode(np.zeros((48, 64, 3), np.uint8)))
    return file


@st.composite
def hostile_sets(draw, picture):
    out = []
    for n in range(3):
        label = draw(names) or "x"
        made = Source(draw(st.sampled_from(["human", "import", "model"])), draw(names) or "x", draw(names))
        region = Region(draw(names), "object", (1.0, 2.0, 30.0, 40.0), label, draw(names), source=made)
        ref = ImageRef(draw(names) or "x", str(picture), width=64, height=48, licence=draw(names))
        coverage = {region.label_space: (Coverage("exhaustive", (label,)),)} if region.label_space else {}
        out.append(Sample(f"{n}{draw(names)}", ref, regions=(region,), split=draw(names), coverage=coverage))
    return out


def files_of(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("to", WRITERS)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_writer_leaves_its_folder(tmp_path_factory, picture, to, data):
    samples = data.draw(hostile_sets(picture))
    root = tmp_path_factory.mktemp("export")
    deep = root / "a" / "b" / "c" / "d"
    deep.mkdir(parents=True)
    (root / "a" / "victim.txt").write_text("whole")
    importlib.import_module(WRITERS[to]).write(samples, deep / "out")
    assert [path for path in files_of(root) if not path.startswith("a/b/c/d/out/")] == ["a/victim.txt"]
    written = files_of(deep / "out")
    assert not any(name.endswith(".part") for name in written)
    if to == "jsonl":
        assert set(written) == {"samples.jsonl"}
        return
    mapping = json.loads(written["mapping.json"])
    assert len(mapping) == 3 and set(mapping) <= set(written) and set(mapping.values()) == {str(picture)}
    if to in sources.FORMATS:
        again = list(sources.open(deep / "out", format=to))
        assert len(again) == 3 and all(sample.image.width == 64 for sample in again)
        assert sum(len(sample.regions) for sample in again) >= 3 - sum(not s.regions[0].label.strip() for s in samples)


def test_a_part_called_images_keeps_its_labels(tmp_path, picture):
    """Readers of YOLO put labels in place of the last `images` of a path."""
    region = Region("r", box=(1.0, 2.0, 30.0, 40.0), label="cat")
    ref = ImageRef("a", str(picture), width=64, height=48)
    importlib.import_module(WRITERS["yolo"]).write([Sample("1", ref, regions=(region,), split="images")], tmp_path)
    ((again,),) = (sample.regions for sample in sources.open(tmp_path))
    assert again.label == "cat"


@pytest.mark.parametrize("to", WRITERS)
def test_a_store_with_a_hostile_split_is_exported_into_its_folder(tmp_path, picture, to):
    """The whole way: JSON Lines that name a split outside, brought in and exported."""
    region = Region("r", box=(1.0, 2.0, 30.0, 40.0), label="../cat")
    jsonl.write(
        [Sample("../s", ImageRef("../i", str(picture)), regions=(region,), split="../../victim")], tmp_path / "in"
    )
    store = import_labels(tmp_path / "in", tmp_path / "s", workers=0)
    before = {name: data for name, data in files_of(tmp_path).items() if not name.startswith("s/runs/")}
    export_labels(store, to, tmp_path / "deep" / "out")
    after = files_of(tmp_path)
    new = {name for name in after if name not in before and not name.startswith("s/runs/")}
    assert new and all(name.startswith("deep/out/") for name in new)
    assert all(after[name] == data for name, data in before.items())


def test_two_names_that_are_one_elsewhere_get_two(picture):
    taken = Names()
    assert [taken.of(name) for name in ("a.jpg", "A.PNG", "caf\u00e9.jpg", "cafe\u0301.jpg")] == [
        *("a.jpg", "A_1.PNG", "caf\u00e9.jpg", "cafe\u0301_1.jpg"),
    ]
