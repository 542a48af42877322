"""Export and import through a store: a format gives back all that it can hold, and counts each thing that it cannot."""

import dataclasses
import json

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from florence2 import geometry, pixels, sources
from florence2.engine.commands import import_labels
from florence2.engine.export import export_labels
from florence2.formats import jsonl
from florence2.records import Coverage, Grounding, ImageRef, Region, Sample, Source, Text

WIDTH, HEIGHT = 64, 48
LABELS = ("cat", "dog", "Straßenbahn", "a b")
SOURCES = (
    Source("human", "ann", "3"),
    Source("import", "coco"),
    Source("specialist", "yolox", "2"),
    Source("model", "m", "9"),
)
TEXTS = (("cat", "brief", ""), ("long one", "detailed", ""), ("7", "answer", "how many?"))
LICENCES = ("", "CC0", "CC BY 2.0")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    for n in range(3):
        array = np.random.default_rng(n).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        (folder / f"p{n}.png").write_bytes(pixels.encode(array))
    return folder


@st.composite
def regions(draw):
    out = []
    for n in range(draw(st.integers(0, 4))):
        x1, x2 = sorted((draw(st.integers(0, 60)), draw(st.integers(61, 64))))
        y1, y2 = sorted((draw(st.integers(0, 40)), draw(st.integers(41, 48))))
        shape = draw(st.sampled_from(["box", "box", "polygons", "mask", "words"]))
        base = Region(f"r{n}", box=(float(x1), float(y1), float(x2), float(y2)), label=draw(st.sampled_from(LABELS)))
        base = dataclasses.replace(base, label_space="things", source=draw(st.sampled_from(SOURCES)))
        if shape == "words":
            quad = (x1, y1, x2, y1 + 0.5, x2, y2, x1, y2 - 0.5)
            out.append(dataclasses.replace(base, kind="text", quad=tuple(map(float, quad)), label_space="text"))
            continue
        parts = tuple(tuple(map(float, p)) for p in ((x1, y1, x2, y1, x2, y2), (x1, y2, x2, y2, x1, y1)))
        parts = parts[: draw(st.integers(1, 2))] if shape == "polygons" else ()
        if parts:
            base = dataclasses.replace(base, box=geometry.polygon_box(*parts), polygons=parts)
        if shape == "mask":
            drawn = geometry.rasterize([geometry.box_quad(base.box)], (WIDTH, HEIGHT))
            base = dataclasses.replace(base, mask=geometry.encode_rle(drawn))
        more = {"score": draw(st.sampled_from([None, 0.25, 0.875])), "description": draw(st.sampled_from(["", "old"]))}
        out.append(dataclasses.replace(base, ignore=draw(st.booleans()), **more))
    if out and out[0].kind == "object" and draw(st.booleans()):  # a mask that refines a box
        first = out[0]
        drawn = geometry.rasterize([geometry.box_quad(first.box)], (WIDTH, HEIGHT))
        finer = Region("finer", box=first.box, label=first.label, label_space="things", mask=geometry.encode_rle(drawn))
        out.append(dataclasses.replace(finer, refines=first.id, source=first.source))
    return tuple(out)


@st.composite
def covered(draw):
    """Nothing said; all listed; or LVIS's mixture."""
    states = draw(st.sampled_from(["none", "every", "mixed"]))
    mixed = (Coverage("exhaustive", LABELS[:1]), Coverage("partial", LABELS[1:2]), Coverage("negatives", LABELS[2:]))
    return {"none": {}, "every": {"things": (Coverage("exhaustive", LABELS),)}, "mixed": {"things": mixed}}[states]


@st.composite
def sets(draw):
    """Three pictures with labels, splits, licences and coverage."""
    out = []
    for n in range(3):
        words = draw(st.lists(st.sampled_from(TEXTS), max_size=3))
        makers = [draw(st.sampled_from(SOURCES)) for _ in words]
        said = [Text(f"t{n}.{i}", f"a {w}", d, q, None, m) for i, ((w, d, q), m) in enumerate(zip(words, makers))]
        found = draw(regions())
        spoken = [t for t in said if t.text == "a cat"][:1] if found else []
        phrases = tuple(Grounding(f"g{n}", t.id, "cat", ((2, 5),), (found[0].id,)) for t in spoken)
        image = ImageRef(
            f"p{n}.png", width=WIDTH, height=HEIGHT, licence=draw(st.sampled_from(["", "CC0", "CC BY 2.0"]))
        )
        split = draw(st.sampled_from(["", "train", "val", "test"]))
        out.append(Sample(str(n), image, tuple(said), found, phrases, split=split, coverage=draw(covered())))
    return out


def through(tmp_path_factory, pictures, samples, to, **wishes):
    """Samples in a store, exported, imported into another: what stood there, what stands here, what was said lost."""
    root = tmp_path_factory.mktemp("trip")
    placed = [
        dataclasses.replace(s, image=dataclasses.replace(s.image, uri=str(pictures / s.image.id))) for s in samples
    ]
    jsonl.write(placed, root / "in")
    store = import_labels(root / "in", root / "one", workers=0)
    _, lost = export_labels(store, to, root / "out", **wishes)
    again = import_labels(root / "out", root / "two", workers=0)

    def by_name(found):
        return {s.image.uri.rpartition("/")[2]: s for s in found.samples()}

    before, after = by_name(store), by_name(again)
    assert sorted(before) == sorted(after) == ["p0.png", "p1.png", "p2.png"]
    return [(before[name], after[name]) for name in sorted(before)], lost, root / "out"


def view(regions, *, drop=(), kinds=("object",)):
    """What regions say, in an order of their own, without names and run."""
    rows = []
    for r in regions:
        if r.kind in kinds and not r.refines:
            row = {
                "kind": r.kind, "label": r.label, "box": r.box, "space": r.label_space, "score": r.score,
                "ignore": r.ignore, "source": (r.source.kind, r.source.name, r.source.version), "quad": r.quad,
                "polygons": tuple(tuple(round(v, 2) for v in part) for part in r.polygons), "mask": r.mask,
                "description": r.description,
            }  # fmt: skip
            rows.append({key: str(value) for key, value in row.items() if key not in drop})
    return sorted(rows, key=str)


def folded(sample):
    """The regions with what refines them put in, as every format but ours has it."""
    finer = {r.refines: r for r in sample.regions if r.refines}
    shaped = lambda r: r.polygons or r.quad or r.mask  # noqa: E731
    return [
        dataclasses.replace(r, mask=finer[r.id].mask) if r.id in finer and not shaped(r) else r
        for r in sample.regions
        if not r.refines
    ]


def objects(pairs):
    return [r for before, _ in pairs for r in folded(before) if r.kind == "object"]


often = settings(
    max_examples=8,
    deadline=None,
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@often
@given(sets())
def test_json_lines_hold_everything(tmp_path_factory, pictures, samples):
    pairs, lost, _ = through(tmp_path_factory, pictures, samples, "jsonl")
    assert not lost
    for a, b in pairs:
        assert (a.split, a.coverage, a.image.licence, len(a.groundings)) == (
            b.split, b.coverage, b.image.licence, len(b.groundings),
        )  # fmt: skip
        assert view(a.regions, kinds=("object", "text")) == view(b.regions, kinds=("object", "text"))
        assert [(t.text, t.detail, t.question, t.source.kind) for t in a.texts] == [
            (t.text, t.detail, t.question, t.source.kind) for t in b.texts
        ]


@often
@given(sets())
def test_coco_holds_objects_captions_and_what_absence_means(tmp_path_factory, pictures, samples):
    pairs, lost, _ = through(tmp_path_factory, pictures, samples, "coco", scores=True)
    labelled = any(s.coverage or objects([(s, s)]) for s, _ in pairs)
    for a, b in pairs:
        assert view(folded(a), drop=("description",)) == view(b.regions, drop=("description",))
        assert (a.split, a.image.licence) == (b.split, b.image.licence)
        assert [(t.text, t.source.kind) for t in a.texts if t.detail == "brief"] == [
            (t.text, t.source.kind) for t in b.texts
        ]
        if labelled:
            assert {s: {c.state: set(c.labels) for c in cs} for s, cs in a.coverage.items()} == {
                s: {c.state: set(c.labels) for c in cs} for s, cs in b.coverage.items()
            }
    before = [a for a, _ in pairs]
    assert lost["regions_of_text"] == sum(r.kind == "text" for a in before for r in a.regions)
    assert lost["description"] == sum(bool(r.description) for r in objects(pairs))
    for detail in ("detailed", "answer"):
        assert lost[f"text_{detail}"] == sum(t.detail == detail for a in before for t in a.texts)
    assert lost["groundings"] == sum(len(a.groundings) for a in before)
    known = {"regions_of_text", "description", "text_detailed", "text_answer", "groundings", "refinements"}
    assert set(lost) <= known


@often
@given(sets())
def test_voc_holds_boxes_labels_and_splits(tmp_path_factory, pictures, samples):
    pairs, lost, _ = through(tmp_path_factory, pictures, samples, "voc")
    gone = ("polygons", "mask", "score", "source", "description", "space")
    tested = any(a.split == "test" for a, _ in pairs)
    assert lost["split"] == (0 if tested else sum(a.split == "val" for a, _ in pairs))
    for a, b in pairs:
        assert view(folded(a), drop=gone) == view(b.regions, drop=gone)
        assert b.split == ("test" if a.split == "val" and not tested else a.split)
        assert bool(b.coverage) == bool(a.coverage)
    every = objects(pairs)
    assert lost["score"] == sum(r.score is not None for r in every)
    assert lost["polygons"] == sum(bool(r.polygons) for r in every) and lost["mask"] == sum(bool(r.mask) for r in every)
    assert lost["source"] == sum(r.source.kind != "import" for r in every)
    assert lost["texts"] == sum(len(a.texts) for a, _ in pairs)
    assert lost["licence"] == sum(bool(a.image.licence) for a, _ in pairs)
    assert lost["coverage"] == sum(len(cs) for a, _ in pairs for cs in a.coverage.values() if len(cs) > 1)


@often
@given(sets(), st.sampled_from(["boxes", "outlines"]))
def test_yolo_holds_boxes_or_outlines_and_splits(tmp_path_factory, pictures, samples, form):
    pairs, lost, out = through(tmp_path_factory, pictures, samples, "yolo", scores=True, yolo=form)
    for a, b in pairs:
        assert a.split == b.split
        kept = [r for r in folded(a) if r.kind == "object" and not r.ignore]
        shaped = [r for r in kept if r.polygons or r.mask or form == "boxes"]
        assert sorted(r.label for r in shaped) == sorted(r.label for r in b.regions)
        assert {bool(r.polygons) for r in b.regions} <= {form == "outlines"}
        if form == "boxes":
            assert sorted((r.label, r.box, r.score or 0) for r in kept) == sorted(
                (r.label, r.box, r.score or 0) for r in b.regions
            )
    every = objects(pairs)
    kept = [r for r in every if not r.ignore]
    assert lost["region_ignored"] == len(every) - len(kept)
    assert lost["mask"] == sum(bool(r.mask) for r in kept)
    if form == "outlines":
        assert lost["region_without_outline"] == sum(not r.polygons and not r.mask for r in kept)
        assert lost["score"] == sum(r.score is not None for r in kept if r.polygons or r.mask)
    data = yaml.safe_load((out / "data.yaml").read_text())
    assert {"train", "val", "names"} <= set(data)  # what trainers ask for
    if not any(s.split for s in samples):
        assert data["train"] != data["val"]


@often
@given(sets())
def test_cvat_holds_shapes_and_subsets(tmp_path_factory, pictures, samples):
    pairs, lost, out = through(tmp_path_factory, pictures, samples, "cvat")
    for a, b in pairs:
        ours = [r for r in folded(a) if r.kind == "object"]
        assert a.split == b.split and len(ours) == len(b.regions)
        for kind in ("box", "polygons", "mask"):
            left, right = (sorted((r.label, str(getattr(r, kind))) for r in rs) for rs in (ours, b.regions))
            assert left == right
    every = objects(pairs)
    assert lost["ignore"] == sum(r.ignore for r in every) and lost["score"] == sum(r.score is not None for r in every)
    assert lost["texts"] == sum(len(a.texts) for a, _ in pairs)


def outlined(region):
    """A mask becomes its outline."""
    if region.mask is None:
        return region
    polygons = region.polygons or geometry.mask_polygons(geometry.decode_rle(region.mask))
    return dataclasses.replace(region, mask=None, polygons=tuple(polygons), box=geometry.polygon_box(*polygons))


@often
@given(sets())
def test_labelstudio_holds_all_but_masks_and_phrases(tmp_path_factory, pictures, samples):
    pairs, lost, out = through(tmp_path_factory, pictures, samples, "labelstudio")
    for a, b in pairs:
        kept = ("object", "text")
        assert view(map(outlined, folded(a)), kinds=kept) == view(b.regions, kinds=kept)
        assert (a.split, a.image.licence, a.coverage) == (b.split, b.image.licence, b.coverage)
        assert sorted((t.text, t.detail, t.question, t.source.kind) for t in a.texts) == sorted(
            (t.text, t.detail, t.question, t.source.kind) for t in b.texts
        )
    assert lost["mask"] == sum(bool(r.mask) for a, _ in pairs for r in folded(a))
    assert set(lost) <= {"mask", "groundings", "refinements"}


def test_what_a_person_changed_in_label_studio_is_a_persons(tmp_path, pictures):
    """Our own file, saved by a person there: whoever made an item before, it is a human's now."""
    thing = Region("r", box=(1.0, 2.0, 30.0, 40.0), label="cat", source=SOURCES[1])
    jsonl.write([Sample("1", ImageRef("p0.png", str(pictures / "p0.png")), regions=(thing,))], tmp_path / "in")
    store = import_labels(tmp_path / "in", tmp_path / "s", workers=0)
    export_labels(store, "labelstudio", tmp_path / "out")
    (task,) = json.loads((tmp_path / "out/tasks.json").read_text())
    (sample,) = sources.open(tmp_path / "out")
    assert sample.regions[0].source.kind == "import" and sample.regions[0].score is None
    task["annotations"][0]["completed_by"] = 1
    (tmp_path / "out/tasks.json").write_text(json.dumps([task]))
    (sample,) = sources.open(tmp_path / "out")
    assert sample.regions[0].source.kind == "human" and sample.regions[0].box == pytest.approx(thing.box)


def test_a_box_and_the_mask_that_refines_it_are_one_object(tmp_path, pictures):
    mask = geometry.encode_rle(geometry.rasterize([(1, 1, 20, 1, 20, 20)], (WIDTH, HEIGHT)))
    box = Region("b", box=(1.0, 1.0, 20.0, 20.0), label="cat", score=0.5, source=SOURCES[2])
    finer = Region("m", box=(1.0, 1.0, 20.0, 20.0), label="cat", mask=mask, refines="b", source=SOURCES[2])
    jsonl.write([Sample("1", ImageRef("p0.png", str(pictures / "p0.png")), regions=(box, finer))], tmp_path / "in")
    store = import_labels(tmp_path / "in", tmp_path / "s", workers=0)
    export_labels(store, "coco", tmp_path / "out", scores=True)
    ((region,),) = (s.regions for s in sources.open(tmp_path / "out"))
    assert region.mask == mask and region.score == 0.5 and region.box == box.box
