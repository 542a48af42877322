"""transformers backends: tiny random models of the real classes, equal to the library's own post-processing."""

import json

import numpy as np
import pytest
import torch
import transformers as T
import yaml

from florence2.engine import specialists
from florence2.geometry import decode_rle
from florence2.records import ImageRef, Region, Sample, Text
from tests.specialists import tiny_models

CAPTION = "The red car and the dog on the cat."
REGIONS = (
    Region("a", box=(20, 30, 90, 80), label="dog", description="the red dog on the car"),
    Region("b", box=(60, 10, 140, 90), label="cat"),
)
MANY = tuple(  # objects and lines of text, with descriptions
    Region(
        f"m{n}",
        "object",
        (5.0 + 5 * n, 3.0 + 2 * n, 40.0 + 5 * n, 50.0 + 2 * n),
        "dog",
        description="the red dog on the car",
    )
    for n in range(22)
)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    made = {}
    return lambda name: made.setdefault(name, tiny_models.make(name, root / name))


@pytest.fixture(scope="module")
def picture():
    """A picture that is not square."""
    ys, xs = np.mgrid[:100, :160]
    return np.stack([xs, 2 * ys, (xs * ys) % 255], axis=2).astype(np.uint8)


def annotate(name, *images, regions=REGIONS, **card):
    if card:
        path = card.pop("folder") / "card.yaml"
        path.write_text(yaml.safe_dump({"specialist": name, **card}))
        name = str(path)
    found = specialists.open(name)
    found.setup("cpu")
    samples = [
        Sample(str(i), ImageRef(str(i), width=im.shape[1], height=im.shape[0]), (Text("t", CAPTION),), regions)
        for i, im in enumerate(images)
    ]
    results = found.annotate(samples, images)
    assert len(results) == len(images)
    found.close()
    return results if len(results) > 1 else results[0]


def assert_same(regions, boxes, names, scores):
    """Every one of theirs is one of ours, whatever the order of near ties; a batch differs in the last bits."""
    assert len(regions) == len(boxes) >= 20
    left = list(regions)
    for box, name, score in zip(boxes, names, scores):
        same = [
            r for r in left
            if name in (r.label, None) and abs(r.score - float(score)) < 1e-4 and np.allclose(r.box, box, atol=0.05)
        ]  # fmt: skip
        assert same, (name, score, box)
        left.remove(same[0])


@pytest.mark.parametrize("name", ["detr", "rt_detr"])
def test_detection_equals_the_library(models, picture, tmp_path, name):
    folder = models(name)
    found = annotate("detection", picture, picture[:, ::-1].copy(), folder=tmp_path, model=str(folder), score=0.01)
    processor = T.AutoImageProcessor.from_pretrained(folder)
    model = T.AutoModelForObjectDetection.from_pretrained(folder).eval()
    with torch.no_grad():
        outputs = model(**processor(images=[picture], return_tensors="pt"))
    (theirs,) = processor.post_process_object_detection(outputs, threshold=0.01, target_sizes=[(100, 160)])
    labels = [model.config.id2label[int(i)] for i in theirs["labels"]]
    assert_same(found[0].regions, theirs["boxes"], labels, theirs["scores"])
    assert found[1].regions != found[0].regions


def test_open_vocabulary_equals_the_library(models, picture, tmp_path):
    folder = models("owlv2")
    ours = annotate("owl", picture, folder=tmp_path, model=str(folder), labels=["cat", "red car"], score=0.001)
    processor = T.AutoProcessor.from_pretrained(folder)
    model = T.AutoModelForZeroShotObjectDetection.from_pretrained(folder).eval()
    queries = [["a photo of a cat", "a photo of a red car"]]
    inputs = processor(text=queries, images=[picture], return_tensors="pt", padding="max_length", max_length=32)
    with torch.no_grad():
        outputs = model(**inputs)
    (theirs,) = processor.post_process_grounded_object_detection(
        outputs, threshold=0.001, target_sizes=[(100, 160)], text_labels=[["cat", "red car"]]
    )
    assert_same(ours.regions, theirs["boxes"], theirs["text_labels"], theirs["scores"])


def test_grounding_equals_the_library_and_points_into_the_caption(models, picture, tmp_path):
    folder = models("grounding_dino")
    ours = annotate(
        "grounding-dino", picture, folder=tmp_path, model=str(folder), box=0.001, text=0.0001, parser="bundled"
    )
    processor = T.AutoProcessor.from_pretrained(folder)
    model = T.AutoModelForZeroShotObjectDetection.from_pretrained(folder).eval()
    inputs = processor(images=picture, text=CAPTION, return_tensors="pt")
    with torch.no_grad():
        outputs = model(**inputs)
    (theirs,) = processor.post_process_grounded_object_detection(
        outputs, inputs["input_ids"], threshold=0.001, text_threshold=0.0001, target_sizes=[(100, 160)]
    )
    assert_same(ours.regions, theirs["boxes"], [None] * len(theirs["boxes"]), theirs["scores"])
    assert {g.phrase for g in ours.groundings} <= {"The red car", "the dog", "the cat"}
    assert all(
        CAPTION[slice(*g.spans[0])] == g.phrase and g.text_id == "t" and 0 < g.score <= 1 for g in ours.groundings
    )
    assert sorted(i for g in ours.groundings for i in g.region_ids) == sorted(r.id for r in ours.regions)


def test_masks_equal_the_library_and_refine_their_boxes(models, picture):
    folder = models("sam")
    ours = annotate(f"sam:{folder}", picture, regions=MANY)
    processor, model = T.SamProcessor.from_pretrained(folder), T.SamModel.from_pretrained(folder).eval()
    boxes = [[list(region.box) for region in MANY]]
    inputs = processor(images=picture, input_boxes=boxes, return_tensors="pt")
    with torch.no_grad():
        outputs = model(**inputs, multimask_output=False)
    masks = processor.post_process_masks(outputs.pred_masks, inputs["original_sizes"], inputs["reshaped_input_sizes"])[
        0
    ]
    theirs = {region.id: mask[0].numpy().astype(bool) for region, mask in zip(MANY, masks)}
    assert {r.refines for r in ours.regions} == {name for name, mask in theirs.items() if mask.any()}
    assert len(ours.regions) >= 20
    for region in ours.regions:
        assert (decode_rle(region.mask) == theirs[region.refines]).all() and 0 <= region.score <= 1


@pytest.mark.parametrize("name", ["blip", "git"])
def test_captions_equal_the_library(models, picture, tmp_path, name):
    folder = models(name)
    dark = np.zeros_like(picture)
    ours = annotate("captioning", picture, dark, folder=tmp_path, model=str(folder), max_new_tokens=12)
    processor = T.AutoProcessor.from_pretrained(folder)
    model = T.AutoModelForImageTextToText.from_pretrained(folder).eval()
    with torch.no_grad():
        ids = model.generate(**processor(images=[picture], return_tensors="pt"), max_new_tokens=12, do_sample=False)
    (theirs,) = processor.batch_decode(ids, skip_special_tokens=True)
    (text,) = ours[0].texts
    assert text.text == theirs.strip() and len(text.text) > 5
    assert text.detail == "brief" and 0 < text.score < 1


@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_similarity_names_a_region_by_the_likeliest_candidate(models, picture, name):
    folder = models(name)
    found = annotate(f"similarity:{folder}", picture, regions=(*MANY, REGIONS[1])).regions
    assert [r.refines for r in found] == [r.id for r in MANY]  # the last has one candidate: nothing to choose
    processor, model = T.AutoProcessor.from_pretrained(folder), T.AutoModel.from_pretrained(folder).eval()
    texts = ["dog", "the red dog on the car", "the red dog", "the car"]
    longest = {"padding": "max_length" if name == "siglip" else True, "truncation": True, "max_length": 24}
    for region, named in zip(MANY, found):
        x1, y1, x2, y2 = map(int, region.box)
        inputs = processor(text=texts, images=picture[y1:y2, x1:x2], return_tensors="pt", **longest)
        with torch.no_grad():
            chances = model(**inputs).logits_per_image[0].softmax(dim=0)
        assert named.description == texts[int(chances.argmax())] and named.kind == region.kind
        assert named.score == pytest.approx(float(chances.max()), abs=1e-5)


def test_crops_describe_each_object_and_line_of_text(models, picture):
    line = Region("c", "text", (20, 20, 120, 60), "OPEN", quad=(20, 20, 120, 20, 120, 60, 20, 60))
    found = annotate(f"crops:captioning:{models('blip')}", picture, regions=(*REGIONS, line)).regions
    assert [(r.refines, r.kind) for r in found] == [("a", "object"), ("b", "object"), ("c", "text")]
    assert all(r.description for r in found) and [r.box for r in found] == [*(r.box for r in REGIONS), line.box]


@pytest.mark.parametrize(
    "config, expected",
    [
        ({"model_type": "detr", "use_timm_backbone": True}, "timm"),
        ({"model_type": "detr", "backbone_config": {"model_type": "timm_backbone"}}, "timm"),
        ({"model_type": "sam2"}, "torchvision"),
        ({}, "expected"),
    ],
)
def test_a_checkpoint_that_needs_another_library_is_refused_before_it_loads(tmp_path, config, expected):
    (tmp_path / "config.json").write_text(json.dumps(config))
    if config:
        (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises((ValueError, OSError), match=expected) as error:
        specialists.open(f"detection:{tmp_path}")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "card, expected",
    [
        ({"specialist": "owl", "model": "x"}, "labels"),
        ({"specialist": "owl", "model": "x", "labels": ["a"], "threshold": 1}, "'threshold' for owl"),
        ({"specialist": "detection", "model": "x", "score": 3}, "0 to 1"),
        ({"specialist": "detektion", "model": "x"}, "detektion"),
        ({"specialist": "detection"}, "model"),
    ],
)
def test_a_card_with_wrong_settings_is_refused(tmp_path, card, expected):
    (tmp_path / "card.yaml").write_text(yaml.safe_dump(card))
    with pytest.raises(ValueError) as error:
        specialists.open(str(tmp_path / "card.yaml"))
    assert expected in str(error.value) and "card.yaml" in str(error.value)


def test_a_hub_id_that_cannot_be_reached_says_how_to_go_on(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    found = specialists.open("detection:nobody/nothing")
    with pytest.raises(OSError, match="local folder"):
        found.setup("cpu")
