"""Labels in and out: what a format holds comes back as it was; what people said outranks what models say."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

import florence2
from florence2 import pixels
from florence2.cli import main
from florence2.engine.commands import import_labels
from florence2.engine.curation.merging import MergeConfig
from florence2.engine.export import export_labels
from florence2.formats import jsonl
from florence2.geometry import encode_rle
from florence2.records import Coverage, Decision, Grounding, ImageRef, Region, Sample, Source, Text
from florence2.store import Store
from tests.engine.doubles import Boxes, folder_of, fragments

CROWD = encode_rle(np.eye(30, 40, dtype=bool))
HUMAN = Source("human", "someone", "2024")


def labelled(folder):
    """A JSON Lines file beside the pictures of a folder."""
    samples = []
    for i, path in enumerate(sorted(folder.glob("*.png"))):
        regions = (
            Region("a", box=(1.1, 2.2, 30.3, 25.0), label="thing", label_space="ours", source=HUMAN),
            Region("b", "text", quad=(1, 1, 9, 1, 9, 5, 1, 5), label="sign", score=0.25, source=Source("import", "x")),
            Region("c", polygons=((2.0, 2.0, 9.5, 2.0, 9.0, 9.0),), label="leaf", refines="a", source=HUMAN),
            Region("d", mask=CROWD, label="crowd", ignore=True, source=HUMAN, derived_from=("a",)),
        )
        texts = (
            Text("t", "a thing by a sign", "detailed", score=0.5, source=HUMAN),
            Text("q", "7", "answer", "how many?"),
        )
        groundings = (
            Grounding("g", "t", "thing", ((2, 7),), ("a",)),
            Grounding("e", phrase="it", region_ids=("a", "b")),
        )
        decisions = (Decision("b", "rejected", "nms", "overlap", 0.9, 0.5, "a"),)
        coverage = {"ours": (Coverage("exhaustive", ("thing",)), Coverage("negatives", ("cow",)))}
        ref = ImageRef(path.name, str(path), width=40, height=30, licence="CC0")
        samples.append(Sample(f"s{i}", ref, texts, regions, groundings, decisions, "test", coverage))
    jsonl.write(samples, folder / "labels.jsonl")
    return samples


def plain(sample):
    """A sample without names: ids replaced by their places, sources without run."""
    names = {item.id: str(n) for n, item in enumerate((*sample.regions, *sample.texts, *sample.groundings))}

    def bare(item):
        source = item.source and dataclasses.replace(item.source, run_id="", round=0)
        changes = {"id": names[item.id], "source": source}
        if isinstance(item, Region):
            changes |= {"refines": names.get(item.refines, ""), "box": None if item.box is None else item.box}
            changes |= {"derived_from": tuple(names[i] for i in item.derived_from)}
        if isinstance(item, Grounding):
            changes |= {"text_id": names.get(item.text_id, ""), "region_ids": tuple(names[i] for i in item.region_ids)}
        return dataclasses.replace(item, **changes)

    decisions = tuple(
        dataclasses.replace(d, item_id=names[d.item_id], by_id=names.get(d.by_id, "")) for d in sample.decisions
    )
    said = (tuple(map(bare, items)) for items in (sample.regions, sample.texts, sample.groundings))
    return (*said, decisions, sample.split, sample.coverage, sample.image.licence)


def test_json_lines_come_back_as_they_were(tmp_path):
    labelled(folder_of(tmp_path, 3))
    store = import_labels(tmp_path / "pictures" / "labels.jsonl", tmp_path / "s", workers=0)
    assert export_labels(store, "jsonl", tmp_path / "out", view="all") == (3, {})
    again = import_labels(tmp_path / "out", tmp_path / "s2", workers=0)
    for a, b in zip(store.samples(view="all"), again.samples(view="all")):
        assert plain(a) == plain(b)
    first = next(iter(store.samples(view="all")))
    assert [r.source for r in first.regions if r.label == "thing"][0].kind == "human"
    assert first.texts[1].source == Source("import", "jsonl", "1", 0, first.texts[1].source.run_id)
    assert first.regions[0].box == (1.1, 2.2, 30.3, 25.0) and first.regions[3].mask == CROWD
    assert first.coverage["ours"] == (Coverage("exhaustive", ("thing",)), Coverage("negatives", ("cow",)))
    before = fragments(store)
    import_labels(tmp_path / "pictures" / "labels.jsonl", tmp_path / "s", workers=0)
    assert fragments(store) == before


@pytest.mark.parametrize("to", ["coco", "voc", "yolo", "labelstudio"])
def test_boxes_survive_every_format(tmp_path, to):
    labelled(folder_of(tmp_path, 2))
    store = import_labels(tmp_path / "pictures" / "labels.jsonl", tmp_path / "s", workers=0)
    written, lost = export_labels(store, to, tmp_path / "out")
    assert written == 2 and lost
    back = import_labels(tmp_path / "out", tmp_path / "s2", workers=0)
    for sample in back.samples():
        (thing,) = [r for r in sample.regions if r.label == "thing"]
        assert thing.box == pytest.approx((1.1, 2.2, 30.3, 25.0), abs=1e-3 if to != "voc" else 1)


def test_what_people_said_outranks_what_a_specialist_says(tmp_path):
    folder = folder_of(tmp_path, 4)
    samples = [
        Sample(
            f"s{i}", ImageRef(p.name, str(p)), regions=(Region("a", box=(3, 2, 23, 25), label="THING", source=HUMAN),)
        )
        for i, p in enumerate(sorted(folder.glob("*.png")))
    ]
    jsonl.write(samples, folder / "labels.jsonl")
    store = import_labels(folder / "labels.jsonl", tmp_path / "s", workers=0)
    florence2.annotate(store.root, with_=[Boxes()], workers=0)
    florence2.filter(store, {"language": False, **no_parser()}, merging=MergeConfig())
    for sample in store.samples():
        (region,) = sample.regions
        assert region.source.kind == "human"
        assert [g.region_ids for g in sample.groundings] in ([], [(region.id,)])  # phrases follow the winner
    assert store.reasons()["annotations"]["outranked"] == 4


def no_parser():
    from florence2.engine.curation.filters.rules import RULES

    return {name: "parser" not in rule.settings for name, rule in RULES.items()}


def test_changed_labels_replace_what_they_were(tmp_path):
    folder = folder_of(tmp_path, 2)
    samples = labelled(folder)
    store = import_labels(folder / "labels.jsonl", tmp_path / "s", workers=0)
    changed = [dataclasses.replace(s, texts=(), groundings=(), regions=s.regions[:1], decisions=()) for s in samples]
    jsonl.write(changed, folder / "labels.jsonl")
    import_labels(folder / "labels.jsonl", tmp_path / "s", workers=0)
    assert [len(s.regions) + len(s.texts) for s in store.samples()] == [1, 1]
    assert store.counts()["annotations"]["superseded"] == 2 * 8


def test_labels_of_missing_pictures_wait_for_them(tmp_path):
    folder = folder_of(tmp_path, 3)
    labelled(folder)
    (folder / "p0001.png").unlink()
    told = []
    store = import_labels(folder / "labels.jsonl", tmp_path / "s", workers=0, on_message=told.append)
    assert store.counts()["images"]["failed"] == 1 and "1 of 3 pictures are missing" in told[0]
    assert store.counts()["annotations"]["total"] == 3 * 8 and len(list(store.samples())) == 2
    for path in folder.glob("*.png"):
        path.unlink()
    with pytest.raises(ValueError, match="--images"):
        import_labels(folder / "labels.jsonl", tmp_path / "none", workers=0)


def test_the_commands(tmp_path, capsys):
    folder = folder_of(tmp_path, 2)
    labelled(folder)
    store = str(tmp_path / "s")
    assert main(["import", str(folder / "labels.jsonl"), "--out", store, "--workers", "0", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["images"]["ok"] == 2
    assert main(["export", store, "--to", "coco", "--out", str(tmp_path / "coco"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["samples"] == 2
    assert main(["export", store, "--to", "voc", "--out", str(tmp_path / "coco")]) == 1
    assert "not empty" in capsys.readouterr().err
    assert main(["export", store, "--to", "voc", "--out", str(tmp_path / "v"), "--all"]) == 1
    assert Path(tmp_path / "coco" / "instances.json").is_file() and len(Store(store).snapshots()) == 1


def test_what_later_imports_say_of_known_pictures_counts(tmp_path):
    """Two sets label the same pictures, annotated before: both their coverages stand, in every way of reading."""
    folder = folder_of(tmp_path, 3)
    store = florence2.annotate(folder, tmp_path / "s", [Boxes()], workers=0)
    first = {"a": (Coverage("exhaustive", ("cat",)),), "shared": (Coverage("negatives", ("cow",)),)}
    second = {
        "b": (Coverage("partial"),),
        "shared": (Coverage("negatives", ("hen",)), Coverage("exhaustive", ("cow",))),
    }
    for name, coverage, count in (("one", first, 3), ("two", second, 2)):
        samples = [
            Sample(f"s{i}", ImageRef(p.name, str(p)), split="test", coverage=coverage)
            for i, p in enumerate(sorted(folder.glob("*.png"))[:count])
        ]
        jsonl.write(samples, tmp_path / name)
        import_labels(tmp_path / name, tmp_path / "s", workers=0)
    both = {
        **first, "b": (Coverage("partial"),),
        "shared": (Coverage("negatives", ("cow", "hen")), Coverage("exhaustive", ("cow",))),
    }  # fmt: skip
    expected = [both, both, first]

    def check(samples):
        assert [s.coverage for s in samples] == expected and {s.split for s in samples} == {"test"}

    check(list(store.samples()))
    check([store.random()[i] for i in range(3)])
    assert [s.coverage for s in store.samples(snapshot=1)] == [{}] * 3  # time travel
    store.compact()
    check(list(store.samples()))
    check([store.random()[i] for i in range(3)])
    assert export_labels(store, "jsonl", tmp_path / "out")[1] == {}
    check(list(jsonl.read(tmp_path / "out")))
    # labels that changed replace what their import said
    jsonl.write([dataclasses.replace(s, coverage={}) for s in samples], tmp_path / "two")
    other = florence2.annotate(folder, tmp_path / "s2", [Boxes()], workers=0)
    import_labels(tmp_path / "one", tmp_path / "s2", workers=0)
    assert [s.coverage for s in other.samples()] == [first] * 3
    jsonl.write([dataclasses.replace(s, coverage={}) for s in jsonl.read(tmp_path / "one")], tmp_path / "one")
    import_labels(tmp_path / "one", tmp_path / "s2", workers=0)
    assert [s.coverage for s in other.samples()] == [{}] * 3


def test_two_sets_about_the_same_pictures_both_stand(tmp_path):
    """A second data set adds to the first; only an import of the same files again replaces what they said."""
    folder = folder_of(tmp_path, 2)
    for name, label in (("one", "cat"), ("two", "dog")):
        samples = [
            Sample(f"s{i}", ImageRef(p.name, str(p)), regions=(Region("a", box=(1, 2, 9, 9), label=label),))
            for i, p in enumerate(sorted(folder.glob("*.png")))
        ]
        jsonl.write(samples, tmp_path / name)
        store = import_labels(tmp_path / name, tmp_path / "s", workers=0)
    assert [sorted(r.label for r in s.regions) for s in store.samples()] == [["cat", "dog"]] * 2
    jsonl.write([dataclasses.replace(s, regions=()) for s in samples], tmp_path / "two")
    import_labels(tmp_path / "two", tmp_path / "s", workers=0)
    assert [[r.label for r in s.regions] for s in store.samples()] == [["cat"]] * 2
    assert store.counts()["annotations"] == {"total": 4, "kept": 2, "rejected": 0, "superseded": 2}


def test_labels_of_byte_identical_pictures_meet_in_one_sample(tmp_path):
    image = pixels.encode(np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8))
    for folder, name, label in (("one", "a.png", "cat"), ("two", "b.png", "dog")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).write_bytes(image)
        boxes = [{"id": "r", "label": label, "box": [1, 2, 30, 40]}, {"id": "s", "label": "cow", "box": [5, 6, 7, 8]}]
        row = {"id": name, "image": name, "regions": boxes}
        (tmp_path / folder / "s.jsonl").write_text(json.dumps(row) + "\n")
    for _ in range(2):  # again: nothing is added
        import_labels(tmp_path / "one", tmp_path / "store", workers=0)
        store = import_labels(tmp_path / "two", tmp_path / "store", workers=0)
        (sample,) = store.samples()
        assert sorted(r.label for r in sample.regions) == ["cat", "cow", "cow", "dog"]  # two people said cow
    row = {"id": "b.png", "image": "b.png", "regions": [{"id": "r", "label": "hen", "box": [1, 2, 30, 40]}]}
    (tmp_path / "two" / "s.jsonl").write_text(json.dumps(row) + "\n")
    store = import_labels(tmp_path / "two", tmp_path / "store", workers=0)
    (sample,) = store.samples()
    assert sorted(r.label for r in sample.current().regions) == ["cat", "cow", "hen"]


def test_copies_within_a_set_say_what_is_alike_once(tmp_path):
    image = pixels.encode(np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8))
    rows = []
    for name, label in (("a.png", "cat"), ("b.png", "cat"), ("c.png", "dog")):
        (tmp_path / name).write_bytes(image)
        rows.append({"id": name, "image": name, "regions": [{"id": "r", "label": label, "box": [1, 2, 30, 40]}]})
    (tmp_path / "s.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (sample,) = import_labels(tmp_path, tmp_path / "store", workers=0).samples()
    assert sorted(r.label for r in sample.regions) == ["cat", "dog"]
