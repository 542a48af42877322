"""The student's answers as annotations, with a double of the predictor."""

import numpy as np
import pytest

from florence2.engine.specialists.student import GROUNDING, StudentSpecialist
from florence2.records import Failure, Grounding, ImageRef, Parsed, Region, Sample, Text


class Double:
    """Answers <OD> with one box, captions with their task's name, groundings with the whole caption."""

    def encode_images(self, images):
        return [Failure(reason="dark") if image.max() == 0 else "a picture" for image in images]

    def request(self, image, asks):
        return image, asks

    def answer(self, requests):
        return [[image if isinstance(image, Failure) else self.one(ask) for ask in asks] for image, asks in requests]

    def one(self, ask):
        if ask.task == "<OD>":
            return Parsed(regions=(Region(id="r0", box=(1, 2, 3, 4), label="cat", score=0.7),))
        if ask.task == GROUNDING:
            grounding = Grounding("g0", ask.text_id, ask.text[:5], ((0, 5),), ("r0",), 0.4)
            return Parsed(regions=(Region(id="r0", box=(0, 0, 9, 9), score=0.4),), groundings=(grounding,))
        return Parsed(texts=(Text(id="t0", text="A cat on a mat.", score=0.6),))


def ask(tasks, *images):
    student = StudentSpecialist("nano", tasks)
    student._loaded = Double()
    samples = [Sample(str(i), ImageRef(str(i), f"{i}.png")) for i in range(len(images))]
    return student.annotate(samples, images)


GREY, DARK = np.full((10, 10, 3), 99, np.uint8), np.zeros((10, 10, 3), np.uint8)


def test_answers_of_all_tasks_become_one_parsed_with_scores():
    (result,) = ask(("<OD>", "<CAPTION>", "<DETAILED_CAPTION>"), GREY)
    assert [(r.label, r.score) for r in result.regions] == [("cat", 0.7)]
    assert [(t.detail, t.score) for t in result.texts] == [("brief", 0.6), ("detailed", 0.6)]
    assert len({i.id for i in (*result.texts, *result.regions)}) == 3


def test_groundings_point_into_the_same_parsed():
    (result,) = ask(("<CAPTION>", GROUNDING), GREY)
    (grounding,) = result.groundings
    assert grounding.text_id == result.texts[0].id
    assert set(grounding.region_ids) <= {r.id for r in result.regions}


def test_a_picture_that_fails_fails_alone():
    good, bad = ask(("<OD>",), GREY, DARK)
    assert isinstance(good, Parsed)
    assert (bad.index, bad.id, bad.image, bad.reason) == (1, "1", "1.png", "dark")


def test_tasks_that_need_a_region_are_refused():
    with pytest.raises(ValueError, match="REGION_TO_CATEGORY"):
        StudentSpecialist("nano", ("<REGION_TO_CATEGORY>",))


def test_version_is_the_hash_of_the_weights(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"one")
    first = StudentSpecialist(str(tmp_path))
    (tmp_path / "model.safetensors").write_bytes(b"two")
    assert len(first.spec.version) == 12 and StudentSpecialist(str(tmp_path)).spec.version != first.spec.version
    assert first.spec.source_kind == "model"
