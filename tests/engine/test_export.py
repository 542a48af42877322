"""Exports: gone on with after any kill, copies and not links, ids that come back, parts, options refused where idle."""

import json
import os
import shutil

import pytest
import yaml

from florence2.cli import main
from florence2.engine.commands import import_labels
from florence2.engine.export import JOB, WRITERS, export_labels
from florence2.formats import jsonl
from florence2.records import ImageRef, Region, Sample, Source
from florence2.sources.splits import share_of
from tests.engine.doubles import folder_of, picture

POINTS = 10  # of an export's steps, spread evenly
STEPS = ((os, "replace"), (shutil, "copyfile"), (os, "link"))


def stored(tmp_path, count=6, **more):
    """A store of pictures with a box each, half of them a model's, with scores."""
    folder = folder_of(tmp_path, count)
    samples = []
    for n, path in enumerate(sorted(folder.glob("*.png"))):
        made = Source("specialist", "yolox", "2") if n % 2 else Source("human", "ann")
        region = Region("r", box=(1.0, 2.0, 21.0, 25.0), label=("cat", "dog")[n % 2], score=0.5, source=made, **more)
        samples.append(Sample(f"s{n}", ImageRef(path.name, str(path)), regions=(region,)))
    jsonl.write(samples, tmp_path / "in")
    return import_labels(tmp_path / "in", tmp_path / "s", workers=0)


def files_of(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def killed(step, call):
    """Run in a fork that ends as in a power cut at the given step; how many steps were made, 0 if it was killed."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        count, copyfile = 0, shutil.copyfile

        def wrap(of):
            def counted(*args, **more):
                nonlocal count
                count += 1
                if count == step:
                    if of is copyfile:
                        open(args[1], "wb").write(b"torn")
                    os._exit(9)
                return of(*args, **more)

            return counted

        for module, name in STEPS:
            setattr(module, name, wrap(getattr(module, name)))
        try:
            call()
            os.write(writer, str(count).encode())
        finally:
            os._exit(0)
    os.close(writer)
    os.waitpid(child, 0)
    return int(os.read(reader, 20) or 0)


@pytest.mark.parametrize("to", WRITERS)
def test_an_export_killed_anywhere_goes_on_to_the_same_files(tmp_path, to):
    store = stored(tmp_path)
    export_labels(store, to, tmp_path / "whole")
    steps = killed(0, lambda: export_labels(store, to, tmp_path / "counted"))
    assert steps > (5 if to != "jsonl" else 1)
    for step in sorted({1 + n * (steps - 1) // (POINTS - 1) for n in range(POINTS)}):
        out = tmp_path / f"out{step}"
        assert not killed(step, lambda out=out: export_labels(store, to, out))
        if not killed(max(1, step // 2), lambda out=out: export_labels(store, to, out)):  # and again, on the way
            export_labels(store, to, out)
        assert files_of(out) == files_of(tmp_path / "whole"), step


def test_an_interrupted_export_keeps_its_snapshot_and_its_kind(tmp_path):
    store = stored(tmp_path)
    export_labels(store, "yolo", tmp_path / "whole")
    killed(4, lambda: export_labels(store, "yolo", tmp_path / "out"))
    assert (tmp_path / "out" / JOB).is_file()
    with pytest.raises(ValueError, match="interrupted export of another kind"):
        export_labels(store, "coco", tmp_path / "out")
    with pytest.raises(ValueError, match="interrupted export of another kind"):
        export_labels(store, "yolo", tmp_path / "out", scores=True)
    picture(tmp_path / "more", "new.png", 77)
    jsonl.write([Sample("n", ImageRef("new.png", str(tmp_path / "more" / "new.png")))], tmp_path / "in2")
    import_labels(tmp_path / "in2", tmp_path / "s", workers=0)
    lines = []
    export_labels(store, "yolo", tmp_path / "out", on_message=lines.append)
    assert files_of(tmp_path / "out") == files_of(tmp_path / "whole")
    assert any("goes on with snapshot 1" in line for line in lines)
    with pytest.raises(ValueError, match="not empty"):
        export_labels(store, "yolo", tmp_path / "out")


@pytest.mark.parametrize("to", [name for name in WRITERS if name != "jsonl"])
def test_pictures_are_copies_unless_links_are_asked_for(tmp_path, to):
    store = stored(tmp_path, 2)
    for name, link in (("copies", False), ("links", True)):
        export_labels(store, to, tmp_path / name, link=link)
        mapping = json.loads((tmp_path / name / "mapping.json").read_text())
        assert len(mapping) == 2
        for exported, uri in mapping.items():
            assert os.path.samefile(tmp_path / name / exported, uri) == link
            assert (tmp_path / name / exported).read_bytes() == open(uri, "rb").read()


def coco_set(folder):
    """Two pictures in folders, numbers far from 1, supercategories, a category that nothing uses."""
    for name in ("cam1/x.png", "cam2/x.png"):
        picture(folder / "images", name, len(name) + ord(name[3]))
    images = [
        {"id": 139, "file_name": "cam1/x.png", "width": 40, "height": 30},
        {"id": 42, "file_name": "cam2/x.png", "width": 40, "height": 30},
    ]
    categories = [
        {"id": 90, "name": "toothbrush", "supercategory": "indoor"},
        {"id": 17, "name": "cat", "supercategory": "animal"},
        {"id": 18, "name": "dog", "supercategory": "animal"},
    ]
    rows = [(1768, 139, 17), (900100581904, 139, 18), (7, 42, 17)]
    annotations = [
        {"id": i, "image_id": image, "category_id": c, "bbox": [1, 2, 10, 10], "area": 100, "iscrowd": 0}
        for i, image, c in rows
    ]
    captions = [{"id": 5, "image_id": 42, "caption": "a cat"}]
    shared = {"info": {"description": "zoo"}, "images": images}
    (folder / "instances.json").write_text(json.dumps({**shared, "annotations": annotations, "categories": categories}))
    (folder / "captions.json").write_text(json.dumps({**shared, "annotations": captions}))
    return folder


@pytest.mark.parametrize("compact", [False, True])
def test_coco_ids_categories_and_paths_survive(tmp_path, compact):
    store = import_labels(coco_set(tmp_path / "zoo"), tmp_path / "s", workers=0)
    if compact:
        store.compact()
    export_labels(store, "coco", tmp_path / "out")
    for _ in range(2):  # there, and there again from what was exported
        (before, after) = (json.loads((tmp_path / d / "instances.json").read_text()) for d in ("zoo", "out"))
        assert {(i["id"], i["file_name"]) for i in after["images"]} == {(139, "cam1/x.png"), (42, "cam2/x.png")}
        assert after["categories"] == before["categories"]
        assert {(a["id"], a["image_id"], a["category_id"]) for a in after["annotations"]} == {
            (a["id"], a["image_id"], a["category_id"]) for a in before["annotations"]
        }
        assert all(a["segmentation"] == [] and "score" not in a for a in after["annotations"])
        ((caption),) = json.loads((tmp_path / "out" / "captions.json").read_text())["annotations"]
        assert (caption["id"], caption["image_id"]) == (5, 42)
        assert (tmp_path / "out" / "images" / "cam1" / "x.png").is_file()
        shutil.move(tmp_path / "out", tmp_path / "moved")
        again = import_labels(tmp_path / "moved", tmp_path / "s2", workers=0)
        export_labels(again, "coco", tmp_path / "out")


def test_where_two_sets_claim_an_id_the_first_keeps_it(tmp_path):
    store = import_labels(coco_set(tmp_path / "one"), tmp_path / "s", workers=0)
    other = coco_set(tmp_path / "two")
    for n, name in enumerate(("cam1/x.png", "cam2/x.png")):
        picture(other / "images", name, 500 + n)
    data = json.loads((other / "instances.json").read_text())
    data["categories"][0].update(id=17, name="hen")  # 17 is the first set's cat
    data["categories"][1].update(id=99)
    for row in data["annotations"]:
        row["category_id"] = 99 if row["category_id"] == 17 else row["category_id"]
    (other / "instances.json").write_text(json.dumps(data))
    (other / "captions.json").unlink()
    import_labels(other, tmp_path / "s", workers=0)
    export_labels(store, "coco", tmp_path / "out")
    out = json.loads((tmp_path / "out" / "instances.json").read_text())
    assert {c["name"]: c["id"] for c in out["categories"]} == {"toothbrush": 90, "cat": 17, "dog": 18, "hen": 1}
    for kind, kept in (("images", {139, 42}), ("annotations", {1768, 900100581904, 7})):
        ids = [row["id"] for row in out[kind]]
        assert len(set(ids)) == len(ids) == 2 * len(kept) and kept < set(ids)
        assert set(ids[: len(kept)]) == kept
    assert len({i["file_name"] for i in out["images"]}) == 4


def test_split_parts_a_set_by_the_rules_number(tmp_path):
    store = stored(tmp_path, 40)
    lines = []
    export_labels(store, "coco", tmp_path / "out", split=(50, 30, 20), on_message=lines.append)
    images = json.loads((tmp_path / "out" / "instances.json").read_text())["images"]
    for image in images:
        share = share_of(image["file_name"])
        assert image["split"] == ("train" if share < 0.5 else "val" if share < 0.8 else "test")
    assert {image["split"] for image in images} == {"train", "val", "test"}
    assert any("no longer held to the rule" in line for line in lines)
    for wrong in ((50, 30), (50, 30, 30), (-10, 60, 50)):
        with pytest.raises(ValueError, match="three numbers that make 100"):
            export_labels(store, "coco", tmp_path / "no", split=wrong)


@pytest.mark.parametrize("count", [2, 3, 30])
def test_yolo_of_a_set_without_parts_has_a_train_and_a_val_that_differ(tmp_path, count):
    store = stored(tmp_path, count)
    lines = []
    export_labels(store, "yolo", tmp_path / "out", on_message=lines.append)
    data = yaml.safe_load((tmp_path / "out" / "data.yaml").read_text())
    train, val = (sorted((tmp_path / "out" / data[key]).iterdir()) for key in ("train", "val"))
    assert train and val and not {p.name for p in train} & {p.name for p in val} and len(train) >= len(val)
    assert any("no parts of its own" in line for line in lines)
    assert {s.split for s in jsonl_of(tmp_path / "out", tmp_path)} == {""}  # it is still held to the rule


def jsonl_of(folder, tmp_path):
    return import_labels(folder, tmp_path / "again", workers=0).samples()


def test_options_that_a_format_does_not_know_are_refused(tmp_path, capsys):
    store = stored(tmp_path, 2)
    for to, option in (
        ("voc", ["--scores"]),
        ("jsonl", ["--link"]),
        ("coco", ["--yolo", "boxes"]),
        ("yolo", ["--image-prefix", "x"]),
        ("coco", ["--all"]),
        ("yolo", ["--split", "80/20"]),
        ("yolo", ["--split", "a/b/c"]),
    ):
        assert main(["export", str(store.root), "--to", to, "--out", str(tmp_path / "no"), *option]) == 1
        error = capsys.readouterr().err
        assert option[0] in error and error.count("\n") == 1 and not (tmp_path / "no").exists()
    args = ["export", str(store.root), "--to", "yolo", "--out", str(tmp_path / "o"), "--scores", "--split", "80/10/10"]
    assert main([*args, "--yolo", "boxes", "--link"]) == 0
    rows = [line for p in (tmp_path / "o").rglob("*.txt") for line in p.read_text().splitlines()]
    assert len(rows) == 2 and all(row.split()[5] == "0.5" for row in rows)
