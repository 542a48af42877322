"""Foreign formats: what is read, what a round trip keeps, and that every problem is named with its place."""

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from florence2 import geometry, pixels, sources
from florence2.formats import coco, jsonl, labelstudio, ocr_datasets, voc, yolo
from florence2.records import Coverage, Grounding, ImageRef, Region, Rle, Sample, Source, Text
from tests.drawn_sets import SETS, coco_open, nuts
from tests.shared import shared

WIDTH, HEIGHT = 64, 48
WORDS = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Zl", "Zp")), min_size=1, max_size=8).map(
    lambda s: " ".join(s.split()) or "x"
)
X, Y = st.floats(0, WIDTH, width=32), st.floats(0, HEIGHT, width=32)


@pytest.fixture
def picture(tmp_path):
    """A picture in a folder of its own, outside what is written."""
    file = tmp_path / "pictures" / "a b.png"
    file.parent.mkdir()
    file.write_bytes(pixels.encode(np.zeros((HEIGHT, WIDTH, 3), np.uint8)))
    return file


@st.composite
def regions(draw):
    out = []
    for n in range(draw(st.integers(0, 4))):
        x1, x2 = sorted((draw(X), draw(X)))
        y1, y2 = sorted((draw(Y), draw(Y)))
        shape = draw(st.sampled_from(["box", "polygons", "mask"]))
        polygons, mask = (), None
        if shape == "polygons":
            polygons = ((x1, y1, x2, y1, x2, y2), (x1, y2, x2, y2, x1, y1))[: draw(st.integers(1, 2))]
        elif shape == "mask":
            mask = geometry.encode_rle(geometry.rasterize([geometry.box_quad((x1, y1, x2, y2))], (WIDTH, HEIGHT)))
        out.append(
            Region(f"r{n}", "object", (x1, y1, x2, y2), draw(WORDS), "things", polygons=polygons, mask=mask,
                   ignore=draw(st.booleans()), source=Source("human", "me"))
        )  # fmt: skip
    return tuple(out)


@st.composite
def samples(draw):
    texts = tuple(Text(f"t{n}", draw(WORDS)) for n in range(draw(st.integers(0, 2))))
    found = draw(regions())
    labels = tuple(dict.fromkeys(r.label for r in found))
    coverage = {"things": (Coverage("exhaustive", labels),)} if labels else {}
    image = ImageRef("a b.png", width=WIDTH, height=HEIGHT)
    return Sample("7", image, texts, found, coverage=coverage, split=draw(st.sampled_from(["", "train", "test"])))


def written(module, sample, picture, folder):
    """The sample written by a twin and read back, and what was lost."""
    sample = dataclasses.replace(sample, image=dataclasses.replace(sample.image, uri=str(picture)))
    lost = module.write([sample], folder)
    (again,) = module.read(folder)
    return again, +lost


twice = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def fresh(tmp_path_factory):
    return tmp_path_factory.mktemp("out")


@twice
@given(samples())
def test_jsonl_keeps_everything(tmp_path_factory, sample):
    sample = dataclasses.replace(sample, groundings=(Grounding("g", phrase="x", region_ids=()),))
    folder = fresh(tmp_path_factory)
    assert not jsonl.write([sample], folder)
    assert list(jsonl.read(folder)) == [sample]


@twice
@given(samples())
def test_coco_keeps_boxes_labels_outlines_crowds_captions(tmp_path_factory, picture, sample):
    again, lost = written(coco, sample, picture, fresh(tmp_path_factory))
    assert not lost and again.id == "7" and again.image.size_wh == (WIDTH, HEIGHT)
    assert [t.text for t in again.texts] == [t.text for t in sample.texts]
    assert len(again.regions) == len(sample.regions)
    for ours, theirs in zip(sample.regions, again.regions):
        assert theirs.box == pytest.approx(ours.box, abs=1e-9)
        assert (theirs.label, theirs.polygons, theirs.mask, theirs.ignore) == (
            ours.label, ours.polygons, ours.mask, ours.ignore,
        )  # fmt: skip


@twice
@given(samples())
def test_voc_keeps_boxes_and_labels(tmp_path_factory, picture, sample):
    again, lost = written(voc, sample, picture, fresh(tmp_path_factory))
    assert [(r.box, r.label, r.ignore) for r in again.regions] == [(r.box, r.label, r.ignore) for r in sample.regions]
    assert again.split == sample.split
    assert lost["polygons"] == sum(bool(r.polygons) for r in sample.regions) and lost["texts"] == len(sample.texts)


@twice
@given(samples())
def test_yolo_keeps_boxes_or_outlines_one_row_an_object(tmp_path_factory, picture, sample):
    again, lost = written(yolo, sample, picture, fresh(tmp_path_factory))
    kept = [r for r in sample.regions if not r.ignore]
    assert lost["region_ignored"] == len(sample.regions) - len(kept)
    assert [r.label for r in again.regions] == [r.label for r in kept]
    outlined = [bool(r.polygons) or (r.mask is not None and geometry.rle_area(r.mask) > 0) for r in kept]
    assert {bool(r.polygons) for r in again.regions} <= {all(outlined)}  # never mixed
    for ours, theirs in zip(kept, again.regions):
        if not all(outlined):
            assert theirs.box == pytest.approx(ours.box, abs=1e-5)
        elif ours.polygons:
            area = sum(geometry.polygon_area(part) for part in ours.polygons)
            assert geometry.polygon_area(theirs.polygons[0]) == pytest.approx(area, abs=1e-2)


@twice
@given(samples())
def test_labelstudio_keeps_boxes_labels_and_captions(tmp_path_factory, picture, sample):
    again, lost = written(labelstudio, sample, picture, fresh(tmp_path_factory))
    assert [t.text for t in again.texts] == [t.text for t in sample.texts]
    whole = [r for r in sample.regions if r.mask is None or geometry.rle_area(r.mask)]
    assert [r.label for r in again.regions if r.id in {w.id for w in whole}] == [r.label for r in whole]
    for ours in sample.regions:
        if not ours.polygons and ours.mask is None:
            (theirs,) = (r for r in again.regions if r.id == ours.id)
            assert theirs.box == pytest.approx(ours.box, abs=1e-5) and theirs.source.kind == "human"


def test_labelstudio_keeps_words_with_their_quads(tmp_path, picture):
    word = Region("w", "text", (4.0, 4.0, 30.0, 14.0), "SALE", quad=(4.0, 4.0, 30.0, 6.0, 30.0, 14.0, 4.0, 12.0))
    model = Region("m", box=(1.0, 2.0, 3.0, 4.0), label="cat", score=0.5, source=Source("specialist", "yolox", "2"))
    sample = Sample("7", ImageRef("a b.png", width=WIDTH, height=HEIGHT), regions=(word, model))
    again, _ = written(labelstudio, sample, picture, tmp_path / "out")
    first, second = again.regions
    assert (first.kind, first.label) == ("text", "SALE") and first.quad == pytest.approx(word.quad)
    assert not first.polygons and (second.label, second.score, second.source) == ("cat", 0.5, model.source)


def test_a_turned_rectangle_is_turned_about_its_corner(tmp_path):
    shape = {"x": 50, "y": 50, "width": 10, "height": 20, "rotation": 90, "rectanglelabels": ["cat"]}
    result = {"id": "r", "type": "rectanglelabels", "original_width": 100, "original_height": 200, "value": shape}
    task = {"id": 1, "data": {"image": "/data/upload/a.png"}, "annotations": [{"result": [result]}]}
    (tmp_path / "tasks.json").write_text(json.dumps([task]))
    ((region,),) = (s.regions for s in sources.open(tmp_path))
    assert region.polygons[0] == pytest.approx((50, 100, 50, 110, 10, 110, 10, 100))
    assert region.box == pytest.approx((10, 100, 50, 110))


@pytest.mark.parametrize(("angle", "right"), [(0, True), (360, True), (None, True), (90, False), (-180, False)])
def test_places_on_a_picture_turned_in_label_studio_are_refused(tmp_path, angle, right):
    shape = {"x": 50, "y": 50, "width": 10, "height": 20, "rectanglelabels": ["cat"]}
    result = {"id": "r", "type": "rectanglelabels", "original_width": 100, "original_height": 200, "value": shape}
    task = {"id": 1, "data": {"image": "a.png"}, "annotations": [{"result": [{**result, "image_rotation": angle}]}]}
    (tmp_path / "tasks.json").write_text(json.dumps([task]))
    if right:
        assert [len(s.regions) for s in sources.open(tmp_path)] == [1]
    else:
        with pytest.raises(ValueError, match="task 1: result 'r': image_rotation: .*turn it back there"):
            list(sources.open(tmp_path))


def test_twins_refuse_to_write_over_other_files(tmp_path, picture):
    sample = Sample("7", ImageRef("a b.png", str(picture), width=WIDTH, height=HEIGHT))
    for module in (voc, yolo):
        module.write([sample], tmp_path / module.__name__)
        with pytest.raises(ValueError, match="exists already"):
            module.write([sample], tmp_path / module.__name__)
    with pytest.raises(ValueError, match="size is not known"):
        coco.write([Sample("7", ImageRef("a.png"))], tmp_path / "x")


# ---- bad input: the file and the record are named


def coco_data(**changes):
    data = {
        "images": [{"id": 1, "file_name": "a.png", "width": 64, "height": 48}],
        "categories": [{"id": 3, "name": "cat"}],
        "annotations": [{"id": 9, "image_id": 1, "category_id": 3, "bbox": [1, 2, 3, 4]}],
    }
    return {**data, **changes}


def annotation(**changes):
    return {"annotations": [{"id": 9, "image_id": 1, "category_id": 3, "bbox": [1, 2, 3, 4], **changes}]}


@pytest.mark.parametrize(
    "changes, message",
    [
        (annotation(image_id=2), "annotation 9: image_id 2 is not among"),
        (annotation(category_id=4), "annotation 9: category_id 4 is not among"),
        (annotation(bbox=[1, 2, float("nan"), 4]), "annotation 9: bbox: expected a finite number"),
        (annotation(bbox=[1, 2, 3]), "annotation 9: bbox: expected 4 numbers, got 3"),
        (annotation(bbox=[1, 2, -3, 4]), "annotation 9: bbox: expected a width and height of at least 0"),
        (annotation(bbox="1 2 3 4"), "annotation 9: bbox: expected a list"),
        (annotation(score=float("inf")), "annotation 9: score: expected a finite number"),
        (annotation(segmentation=[[1, 2, 3]]), "annotation 9: segmentation: expected at least three"),
        (annotation(segmentation={"size": [48, 64], "counts": [5]}), "annotation 9: segmentation: mask"),
        ({"images": coco_data()["images"] * 2}, r"images\[1\]: duplicate id 1; it is already at .*images\[0\]"),
        ({"annotations": coco_data()["annotations"] * 2}, r"annotations\[1\]: duplicate id 9"),
        ({"annotations": [{"id": 1, "category_id": 3}]}, "annotation 1: has no 'image_id'"),
        ({"annotations": [{"id": 1, "image_id": 1, "bbox": [0, 0, 1, 1]}]}, "annotation 1: has no 'category_id'"),
        ({"images": {}}, "images: expected a list"),
    ],
)
def test_a_bad_coco_record_is_named(tmp_path, changes, message):
    file = tmp_path / "bad.json"
    file.write_text(json.dumps(coco_data(**changes)))
    with pytest.raises(ValueError, match=message) as caught:
        list(coco.read(file))
    assert str(file) in str(caught.value) and "\n" not in str(caught.value)


B = '{"id": "b", "image": "a.png", '


@pytest.mark.parametrize(
    "line, message",
    [
        ("{", ":2: not JSON"),
        ("[]", ":2: expected a sample"),
        ('{"id": "a", "image": "a.png"}', ":2: duplicate id 'a'"),
        (B + '"colour": 1}', ":2: Sample: colour: unknown key"),
        (B + '"regions": [{"id": "r", "box": [1, 2, NaN, 4]}]}', ":2: region 'r': box: expected a finite"),
        (B + '"regions": [{"id": "r", "score": Infinity}]}', ":2: score of 'r'"),
        (B + '"regions": [{"id": "r"}, {"id": "r"}]}', ":2: Region: duplicate id 'r'"),
        (B + '"groundings": [{"region_ids": ["x"]}]}', "names 'x', which the sample does not hold"),
        (B + '"texts": [{"id": "t", "text": "ab"}], "groundings": [{"text_id": "t", "spans": [[0, 3]]}]}', "span"),
    ],
)  # fmt: skip
def test_a_bad_line_is_named(tmp_path, line, message):
    file = tmp_path / "s.jsonl"
    file.write_text('{"id": "a", "image": "a.png"}\n' + line + "\n")
    with pytest.raises(ValueError, match=message) as caught:
        list(jsonl.read(file))
    assert str(file) in str(caught.value)


def voc_folder(root, body):
    (root / "Annotations").mkdir()
    (root / "Annotations" / "a.xml").write_text(body)
    return root


@pytest.mark.parametrize(
    "body, message",
    [
        ("<annotation><filename>", r"a.xml:1: not XML"),
        ("<annotation><object><name>cat</name></object></annotation>", "object 0: bndbox: expected xmin"),
        ("<annotation><object/></annotation>", "object 0: has no name"),
        (
            "<annotation><object><name>cat</name><bndbox><xmin>nan</xmin><ymin>1</ymin><xmax>2</xmax><ymax>3</ymax>"
            "</bndbox></object></annotation>",
            "object 0: bndbox: expected a finite number",
        ),
    ],
)
def test_a_bad_voc_file_is_named(tmp_path, body, message):
    with pytest.raises(ValueError, match=message):
        list(voc.read(voc_folder(tmp_path, body)))


@pytest.mark.parametrize(
    "row, message",
    [
        ("5 0.5 0.5 0.1 0.1", "a.txt:1: class 5 is not among the 2 names"),
        ("0 0.5 0.5 0.1", "a.txt:1: expected class and 4 numbers"),
        ("0 0.5 nan 0.1 0.1", "a.txt:1: expected a finite number"),
        ("0 0.5 0.5 -0.1 0.1", "a.txt:1: expected a width and height"),
        ("cat 0.5 0.5 0.1 0.1", "a.txt:1: class: expected a number"),
    ],
)
def test_a_bad_yolo_row_is_named(tmp_path, row, message):
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(pixels.encode(np.zeros((48, 64, 3), np.uint8)))
    (tmp_path / "labels" / "a.txt").write_text(row + "\n")
    (tmp_path / "data.yaml").write_text("train: images\nnames: [cat, dog]\n")
    with pytest.raises(ValueError, match=message):
        list(yolo.read(tmp_path))


def test_yolo_reads_boxes_scores_and_outlines(tmp_path):
    (tmp_path / "train" / "images").mkdir(parents=True)
    (tmp_path / "train" / "labels").mkdir()
    (tmp_path / "train" / "images" / "a.png").write_bytes(pixels.encode(np.zeros((48, 64, 3), np.uint8)))
    (tmp_path / "train" / "labels" / "a.txt").write_text("0 0.5 0.5 0.25 0.5\n1 0.5 0.5 0.25 0.5 0.75\n0 0 0 1 0 1 1\n")
    (tmp_path / "data.yaml").write_text("train: ../train/images\nval: ../train/images\nnames: {0: cat, 1: dog}\n")
    (sample,) = yolo.read(tmp_path)
    one, two, three = sample.regions
    assert one.box == (24, 12, 40, 36) and one.label == "cat" and one.score is None and sample.split == "train"
    assert two.score == 0.75 and three.polygons == ((0, 0, 64, 0, 64, 48),)


# ---- sets of texts, on miniature folders in the published layout


def test_sroie_icdar_and_docvqa(tmp_path):
    for folder in ("img", "box", "key", "gt", "documents"):
        (tmp_path / folder).mkdir()
    for name in ("img/000.png", "img/img_1.png", "documents/x_1.png"):
        (tmp_path / name).write_bytes(pixels.encode(np.zeros((48, 64, 3), np.uint8)))
    (tmp_path / "box" / "000.csv").write_text("1,2,30,2,30,9,1,9,NO.5, JALAN 18,\n")
    (tmp_path / "key" / "000.json").write_text('{"total": "9.00", "date": "25/12/2018"}')
    (receipt,) = ocr_datasets.read_sroie(tmp_path)
    assert receipt.regions[0].label == "NO.5, JALAN 18," and receipt.regions[0].quad == (1, 2, 30, 2, 30, 9, 1, 9)
    assert [(t.question, t.text) for t in receipt.texts] == [("total", "9.00"), ("date", "25/12/2018")]
    (tmp_path / "gt" / "gt_img_1.txt").write_bytes(b"\xef\xbb\xbf1,2,30,2,30,9,1,9,SALE\r\n1,2,3,2,3,9,1,9,###\r\n")
    (street,) = ocr_datasets.read_icdar(tmp_path)
    assert [(r.label, r.ignore) for r in street.regions] == [("SALE", False), ("###", True)]
    row = {"questionId": 5, "question": "What?", "image": "documents/x_1.png", "answers": ["A", "a"]}
    (tmp_path / "val_v1.0.json").write_text(json.dumps({"dataset_split": "val", "data": [row]}))
    (page,) = ocr_datasets.read_docvqa(tmp_path)
    assert [(t.question, t.text) for t in page.texts] == [("What?", "A"), ("What?", "a")]
    assert page.image.id == "documents/x_1.png" and page.image.size_wh == (64, 48)
    (tmp_path / "gt" / "gt_img_1.txt").write_text("1,2,30,2,30,9,1,9,ok\n1,2,3,4,5,x,7,8,word\n")
    with pytest.raises(ValueError, match="gt_img_1.txt:2: expected a number, got 'x'"):
        list(ocr_datasets.read_icdar(tmp_path))


# ---- published sets: drawn ones in their layouts, and the real ones where the optional data is


@pytest.mark.parametrize("folder", SETS)
def test_sets_as_they_are_published_are_read_to_the_last_box(tmp_path, folder):
    format, make = SETS[folder]
    drawn = make(tmp_path / "set")
    assert sources.format_of(tmp_path / "set") == format
    found = sorted(sources.open(tmp_path / "set"), key=lambda s: (len(s.image.id), s.image.id))
    assert len(found) == len({s.id for s in found}) == len(drawn) >= 6
    for sample, truth in zip(found, drawn):
        regions = [r for r in sample.regions if r.mask is None]
        assert sample.image.size_wh == truth.image.size_wh == sources.pixels(sample.image).shape[1::-1]
        assert len(regions) == len(truth.regions) > 1
        for ours, own in zip(regions, truth.regions):
            if format in ("sroie", "icdar"):
                assert ours.kind == "text" and ours.quad == tuple(map(round, own.quad))
                assert (ours.label, ours.ignore) == (("###", True) if ours.ignore else (own.label, False))
            else:
                near = {"coco": pytest.approx(own.box), "voc": pytest.approx(own.box, abs=1)}[format]
                assert ours.label == own.label and ours.box == near and not ours.ignore
            assert ours.polygons == (tuple(map(pytest.approx, own.polygons)) if format == "coco" else ())
        assert [r.ignore for r in regions].count(True) == (format == "icdar")
        fields = {t.question: t.text for t in sample.texts}
        if format == "sroie":
            assert (
                list(fields) == ["company", "date", "address", "total"] and fields["company"] == truth.regions[0].label
            )
        else:
            said = [t.text for t in truth.texts[:2]] if folder == "coco_open/dev" else []
            assert [t.text for t in sample.texts] == said


COUNTS = {  # folder -> samples, regions, texts
    "bccd/BCCD": (292, 3943, 0),
    "cards/train": (90, 152, 0),
    "nuts": (18, 165, 0),
    "coco_open/dev": (98, 760, 395),
    "sroie/dev": (70, 3071, 280),
    "icdar2015/dev": (75, 861, 0),
}


def test_the_real_sets_are_read():
    for folder, counts in COUNTS.items():
        path = shared(f"data/{folder}")
        assert sources.format_of(path) == SETS[folder][0]
        found = list(sources.open(path))
        assert len(found) == len({s.id for s in found})
        assert (len(found), sum(len(s.regions) for s in found), sum(len(s.texts) for s in found)) == counts, folder
        assert all(s.image.width and s.image.height for s in found)
        assert sources.pixels(found[0].image).shape[:2] == found[0].image.size_wh[::-1]


PLACED = {  # a region without a box of its own -> its place
    "quad": dict(quad=(4, 6, 20, 6, 20, 30, 4, 30)),
    "polygons": dict(polygons=((4, 6, 20, 6, 20, 18), (4, 18, 4, 30, 20, 30))),
    "mask": dict(mask=geometry.encode_rle(geometry.rasterize([geometry.box_quad((4, 6, 20, 30))], (WIDTH, HEIGHT)))),
}


@pytest.mark.parametrize("shape", PLACED)
@pytest.mark.parametrize("module", [coco, voc, yolo])
def test_a_region_without_a_box_is_written_at_its_place(tmp_path, picture, module, shape):
    image = ImageRef("a b.png", str(picture), width=WIDTH, height=HEIGHT)
    region = Region("r", label="nut", **PLACED[shape])
    module.write([Sample("a b.png", image, regions=(region,))], tmp_path / "set")
    (again,) = sources.open(tmp_path / "set")
    assert [(r.label, r.box) for r in again.regions] == [("nut", pytest.approx((4, 6, 20, 30), abs=1e-3))]


TWINS = [jsonl, coco, voc, yolo, labelstudio]


def survives(found, module, folder):
    """Whether a set written in another format and read again holds the same objects."""
    module.write(found, folder)
    again = {s.image.id.rpartition("/")[2]: s for s in sources.open(folder)}
    assert len(again) == len(found) > 10
    for sample in found:
        theirs = again[sample.image.id].regions
        assert sorted(r.label for r in theirs) == sorted(r.label for r in sample.regions)
        if module is not voc:
            ours, back = (
                sorted(sum(map(geometry.polygon_area, r.polygons)) for r in x) for x in (sample.regions, theirs)
            )
            assert back == pytest.approx(ours) and min(ours) > 0
        else:
            assert sorted(r.box for r in theirs) == sorted(r.box for r in sample.regions)


@pytest.mark.parametrize("module", TWINS)
def test_a_set_survives_each_twin(tmp_path, module):
    nuts(tmp_path / "set")
    survives(list(sources.open(tmp_path / "set")), module, tmp_path / "twin")


def test_a_real_set_survives_each_twin(tmp_path):
    found = list(sources.open(shared("data/nuts")))
    for module in TWINS:
        survives(found, module, tmp_path / module.__name__)


def pairs_of(found):
    """The (sample, grounding) of a set, each held to its text and its regions."""
    said = [(s, g) for s in found for g in s.groundings]
    for sample, grounding in said:
        (text,) = (t.text for t in sample.texts if t.id == grounding.text_id)
        assert text[slice(*grounding.spans[0])] == grounding.phrase
        assert grounding.region_ids and {*grounding.region_ids} <= {r.id for r in sample.regions}
    return said


def test_phrase_pairs_beside_coco_are_groundings(tmp_path):
    drawn = coco_open(tmp_path / "set")
    expected = [
        (g.phrase, s.id) for s in drawn for g in s.groundings if g.text_id == s.texts[0].id and len(g.spans) == 1
    ]
    said = pairs_of(list(sources.open(tmp_path / "set")))
    assert sorted(g.phrase for _, g in said) == sorted(phrase for phrase, _ in expected) and len(said) > 12
    assert {s.id for s, _ in said} == {f"{int(name.rpartition('-')[2]) - 300}" for _, name in expected}


def test_the_real_set_has_its_pairs_and_crowds():
    found = list(sources.open(shared("data/coco_open/dev")))
    said = pairs_of(found)
    assert len(said) == 157 and len({s.id for s, _ in said}) == 39
    crowds = [r for s in found for r in s.regions if r.ignore]
    assert crowds and all(isinstance(r.mask, Rle) and geometry.rle_area(r.mask) > 0 for r in crowds)


def test_a_crowd_is_an_ignored_mask(tmp_path):
    coco_open(tmp_path / "set")
    crowds = [r for s in coco.read(tmp_path / "set" / "instances_val2017.json") for r in s.regions if r.ignore]
    assert [geometry.rle_area(r.mask) for r in crowds] == [30 * (15 + n) for n in range(12)]
    assert [r.box for r in crowds] == [(5, 60, 20 + n, 90) for n in range(12)]


def test_a_pair_that_does_not_fit_is_named(tmp_path):
    (tmp_path / "captions.json").write_text(
        json.dumps({"images": coco_data()["images"], "annotations": [{"id": 5, "image_id": 1, "caption": "a cat"}]})
    )
    pair = {"image_id": 1, "caption_id": 5, "phrase": "a cat", "span": [0, 5], "bbox_xyxy": [1, 2, 3, 4]}
    (tmp_path / "pairs.json").write_text(json.dumps({"info": "x", "pairs": [pair]}))
    (sample,) = sources.open(tmp_path)
    assert sample.groundings[0].phrase == "a cat" and sample.regions[0].box == (1, 2, 3, 4)
    (tmp_path / "pairs.json").write_text(json.dumps({"info": "x", "pairs": [{**pair, "span": [1, 5]}]}))
    with pytest.raises(ValueError, match=r"pairs\[0\]: span \[1, 5\) of caption 5 is not 'a cat'"):
        list(sources.open(tmp_path))
