"""The three families at every granularity, made by specialists that run here, each row with all that is told of it."""

import numpy as np
import pytest
from PIL import Image

import florence2
from florence2.engine.curation.merging import MergeConfig
from florence2.engine.execution.annotation import attach_provenance  # noqa: F401  (what checks every row below)
from florence2.geometry import decode_rle

OWN = """
from florence2 import Region, Text

class Found:  # stands for a detector and a reader
    name, version, produces = "found", "1", ["region_text/object", "region_text/ocr"]
    def annotate(self, samples, images):
        return [[Region(box=(20, 30, 90, 110), label="dog", score=0.9),
                 Region(box=(22, 31, 92, 112), label="dog", score=0.6),
                 Region(box=(130, 20, 220, 100), label="chair", score=0.8),
                 Region(box=(0, 0, 9, 2), label="cup", score=0.2),
                 Region(kind="text", box=(30, 120, 200, 150), label="OPEN", score=0.95,
                        quad=(30, 120, 200, 122, 198, 150, 30, 148))] for i in images]

class Says:  # stands for a captioner, of crops too
    name, version, produces = "says", "1", ["text/brief"]
    def annotate(self, samples, images):
        return [[Text(text="A %d wide thing stands here." % i.shape[1], score=0.7)] for i in images]
"""


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    root = tmp_path_factory.mktemp("families")
    (root / "own.py").write_text(OWN)
    (root / "pictures").mkdir()
    ys, xs = np.mgrid[:160, :240]
    for n in range(2):
        noise = np.random.default_rng(n).integers(0, 30, (160, 240, 3))
        disc = ((xs - 55) ** 2 + (ys - 70) ** 2 < 900) | ((xs - 175) ** 2 + (ys - 60) ** 2 < 1000)
        Image.fromarray((noise + 200 * disc[..., None]).astype(np.uint8)).save(root / "pictures" / f"{n}.png")
    with_ = [f"{root / 'own.py'}:Found", "composer", "grounder", "grabcut", f"crops:{root / 'own.py'}:Says"]
    made = florence2.annotate(root / "pictures", root / "s", with_, workers=0)
    return florence2.filter(made, {"min_actions": False, "action_complexity": False}, merging=MergeConfig())


def rows(store, **wanted):
    table = store.table("annotations").to_pylist()
    return [row for row in table if all(row[key] == value for key, value in wanted.items())]


def test_texts_of_every_length_and_the_text_read(store):
    assert {row["granularity"] for row in rows(store, family="text")} == {"brief", "detailed", "more_detailed", "ocr"}
    assert {row["text"] for row in rows(store, family="text", granularity="ocr")} == {"OPEN"}


def test_regions_with_phrase_and_brief_text_of_objects_and_lines_as_boxes_quads_and_polygons(store):
    regions = rows(store, family="region_text")
    shapes = {(row["kind"], row["geom"]) for row in regions}
    assert shapes == {("object", "box"), ("object", "polygon"), ("text", "quad"), ("text", "box")}
    described = {(row["kind"], row["text"]) for row in regions if row["description"]}
    assert described == {("object", "dog"), ("object", "chair"), ("text", "OPEN")}


def test_phrases_of_each_length_with_spans_boxes_and_masks(store):
    texts = {row["ann_id"]: row for row in rows(store, family="text")}
    boxes = {row["ann_id"]: row for row in rows(store, family="region_text")}
    masks = {row["parent_id"]: row for row in boxes.values() if row["rle"]}
    phrases = rows(store, family="text_phrase_region")
    assert {texts[row["parent_id"]]["granularity"] for row in phrases} == {"brief", "detailed", "more_detailed"}
    for row in phrases:
        start, end = row["spans"]
        assert texts[row["parent_id"]]["text"][start:end] == row["text"]
        assert row["region_ids"] and set(row["region_ids"]) <= set(boxes) and set(row["region_ids"]) <= set(masks)


def test_every_row_tells_its_maker_score_round_settings_and_verdicts(store):
    statuses = set()
    for row in rows(store):
        told = store.history(row["ann_id"])
        assert row["source_kind"] and row["source"] and row["source_version"] and row["round"] == 0
        assert row["score"] is not None and 0 <= row["score"] <= 1
        assert told["run"]["operator"]["name"] == row["source"] and "config" in told["run"]
        for verdict in told["decisions"]:
            assert verdict["rule"] and verdict["reason"] and verdict["status"] in ("kept", "rejected", "superseded")
            if verdict["status"] == "rejected" and verdict["reason"] not in ("orphan", "blacklisted"):
                assert verdict["value"] is not None and verdict["threshold"] is not None
        statuses |= {(d["status"], d["rule"], d["reason"]) for d in told["decisions"]}
    assert ("rejected", "region_score", "low_score") in statuses and ("rejected", "nms", "overlap") in statuses
    with pytest.raises(ValueError, match="no annotation 'x'"):
        store.history("x")


def test_training_sees_a_line_once_though_it_is_described_too(store):
    samples = list(store.samples())
    assert len(samples) == 2
    for sample in samples:
        ((_, answer),) = florence2.TASKS["<OCR_WITH_REGION>"].truths(sample)
        assert [region.label for region in answer.regions] == ["OPEN"]
        masks = [decode_rle(r.mask) for r in sample.regions if r.mask]
        assert {mask.shape for mask in masks} == {(160, 240)} and all(mask.any() for mask in masks)
