"""The conservation law, for any mix of pictures, specialists, filters and merging: nothing is lost or doubled."""

import json
import os
import tempfile
from collections import Counter
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import florence2
from florence2.engine.commands import import_labels
from florence2.engine.curation.merging import MergeConfig
from tests.engine.doubles import Boxes, Floor, Misbehaving, NoTexts, picture

KINDS = ("good", "good", "good", "copy", "blank", "empty", "cut", "tiny", "text")
STATUSES = ("ok", "rejected", "failed")
DEEDS = ("raises", "nan", "garbage", "fails", "wild")

pictures = st.lists(st.sampled_from(KINDS), min_size=1, max_size=9)
specialists = st.lists(
    st.tuples(st.sampled_from(("plain", *DEEDS)), st.sets(st.integers(0, 8), max_size=3), st.booleans()),
    min_size=1,
    max_size=3,
)
judgements = st.lists(st.tuples(st.sampled_from((0.0, 0.5, 0.7)), st.booleans(), st.booleans()), max_size=2)


def write(folder, kinds):
    for i, kind in enumerate(kinds):
        path = folder / f"p{i}.png"
        if kind == "empty":
            path.write_bytes(b"")
        elif kind == "text":
            path.write_text("words")
        elif kind == "blank":
            path.write_bytes(picture(folder / "..", f"blank{i}.png", 0, (20, 20)).read_bytes())
            from PIL import Image

            Image.new("RGB", (20, 20), (i, 0, 0)).save(path)
        else:
            picture(folder, path.name, 0 if kind == "copy" else i + 1, (5, 5) if kind == "tiny" else (40, 30))
            if kind == "cut":
                path.write_bytes(path.read_bytes()[:200])


def check(store):
    """Every line of the law, from the four tables alone."""
    images, annotations, decisions, failures = (
        store.table(name).to_pylist() for name in ("images", "annotations", "decisions", "failures")
    )
    sizes = {row["id"]: (row["width"], row["height"]) for row in images}
    status = Counter(row["status"] for row in images)
    assert len(sizes) == len(images) == sum(status[name] for name in STATUSES)
    assert all(bool(row["reason"]) == (row["status"] != "ok") for row in images)
    assert store.counts()["images"] == {"total": len(images), **{name: status[name] for name in STATUSES}}

    ids = {row["ann_id"] for row in annotations}
    assert len(ids) == len(annotations)
    texts = {row["ann_id"]: row["text"] for row in annotations if row["family"] == "text"}
    ok = {row["id"] for row in images if row["status"] == "ok"}
    for row in annotations:
        assert row["image_id"] in ok and row["source_kind"] and row["source"] and row["run_id"]
        assert row["parent_id"] is None or row["parent_id"] in ids
        assert set(row["region_ids"] or ()) | set(row["derived_from"] or ()) <= ids
        if row["spans"]:
            flat, text = row["spans"], texts[row["parent_id"]]
            assert row["text"] == " ".join(text[a:b] for a, b in zip(flat[::2], flat[1::2]))
        if row["box"]:
            (x1, y1, x2, y2), (width, height) = row["box"], sizes[row["image_id"]]
            assert 0 <= x1 <= x2 <= width and 0 <= y1 <= y2 <= height

    assert {row["ann_id"] for row in decisions} <= ids
    assert max(Counter((d["ann_id"], d["round"], d["seq"]) for d in decisions).values(), default=1) == 1
    assert {d["by_ann_id"] for d in decisions} - {None} <= ids
    last = {d["ann_id"]: d["status"] for d in sorted(decisions, key=lambda d: (d["round"], d["seq"]))}
    verdicts = Counter(last.get(ann_id, "kept") for ann_id in ids)
    counts = store.counts()["annotations"]
    assert counts["total"] == len(ids) == counts["kept"] + counts["rejected"] + counts["superseded"]
    assert all(verdicts[name] == counts[name] for name in ("kept", "rejected", "superseded"))

    keys = Counter((f["image_id"], f["source"], f["source_version"], f["round"]) for f in failures)
    assert max(keys.values(), default=1) == 1 and set(sizes) >= {f["image_id"] for f in failures}
    said = {(row["image_id"], row["source"]) for row in annotations}
    failed = {(f["image_id"], f["source"]) for f in failures}
    assert not said & failed
    for operator in store.snapshot().operators:
        if operator.kind == "specialist":  # each of the doubles says something of every picture
            assert {i for i, name in said | failed if name == operator.name} == ok
    shown = [item.id for s in store.samples() for item in (*s.regions, *s.texts, *s.groundings)]
    assert len(shown) == len(set(shown)) == counts["kept"]


lives = (pictures, specialists, judgements, st.sets(st.integers(0, 2)), st.integers(1, 4), st.integers(1, 4))
few = settings(
    max_examples=8,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # shrinking takes minutes
)


@few
@given(*lives)
def test_nothing_is_lost_or_doubled(kinds, made, judged, changed, unit, batch):
    live("", kinds, made, judged, changed, unit, batch)


@settings(few, max_examples=2)
@given(*lives)
def test_nothing_is_lost_or_doubled_in_an_object_store(bucket, kinds, made, judged, changed, unit, batch):
    live(f"{bucket}/{os.urandom(4).hex()}", kinds, made, judged, changed, unit, batch)


def live(place, kinds, made, judged, changed, unit, batch):
    """A store's life, in a folder unless a place is named."""
    with tempfile.TemporaryDirectory() as root:
        folder, place = Path(root) / "pictures", place or Path(root) / "s"
        folder.mkdir()
        write(folder, kinds)
        if "good" in kinds:
            check(import_labels(people(folder, kinds), place, workers=0, unit=unit))
        store = florence2.annotate(folder, place, doubles(made, batch), workers=0, unit=unit)
        check(store)
        for floor, texts, merging in judged:
            chain = [Floor(floor), NoTexts()] if texts else [Floor(floor)]
            florence2.filter(store, chain, merging=MergeConfig() if merging else None)
            check(store)
        before, view = store.counts(), list(store.samples())
        again = [double for n, double in enumerate(doubles(made, batch, "2")) if n in changed]
        florence2.annotate(store.root, with_=again, workers=0)  # other versions of some; the rest cannot follow
        check(store)
        florence2.filter(store, [Floor(0.4)], merging=MergeConfig())
        check(store)
        store.compact(rows=7)
        check(store)
        store.undo(to=before["snapshot"])
        check(store)
        assert {**store.counts(), "snapshot": 0} == {**before, "snapshot": 0} and list(store.samples()) == view


def doubles(made, batch, version="1"):
    """Specialists as drawn, each name once."""
    out = []
    for n, (deed, numbers, reads) in enumerate(made):
        more = {"shift": float(n), "requires": {"*"} if reads else (), "batch_size": batch, "version": version}
        names = [f"p{i}.png" for i in numbers]
        out.append(Boxes(f"s{n}", **more) if deed == "plain" else Misbehaving(deed, names, **more))
    return list({double.spec.name: double for double in out}.values())


def people(folder, kinds):
    """A file of labels that people made of the good pictures, with a caption and its phrase."""
    lines = []
    for n in [n for n, kind in enumerate(kinds) if kind == "good"]:
        region = {"id": "r", "box": [1, 2, 21, 25], "label": "thing", "source": {"kind": "human", "name": "ann"}}
        text = {"id": "t", "text": "a thing", "source": {"kind": "human", "name": "ann"}}
        phrase = {"id": "g", "text_id": "t", "spans": [[2, 7]], "region_ids": ["r"]}
        image = {"id": str(n), "uri": f"pictures/p{n}.png"}
        row = {"id": str(n), "image": image, "regions": [region], "texts": [text], "groundings": [phrase]}
        lines.append(json.dumps(row))
    (folder.parent / "labels.jsonl").write_text("\n".join(lines))
    return folder.parent / "labels.jsonl"
