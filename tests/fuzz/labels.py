"""Label files damaged in every format: each is read, or refused in one line; as written, and with what is bad left out.

With bad records left out nothing else goes: a picture whose own record was not touched says what it said before.
"""

import json
import pickle
import random
import shutil
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from florence2 import geometry, sources
from florence2.formats.problems import ReadProblems
from tests.formats.label_sets import MAKERS, picture, write
from tests.fuzz.attempts import Attempt, limited, one_line
from tests.fuzz.damage import damage_value, damaged_bytes

CAT, DOG = ("cat", (10, 20, 50, 90)), ("dog", (110, 20, 150, 50))
COUNTS = geometry.encode_rle(geometry.rasterize([(10, 10, 50, 10, 50, 90)], (160, 120))).counts


def _captions(root):
    rows = [{"id": n, "image_id": n, "caption": f"a cat number {n}"} for n in (1, 2, 3)]
    images = [{"id": n, "file_name": f"{n}.jpg", "width": 160, "height": 120} for n in (1, 2, 3)]
    mask = {"size": [120, 160], "counts": [0, 100, 19100]}
    things = [
        {"id": n, "image_id": n, "category_id": 1, "bbox": [1, 2, 30, 40], "segmentation": s}
        for n, s in ((1, [[1, 2, 31, 2, 31, 42]]), (2, mask), (3, {**mask, "counts": COUNTS}))
    ]
    pairs = [{"image_id": 1, "caption_id": 1, "phrase": "a cat", "span": [0, 5], "bbox_xyxy": [1, 2, 3, 4]}]
    categories = [{"id": 1, "name": "cat", "supercategory": "pet"}, {"id": 2, "name": "dog"}]
    instances = {"images": images, "annotations": things, "categories": categories, "info": {"description": "pets"}}
    write(root / "instances.json", json.dumps(instances))
    write(root / "captions.json", json.dumps({"images": images, "annotations": rows}))
    write(root / "pairs.json", json.dumps({"pairs": pairs}))
    return [picture(root / f"{n}.jpg") for n in (1, 2, 3)]


def _docvqa(root):
    rows = [
        {"questionId": n, "question": f"What is {n}?", "image": f"documents/{n}.jpg", "answers": [str(n), "x"]}
        for n in (1, 2, 3)
    ]
    write(root / "val_v1.0.json", json.dumps({"dataset_name": "x", "dataset_split": "val", "data": rows}))
    return [picture(root / f"documents/{n}.jpg") for n in (1, 2, 3)]


def _karpathy(root):
    rows = [
        {"filename": f"{n}.jpg", "cocoid": n, "split": "test", "sentences": [{"raw": "a cat", "sentid": n}]}
        for n in (1, 2, 3)
    ]
    write(root / "dataset_coco.json", json.dumps({"images": rows}))
    return [picture(root / f"{n}.jpg") for n in (1, 2, 3)]


def _refcoco(root):
    _captions(root)
    (root / "captions.json").unlink()
    (root / "pairs.json").unlink()
    refs = [
        {"ref_id": n, "ann_id": n, "image_id": n, "split": "val", "sentences": [{"sent": "left cat"}]} for n in (1, 2)
    ]
    write(root / "refs(unc).p", pickle.dumps(refs, protocol=2))


def _several(make):
    """A set of three pictures of a format whose files hold one picture each."""

    def written(root):
        for name in "abc":
            picture(make(root, f"{name}.jpg", [CAT, DOG]) / f"{name}.jpg")

    return written


def _lines(root):
    rows = []
    for name in "abc":
        picture(MAKERS["jsonl"](root, f"{name}.jpg", [CAT, DOG]) / f"{name}.jpg")
        row = json.loads((root / "samples.jsonl").read_text())
        text = {"id": "t", "text": "a cat and a dog"}
        grounding = {"id": "g", "text_id": "t", "phrase": "a cat", "spans": [[0, 5]], "region_ids": ["r0"]}
        rows.append({**row, "id": name, "texts": [text], "groundings": [grounding]})
    write(root / "samples.jsonl", "".join(json.dumps(row) + "\n" for row in rows))


def _cvat(root):
    images = ""
    for n, name in enumerate("abc"):
        picture(MAKERS["cvat"](root, f"{name}.jpg", [CAT, DOG]) / f"{name}.jpg")
        whole = (root / "annotations.xml").read_text()
        images += whole.partition("</version>")[2].removesuffix("</annotations>").replace('id="1"', f'id="{n}"')
    mask = '<mask label="cat" rle="2, 4, 3" left="1" top="2" width="3" height="3"/>'
    outline = '<polygon label="dog" points="1,2;30,2;30,40" group_id="1"/>'
    images = images.replace("</image>", f"{mask}{outline}</image>", 1)
    write(root / "annotations.xml", f"<annotations><version>1.1</version>{images}</annotations>")


def _prefix_suffix(root):
    names = [picture(root / f"{name}.jpg").name for name in "abc"]
    suffix = "cat<loc_62><loc_166><loc_312><loc_749>"
    rows = [{"image": name, "prefix": "<OD>", "suffix": suffix} for name in names]
    rows += [{"image": name, "prefix": "<DocVQA>What?", "suffix": "9.00"} for name in names]
    write(root / "train.jsonl", "".join(json.dumps(row) + "\n" for row in rows))


def _swift(root):
    names = [picture(root / f"{name}.jpg").name for name in "abc"]
    said = ("Find <ref-object>", "<bbox>"), ("Say", "<ref-object><bbox> sits"), ("<CAPTION>", "a cat")
    rows = []
    for name in names:
        for asked, answer in said:
            messages = [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]
            objects = {"ref": ["cat"], "bbox": [[10, 20, 50, 90]]}
            rows.append({"messages": messages, "images": [name], "objects": objects})
    write(root / "train.jsonl", "".join(json.dumps(row) + "\n" for row in rows))


def _parquet(root):
    cells = [{"bytes": picture(root / f"{name}.jpg").read_bytes(), "path": f"{name}.jpg"} for name in "abc"]
    objects = [{"bbox": [[10.0, 20.0, 40.0, 70.0]], "category": ["cat"]}] * 3
    made = {"image": cells, "question": ["What?"] * 3, "answers": [["9.00", "9"]] * 3, "objects": objects}
    pq.write_table(pa.table(made), root / "train.parquet")


def _tasks(root):
    tasks = []
    for n, name in enumerate("abc"):
        picture(MAKERS["labelstudio"](root, f"{name}.jpg", [CAT, DOG]) / f"{name}.jpg")
        (task,) = json.loads((root / "export.json").read_text())
        tasks.append({**task, "id": n, "predictions": [{"model_version": "x", "score": 0.5, "result": []}]})
    write(root / "export.json", json.dumps(tasks))


SETS = {  # format -> what draws a set of three pictures
    "coco": _captions, "voc": _several(MAKERS["voc"]), "yolo": _several(MAKERS["yolo"]), "jsonl": _lines,
    "labelstudio": _tasks, "openimages": _several(MAKERS["openimages"]), "icdar": _several(MAKERS["icdar"]),
    "sroie": _several(MAKERS["sroie"]), "cvat": _cvat, "prefix_suffix": _prefix_suffix, "swift": _swift,
    "parquet": _parquet, "docvqa": _docvqa, "karpathy": _karpathy, "refcoco": _refcoco,
}  # fmt: skip


def attempts(seed):
    """Damaged label files of each format in turn, without end."""
    base = Path(tempfile.mkdtemp(prefix="fuzz-labels-"))
    try:
        drawn = {format: _drawn(base / format, format) for format in SETS}
        number = 0
        while True:
            for format, (root, files, before) in drawn.items():
                rng = random.Random(f"{seed}-{format}-{number}")
                file = rng.choice(files)
                whole = file.read_bytes()
                damage, data, touched = _damaged(rng, file, whole)
                file.write_bytes(data)
                fault = _fault(root, format, len(data), before if touched is not None else None, touched)
                yield Attempt(format, f"seed {seed}, number {number}: {file.name}: {damage}", fault)
                file.write_bytes(whole)
            number += 1
    finally:
        shutil.rmtree(base, ignore_errors=True)


def _drawn(root, format):
    SETS[format](root)
    files = sorted(p for p in root.rglob("*") if p.is_file() and p.suffix != ".jpg")
    before = {sample.image.id: sample for sample in sources.open(root, format=format)}
    assert before, format
    return root, files, before


def _fault(root, format, size, before, touched):
    """What is wrong with how a set is read, as written and with bad records left out; "" for nothing."""
    faults, whole = [], None
    with limited(size, faults):
        try:
            whole = list(sources.open(root, format=format))
        except (ValueError, OSError) as error:
            faults.append(one_line(error, root))
        except Exception as error:
            faults.append(f"{type(error).__name__}: {str(error)[:200]}")
    problems, found = ReadProblems(skip=True), None
    with limited(size, faults):
        try:
            found = list(sources.open(root, format=format, problems=problems))
        except (ValueError, OSError) as error:
            faults.append(one_line(error, root))
        except Exception as error:
            faults.append(f"left out: {type(error).__name__}: {str(error)[:200]}")
    faults += [one_line(line, root) for line in [*problems.refused, *problems.notes()]]
    if whole is not None and (problems.refused or found != whole):
        faults.append("is read as written, and otherwise with bad records left out")
    faults += _odd(found or whole or ())
    if before and found is not None:
        now = {sample.image.id: sample for sample in found}
        gone = [name for name in before if name not in touched and (name not in now or now[name] != before[name])]
        faults += [f"{name}, which was not touched, says something else"[:200] for name in gone]
    return "; ".join(fault for fault in faults if fault)


def _odd(samples):
    """Samples that no later step could use."""
    for sample in samples:
        for region in sample.regions:
            if (region.label in ("None", "nan") and region.kind == "object") or (
                region.box and not all(abs(v) < 1e7 for v in region.box)
            ):
                yield f"made up: {region.label[:40]!r} {region.box}"


def _damaged(rng, file, whole):
    """(what was done, the damaged bytes, the pictures that are touched or None where that is not known)."""
    if file.suffix not in (".json", ".jsonl") or rng.random() >= 0.5:
        return *damaged_bytes(rng, whole), None
    lines = whole.decode().splitlines() if file.suffix == ".jsonl" else [whole.decode()]
    number = rng.randrange(len(lines))
    data = json.loads(lines[number])
    kind, place = damage_value(rng, data)
    lines[number] = json.dumps(data, allow_nan=True)
    return f"{kind} {'/'.join(map(str, place))}", "\n".join(lines).encode(), _touched(file, number, place)


def _touched(file, number, place):
    """The pictures of which a damaged value may say something; None where it may be any."""
    if file.name == "samples.jsonl":
        return {f"{'abc'[number]}.jpg"} | ({"a.jpg", "b.jpg", "c.jpg"} if place == ("id",) else set())
    if file.name == "export.json":
        return {f"{'abc'[place[0]]}.jpg"} if len(place) > 1 and place[1] != "id" else None
    if (
        file.name == "instances.json"
        and place[0] == "annotations"
        and len(place) > 2
        and place[2]
        not in (
            "id",
            "image_id",
        )
    ):
        return {f"{place[1] + 1}.jpg"}
    return None
