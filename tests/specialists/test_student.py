"""The student's answers as annotations, with a double of the predictor."""

import math

import numpy as np
import pytest

from florence2.codec.answers import ItemSpan
from florence2.engine.specialists.student import GROUNDING, SPREAD, StudentSpecialist, rescore
from florence2.records import Failure, Grounding, ImageRef, Parsed, Region, Sample, Text


class Double:
    """Answers <OD> with one box, captions with their task's name, groundings with the whole caption."""

    def predict_many(self, images, asks, batch_size, on_error):
        for image in images:
            if image.max() == 0:
                yield Failure(reason="dark")
            else:
                yield [self.answer(ask) for ask in asks]

    def predict(self, image, asks):
        return [self.answer(ask) for ask in asks]

    def answer(self, ask):
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


def test_scores_of_places_are_on_a_detectors_scale():
    logprobs = [math.log(p) for p in (0.9, 0.9, *[0.02] * 4, 0.9, *[0.002] * 4, 0.5)]
    spans = {
        "sure": ItemSpan((0, 1), (2, 3, 4, 5)),
        "vague": ItemSpan((6,), (7, 8, 9, 10)),
        "word": ItemSpan((11,), ()),
    }
    parsed = Parsed((), tuple(Region(name, box=(0, 0, 9, 9), score=0.01) for name in spans))
    found = {r.id: r.score for r in rescore(parsed, spans, logprobs).regions}
    assert found == {
        "sure": pytest.approx((0.9 * 0.02 * SPREAD) ** 0.5),  # name and place, their geometric mean
        "vague": pytest.approx((0.9 * 0.002 * SPREAD) ** 0.5),
        "word": 0.01,
    }


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
