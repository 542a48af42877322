"""A specialist as what an evaluation asks: its answers read from a bare sample by the tasks' own rules."""

import numpy as np
import pytest

from florence2 import pixels
from florence2.engine.operator import Spec
from florence2.engine.specialists.specialist_predictor import REMEMBERED, SpecialistPredictor, open_as_predictor
from florence2.records import Ask, Failure, ImageRef, Parsed, Region, Sample, Text


class Sayer:
    """A specialist that says the same of every picture, and notes how often it is asked."""

    config, weights_sha256 = {"floor": 0.5}, ""

    def __init__(self, result, batch_size=2):
        self.spec = Spec("sayer", "1", batch_size=batch_size)
        self.result, self.batches, self.devices = result, [], []

    def setup(self, device):
        self.devices.append(device)

    def annotate(self, samples, images):
        self.batches.append([sample.id for sample in samples])
        assert all(image.shape == (6, 8, 3) for image in images) and not any(sample.regions for sample in samples)
        return [self.result(sample) if callable(self.result) else self.result for sample in samples]


@pytest.fixture
def samples(tmp_path):
    """Three pictures whose truth a specialist must not see."""
    out = []
    for n in range(3):
        file = tmp_path / f"{n}.png"
        file.write_bytes(pixels.encode(np.zeros((6, 8, 3), np.uint8)))
        truth = (Region("truth", box=(0, 0, 1, 1), label="secret"),)
        out.append(Sample(str(n), ImageRef(f"{n}.png", str(file), width=8, height=6), regions=truth))
    return out


BOXES = Parsed(regions=(Region(box=(1, 1, 4, 4), label="cat", score=0.9), Region(box=(2, 2, 5, 5), label="dog")))


def test_one_annotation_answers_several_asks(samples):
    sayer = Sayer(BOXES)
    answering = SpecialistPredictor(sayer)
    pairs = [(sample, Ask(task)) for sample in samples for task in ("OD", "<REGION_PROPOSAL>", "CAPTION")]
    answers = answering(pairs)
    assert sayer.batches == [["0", "1"], ["2"]] and sayer.devices == ["cpu"]
    for n in range(0, 9, 3):
        assert [(r.label, r.score) for r in answers[n].regions] == [("cat", 0.9), ("dog", None)]
        assert len(answers[n + 1].regions) == 2 and answers[n + 2] == Parsed()  # of captions it says nothing
    answering(pairs)
    assert len(sayer.batches) == 2  # remembered


def test_asks_with_arguments_get_their_own_part(samples):
    answering = SpecialistPredictor(Sayer(BOXES))
    cat, cow = (Ask("OPEN_VOCABULARY_DETECTION", text=text) for text in ("cat", "cow"))
    first, second = answering([(samples[0], cat), (samples[0], cow)])
    assert [region.label for region in first.regions] == ["cat"] and second == Parsed()


def test_texts_are_read_in_order(samples):
    quad = lambda y: (0.0, y, 8.0, y, 8.0, y + 2, 0.0, y + 2)  # noqa: E731
    lines = [Region(kind="text", quad=quad(3.0), label="two"), Region(kind="text", quad=quad(0.0), label="one")]
    (answer,) = SpecialistPredictor(Sayer(Parsed(regions=tuple(lines))))([(samples[0], Ask("OCR_WITH_REGION"))])
    assert [region.label for region in answer.regions] == ["one", "two"]
    (caption,) = SpecialistPredictor(Sayer(Parsed(texts=(Text(text="a cat", detail="brief"),))))(
        [(samples[0], Ask("CAPTION"))]
    )
    assert caption.texts[0].text == "a cat"


def test_a_bad_picture_and_a_failure_stay_with_their_asks(samples, tmp_path):
    (tmp_path / "1.png").write_bytes(b"broken")
    sayer = Sayer(lambda sample: Failure(reason="too_dark") if sample.id == "2" else BOXES, batch_size=8)
    answers = SpecialistPredictor(sayer)([(sample, Ask("OD")) for sample in samples])
    assert isinstance(answers[0], Parsed) and sayer.batches == [["0", "2"]]
    assert [a.reason for a in answers[1:]] == ["not_an_image", "too_dark"]


def test_grey_and_seen_are_two_pictures_and_memory_is_bounded(samples):
    sayer = Sayer(BOXES, batch_size=100)
    answering = SpecialistPredictor(sayer)
    grey = Sample("0", ImageRef("0.png", "grey:8x6"))
    answering([(samples[0], Ask("OD")), (grey, Ask("OD"))])
    assert sayer.batches == [["0", "0"]]
    for n in range(REMEMBERED + 5):
        answering([(Sample(str(n), ImageRef(f"n{n}", "grey:8x6")), Ask("OD"))])
    assert len(answering._annotated_by_key) == REMEMBERED


def test_names_open_specialists_and_nothing_else(tmp_path):
    card = tmp_path / "ocr.yaml"
    card.write_text("specialist: rapidocr\n")
    assert open_as_predictor("opencv").specialist.spec.name == "opencv"
    assert open_as_predictor(str(card), "cpu").device == "cpu"
    assert open_as_predictor("student:nano").specialist.spec.name == "student"
    assert (
        open_as_predictor("nano") is None
        and open_as_predictor(str(tmp_path)) is None
        and open_as_predictor("a/hub-id") is None
    )
    with pytest.raises((ValueError, OSError), match="missing.yaml"):
        open_as_predictor(str(tmp_path / "missing.yaml"))


def test_identity_follows_the_settings():
    one, other = Sayer(BOXES), Sayer(BOXES)
    other.config = {"floor": 0.6}
    assert (
        SpecialistPredictor(one).identity
        == SpecialistPredictor(Sayer(BOXES)).identity
        != SpecialistPredictor(other).identity
    )
