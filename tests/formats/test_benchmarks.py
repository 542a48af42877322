"""Benchmarks read from miniature folders in exactly their published layouts, through the protocol table."""

import json
import os
import pickle
import re

import numpy as np
import pytest

from florence2 import pixels, sources
from florence2.cli import main
from florence2.codec.tasks import task_of
from florence2.evaluation import evaluate
from florence2.evaluation.eval_items import eval_items_of
from florence2.evaluation.protocols import COLUMNS, PROTOCOLS, arguments, listing, protocol_named
from florence2.formats import benchmarks
from florence2.formats.problems import ReadProblems


def picture(root, name):
    file = root / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(pixels.encode(np.zeros((48, 64, 3), np.uint8), "JPEG"))


def karpathy(root):
    sentences = [{"raw": f"A dog number {n}.", "tokens": [], "sentid": n, "imgid": 0} for n in range(5)]
    row = {"filepath": "val2014", "filename": "COCO_val2014_1.jpg", "imgid": 0, "split": "test", "cocoid": 1}
    (root / "dataset_coco.json").write_text(
        json.dumps({"dataset": "coco", "images": [{**row, "sentences": sentences}]})
    )
    picture(root, "val2014/COCO_val2014_1.jpg")


def coco_detection(root):
    thing = {"id": 5, "image_id": 1, "category_id": 18, "bbox": [1, 2, 30, 20], "area": 600, "iscrowd": 0}
    data = {
        "images": [{"id": 1, "file_name": "000000000001.jpg", "width": 64, "height": 48}],
        "annotations": [thing],
        "categories": [{"id": 18, "name": "dog"}],
    }
    (root / "annotations").mkdir()
    (root / "annotations" / "instances_val2017.json").write_text(json.dumps(data))
    picture(root, "val2017/000000000001.jpg")
    return root / "annotations" / "instances_val2017.json"


def flickr30k(root):
    for folder in ("Annotations", "Sentences"):
        (root / folder).mkdir()
    (root / "test.txt").write_text("36979\n")
    (root / "Sentences" / "36979.txt").write_text(
        "[/EN#1/people Two young guys] with [/EN#2/bodyparts/other shaggy hair] look at [/EN#0/notvisual something] .\n"
        "[/EN#1/people Two guys] stand in [/EN#3/scene a yard] .\n"
    )
    box = "<bndbox><xmin>1</xmin><ymin>2</ymin><xmax>30</xmax><ymax>20</ymax></bndbox>"
    (root / "Annotations" / "36979.xml").write_text(
        "<annotation><filename>36979.jpg</filename><size><width>64</width><height>48</height><depth>3</depth></size>"
        f"<object><name>1</name>{box}</object><object><name>1</name><name>2</name>{box.replace('30', '40')}</object>"
        "<object><name>3</name><scene>1</scene><nobndbox>1</nobndbox></object></annotation>"
    )
    picture(root, "flickr30k-images/36979.jpg")


def refcoco(root):
    triangle = [1.0, 2.0, 30.0, 2.0, 30.0, 20.0]
    thing = {"id": 5, "image_id": 1, "category_id": 18, "bbox": [1, 2, 29, 18], "segmentation": [triangle]}
    data = {
        "images": [{"id": 1, "file_name": "COCO_train2014_000000000001.jpg", "width": 64, "height": 48}],
        "annotations": [{**thing, "area": 261, "iscrowd": 0}],
        "categories": [{"id": 18, "name": "dog"}],
    }
    (root / "instances.json").write_text(json.dumps(data))
    said = [
        {"sent": "left dog", "raw": "Left dog.", "sent_id": 0},
        {"sent": "brown dog", "raw": "brown dog", "sent_id": 1},
    ]
    ref = {"ref_id": 9, "ann_id": 5, "image_id": 1, "split": "val", "category_id": 18, "sentences": said}
    (root / "refs(unc).p").write_bytes(pickle.dumps([{**ref, "file_name": "x_5.jpg"}], protocol=2))
    picture(root, "train2014/COCO_train2014_000000000001.jpg")


def vqa(root):
    question = {"image_id": 42, "question": "What is it?", "question_id": 42000}
    answers = [{"answer": "dog" if n < 7 else "cat", "answer_confidence": "yes", "answer_id": n} for n in range(10)]
    (root / "v2_OpenEnded_mscoco_val2014_questions.json").write_text(json.dumps({"questions": [question]}))
    row = {"question_id": 42000, "image_id": 42, "answers": answers, "multiple_choice_answer": "dog"}
    (root / "v2_mscoco_val2014_annotations.json").write_text(json.dumps({"annotations": [row]}))
    picture(root, "val2014/COCO_val2014_000000000042.jpg")


def textvqa(root):
    row = {"question": "What brand?", "image_id": "003a8ae2ef43b901", "question_id": 34602, "set_name": "val"}
    data = {"data": [{**row, "answers": ["dog"] * 10, "image_width": 64, "image_height": 48}]}
    (root / "TextVQA_0.5.1_val.json").write_text(json.dumps(data))
    picture(root, "train_images/003a8ae2ef43b901.jpg")


def textcaps(root):
    row = {"image_id": "0054c91397f2fe05", "set_name": "val", "image_path": "train/0054c91397f2fe05.jpg"}
    said = [f"A sign that reads number {n}." for n in range(5)]
    rows = [{**row, "caption_id": n, "caption_str": text, "reference_strs": said} for n, text in enumerate(said)]
    data = {"dataset_type": "val", "dataset_name": "textcaps", "dataset_version": "0.1", "data": rows}
    (root / "TextCaps_0.1_val.json").write_text(json.dumps(data))
    picture(root, "train_images/0054c91397f2fe05.jpg")


def vizwiz(root):
    answers = [{"answer": "dog" if n < 7 else "unsuitable", "answer_confidence": "yes"} for n in range(10)]
    row = {"image": "VizWiz_val_00000000.jpg", "question": "Ok. What is this?", "answers": answers}
    (root / "Annotations").mkdir()
    (root / "Annotations" / "val.json").write_text(json.dumps([{**row, "answer_type": "other", "answerable": 1}]))
    picture(root, "val/VizWiz_val_00000000.jpg")


def nocaps(root):
    said = [{"id": n, "image_id": 0, "caption": f"A dog number {n}."} for n in range(10)]
    image = {"id": 0, "file_name": "0013ea2087020901.jpg", "width": 64, "height": 48, "domain": "near-domain"}
    (root / "nocaps_val_4500_captions.json").write_text(json.dumps({"images": [image], "annotations": said}))
    picture(root, "images/0013ea2087020901.jpg")
    return root / "nocaps_val_4500_captions.json"


def docvqa(root):
    row = {"questionId": 1, "question": "What?", "image": "documents/a_1.png", "docId": 1, "answers": ["dog"]}
    data = {"dataset_name": "SP-DocVQA", "dataset_version": "1.0", "dataset_split": "val", "data": [row]}
    (root / "val_v1.0.json").write_text(json.dumps(data))
    picture(root, "documents/a_1.png")


def icdar(root):
    (root / "gt").mkdir()
    (root / "gt" / "gt_img_1.txt").write_bytes(b"\xef\xbb\xbf1,2,30,2,30,9,1,9,SALE\r\n")
    picture(root, "img/img_1.jpg")


def sroie(root):
    for folder in ("box", "key"):
        (root / folder).mkdir()
    (root / "box" / "000.csv").write_text("1,2,30,2,30,9,1,9,TOTAL\n")
    (root / "key" / "000.json").write_text('{"total": "9.00"}')
    picture(root, "img/000.jpg")


LAYOUTS = {
    "coco-caption": karpathy, "coco-detection": coco_detection, "flickr30k": flickr30k, "refcoco-val": refcoco,
    "refcoco-res": refcoco, "vqav2": vqa, "textvqa": textvqa, "docvqa": docvqa, "icdar2015": icdar, "sroie": sroie,
    "textcaps": textcaps, "vizwiz": vizwiz, "nocaps": nocaps,
}  # fmt: skip


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_protocol_reads_its_layout_and_scores_a_perfect_model(tmp_path, name):
    data = LAYOUTS[name](tmp_path) or tmp_path
    row = protocol_named(name)
    assert sources.format_of(data) == row.reader
    chosen = arguments(name, str(data), None, None, None, None, None)
    samples = list(sources.open(data, split=chosen["split"]))
    assert len(samples) == 1 and samples[0].image.size_wh == (64, 48) and os.path.isfile(samples[0].image.uri)
    truths = {q.key: q.truths[0] for q in eval_items_of(samples, task_of(row.task))}

    def perfect(pairs):
        return [truths[key] for key in truths][: len(pairs)]

    scores = evaluate(perfect, out=tmp_path / "out", grey=False, resamples=5, batch_size=50, **chosen)
    best = 0.0 if row.metric == "CIDEr" else pytest.approx(1)  # CIDEr of one picture has no document frequencies
    assert scores["metrics"][row.metric] == best and scores["protocol"] == name and scores["main"] == row.metric
    if row.metric == "CIDEr":
        assert scores["metrics"]["BLEU4"] == pytest.approx(1)


def test_flickr30k_phrases_slice_to_their_caption(tmp_path):
    flickr30k(tmp_path)
    (sample,) = benchmarks.read_flickr30k(tmp_path)
    texts = {t.id: t.text for t in sample.texts}
    assert texts["t0"] == "Two young guys with shaggy hair look at something ."
    found = [(texts[g.text_id][slice(*g.spans[0])], len(g.region_ids)) for g in sample.groundings]
    assert found == [("Two young guys", 2), ("shaggy hair", 1), ("Two guys", 2)]


def test_a_pickle_with_code_in_it_is_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.system, ("echo no",)

    refcoco(tmp_path)
    (tmp_path / "refs(unc).p").write_bytes(pickle.dumps([Evil()]))
    with pytest.raises(ValueError, match="refs.unc..p: not a plain list of references .*system"):
        list(benchmarks.read_refcoco(tmp_path))
    (tmp_path / "refs(unc).p").write_bytes(pickle.dumps([{"ref_id": 1, "image_id": 7, "ann_id": 5}]))
    with pytest.raises(ValueError, match="reference 1: image_id 7 is not in instances.json"):
        list(benchmarks.read_refcoco(tmp_path))


def test_every_row_of_the_papers_tables_is_there():
    numbers = {name: [row.paper.get(column) for column in COLUMNS] for name, row in PROTOCOLS.items()}
    assert numbers["coco-detection"] == [34.7, 37.5, 41.4, 43.4]
    assert numbers["refcoco+-testB"] == [47.9, 49.9, 82.2, 83.6] and numbers["vqav2"] == [None, None, 79.7, 81.7]
    assert sum(bool(row.paper) for row in PROTOCOLS.values()) == 17
    for name, row in PROTOCOLS.items():
        task_of(row.task)
        assert name in listing() and row.reader in sources.FORMATS


def test_unknown_protocols_are_refused():
    with pytest.raises(ValueError, match="protocol 'coco': expected one of"):
        arguments("coco", "x", None, None, None, None, None)
    assert arguments(None, "x", "OD", None, None, None, 3)["limit"] == 3


BAD = {  # layout -> (file, where its rows stand, a row that cannot be read, what the refusal names)
    "coco-caption": ("dataset_coco.json", "images", {"filename": None}, "images[1]: filename"),
    "refcoco-val": ("refs(unc).p", None, {"ref_id": 10, "ann_id": 99, "image_id": 1}, "reference 10: ann_id 99"),
    "vqav2": (
        "v2_OpenEnded_mscoco_val2014_questions.json", "questions", {"question_id": [1]}, "questions[1]: question_id",
    ),
    "textvqa": ("TextVQA_0.5.1_val.json", "data", {"question_id": 1, "image_id": "x"}, "data[1]: has no 'question'"),
    "textcaps": ("TextCaps_0.1_val.json", "data", {"image_id": {}, "caption_str": "x"}, "data[5]: image_id"),
    "vizwiz": ("Annotations/val.json", "", {"image": "x.jpg", "question": None}, "[1]: question"),
    "docvqa": ("val_v1.0.json", "data", {"questionId": 2, "question": "?", "answers": "x"}, "data[1]: answers"),
}  # fmt: skip


@pytest.mark.parametrize("bad", [None, {}], ids=["a row of wrong values", "null"])
@pytest.mark.parametrize("name", BAD)
def test_a_bad_row_of_a_benchmark_is_named_and_the_others_come(tmp_path, name, bad, capsys):
    LAYOUTS[name](tmp_path)
    file, key, row, place = BAD[name]
    path = tmp_path / file
    data = pickle.loads(path.read_bytes()) if file.endswith(".p") else json.loads(path.read_text())
    rows = data[key] if key else data
    rows.append(row if bad is None else None)
    path.write_bytes(pickle.dumps(data, protocol=2) if file.endswith(".p") else json.dumps(data).encode())
    good = list(sources.open(_before(tmp_path, name), problems=ReadProblems(skip=True)))
    problems = ReadProblems(skip=True)
    assert list(map(spoken, sources.open(tmp_path, problems=problems))) == list(map(spoken, good))
    assert len(problems.refused) == 1 and file.rpartition("/")[2] in problems.refused[0]
    assert bad is not None or place in problems.refused[0]
    with pytest.raises(ValueError, match=re.escape(file.rpartition("/")[2])):
        list(sources.open(tmp_path))
    assert main(["data", "check", str(tmp_path), "--json"]) == 1
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert sum(row["reason"] == "unreadable" for row in found) == 1


def _before(root, name):
    """The same layout without the bad row."""
    (root.parent / f"{root.name}-good").mkdir()
    LAYOUTS[name](root.parent / f"{root.name}-good")
    return root.parent / f"{root.name}-good"


def spoken(sample):
    return sample.id, sample.split, sample.texts, sample.regions, sample.groundings


def test_flickr30k_goes_on_after_a_damaged_file(tmp_path):
    flickr30k(tmp_path)
    (tmp_path / "Sentences" / "1.txt").write_text("[/EN#1/people A man] .\n")
    (tmp_path / "Annotations" / "1.xml").write_text("<annotation>")
    problems = ReadProblems(skip=True)
    (sample,) = sources.open(tmp_path, problems=problems)
    assert sample.id == "36979" and len(sample.groundings) == 3 and "1.xml:1: not XML" in problems.refused[0]
