"""Cards, and detectors' outputs decoded by them."""

import numpy as np
import pytest
import yaml

from florence2 import pixels
from florence2.engine import specialists
from florence2.engine.specialists.cards import InputCard, read_card
from florence2.engine.specialists.decoders import decoder_of
from florence2.engine.specialists.onnx import prepare
from florence2.records import ImageRef, Sample
from tests.shared import shared
from tests.specialists import drawn_onnx

CARD = {
    "name": "tiny",
    "version": "2",
    "model": "tiny.onnx",
    "classes": ["cat", "dog"],
    "input": {"size": [64, 32]},
    "output": {"decode": "yolov5"},
}


def card(tmp_path, **changes):
    (tmp_path / "tiny.onnx").write_bytes(b"none")
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump({**CARD, **changes}))
    return read_card(path)


def decode(tmp_path, outputs, classes=("cat", "dog"), **output):
    read = card(tmp_path, output=output, classes=list(classes))
    boxes, scores, labels = decoder_of(read)(outputs, read)
    return np.round(boxes, 3).tolist(), np.round(np.float64(scores), 3).tolist(), labels.tolist()


@pytest.mark.parametrize(
    "changes, expected",
    [
        ({"modell": 1}, "modell: unknown key"),
        ({"model": "gone.onnx"}, "gone.onnx"),
        ({"classes": "gone.names"}, "gone.names"),
        ({"classes": []}, "classes"),
        ({"input": {"size": [64]}}, "input.size"),
        ({"input": {"size": [64, 64], "channels": "grb"}}, "input.channels"),
        ({"input": {"size": [64, 64], "letterbox": "middle"}}, "top-left"),
        ({"input": {"size": [64, 64], "mean": [1, 2]}}, "input.mean"),
        ({"output": {}}, "output.decode"),
        ({"output": {"decode": "yolov5", "strides": 8}}, "output.strides"),
        ({"score": "high"}, "score"),
    ],
)
def test_card_refuses_what_it_does_not_know(tmp_path, changes, expected):
    with pytest.raises((ValueError, OSError)) as error:
        card(tmp_path, **changes)
    assert expected in str(error.value) and "tiny.yaml" in str(error.value)


def test_card_refuses_an_unknown_decoder(tmp_path):
    with pytest.raises(ValueError, match="yolox, yolov5, yolov8, yunet, detr, nms"):
        decoder_of(card(tmp_path, output={"decode": "yolo99"}))


@pytest.mark.parametrize("scale", [255, "1/255", 1 / 255])
def test_scale_may_be_written_as_a_factor_or_a_divisor(tmp_path, scale):
    assert card(tmp_path, input={"size": [64, 64], "scale": scale}).input.scale == pytest.approx(1 / 255)


@pytest.mark.parametrize(
    "letterbox, offset, corner",
    [("top-left", (0, 0), 9), ("center", (0, 16), 114), ("none", (0, 0), 9)],
)
def test_letterbox_places_the_picture(letterbox, offset, corner):
    image = np.full((16, 32, 3), 9, np.uint8)
    tensor, scale, where = prepare(image, InputCard((64, 64), letterbox=letterbox))
    assert tensor.shape == (1, 3, 64, 64) and tuple(where) == offset and tensor[0, 0, 0, 0] == corner
    assert tuple(scale) == ((2, 4) if letterbox == "none" else (2, 2))


def test_channels_and_scaling():
    image = np.zeros((4, 4, 3), np.uint8)
    image[..., 0] = 255
    tensor, _, _ = prepare(image, InputCard((4, 4), "bgr", 1 / 255, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)))
    assert tensor[0, :, 0, 0].tolist() == [-1, -1, 1]


def test_yolov5_rows(tmp_path):
    rows = np.array([[[10, 10, 4, 6, 0.5, 0.2, 0.8], [20, 8, 2, 2, 1, 1, 0]]], np.float32)
    expected = [[8, 7, 12, 13], [19, 7, 21, 9]], [0.4, 1.0], [1, 0]
    assert decode(tmp_path, {"out": rows}, decode="yolov5") == expected


def test_yolov8_is_transposed_and_has_no_objectness(tmp_path):
    columns = np.array([[[10, 20], [10, 8], [4, 2], [6, 2], [0.2, 1], [0.8, 0], [0.1, 0]]], np.float32)
    found = decode(tmp_path, {"out": columns}, classes=("a", "b", "c"), decode="yolov8")
    assert found == ([[8, 7, 12, 13], [19, 7, 21, 9]], [0.8, 1.0], [1, 0])


def test_yolox_grid(tmp_path):
    rows = np.zeros((1, 2 * 1, 7), np.float32)  # 64x32 pixels at stride 32: two cells in one row
    rows[0, 1] = [0.5, 0.5, 0, np.log(0.5), 1, 0.1, 0.9]
    boxes, scores, labels = decode(tmp_path, {"out": rows}, decode="yolox", strides=[32])
    assert (boxes[1], scores[1], labels[1]) == ([32, 8, 64, 24], 0.9, 1)


def test_yolox_with_wrong_strides_is_refused(tmp_path):
    with pytest.raises(ValueError, match="strides"):
        decode(tmp_path, {"out": np.zeros((1, 3, 7), np.float32)}, decode="yolox", strides=[32])


def test_yunet_maps(tmp_path):
    maps = {"cls_32": [[0.0], [0.81]], "obj_32": [[0.0], [1.0]], "bbox_32": [[0.0] * 4, [0.5, 0.5, 0.0, 0.0]]}
    outputs = {name: np.array([rows], np.float32) for name, rows in maps.items()}
    boxes, scores, labels = decode(tmp_path, outputs, classes=("face",), decode="yunet", strides=[32])
    assert (boxes[1], scores[1], labels[1]) == ([32, 0, 64, 32], 0.9, 0)


@pytest.mark.parametrize(
    "logits, score",
    [
        ([0.0, 0.0, np.log(2)], 0.25),  # a third class: softmax with "no object" last
        ([0.0, np.log(3)], 0.75),  # sigmoid
    ],
)
def test_detr_shares_of_the_input(tmp_path, logits, score):
    outputs = {"logits": np.array([[logits]]), "pred_boxes": np.array([[[0.5, 0.5, 0.5, 1.0]]])}
    boxes, scores, _ = decode(tmp_path, outputs, decode="detr")
    assert boxes == [[16, 0, 48, 32]] and scores == [score]


def test_exported_nms_drops_the_filling(tmp_path):
    outputs = {
        "b": np.array([[1, 2, 3, 4], [0, 0, 0, 0]], np.float32),
        "s": np.array([0.9, 0], np.float32),
        "l": np.array([1, -1]),
    }
    assert decode(tmp_path, outputs, decode="nms", boxes="b", scores="s", labels="l") == ([[1, 2, 3, 4]], [0.9], [1])


def test_missing_output_is_named(tmp_path):
    with pytest.raises(ValueError, match="'scores'.*boxes"):
        decode(tmp_path, {"boxes": np.zeros((1, 4))}, decode="nms")


def test_own_decoder(tmp_path):
    (tmp_path / "mine.py").write_text("def half(outputs, card):\n    import numpy as np\n"
                                      "    return np.zeros((1, 4)), np.array([0.5]), np.array([1])\n")  # fmt: skip
    assert decode(tmp_path, {}, decode="mine.py:half")[1:] == ([0.5], [1])


def regions_of(tmp_path, image, **fields):
    path = tmp_path / "card.yaml"
    path.write_text(yaml.safe_dump(fields))
    detector = specialists.open(str(path))
    detector.setup("cpu")
    sample = Sample("p", ImageRef("p", width=image.shape[1], height=image.shape[0]))
    (result,) = detector.annotate([sample], [image])
    return result.regions


def detect(tmp_path, image, **fields):
    return {(r.label, tuple(round(v) for v in r.box)): r.score for r in regions_of(tmp_path, image, **fields)}


COLOURS = {"blue": (1, 0, 0), "green": (0, 1, 0), "red": (0, 0, 1)}  # BGR


@pytest.mark.parametrize("nms", [0.45, 0.7])
def test_from_the_picture_through_a_model_and_back(tmp_path, nms):
    """YOLOX's layout: cells of 8, 16, 32 find blue, red, green where it fills them, and call it three cells wide.

    The picture of 128 x 96 lies at half its size in an input of 64 x 64, its last quarter padding.
    """
    heads = {}
    for stride, colour in {8: "blue", 16: "red", 32: "green"}.items():
        own = (2 * np.array(COLOURS[colour]) - 1) / 16  # its channel without the others: 16 where pure, below 0 on grey
        classes = (2 * np.array(list(COLOURS.values())) - 1) / 16
        places = np.zeros((4, 3)), [0.5, 0.5, np.log(3), np.log(3)], False
        heads[stride] = {"places": places, "object": ([own], [-8], True), "classes": (classes, [-8] * 3, True)}
    model = drawn_onnx.write(tmp_path / "squares.onnx", (64, 64), heads, joined="rows")
    image = np.full((96, 128, 3), 120, np.uint8)
    image[16:32, 16:32] = (0, 0, 255)  # the cell (1, 1) of stride 8
    image[:64, 64:] = (0, 255, 0)  # (1, 0) of stride 32
    image[64:, :56] = (255, 0, 0)  # (0, 2) of stride 16, and three quarters of (1, 2)
    found = detect(
        tmp_path,
        image,
        model=str(model),
        classes=list(COLOURS),
        input={"size": [64, 64], "channels": "bgr", "letterbox": "top-left", "pad": 114},
        output={"decode": "yolox", "strides": [8, 16, 32]},
        score=0.5,
        nms=nms,
    )
    expected = {("blue", (0, 0, 48, 48)), ("green", (0, 0, 128, 96)), ("red", (0, 32, 64, 96))}
    assert set(found) == (expected | {("red", (0, 32, 96, 96))} if nms > 0.67 else expected)  # 64 of its 96 columns
    assert all(found[key] == pytest.approx(0.999, abs=0.001) for key in expected)


@pytest.mark.parametrize("seed", range(3))
def test_yunet_s_layout_is_read_as_opencv_reads_it(tmp_path, seed):
    """A model that says something else of each cell; no box is suppressed, since OpenCV compares whole pixels."""
    import cv2

    draw = np.random.default_rng(seed)
    heads = {
        stride: {
            "cls": (draw.normal(0, 0.02, (1, 3)), [0.5], True),
            "obj": (draw.normal(0, 0.02, (1, 3)), [0.5], True),
            "bbox": (draw.normal(0, 0.003, (4, 3)), [0.5, 0.5, 0.2, 0.2], False),
            "kps": (np.zeros((10, 3)), np.zeros(10), False),
        }
        for stride in (8, 16, 32)
    }
    model = drawn_onnx.write(tmp_path / "faces.onnx", (96, 64), heads)
    image = np.kron(draw.integers(0, 256, (8, 12, 3), np.uint8), np.ones((8, 8, 1), np.uint8))
    theirs = cv2.FaceDetectorYN.create(str(model), "", (96, 64), 0.6, 1.0).detect(image[..., ::-1])[1]
    found = regions_of(
        tmp_path,
        image,
        model=str(model),
        classes=["face"],
        input={"size": [96, 64], "channels": "bgr"},
        output={"decode": "yunet"},
        score=0.6,
        nms=1.0,
    )
    corners = np.concatenate([theirs[:, :2], theirs[:, :2] + theirs[:, 2:4]], axis=1).clip(0, [96, 64, 96, 64])
    inside = (corners[:, 2:] > corners[:, :2]).all(axis=1)
    expected = [[*box, score] for box, score in zip(corners[inside].tolist(), theirs[inside, 14].tolist())]
    assert len(expected) > 10
    assert np.allclose(sorted([*r.box, r.score] for r in found), sorted(expected), atol=1e-3)


def test_yolox_finds_the_dog_the_bicycle_and_the_car(tmp_path):
    folder = shared("models/yolox_nano")
    found = detect(
        tmp_path,
        pixels.load(shared("data/photos/darknet_dog.jpg")),
        name="yolox-nano",
        model=str(folder / "yolox_nano.onnx"),
        classes=str(folder / "coco.names"),
        input={"size": [416, 416], "channels": "bgr", "letterbox": "top-left", "pad": 114},
        output={"decode": "yolox", "strides": [8, 16, 32]},
        score=0.5,
    )
    assert {label for label, _ in found} == {"dog", "bicycle", "car"}
    dog = next(box for label, box in found if label == "dog")
    assert np.allclose(dog, (133, 206, 323, 543), atol=12)


def test_yunet_equals_opencv(tmp_path):
    import cv2
    from skimage import data

    model = shared("models/yunet/yunet_n_640_640.onnx")
    image = np.asarray(data.astronaut())
    resized = pixels.resize(image, (640, 640))
    theirs = cv2.FaceDetectorYN.create(str(model), "", (640, 640), 0.6, 0.3).detect(resized[..., ::-1])[1]
    found = detect(
        tmp_path,
        resized,
        model=str(model),
        classes=["face"],
        input={"size": [640, 640], "channels": "bgr"},
        output={"decode": "yunet"},
        score=0.6,
        nms=0.3,
    )
    assert len(found) == len(theirs) == 1
    (((_, box), score),) = found.items()
    x, y, w, h = theirs[0][:4]
    assert np.allclose(box, (x, y, x + w, y + h), atol=1) and score == pytest.approx(theirs[0][14], abs=1e-3)
